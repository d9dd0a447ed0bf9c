"""Training. Read `fit` first: the order of its lines is the order in which things happen."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pochitrain.config.inject import call_part, name_of, part_values
from pochitrain.data.loaders import watching
from pochitrain.engine.checks import require_logits
from pochitrain.engine.run import Run, Totals
from pochitrain.errors import ConfigError, DataError, DivergedError, OutOfMemoryError
from pochitrain.history import TIMING, History, Record, stopped_early
from pochitrain.locale import _
from pochitrain.parts.optim import step_scheduler
from pochitrain.randomness import seed_device

Observer = Callable[[Record], None]

_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory|_ALLOC_FAILED")


class Stop(Exception):
    """Raised by `run.tick` to end the run between two steps; `state_of(run)` is then whole and can be saved."""


def never() -> bool:
    return False


def fit(
    run: Run,
    history: History,
    *,
    epochs: int,
    save: Callable[[int, History], None] = lambda epoch, history: None,
    observers: Sequence[Observer] = (),
    stop: Callable[[], bool] = never,
) -> History:
    """Train from the epoch after `history` up to `epochs`; one record per epoch is appended to `history`.

    Args:
        save: called with (epoch, history) when an epoch is whole, before anybody is told of it.
        observers: called with the record of each epoch.
        stop: asked between epochs; `run.tick` may raise `Stop` within one.
    """
    with contextlib.closing(run), watching(*run.loaders()):
        while len(history) < epochs and not stop() and not stopped_early(history, run.config.early_stopping):
            epoch = len(history) + 1
            started = time.perf_counter()
            done_before = run.totals.count  # images of this epoch that an earlier life of the run has seen
            record: Record = {"epoch": epoch, **learning_rates(run)}
            record |= train_epoch(run, epoch) if run.config.train_epoch is None else own_epoch(run, epoch)
            record |= evaluate(run)
            check_finite(run, epoch, len(run.train_loader))
            seconds = time.perf_counter() - started
            step_scheduler(run.scheduler, record)
            images = len(run.train_loader.samples) - done_before
            record |= {"seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1)}
            record["data_seconds"] = round(sum(loader.take_waited() for loader in run.loaders()), 3)
            history.append(record)
            run.begin_epoch()
            save(epoch, history)
            for observe in observers:
                observe(record)
    return history


def train_epoch(run: Run, epoch: int) -> Record:
    """Train one epoch, or the rest of one; return `train_loss`, `train_accuracy` and gradient norms when recorded."""
    totals, tracked = run.totals, run.gradients is not None and run.gradients.wanted(epoch)
    bad_step = torch.full((), -1, dtype=torch.int64, device=run.device)
    run.train(True)
    for images, labels in run.train_loader.epoch(epoch, start=totals.steps):
        if len(labels) == 0:  # every image of the batch was unreadable and skipped
            totals.steps += 1
            continue
        seed_device(run.device, run.config.seed, "step", epoch, totals.steps)
        with enough_memory(run):
            loss, logits, labels = train_step(run, images, labels, tracked)
        bad_step = torch.where(torch.isfinite(loss.detach()) | (bad_step >= 0), bad_step, totals.steps)
        totals.add(loss, run.weight_of(labels), logits, labels)
        if run.device.type == "cpu" or totals.steps % 50 == 0:  # reading it on a GPU waits for the GPU
            check_step(run, epoch, int(bad_step))
        run.tick("train", totals)
    check_step(run, epoch, int(bad_step))
    if totals.count == 0:
        raise DataError(
            _("No image of epoch {epoch} could be read", epoch=epoch),
            "train_data_root",
            _("look whether the folder is still there, and at the images that were skipped"),
        )
    record = totals.record("train")
    if tracked and run.gradients is not None:
        record |= run.gradients.record()
    return record


def own_epoch(run: Run, epoch: int) -> Record:
    """Train one epoch as the config file does it: train_epoch(run, epoch), and the settings that it names."""
    own = run.config.train_epoch
    assert own is not None
    run.train(True)
    seed_device(run.device, run.config.seed, "own epoch", epoch)  # what it draws without a seed is the same again
    record = call_part("train_epoch", own, part_values(run.config), run, epoch)
    mend = _("return {example}", example='{"train_loss": …, "train_accuracy": …}')
    if not (isinstance(record, Mapping) and {"train_loss", "train_accuracy"} <= record.keys()):
        what = _("{name} returned no record with train_loss and train_accuracy", name=name_of(own))
        raise ConfigError(what, "train_epoch", mend)
    if taken := record.keys() & {"epoch", *learning_rates(run), *TIMING}:
        what = _("{name} returned {key}, which is measured already", name=name_of(own), key=min(taken))
        raise ConfigError(what, "train_epoch", _("give it another name"))
    numbers = {str(key): _number(value) for key, value in record.items()}
    if texts := [key for key, value in numbers.items() if value is None]:
        what = _("{name} returned a {key} that is no number", name=name_of(own), key=texts[0])
        raise ConfigError(what, "train_epoch", mend)
    check_step(run, epoch, -1 if math.isfinite(numbers["train_loss"]) else len(run.train_loader) - 1)
    return numbers


def _number(value: Any) -> Any:
    """Return a number, or a tensor or array of one, as a number of Python's; None for anything else."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    return value if isinstance(value, int | float) else None


