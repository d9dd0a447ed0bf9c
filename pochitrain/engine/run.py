"""build_run: the one place where settings become objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pochitrain.config.schema import Config
from pochitrain.data.loaders import Loader
from pochitrain.data.source import Data
from pochitrain.engine.checks import Work, check_loss, check_outputs, slow_in_bf16, wrong_in_bf16
from pochitrain.engine.feed import build_loader, example
from pochitrain.engine.gradients import GradientNorms
from pochitrain.engine.memory import keep_freed_memory
from pochitrain.errors import ConfigError
from pochitrain.history import Record
from pochitrain.locale import _
from pochitrain.parts.losses import LossFn, build_loss, load_loss, loss_to_try, resolve_class_weights
from pochitrain.parts.models import build_model
from pochitrain.parts.optim import (
    LayerGroup,
    build_optimizer,
    build_scheduler,
    layer_groups,
    load_optimizer,
    parameter_groups,
)
from pochitrain.randomness import seed_everything

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Totals:
    """What an epoch has summed so far, on the device; a checkpoint within an epoch holds it.

    `loss` is the sum of loss × weight and `weight` the sum of the samples' weights, so that their quotient is the exact
    (weighted) mean over the samples, whatever the sizes of the batches.
    """

    loss: Tensor
    weight: Tensor
    correct: Tensor
    count: int = 0
    steps: int = 0  # passed, whether or not there was an image to use

    @classmethod
    def zero(cls, device: torch.device) -> Totals:
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS knows no float64
        loss, weight, correct = (torch.zeros((), dtype=exact, device=device) for _name in range(3))
        return cls(loss, weight, correct)

    def add(self, loss: Tensor, weight: Tensor | int, logits: Tensor, labels: Tensor) -> None:
        """Add one batch; no sync."""
        loss = loss.detach()
        self.loss += loss.to(self.loss.dtype) * weight
        self.weight += weight
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.count += len(labels)
        self.steps += 1

    def record(self, prefix: str) -> Record:
        """Return `<prefix>_loss` and `<prefix>_accuracy` (percent). One sync."""
        loss, weight, correct = torch.stack([self.loss, self.weight, self.correct]).tolist()
        return {
            f"{prefix}_loss": loss / weight if weight else float("nan"),
            f"{prefix}_accuracy": 100.0 * correct / self.count if self.count else float("nan"),
        }


@dataclass
class Run:
    """The torch objects of one training, and what was decided for this machine."""

    config: Config
    classes: tuple[str, ...]
    class_weights: list[float]
    device: torch.device
    precision: str
    precision_note: str  # what there is to say of it; mostly nothing
    channels_last: bool
    model: nn.Module
    forward: Callable[[Tensor], Tensor]  # the model, compiled when asked for
    loss_fn: LossFn
    optimizer: Optimizer
    scheduler: Any
    groups: list[LayerGroup]
    train_loader: Loader
    val_loader: Loader | None
    scaler: torch.amp.GradScaler
    gradients: GradientNorms | None
    totals: Totals
    sample_weights: Tensor | None = None  # (K,) when the default loss is weighted
    confusion: Tensor | None = None  # (K, K) counts of the last validation, rows true, columns predicted
    tick: Callable[[str, Totals], None] = field(
        default=lambda phase, totals: None
    )  # after each batch, "train" or "val"

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def move(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch on the device, in the model's memory layout."""
        if self.channels_last:
            images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        else:
            images = images.to(self.device, non_blocking=True)
        return images, labels.to(self.device, non_blocking=True)

    def train(self, mode: bool) -> None:
        """Put the model, and a loss that is a module, into training or evaluation mode."""
        for module in (self.model, self.loss_fn):
            if isinstance(module, nn.Module):
                module.train(mode)

    def begin_epoch(self) -> None:
        """Forget the sums of the epoch that is whole now."""
        self.totals = Totals.zero(self.device)
        if self.gradients:
            self.gradients.reset()

    def loaders(self) -> list[Loader]:
        return [loader for loader in (self.train_loader, self.val_loader) if loader is not None]

    def close(self) -> None:
        """End the loading processes; the run can still be used, which starts new ones."""
        for loader in self.loaders():
            loader.close()

    def weight_of(self, labels: Tensor) -> Tensor | int:
        return len(labels) if self.sample_weights is None else self.sample_weights[labels].sum()


