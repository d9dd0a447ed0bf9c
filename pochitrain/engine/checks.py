"""Do the model and the loss fit the data? Tried once, before anything is written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pochitrain.config.mistakes import raised_by_user
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.parts.losses import LossFn

_ATEN = torch.ops.aten
# Which argument of a matrix product has the length of its sums as the last one of its shape.
_FACTORS = {_ATEN.mm.default: 0, _ATEN.bmm.default: 0, _ATEN.addmm.default: 1, _ATEN.baddbmm.default: 1}
_WORTH_BF16 = 90  # products for each value

# What torch raises for tensors that do not fit.
_UNFITTING = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution."""

    name: str  # of the module that asks for it
    size: tuple[int, ...]  # height and width of the wider side: what comes in, or out of a transposed one
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int


@dataclass
class Work:
    """What a model does with one image: its convolutions, and how much it multiplies in them and in matrix products."""

    convolutions: list[Convolution] = field(default_factory=list)
    products: int = 0
    values: int = 0  # that come out


def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> Work:
    """Pass one image through the model in evaluation mode, which changes nothing in it.

    Raises:
        ConfigError: the model fails on this size, or has another number of outputs than there are classes.
    """
    training = model.training
    model.eval()
    try:
        # no_grad and not inference_mode: lazy modules make their parameters now, and these are to be trained.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs, work = _watched(model, images)
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


def _watched(model: nn.Module, images: Tensor) -> tuple[Any, Work]:
    watch = _Watch(type(model).__name__)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes whole layers of a transformer out of sight
    handles = [handle for name, module in model.named_modules() for handle in watch.follow(name, module)]
    try:
        with watch:
            outputs = model(images)
    except Exception:  # being watched may be what it does not bear; else it fails again, and its error is told
        watch.work = Work()
        outputs = model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
    return outputs, watch.work


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each convolution and matrix product that torch is asked for, whoever asks."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self.within = [name]  # names of the modules that are at work

    def follow(self, name: str, module: nn.Module) -> Iterator[Any]:
        def leave(*_given: Any) -> None:
            self.within.pop()

        if not isinstance(module, torch.jit.ScriptModule):
            yield module.register_forward_pre_hook(lambda *_given: self.within.append(name or self.within[0]))
            yield module.register_forward_hook(leave, always_call=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if (place := _FACTORS.get(func)) is not None:
            self._count(outputs, outputs, args[place].shape[-1])
        elif func is _ATEN.convolution.default:
            image, weight, _bias, stride, _padding, _dilation, transposed, _output_padding, groups = args[:9]
            self._count(outputs, image if transposed else outputs, math.prod(weight.shape[1:]))
            kernel, wide = tuple(weight.shape[2:]), outputs if transposed else image
            size, strides = tuple(wide.shape[-len(kernel) :]), tuple(stride) * (len(kernel) // len(stride))
            self.work.convolutions.append(Convolution(self.within[-1], size, kernel, strides, groups))
        return outputs

    def _count(self, outputs: Tensor, values: Tensor, factors: int) -> None:
        self.work.products += values.numel() * factors
        self.work.values += outputs.numel()


def slow_in_bf16(work: Work) -> bool:
    """Return whether processors train a model slower in bf16 than in fp32: where it computes little with each value.

    Measured with 20 models on AVX-512 BF16 (`benchmarks/bf16_speed.py`): 0.4 to 0.9 times as fast below 75 products for
    each value (MobileNet, MnasNet, small ShuffleNets, EfficientNet-B0 to B3), 1.0 to 2.8 times above 100.
    """
    return 0 < work.products < _WORTH_BF16 * work.values


def wrong_in_bf16(work: Work) -> Convolution | None:
    """Return the first convolution that processors compute wrong in bf16.

    oneDNN leaves numbers unwritten, and what lay in the memory before stands in their place (seen in torch 2.15 with
    its AVX-512 kernels; every case found in a hundred thousand is within these rules, which hold for more):

    - in the gradient of the weights, for images that are narrower than the stride or half the kernel, in either memory
      layout; of a transposed convolution the image is what comes out;
    - in the output, for several groups and strides that differ;
    - in three dimensions for wider images too, and beyond the end of the memory.
    """
    for each in work.convolutions:
        narrow = min(each.size) < max(*each.stride, *(length // 2 for length in each.kernel))
        uneven = each.groups > 1 and len(set(each.stride)) > 1
        if narrow or uneven or len(each.size) == 3:
            return each
    return None


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
