"""Random crops and flips on arrays: torchvision's steps with their own draws, without a round trip through Pillow.

An image from the cache is an array. To cut or turn it needs no copy, while a PIL image of it costs more than the flip
of a small image, and at 12 megapixels more than the crop is worth. Only `resize` stays Pillow's; where the steps are
given tensors it stays torch's, which is faster with the channels last in memory, as they are here.

To draw needs the size of an image and not its pixels, and must happen in order; the rest may happen in any thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pochitrain.data.store import Pixels

Size = tuple[int, int]  # height, width
# (H, W, 3) of 8 bits, which may not be written to → the same; the result may share memory with it.
Change = Callable[[Pixels], Pixels]
_TRIALS = 16  # draws of a step that are compared


@dataclass(frozen=True)
class ArrayStep:
    """A step of a transform in two parts."""

    draw: Callable[[Size], tuple[Change, Size]]  # size → what is done to the pixels, and the size after that
    slow: bool = False  # what is done is worth the way to another thread


def draw(steps: Sequence[ArrayStep], size: Size) -> Change:
    """Draw for an image of this size; return what is done to its pixels, in whatever thread."""
    changes = []
    for step in steps:
        change, size = step.draw(size)
        changes.append(change)

    def all_of_them(image: Pixels) -> Pixels:
        for change in changes:
            image = change(image)
        return image

    return all_of_them


def on_arrays(steps: Sequence[Any], *, tensors: bool = False) -> tuple[ArrayStep, ...]:
    """Return, for as many of the first steps as are known, what gives the same pixels from the same draws.

    That is tried out on small images, as another version of torchvision may draw otherwise. Costs some milliseconds for
    each step.

    Args:
        tensors: what the steps give when they take tensors (3, H, W) of 8 bits; else PIL images.
    """
    known = []
    for step in steps:
        if type(step) not in _TWINS:  # a subclass may do something else
            break
        try:
            twin = _TWINS[type(step)](step, tensors)
        except (TypeError, ValueError):  # a setting that makes no sense is told when the step itself is called
            break
        if twin is None or not _agree(step, tensors):
            break
        known.append(twin)
    return tuple(known)


def _flip(step: Any, axis: int) -> ArrayStep:
    below = float(np.float32(step.p))  # as the step compares

    def turned(image: Pixels) -> Pixels:
        # NumPy turns a row pixel by pixel, torch with the processor's vectors: 16 times as fast at 224 px.
        writable = image if image.flags.writeable else image.copy()  # torch takes no other
        return torch.from_numpy(writable).flip(axis).numpy()

    def draw(size: Size) -> tuple[Change, Size]:
        return turned if torch.rand(1).item() < below else _as_it_is, size

    return ArrayStep(draw)


def _resized_crop(step: Any, tensors: bool) -> ArrayStep:
    options = step.size, step.interpolation
    resize = F.resize_image if isinstance(step, v2.RandomResizedCrop) else v1.functional.resize

    def of_image(cut: Pixels) -> Pixels:
        return np.asarray(F.resize(Image.fromarray(np.ascontiguousarray(cut)), *options))

    def of_tensor(cut: Pixels) -> Pixels:
        tensor: Tensor = resize(torch.from_numpy(cut.copy()).permute(2, 0, 1), *options, antialias=step.antialias)
        return tensor.permute(1, 2, 0).numpy()

    resized = of_tensor if tensors else of_image

    def draw(size: Size) -> tuple[Change, Size]:
        if isinstance(step, v2.RandomResizedCrop):
            place = step.make_params([_image_of(size)])
            top, left, height, width = (place[name] for name in ("top", "left", "height", "width"))
        else:
            top, left, height, width = step.get_params(_image_of(size), step.scale, step.ratio)
        return (lambda image: resized(image[top : top + height, left : left + width])), tuple(step.size)

    return ArrayStep(draw, slow=True)


def _crop(step: Any) -> ArrayStep | None:
    # Filled with one byte, an int: v2 also knows a filling for each kind of input.
    if step.pad_if_needed or step.padding_mode != "constant" or type(step.fill) is not int or not 0 <= step.fill < 256:
        return None
    sides = [0] * 4 if step.padding is None or isinstance(step, v2.RandomCrop) else _four(step.padding)

    def draw(size: Size) -> tuple[Change, Size]:
        if isinstance(step, v2.RandomCrop):
            place = step.make_params([_image_of(size)])
            padding = place["padding"] if place["needs_pad"] else [0] * 4
            top, left, height, width = (place[name] for name in ("top", "left", "height", "width"))
        else:
            padding = sides
            padded = size[0] + sides[1] + sides[3], size[1] + sides[0] + sides[2]
            top, left, height, width = step.get_params(_image_of(padded), step.size)

        def change(image: Pixels) -> Pixels:
            wider = _padded(image, padding, step.fill) if any(padding) else image
            return wider[top : top + height, left : left + width]

        return change, (height, width)

    return ArrayStep(draw)


def _as_it_is(image: Pixels) -> Pixels:
    return image


def _padded(image: Pixels, sides: Sequence[int], fill: int) -> Pixels:
    (left, top, right, bottom), (height, width, channels) = sides, image.shape
    wider = np.full((top + height + bottom, left + width + right, channels), fill, dtype=np.uint8)
    wider[top : top + height, left : left + width] = image
    return wider


def _four(padding: Any) -> list[int]:
    """Return (left, top, right, bottom) of what v1 takes: one number, (horizontal, vertical), or all four."""
    given = [padding] if isinstance(padding, int) else list(padding or [0])
    return (given * (4 // len(given)))[:4]


def _image_of(size: Size) -> Tensor:
    """Return something of this size for a step to draw by; it holds no pixels."""
    return torch.empty(()).expand(3, *size)


AS_IT_IS = ArrayStep(lambda size: (_as_it_is, size))
_TWINS: dict[type, Callable[[Any, bool], ArrayStep | None]] = {
    v1.RandomHorizontalFlip: lambda step, _tensors: _flip(step, 1),
    v2.RandomHorizontalFlip: lambda step, _tensors: _flip(step, 1),
    v1.RandomVerticalFlip: lambda step, _tensors: _flip(step, 0),
    v2.RandomVerticalFlip: lambda step, _tensors: _flip(step, 0),
    v1.RandomResizedCrop: _resized_crop,
    v2.RandomResizedCrop: _resized_crop,
    v1.RandomCrop: lambda step, _tensors: _crop(step),
    v2.RandomCrop: lambda step, _tensors: _crop(step),
}


def _agree(step: Any, tensors: bool) -> bool:
    """Compare pixels and what is left of the generator. The global state of randomness stays as it was."""
    if max(getattr(step, "size", [0])) > 64:
        step = copy.copy(step)
        step.size = [40, 50]
    twin = _TWINS[type(step)](step, tensors)
    assert twin is not None
    height, width = step.size if isinstance(step, (v1.RandomCrop, v2.RandomCrop)) else (40, 50)
    array = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height + 5, width + 9, 3), dtype=np.uint8)
    image = (
        tv_tensors.Image(torch.from_numpy(array).permute(2, 0, 1).contiguous()) if tensors else Image.fromarray(array)
    )
    with torch.random.fork_rng(devices=[]):
        for seed in range(_TRIALS):
            results = []
            pairs: tuple[tuple[Any, Any], ...] = (
                (step, image),
                (lambda given: draw([twin], given.shape[:2])(given), array),
            )
            for apply, given in pairs:
                torch.default_generator.manual_seed(seed)
                try:
                    drawn: Any = apply(given)
                except (TypeError, ValueError, RuntimeError):  # told when it meets the user's images
                    return False
                pixels = drawn.permute(1, 2, 0) if isinstance(drawn, Tensor) else drawn
                results.append((np.asarray(pixels), torch.rand(1).item()))
            (wanted, after), (got, after_twin) = results
            if after != after_twin or not np.array_equal(wanted, got):
                return False
    return True