def choose_device(config: Config) -> torch.device:
    """Return the device that was asked for, or the best one there is.

    Raises:
        ConfigError: it is not on this machine.
    """
    if config.device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError:
        device = None
    present = ["cpu"] + [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    present += ["mps"] if torch.backends.mps.is_available() else []
    names = {*present, *(name.partition(":")[0] for name in present)}
    if device is None or config.device not in names:
        raise ConfigError(
            _("There is no device {name} on this machine", name=repr(config.device)),
            "device",
            _("available: {names}; None chooses by itself", names=", ".join(present)),
        )
    return device


def choose_precision(config: Config, device: torch.device) -> str:
    """Return what "auto" means here: bf16 where the hardware computes in it, fp32 elsewhere.

    `torch.backends.mkldnn` calls bf16 supported where it is emulated and slow; the processor's own flags are surer.
    """
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities()
        return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"
    return "fp32"


def _right_precision(config: Config, device: torch.device, work: Work, begun_in: str | None) -> tuple[str, str]:
    """Return the precision to compute in, and what there is to say of it: why it is another one, or a slow one.

    Args:
        begun_in: what the experiment has computed in so far; None for a new one.

    Raises:
        ConfigError: one was asked for by name in which this model would be computed wrong.
    """
    precision = begun_in or choose_precision(config, device)
    if device.type != "cpu" or precision == "fp32":
        return precision, ""
    wrong = wrong_in_bf16(work)
    if wrong is None and config.precision == "auto" and not begun_in and slow_in_bf16(work):
        return "fp32", _("this model computes little with each value, and bf16 is slower there")
    if wrong is None:
        emulated = precision == "fp16" and not torch.cpu.get_capabilities().get("avx512_fp16")
        return precision, _("this processor has no instructions for it, and fp32 is faster") if emulated else ""
    what = _(
        "In {precision} this processor computes the convolution {name} wrong on an image of {size} pixels",
        precision=precision,
        name=wrong.name,
        size=" × ".join(map(str, wrong.size)),
    )
    if config.precision == "auto":
        return "fp32", what
    raise ConfigError(what, "precision", _('set precision = "auto" or "fp32", or give the model larger images'))


def build_run(config: Config, data: Data, *, precision: str | None = None) -> Run:
    """Turn settings and data into everything that the loop needs.

    Args:
        precision: what "auto" meant when the experiment began, so that it goes on in the same arithmetic.

    Raises:
        ConfigError: device, model, weights or transforms do not work; DataError: the first images do not.
    """
    keep_freed_memory()
    device = choose_device(config)
    weights = resolve_class_weights(config, data.counts)
    make_deterministic(config)
    seed_everything(config.seed, "init")
    model = build_model(config, data.classes)
    groups = layer_groups(model, config) if config.enable_layer_wise_lr else []
    channels_last = config.channels_last if isinstance(config.channels_last, bool) else device.type != "mps"
    train_loader = build_loader(config, data.train, "augment", device, channels_last)
    val_loader = build_loader(config, data.val, "val", device, channels_last) if data.val else None
    work = check_outputs(model, example(train_loader, data.train), len(data.classes))
    loss_fn = build_loss(config, weights, device)
    check_loss(loss_to_try(config, loss_fn, weights, device), len(data.classes), device)
    model = model.to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, parameter_groups(model, config, loss_fn))
    precision, precision_note = _right_precision(config, device, work, precision)
    set_tf32(precision)
    weighted = config.loss is None and any(weight != 1 for weight in weights)
    gradients = GradientNorms(model, config.gradient_tracking_config) if config.enable_gradient_tracking else None
    return Run(
        config=config,
        classes=data.classes,
        class_weights=weights,
        device=device,
        precision=precision,
        precision_note=precision_note,
        channels_last=channels_last,
        model=model,
        forward=torch.compile(model) if config.compile else model,
        loss_fn=loss_fn,
        optimizer=optimizer,
        scheduler=build_scheduler(config, optimizer),
        groups=groups,
        train_loader=train_loader,
        val_loader=val_loader,
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        gradients=gradients,
        totals=Totals.zero(device),
        sample_weights=torch.tensor(weights, dtype=torch.float32, device=device) if weighted else None,
    )


def set_tf32(precision: str) -> None:
    """Let fp32 be fp32: TF32 keeps 10 of its 23 bits. Beside bf16 the few products that stay in fp32 may use it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


def make_deterministic(config: Config) -> None:
    """Choose algorithms that give the same bits every time, unless speed was asked for with `cudnn_benchmark`."""
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic
    torch.use_deterministic_algorithms(not config.cudnn_benchmark, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid, slow


def state_of(run: Run) -> dict[str, Any]:
    """Return everything that a run needs to go on, as tensors and plain containers."""
    totals = run.totals
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict() if run.scheduler is not None else None,
        "scaler": run.scaler.state_dict(),
        "totals": {"loss": totals.loss, "weight": totals.weight, "correct": totals.correct, "count": totals.count},
        "gradients": run.gradients.state() if run.gradients else None,
        "loss": run.loss_fn.state_dict() if isinstance(run.loss_fn, nn.Module) else {},
    }


def restore(run: Run, state: Mapping[str, Any], step: int) -> None:
    """Put a state back; `step` steps of the next epoch are done."""
    run.model.load_state_dict(state["model"])
    load_optimizer(run.optimizer, state["optimizer"])
    load_loss(run.loss_fn, state.get("loss"), run.device)
    if run.scheduler is not None:
        run.scheduler.load_state_dict(state["scheduler"])
    run.scaler.load_state_dict(state["scaler"])
    if step:
        sums = {name: state["totals"][name].to(run.device) for name in ("loss", "weight", "correct")}
        run.totals = Totals(**sums, count=state["totals"]["count"], steps=step)
        if run.gradients and state["gradients"]:
            run.gradients.restore(state["gradients"])