def train_step(run: Run, images: Tensor, labels: Tensor, tracked: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Forward, backward, step. Return the loss (), the logits (n, K) in fp32 and the labels (n,) on the device."""
    images, labels = run.move(images, labels)
    try:
        with run.autocast():
            logits = run.forward(images)
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            _("BatchNorm cannot train on batches of one image"), "batch_size", _("set batch_size to 2 or more")
        ) from error
    require_logits(logits, len(images), len(run.classes))
    logits = logits.float()
    loss = run.loss_fn(logits, labels)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if tracked and run.gradients is not None:
        run.scaler.unscale_(run.optimizer)
        run.gradients.add()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return loss, logits, labels


@torch.no_grad()  # not inference_mode: what an own loss keeps of validation is used in training, too
def evaluate(run: Run) -> Record:
    """Return `val_loss` and `val_accuracy` over the validation data; {} without any. Sets `run.confusion`."""
    if run.val_loader is None:
        return {}
    totals, count = Totals.zero(run.device), len(run.classes)
    confusion = torch.zeros(count * count, dtype=torch.int64, device=run.device)
    run.train(False)
    for images, labels in run.val_loader.epoch(1):
        if len(labels) == 0:
            continue
        with enough_memory(run):
            images, labels = run.move(images, labels)
            with run.autocast():
                logits = run.forward(images)
            logits = logits.float()
            totals.add(run.loss_fn(logits, labels), run.weight_of(labels), logits, labels)
            confusion += torch.bincount(labels * count + logits.argmax(dim=1), minlength=count * count)
        run.tick("val", totals)
    run.confusion = confusion.view(count, count)
    return totals.record("val")


def learning_rates(run: Run) -> Record:
    """Return the rates that the coming epoch uses: `learning_rate`, and `lr_<pattern>` for each layer group."""
    groups = run.optimizer.param_groups
    if not run.groups:
        return {"learning_rate": float(groups[0]["lr"])}
    rates = {f"lr_{group['name']}": float(group["lr"]) for group in groups}
    return {"learning_rate": float(run.config.learning_rate), **rates}


def check_step(run: Run, epoch: int, bad_step: int) -> None:
    if bad_step >= 0:
        raise Diverged(_("The loss is no longer finite"), run, epoch, bad_step)


def check_finite(run: Run, epoch: int, steps: int) -> None:
    """Look whether `steps` steps left finite weights behind: the last one may have spoilt them after its loss."""
    norms = torch._foreach_norm([p.detach() for p in run.model.parameters() if p.is_floating_point()])
    if not math.isfinite(float(torch.stack([norm.float() for norm in norms]).sum())):
        raise Diverged(_("The weights are no longer finite"), run, epoch, max(steps, 1) - 1)


class Diverged(DivergedError):
    """Training left the finite numbers; `details` says where."""

    def __init__(self, what: str, run: Run, epoch: int, step: int) -> None:
        rates = learning_rates(run)
        self.details: dict[str, Any] = {
            "epoch": epoch,
            "step": step + 1,
            **rates,
            "precision": run.precision,
            "files": run.train_loader.names(epoch, step),
        }
        super().__init__(
            what,
            _(
                "epoch {epoch}, step {step}, learning rate {rate}",
                epoch=epoch,
                step=step + 1,
                rate=rates["learning_rate"],
            ),
            _("lower learning_rate, or look at the images of that step (failure.json lists them)"),
        )


@contextlib.contextmanager
def enough_memory(run: Run) -> Iterator[None]:
    """Raise every form in which memory runs out (the CPU's allocator says it with a plain RuntimeError) as our own."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(run) from error
    except RuntimeError as error:
        if not _NO_MEMORY.search(str(error)):
            raise
        raise out_of_memory(run) from error


def out_of_memory(run: Run) -> OutOfMemoryError:
    size = run.config.batch_size
    return OutOfMemoryError(
        _("The memory of {device} does not hold a batch of {size} images", device=run.device, size=size),
        "batch_size",
        _('try batch_size = {half}, smaller images in the transforms, or precision = "bf16"', half=max(size // 2, 1)),
    )
