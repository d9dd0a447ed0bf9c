"""Training. Read `fit` first: the order of its lines is the order in which things happen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pochitrain.engine.run import Run, Totals
from pochitrain.errors import ConfigError, DivergedError, OutOfMemoryError
from pochitrain.history import History, Record, stopped_early
from pochitrain.locale import _
from pochitrain.parts.optim import step_scheduler
from pochitrain.randomness import seed_device

Observer = Callable[[Record], None]


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
    while len(history) < epochs and not stop() and not stopped_early(history, run.config.early_stopping):
        epoch = len(history) + 1
        started = time.perf_counter()
        done_before = run.totals.count  # images of this epoch that an earlier life of the run has seen
        record: Record = {"epoch": epoch, **learning_rates(run)}
        record |= (run.config.train_epoch or train_epoch)(run, epoch)
        record |= evaluate(run)
        check_finite(run, record)
        seconds = time.perf_counter() - started
        step_scheduler(run.scheduler, record)
        images = len(run.train_loader.samples) - done_before
        record |= {"seconds": round(seconds, 3), "images_per_second": round(images / seconds, 1)}
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
    run.model.train()
    for images, labels in run.train_loader.epoch(epoch, start=totals.steps):
        if len(labels) == 0:  # every image of the batch was unreadable and skipped
            totals.steps += 1
            continue
        seed_device(run.device, run.config.seed, "step", epoch, totals.steps)
        loss, logits, labels = train_step(run, images, labels, tracked)
        bad_step = torch.where(torch.isfinite(loss.detach()) | (bad_step >= 0), bad_step, totals.steps)
        totals.add(loss, run.weight_of(labels), logits, labels)
        if run.device.type == "cpu" or totals.steps % 50 == 0:  # reading it on a GPU waits for the GPU
            check_step(run, epoch, int(bad_step))
        run.tick("train", totals)
    check_step(run, epoch, int(bad_step))
    record = totals.record("train")
    if tracked and run.gradients is not None:
        record |= run.gradients.record()
    return record


def train_step(run: Run, images: Tensor, labels: Tensor, tracked: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Forward, backward, step. Return the loss (), the logits (n, K) in fp32 and the labels (n,) on the device."""
    try:
        images, labels = run.move(images, labels)
        with run.autocast():
            logits = run.forward(images)
        logits = logits.float()
        loss = run.loss_fn(logits, labels)
        run.optimizer.zero_grad(set_to_none=True)
        run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if tracked and run.gradients is not None:
            run.scaler.unscale_(run.optimizer)
            run.gradients.add()
        run.scaler.step(run.optimizer)
        run.scaler.update()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(run) from error
    except RuntimeError as error:
        raise explained(error, run) from error
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            _("BatchNorm cannot train on batches of one image"), "batch_size", _("set batch_size to 2 or more")
        ) from error
    return loss, logits, labels


@torch.inference_mode()
def evaluate(run: Run) -> Record:
    """Return `val_loss` and `val_accuracy` over the validation data; {} without any. Sets `run.confusion`."""
    if run.val_loader is None:
        return {}
    totals, count = Totals.zero(run.device), len(run.classes)
    confusion = torch.zeros(count * count, dtype=torch.int64, device=run.device)
    run.model.eval()
    for images, labels in run.val_loader.epoch(1):
        if len(labels) == 0:
            continue
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


def check_finite(run: Run, record: Record) -> None:
    """Look whether the epoch left finite weights behind: the last step may have spoilt them after its loss."""
    norms = torch._foreach_norm([p.detach() for p in run.model.parameters() if p.is_floating_point()])
    if not math.isfinite(float(torch.stack([norm.float() for norm in norms]).sum())):
        raise Diverged(_("The weights are no longer finite"), run, record["epoch"], len(run.train_loader) - 1)


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


def out_of_memory(run: Run) -> OutOfMemoryError:
    size = run.config.batch_size
    return OutOfMemoryError(
        _("The memory of {device} does not hold a batch of {size} images", device=run.device, size=size),
        "batch_size",
        _('try batch_size = {half}, smaller images in the transforms, or precision = "bf16"', half=max(size // 2, 1)),
    )


def explained(error: RuntimeError, run: Run) -> Exception:
    """Return an allocation failure as what it is (the CPU's allocator raises a plain RuntimeError), others unchanged."""
    return out_of_memory(run) if "not enough memory" in str(error) or "can't allocate memory" in str(error) else error
