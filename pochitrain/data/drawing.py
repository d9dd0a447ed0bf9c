"""Random crops and flips on arrays: torchvision's steps with their own draws, without a round trip through Pillow.

An image from the cache is an array. To cut or turn it needs no copy, while a PIL image of it costs more than the flip
of a small image, and at 12 megapixels more than the crop is worth. Only `resize` stays Pillow's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pochitrain.data.store import Pixels

ArrayStep = Callable[[Pixels], Pixels]  # (H, W, 3) of 8 bits → the same; the result may share memory with the argument
_TRIALS = 16  # draws of a step that are compared


def on_arrays(steps: Sequence[Any]) -> tuple[ArrayStep, ...]:
    """Return, for as many of the first steps as are known, what gives the same pixels from the same draws.

    That is tried out on small images, as another version of torchvision may draw otherwise. Costs some milliseconds for
    each step.
    """
    known = []
    for step in steps:
        if type(step) not in _TWINS:  # a subclass may do something else
            break
        try:
            twin = _TWINS[type(step)](step)
        except (TypeError, ValueError):  # a setting that makes no sense is told when the step itself is called
            break
        if twin is None or not _agree(step):
            break
        known.append(twin)
    return tuple(known)


def _flip(step: Any, turned: tuple[slice, ...]) -> ArrayStep:
    below = float(np.float32(step.p))  # as the step compares

    def flip(image: Pixels) -> Pixels:
        return image[turned] if torch.rand(1).item() < below else image

    return flip


def _resized_crop(step: Any) -> ArrayStep:
    def crop(image: Pixels) -> Pixels:
        if isinstance(step, v2.RandomResizedCrop):
            place = step.make_params([_shape(image)])
            top, left, height, width = (place[name] for name in ("top", "left", "height", "width"))
        else:
            top, left, height, width = step.get_params(_shape(image), step.scale, step.ratio)
        cut = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
        return np.asarray(F.resize(cut, step.size, step.interpolation))

    return crop


def _crop(step: Any) -> ArrayStep | None:
    # Filled with one byte, an int: v2 also knows a filling for each kind of input.
    if step.pad_if_needed or step.padding_mode != "constant" or type(step.fill) is not int or not 0 <= step.fill < 256:
        return None
    if isinstance(step, v2.RandomCrop):

        def crop(image: Pixels) -> Pixels:
            place = step.make_params([_shape(image)])
            padded = _padded(image, place["padding"], step.fill) if place["needs_pad"] else image
            return padded[place["top"] :, place["left"] :][: place["height"], : place["width"]]

        return crop
    sides = _four(step.padding)

    def crop_v1(image: Pixels) -> Pixels:
        padded = _padded(image, sides, step.fill) if step.padding is not None else image
        first, column, height, width = step.get_params(_shape(padded), step.size)
        return padded[first : first + height, column : column + width]

    return crop_v1


def _padded(image: Pixels, sides: Sequence[int], fill: int) -> Pixels:
    (left, top, right, bottom), (height, width, channels) = sides, image.shape
    wider = np.full((top + height + bottom, left + width + right, channels), fill, dtype=np.uint8)
    wider[top : top + height, left : left + width] = image
    return wider


def _four(padding: Any) -> list[int]:
    """Return (left, top, right, bottom) of what v1 takes: one number, (horizontal, vertical), or all four."""
    given = [padding] if isinstance(padding, int) else list(padding or [0])
    return (given * (4 // len(given)))[:4]


def _shape(image: Pixels) -> Tensor:
    """Return something of this height and width for a step to draw by; it holds no pixels."""
    return torch.empty(()).expand(3, *image.shape[:2])


_TWINS: dict[type, Callable[[Any], ArrayStep | None]] = {
    v1.RandomHorizontalFlip: lambda step: _flip(step, np.s_[:, ::-1]),
    v2.RandomHorizontalFlip: lambda step: _flip(step, np.s_[:, ::-1]),
    v1.RandomVerticalFlip: lambda step: _flip(step, np.s_[::-1, :]),
    v2.RandomVerticalFlip: lambda step: _flip(step, np.s_[::-1, :]),
    v1.RandomResizedCrop: _resized_crop,
    v2.RandomResizedCrop: _resized_crop,
    v1.RandomCrop: _crop,
    v2.RandomCrop: _crop,
}


def _agree(step: Any) -> bool:
    """Compare pixels and what is left of the generator. The global state of randomness stays as it was."""
    if max(getattr(step, "size", [0])) > 64:
        step = copy.copy(step)
        step.size = [40, 50]
    twin = _TWINS[type(step)](step)
    height, width = step.size if isinstance(step, (v1.RandomCrop, v2.RandomCrop)) else (40, 50)
    array = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height + 5, width + 9, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    with torch.random.fork_rng(devices=[]):
        for seed in range(_TRIALS):
            results = []
            pairs: tuple[tuple[Any, Any], ...] = ((step, image), (twin, array))
            for apply, given in pairs:
                torch.default_generator.manual_seed(seed)
                try:
                    drawn: Any = apply(given)
                except (TypeError, ValueError, RuntimeError):  # told when it meets the user's images
                    return False
                results.append((np.asarray(drawn), torch.rand(1).item()))
            (wanted, after), (got, after_twin) = results
            if after != after_twin or not np.array_equal(wanted, got):
                return False
    return True
