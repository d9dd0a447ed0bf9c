"""From settings and data to loaders: the cache, the processes and the threads that suit this machine."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.schema import Config
from pochitrain.data.cache import open_store
from pochitrain.data.decode import decode_image
from pochitrain.data.loaders import Loader
from pochitrain.data.one_thread import one_thread
from pochitrain.data.pipeline import to_pixels
from pochitrain.data.reading import Failure, Samples
from pochitrain.data.source import Split
from pochitrain.data.store import Store
from pochitrain.errors import ConfigError, DataError
from pochitrain.locale import _

_MOST_PROCESSES = 16
_MOST_THREADS, _MOST_TOGETHER = 8, 16
_PYTHON_SECONDS = 1.2e-4  # what Python does for an image while other threads stand still, with a margin
_TASK_SECONDS = 2e-3  # so much work is handed to a thread at a time
_READY_BYTES = 256_000_000  # of images that threads may have ready


def build_loader(config: Config, split: Split, purpose: str, device: torch.device, channels_last: bool) -> Loader:
    """Return the loader of a split, tried on images of the most different shapes.

    Args:
        purpose: "augment" for training, "val" for validation.

    Raises:
        ConfigError: the transform fails, or gives no float tensor (3, H, W), or tensors of different sizes.
        DataError: an image is damaged.
    """
    setting = "train_transform" if purpose == "augment" else "val_transform"
    samples = Samples(split.items, split.labels, getattr(config, setting), config.seed, purpose)
    samples.confirm_plan(split.extremes, device)
    size, seconds = typical(samples)
    if size and config.epochs > 1:
        samples.keep_in(open_store(config.cache, samples.plan.once, len(samples), size, config.cache_gb))
    loader = Loader(
        samples,
        batch_size=config.batch_size,
        shuffle=purpose == "augment",
        workers=choose_workers(config.num_workers, samples, size, device),
        device=device,
        channels_last=channels_last,
        pin_memory=device.type == "cuda" and config.pin_memory is not False,
        timeout_seconds=config.worker_timeout_seconds,
        skip_failures=config.on_bad_image == "skip",
        **reading_ahead(config.batch_size, size, seconds),
    )
    _probe_images(loader, split, setting)
    return loader


def choose_workers(wanted: int | None, samples: Samples, size: int, device: torch.device) -> int:
    """Return how many processes load images: what was asked for, else so many that the model need not wait.

    Threads decode in any case. Processes are for what is done for each image in each epoch, and cost start-up and
    copies: a model on the CPU uses every core itself, and images that lie ready in the cache are read faster without
    them (`benchmarks/data_path.py`).
    """
    if wanted is not None:
        return wanted
    ready = not samples.plan.each and fits(samples.store, len(samples), size)
    cores = usable_cores()
    return 0 if ready else min(cores // 4 if device.type == "cpu" else cores - 1, _MOST_PROCESSES)


def fits(store: Store | None, count: int, size: int) -> bool:
    return store is not None and count * size <= store.limit_bytes


def usable_cores() -> int:
    """Return how many processor cores this process may use, which a scheduler or container may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reading_ahead(batch_size: int, size: int, seconds: float) -> dict[str, int]:
    """Return what a `Loader` is told of its threads.

    Python runs in one thread at a time, so more of them than an image takes multiples of what Python does for it only
    stand in each other's way: with images of 32 px two threads take twice the time of one. Few have that little to do.

    Args:
        size, seconds: of a typical image, 0 for unknown.
    """
    most = min(usable_cores(), _MOST_THREADS)
    threads = most if seconds == 0 else min(max(int(seconds / _PYTHON_SECONDS), 1), most)
    ahead = max(min(2 * batch_size, _READY_BYTES // max(size, 1)), threads)  # two batches, unless the images are large
    together = 1 if seconds == 0 else min(int(_TASK_SECONDS / seconds), _MOST_TOGETHER, ahead // (2 * threads))
    return {"threads": threads, "together": max(together, 1), "ahead": ahead}


def typical(samples: Samples, tried: int = 4) -> tuple[int, float]:
    """Return what a cache holds of an image and how long it takes to decode: (mean bytes, median seconds) of a few.

    (0, …) when a cache cannot hold them; (…, 0) when none can be read.
    """
    if samples.labels is None or len(samples) == 0:
        return 0, 0.0
    sizes, seconds = [], []
    for index in sorted({len(samples) * place // tried for place in range(tried)}):
        started = time.perf_counter()
        try:
            with one_thread():
                pixels = to_pixels(samples.prepare(index))
        except Exception:  # whatever a step of the user's raises is told when its image is read
            continue
        seconds.append(time.perf_counter() - started)
        sizes.append(0 if pixels is None else pixels[1].nbytes)
    if not seconds:
        return 0, 0.0
    return (sum(sizes) // len(sizes) if all(sizes) else 0), statistics.median(seconds)


def _probe_images(loader: Loader, split: Split, setting: str) -> None:
    """Pass the images of the most different shapes through the transform.

    Raises:
        ConfigError: it fails, or gives no float tensor (3, H, W), or tensors of different sizes.
        DataError: an image is damaged.
    """
    samples, images = loader.samples, []
    setting = setting if samples.labels is not None else f"dataset, {setting}"
    for index in split.extremes:
        sample = samples[(1, index)]
        if isinstance(sample, Failure):
            if samples.labels is None or _is_broken(samples, index):
                loader.note([sample])
                continue
            raise _failure(samples, index, setting, sample.reason)
        image = sample[0]
        if lack := _lacking(image):
            gives = _("gives {given}", given=_form(image))
            if samples.labels is None and not isinstance(samples.items[index][0], Image.Image):  # not transformed
                mend = _(
                    "return a PIL image, which train_transform and val_transform take, or a float32 tensor (3, H, W)"
                )
                raise ConfigError(_("The data set gives no float tensors (3, H, W)"), f"dataset ({gives})", mend)
            raise ConfigError(lack[0], f"{setting} ({gives})", lack[1])
        images.append((image, index))
    odd = next(((image, index) for image, index in images if image.shape != images[0][0].shape), None)
    if odd is not None:
        raise ConfigError(
            _("The images have different sizes after {setting} and do not stack", setting=setting),
            f"{loader.samples.name(images[0][1])} {tuple(images[0][0].shape)}\n"
            f"         {loader.samples.name(odd[1])} {tuple(odd[0].shape)}",
            _("add a Resize: transforms.Resize((224, 224)), or Resize(256) and CenterCrop(224)"),
        )


def _lacking(image: Any) -> tuple[str, str] | None:
    """Return what an image that comes out of a transform lacks and how to mend it, None when nothing."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        return (
            _("transforms.ToTensor() is required: without it the images are no float tensors (3, H, W)"),
            _("put transforms.ToTensor() (v2: ToImage() and ToDtype(torch.float32, scale=True)) into the transform"),
        )
    if image.ndim != 3 or image.shape[0] != 3:
        return (
            _("The images have no three channels (3, H, W)"),
            _('use Grayscale(num_output_channels=3), or .convert("RGB") in a data set of your own'),
        )
    if image.dtype != torch.float32:
        return _("The images are no tensors of torch.float32"), _("end the transform with v2.ToDtype(torch.float32)")
    return None


def _form(image: Any) -> str:
    return f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__


def _failure(samples: Samples, index: int, setting: str, reason: str) -> ConfigError:
    """Return why a transform fails on a sound image: with the line of the user's own code if that has failed."""
    image = samples.name(index)
    try:
        samples.transform(decode_image(samples.items[index]))
    except Exception as error:  # whatever a user's function raises
        if (known := raised_by_user(error)) is not None:
            return known
    steps = getattr(samples.transform, "transforms", [samples.transform])
    mend = _("correct the transform")
    if classes := [step.__name__ for step in steps if isinstance(step, type)]:
        mend = _("add parentheses: {example}", example=f"{classes[0]}()")
    return ConfigError(
        _("{setting} fails on {image}: {reason}", setting=setting, image=image, reason=reason), setting, mend
    )


def _is_broken(samples: Samples, index: int) -> bool:
    """Tell whether a sample cannot be read, whatever the transform does: its header may be sound and its middle not."""
    try:
        samples.items[index] if samples.labels is None else decode_image(samples.items[index])
    except Exception:  # a data set of the user's may raise anything
        return True
    return False


def example(loader: Loader, split: Split) -> Tensor:
    """Return one image as a batch (1, 3, H, W).

    Raises:
        DataError: no image can be read.
    """
    for index in (*split.extremes, *range(len(split))):
        sample: Any = loader.samples[(1, index)]
        if not isinstance(sample, Failure):
            image: Tensor = sample[0]
            return image.unsqueeze(0)
    raise DataError(
        _("No image of epoch {epoch} could be read", epoch=1),
        "train_data_root",
        _("look whether the folder is still there, and at the images that were skipped"),
    )
