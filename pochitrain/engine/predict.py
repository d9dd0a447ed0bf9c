"""What a trained model says about images: every image once, in the order given, whatever the size of the batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pochitrain.data.cache import open_store
from pochitrain.data.decode import display_name
from pochitrain.data.loaders import Loader
from pochitrain.data.reading import Failure, Samples
from pochitrain.engine.feed import choose_workers, reading_ahead, typical
from pochitrain.engine.memory import keep_freed_memory
from pochitrain.engine.run import PRECISIONS, set_tf32
from pochitrain.errors import DataError, OutOfMemoryError
from pochitrain.locale import _


@dataclass(frozen=True)
class Predictions:
    """The answers of a model for N images of K classes, unreadable images left out."""

    paths: tuple[str, ...]  # as they can be opened; "sample 3" in a data set of the user's
    labels: NDArray[np.int64] | None  # (N,) true classes as indices into `classes`; None when nobody knows them
    logits: NDArray[np.float32]  # (N, K)
    probabilities: NDArray[np.float64]  # (N, K), softmax of logits / temperature
    classes: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]  # (path as one line of text, reason)
    seconds: float
    precision: str

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) the class with the highest logit, the first of equal ones."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @property
    def names(self) -> list[str]:
        """The predicted classes by name."""
        return [self.classes[label] for label in self.predicted.tolist()]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) the probability of the predicted class."""
        return np.take_along_axis(self.probabilities, self.predicted[:, None], axis=1)[:, 0]

    @property
    def losses(self) -> NDArray[np.float64]:
        """(N,) −log of the probability of the true class."""
        assert self.labels is not None, "unlabelled images have no loss"
        true = np.take_along_axis(self.probabilities, self.labels[:, None], axis=1)[:, 0]
        losses: NDArray[np.float64] = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
        return losses


def predict(
    model: nn.Module,
    classes: Sequence[str],
    items: Sequence[str] | Any,
    labels: Sequence[int] | None,
    transform: Callable[[Any], Any],
    *,
    batch_size: int,
    workers: int | None,
    device: torch.device,
    precision: str,
    temperature: float = 1.0,
    tta: bool = False,
    channels_last: bool | None = None,
    seed: int = 0,
    timeout_seconds: int = 300,
    cache: str = "off",
    cache_gb: float | None = None,
    tick: Callable[[int, int, int], None] = lambda step, steps, images: None,
) -> Predictions:
    """Return the model's answers; the model is moved to the device and left in evaluation mode.

    An image that cannot be read is left out and listed. The arithmetic is that of the validation while training, so
    the same images in batches of the same size give the same answers to the bit.

    Args:
        items: a list of paths; or a data set of the user's that gives (image, label), where the labels then come from.
        labels: of paths, None when they are not known.
        workers: processes that load images; None: what suits the machine.
        tta: average the logits of each image and of its mirror image (left and right exchanged).
        channels_last: memory layout; None: where it helps.
        seed: that of the training; a transform that draws random numbers draws the same ones again.
        cache: "disk" uses and fills the cache on the disk; each image is read once, so another one would save nothing.
        cache_gb: its limit, None: that of `open_store`.
        tick: called after each batch with (step, steps, images so far).

    Raises:
        DataError: no image can be read, the images do not stack, or the model gives numbers that are not finite.
        OutOfMemoryError: a batch does not fit.
    """
    started = time.perf_counter()
    layout = device.type != "mps" if channels_last is None else channels_last
    loader = _loader(items, transform, batch_size, workers, device, layout, seed, timeout_seconds, cache, cache_gb)
    answer = _answering(model, device, precision, tta, layout)
    outputs, numbers, count = [], [], 0
    with closing(loader):
        for step, (images, batch) in enumerate(loader.epoch(1), start=1):
            if len(batch):
                outputs.append(answer(images))
                numbers.append(batch)
            count += len(batch)
            tick(step, len(loader), count)
    read: NDArray[np.int64] = torch.cat(numbers).numpy() if numbers else np.empty(0, dtype=np.int64)
    if isinstance(items, list | tuple):
        true = None if labels is None else np.asarray(labels, dtype=np.int64)[read]
    else:
        true, read = np.divmod(read, len(items))
    broken = _broken(loader, read)
    if not outputs:
        raise nothing_readable(broken)
    logits = torch.cat(outputs).cpu().numpy()  # the one wait for the device
    paths = tuple(loader.samples.name(index) for index in read.tolist())
    _check_finite(logits, paths, precision)
    probabilities, seconds = softmax(logits, temperature), time.perf_counter() - started
    return Predictions(paths, true, logits, probabilities, tuple(classes), broken, seconds, precision)


def softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities (N, K) of logits / temperature, in float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


class Numbered:
    """A user's data set whose labels also say which sample it is: label × length + index.

    So a batch in which unreadable samples are missing still tells which ones it holds.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        return image, int(label) * len(self.dataset) + index


def _loader(
    items: Any,
    transform: Callable[[Any], Any],
    batch_size: int,
    workers: int | None,
    device: torch.device,
    channels_last: bool,
    seed: int,
    timeout_seconds: int,
    cache: str,
    cache_gb: float | None,
) -> Loader:
    """Return the images in batches; what stands for the labels says which images a batch holds."""
    if isinstance(items, list | tuple):
        samples = Samples(items, range(len(items)), transform, seed, "val")
        samples.confirm_plan(range(len(samples)), device, enough=1)
    else:
        numbered: Any = Numbered(items)
        samples = Samples(numbered, None, transform, seed, "val")
    size, seconds = typical(samples)
    if size and cache == "disk":  # each image is read once, so only a cache of an earlier run saves anything
        samples.keep_in(open_store(cache, samples.plan.once, len(samples), size, cache_gb))
    return Loader(
        samples,
        batch_size=batch_size,
        shuffle=False,
        workers=choose_workers(workers, samples, size, device),
        device=device,
        channels_last=channels_last,
        pin_memory=device.type == "cuda",
        timeout_seconds=timeout_seconds,
        skip_failures=True,
        **reading_ahead(batch_size, size, seconds),
    )


def _answering(
    model: nn.Module, device: torch.device, precision: str, tta: bool, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """Return images (n, 3, H, W) → logits (n, K) in fp32 on the device; nothing waits for the device."""
    keep_freed_memory()
    set_tf32(precision)
    model = model.to(device).eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.preserve_format
    dtype = PRECISIONS[precision]

    @torch.inference_mode()
    def answer(images: Tensor) -> Tensor:
        alone = len(images) == 1
        if alone:  # a single image is computed by other kernels, which round differently: it gets company
            images = images.repeat(2, 1, 1, 1)
        with _enough_memory(device, len(images)):
            images = images.to(device, non_blocking=True, memory_format=layout)
            with nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype):
                logits: Tensor = model(images).float()
                if tta:
                    logits = (logits + model(images.flip(-1)).float()) / 2
        return logits[:1] if alone else logits

    return answer


@contextmanager
def _enough_memory(device: torch.device, size: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError, and so is the CPU's
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(
            _("The memory of {device} does not hold a batch of {size} images", device=device, size=size),
            "--batch-size",
            _("try --batch-size {half}", half=max(size // 2, 1)),
        ) from error


def _broken(loader: Loader, read: NDArray[np.int64]) -> tuple[tuple[str, str], ...]:
    """Return name and reason of the samples that are missing among those `read`."""
    samples, again = loader.samples, _("it could be read at a second attempt only")
    broken = []
    for index in np.setdiff1d(np.arange(len(samples)), read).tolist():
        sample = samples[(1, index)]
        reason = sample.reason if isinstance(sample, Failure) else again
        broken.append((display_name(samples.name(index)), reason))
    return tuple(broken)


def nothing_readable(broken: Sequence[tuple[str, str]], shown: int = 10) -> DataError:
    lines = [f"{path}: {reason}" for path, reason in broken[:shown]]
    more = [_("and {count} more", count=len(broken) - shown)] if len(broken) > shown else []
    return DataError(
        _("None of the {count} images can be read", count=len(broken))
        if len(broken) > 1
        else _("The image cannot be read"),
        "\n    ".join([*lines, *more]),
        _("give images (JPEG, PNG, BMP, GIF, TIFF, WebP)"),
    )


def _check_finite(logits: NDArray[np.float32], paths: Sequence[str], precision: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise DataError(
            _("The model gives numbers that are not finite for {count} images", count=len(bad)),
            display_name(paths[bad[0]]),
            _("precision is {precision}; a model trained in fp32 or bf16 has a wider range", precision=precision),
        )
