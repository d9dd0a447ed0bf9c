"""Do the model and the loss fit the data? Tried once, before anything is written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pochitrain.config.mistakes import raised_by_user
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.parts.losses import LossFn

_WORTH_BF16 = 90  # products for each value

# What torch raises for tensors that do not fit.
_UNFITTING = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)


@dataclass
class Work:
    """What a model does with one image, in its convolutions and linear layers."""

    sizes: dict[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # the least image (H, W) of each convolution, by name
    products: int = 0  # multiplications
    values: int = 0  # what comes out of these layers


def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> Work:
    """Pass one image through the model in evaluation mode, which changes nothing in it.

    Raises:
        ConfigError: the model fails on this size, or has another number of outputs than there are classes.
    """
    training = model.training
    model.eval()
    try:
        # no_grad and not inference_mode: lazy modules make their parameters now, and these are to be trained.
        with torch.no_grad(), warnings.catch_warnings(), _watched(model) as work:
            warnings.simplefilter("ignore")
            outputs = model(images)
    except _UNFITTING as error:
        raise ConfigError(
            _("The model fails on an image of size {size}: {reason}", size=tuple(images.shape[1:]), reason=error),
            "model, train_transform",
            _("give the transform the size that the model expects"),
        ) from error
    finally:
        model.train(training)
    require_logits(outputs, 1, num_classes)
    return work


def require_logits(outputs: Any, count: int, num_classes: int) -> None:
    """Raise a ConfigError when a model's answer to `count` images is no tensor (count, num_classes)."""
    if isinstance(outputs, Tensor) and tuple(outputs.shape) == (count, num_classes):
        return
    given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    raise ConfigError(
        _("The model gives {given} and not {wanted}, images × classes", given=given, wanted=(count, num_classes)),
        "model",
        _("return one tensor, while training too; the last layer has num_classes outputs"),
    )


@contextmanager
def _watched(model: nn.Module) -> Iterator[Work]:
    work = Work()

    def watch(name: str, module: _ConvNd | nn.Linear) -> Any:
        def note(_module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(outputs, Tensor):
                return
            transposed = isinstance(module, _ConvNd) and module.transposed
            work.products += (inputs[0] if transposed else outputs).numel() * module.weight[0].numel()
            work.values += outputs.numel()
            if isinstance(module, _ConvNd):
                size = (outputs if transposed else inputs[0]).shape[-len(module.kernel_size) :]
                work.sizes[name] = tuple(map(min, size, work.sizes.get(name, size)))  # it may be called more than once

        return module.register_forward_hook(note)

    kinds = (_ConvNd, nn.Linear)
    handles = [watch(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


def slow_in_bf16(work: Work) -> bool:
    """Return whether processors train a model slower in bf16 than in fp32: where it computes little with each value.

    Measured with 28 models on AVX-512 BF16 (`benchmarks/bf16_speed.py`): 0.4 to 0.9 times as fast below 75 products for
    each value (MobileNet, MnasNet, small ShuffleNets, EfficientNet-B0 to B3), 1.1 to 2.7 times above 100.
    """
    return 0 < work.products < _WORTH_BF16 * work.values


def wrong_in_bf16(model: nn.Module, work: Work) -> str:
    """Return the first convolution that processors compute wrong in bf16, "" without any.

    oneDNN leaves numbers unwritten, and what lay in the memory before stands in their place (seen in torch 2.15 with
    its AVX-512 kernels; every case found in a hundred thousand is within these rules, which hold for more):

    - in the gradient of the weights, for images that are narrower than the stride or half the kernel, in either memory
      layout; of a transposed convolution the image is what comes out;
    - in the output, for several groups and strides that differ;
    - in three dimensions for wider images too, and beyond the end of the memory.
    """
    for name, size in work.sizes.items():
        convolution = model.get_submodule(name)
        assert isinstance(convolution, _ConvNd)
        narrow = min(size) < max(*convolution.stride, *(length // 2 for length in convolution.kernel_size))
        uneven = convolution.groups > 1 and len(set(convolution.stride)) > 1
        if narrow or uneven or len(size) == 3:
            return name
    return ""


def check_loss(loss_fn: LossFn, num_classes: int, device: torch.device) -> None:
    """Call the loss on two images and on the same ones twice; what the user's own raises is raised as it is.

    Args:
        loss_fn: one that is not needed afterwards: it may keep something of each call.

    Raises:
        ConfigError: it fails, gives something else than one number with a gradient, or sums where it should average.
    """
    logits = torch.linspace(-1, 1, 2 * num_classes, device=device).view(2, num_classes).requires_grad_()
    labels = torch.tensor([0, num_classes - 1], device=device)
    try:
        loss, doubled, again = (loss_fn(logits.repeat(n, 1), labels.repeat(n)) for n in (1, 2, 1))
    except _UNFITTING as error:
        if raised_by_user(error) is not None:
            raise
        raise ConfigError(
            _(
                "The loss fails on logits {shape} and labels {count}: {reason}",
                shape=(2, num_classes),
                count=(2,),
                reason=error,
            ),
            "loss",
            _("it is called as loss(logits, labels), with labels of type int64"),
        ) from error
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        what = _("The loss gives {given}, not one number", given=given)
    elif not loss.requires_grad:
        what = _("The loss has no gradient: it does not follow from the logits by operations of torch")
    elif _is_twice(doubled, loss) and torch.equal(again, loss):
        what = _("The loss of the same images twice is twice as large: it sums over the batch")
    else:
        return
    raise ConfigError(what, "loss", _("return a tensor with the mean over the batch"))


def _is_twice(doubled: Tensor, loss: Tensor) -> bool:
    return 0 < abs(loss.item()) < math.inf and bool(torch.isclose(doubled, 2 * loss, atol=0))
