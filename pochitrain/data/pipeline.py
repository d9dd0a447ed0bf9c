"""A transform as a plan: what is done once per image, what is drawn for every epoch, what a whole batch can share.

The steps of the user's transform run as they are, in their order and with their draws; only how often they run and on
how many images at once is decided here. So the batches are the same to the bit, and `Samples` tries that out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from pochitrain.data.drawing import AS_IT_IS, ArrayStep, Size, draw, on_arrays
from pochitrain.data.store import Pixels

Step = Callable[[Any], Any]
Marked = TypeVar("Marked", bound=Callable[..., Any])

_SEQUENCES = (v1.Compose, v2.Compose, nn.Sequential)
# The same pixels whenever they are given the same pixels. Exactly these types: a subclass may draw.
_FIXED = (
    v1.Resize, v1.CenterCrop, v1.Pad, v1.Grayscale,
    v2.Resize, v2.CenterCrop, v2.Pad, v2.Grayscale, v2.RGB, v2.ToImage, v1.PILToTensor, v2.PILToTensor,
)  # fmt: skip
_SIZED = (v1.Resize, v1.CenterCrop, v2.Resize, v2.CenterCrop)  # Pillow and torchvision copy what has the size already
# Every value becomes another one, whatever stands beside it.
_TO_TENSOR = (v1.ToTensor, v1.PILToTensor, v2.ToImage, v2.PILToTensor)
_TO_FLOAT = (v1.ConvertImageDtype, v2.ConvertImageDtype, v2.ToDtype)
_LAST = (*_TO_TENSOR, *_TO_FLOAT, v1.Normalize, v2.Normalize, v2.ToPureTensor)


def deterministic(function: Marked) -> Marked:
    """Mark a step of a transform as one that draws nothing and keeps nothing: image in, always the same image out.

    What stands before the first random step of a transform is then done once per image, and its result is cached.
    It must take a PIL image (RGB) and return one, and may be called from several threads.
    """
    setattr(function, "deterministic", True)  # noqa: B010  # a class has no __dict__ to write to
    return function


@dataclass(frozen=True)
class Plan:
    """A transform in three parts, to be done in this order."""

    once: tuple[Step, ...] = ()  # image → image of 8 bits, the same in every epoch
    each: tuple[Step, ...] = ()  # for each image in each epoch; the whole transform when nothing is known of it
    finish: Finish | None = None  # for a whole batch
    arrays: tuple[ArrayStep, ...] = ()  # what the first of `each` do, for images that are arrays

    def prepare(self, image: Image.Image) -> Any:
        """Do what is the same in every epoch."""
        return _applied(self.once, image)

    def draw(self, image: Any) -> Any:
        """Do what is done for each epoch; return what `finish` takes for a single image, else the whole result.

        Args:
            image: what `prepare` gave; where there are `arrays`, its pixels (H, W, 3) do as well.
        """
        if isinstance(image, np.ndarray):
            return self.drawn((image.shape[0], image.shape[1]))(image)
        return self._rest(_applied(self.each, image))

    def drawn(self, size: Size) -> Callable[[Pixels], Any]:
        """Draw what `arrays` draw for an image of this size; return what does the rest of `draw` with its pixels.

        In whatever thread, when `arrays` do all of `each`.
        """
        change, rest = draw(self.arrays, size), self.each[len(self.arrays) :]

        def finished(pixels: Pixels) -> Any:
            pixels = change(pixels)
            if not rest and self.finish is not None:
                own = torch.from_numpy(pixels.copy())  # of its own
                return own if self.finish.takes_pil else own.permute(2, 0, 1)
            return self._rest(_applied(rest, Image.fromarray(np.ascontiguousarray(pixels))))

        return finished

    @property
    def all_on_arrays(self) -> bool:
        """Whether `arrays` do all that is drawn."""
        return len(self.arrays) == len(self.each) > 0

    @property
    def takes_arrays(self) -> bool:
        """Whether `draw` gains from pixels instead of a PIL image."""
        return len(self.arrays) > 0 or not self.each

    def keeps(self, size: Size) -> bool:
        """Tell whether `once` does nothing with an image of this size: it has the one that it shall get."""
        return all(
            type(step) in _SIZED and list(_pair(getattr(step, "size", None))) == list(size) for step in self.once
        )

    def without_finish(self) -> Plan:
        """Return the plan that does all that follows `once` for each image."""
        tail = self.finish.tail if self.finish else ()
        arrays = self.arrays if self.finish is None or self.finish.takes_pil else ()
        return Plan(self.once, (*self.each, *tail), arrays=arrays)

    def _rest(self, image: Any) -> Any:
        if self.finish is None:
            return image
        accepted = self.finish.accept(image)
        return _applied(self.finish.tail, image) if accepted is None else accepted


def plan_of(transform: Step) -> Plan:
    """Split a transform into its parts. What is unknown stays together, to be done for each image."""
    steps = _steps(transform)
    first = next((place for place, step in enumerate(steps) if not _is_fixed(step)), len(steps))
    last = len(steps)
    while last > 0 and type(steps[last - 1]) in _LAST:
        last -= 1
    once, each, tail = steps[: min(first, last)], steps[first:last], steps[last:]
    if not any(type(step) in (*_TO_FLOAT, v1.ToTensor) for step in tail):
        return Plan(tuple(steps[:first]), tuple(steps[first:]), arrays=on_arrays(steps[first:]))
    finish = Finish.of(tail)
    if finish and each and once and type(once[-1]) in _TO_TENSOR:
        # Kept as arrays all the same: what is known of the rest is faster on them than on a tensor.
        arrays = on_arrays(each, tensors=True)
        if len(arrays) == len(each):
            return Plan(tuple(once[:-1]), (once[-1], *each), finish, (AS_IT_IS, *arrays))
    return Plan(tuple(once), tuple(each if finish else [*each, *tail]), finish, on_arrays(each))


def _steps(transform: Step) -> list[Step]:
    if type(transform) not in _SEQUENCES:
        return [transform]
    inner: Sequence[Step] = getattr(transform, "transforms", transform)  # type: ignore[arg-type]
    return [step for one in inner for step in _steps(one)]


def _is_fixed(step: Step) -> bool:
    if type(step) in _FIXED:
        return True
    function = getattr(step, "lambd", step) if type(step) in (v1.Lambda, v2.Lambda) else step
    given = [vars(one) for one in (function, type(function)) if hasattr(one, "__dict__")]
    # What a subclass inherits says nothing of it, nor what functools.wraps has copied.
    return any(own.get("deterministic") is True and "__wrapped__" not in own for own in given)


def _applied(steps: Sequence[Step], image: Any) -> Any:
    for step in steps:
        image = step(image)
    return image


class Finish:
    """The last steps, which turn 8-bit pixels into normalised floats, for a whole batch at once.

    Each of them treats a value by itself, so 256 values in 3 channels are all that there is: `exact` compares them.
    """

    def __init__(self, tail: Sequence[Step], scale: float, divide: bool) -> None:
        self.tail, self.scale, self.divide = tuple(tail), scale, divide
        self.takes_pil = type(tail[0]) in _TO_TENSOR
        normalize: Any = next((step for step in tail if type(step) in (v1.Normalize, v2.Normalize)), None)
        self.normalize = None if normalize is None else (_three(normalize.mean), _three(normalize.std))
        self._rows: dict[tuple[Any, ...], list[Tensor]] = {}

    @classmethod
    def of(cls, tail: Sequence[Step]) -> Finish | None:
        """Return the steps for whole batches, None when these would not give the same bits."""
        # torchvision divides by 255 in v1 and multiplies by 1 / 255 in v2, which rounds differently.
        for scale, divide in ((255.0, True), (1 / 255, False)):
            try:
                finish = cls(tail, scale, divide)
                if finish.exact(torch.device("cpu")):
                    return finish
            except (TypeError, ValueError, RuntimeError):  # what does not take RGB images of 8 bits
                return None
        return None

    def exact(self, device: torch.device) -> bool:
        """Compare with the steps themselves for every value that there is, in both memory layouts."""
        every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        image = Image.fromarray(every) if self.takes_pil else tv_tensors.Image(torch.from_numpy(every).permute(2, 0, 1))
        wanted = _applied(self.tail, image)
        if not isinstance(wanted, Tensor) or wanted.dtype != torch.float32:
            return False
        channels_last = torch.from_numpy(every)[None].permute(0, 3, 1, 2).to(device)
        return all(torch.equal(self(images)[0].cpu(), wanted) for images in (channels_last, channels_last.contiguous()))

    def accept(self, image: Any) -> Tensor | None:
        """Return what the steps before gave as a tensor of 8 bits: (H, W, 3) from a PIL image, else (3, H, W).

        None when it is something else, as a step that turns some images to grey may give: the tail itself takes that.
        """
        if self.takes_pil and isinstance(image, Image.Image) and image.mode == "RGB":
            return torch.from_numpy(np.array(image))
        if not self.takes_pil and isinstance(image, Tensor) and image.dtype == torch.uint8 and image.shape[0] == 3:
            return image.as_subclass(Tensor)
        return None

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """Return a batch (n, 3, H, W) of 8 bits from what `accept` gave; channels_last of PIL images and of arrays."""
        if not self.takes_pil and all(image.stride(0) == 1 for image in images):
            return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
        return self.arrange(torch.stack(list(images)))

    def arrange(self, batch: Tensor) -> Tensor:
        """Return (n, 3, H, W) of a batch as it was stacked."""
        return batch.permute(0, 3, 1, 2) if self.takes_pil else batch

    def __call__(self, images: Tensor) -> Tensor:
        """Turn (n, 3, H, W) of 8 bits into normalised float32, on their device and in their memory layout."""
        floats = images.to(torch.float32)
        channels_last = floats.is_contiguous(memory_format=torch.channels_last) and not floats.is_contiguous()
        # A row of pixels is one long vector: three values at a time would be six times slower.
        view = floats.permute(0, 2, 3, 1).flatten(2) if channels_last else floats
        scale, *normalize = self._constants(floats, channels_last)
        view = view.div_(scale) if self.divide else view.mul_(scale)
        if normalize:
            view.sub_(normalize[0]).div_(normalize[1])
        return floats

    def _constants(self, floats: Tensor, channels_last: bool) -> list[Tensor]:
        width = floats.shape[3] if channels_last else 0
        key = (floats.device, width)
        if key not in self._rows:
            # Tensors, not numbers: CUDA multiplies by the reciprocal of a number instead of dividing by it.
            numbers = [torch.tensor([self.scale]), *(self.normalize or ())]
            shaped = [n if len(n) == 1 else n.repeat(width) if channels_last else n.view(3, 1, 1) for n in numbers]
            with torch.inference_mode(False):  # validation may ask first, and training uses them too
                self._rows[key] = [number.to(floats.device) for number in shaped]
        return self._rows[key]


def _pair(size: Any) -> Sequence[int]:
    """Return (height, width), () of a single number: `Resize` means the shorter side by it."""
    return size if isinstance(size, list | tuple) and len(size) == 2 else ()


def _three(numbers: Any) -> Tensor:
    """Return one number for each channel, as Normalize itself understands its argument."""
    return torch.as_tensor(numbers, dtype=torch.float32).flatten().expand(3)


# ---- images of 8 bits as arrays, for a store ----


def to_pixels(image: Any) -> tuple[str, Pixels] | None:
    """Return (kind, array) of an image of 8 bits, None for one that has no such form."""
    if isinstance(image, Image.Image):
        return (image.mode, np.asarray(image)) if image.mode in ("RGB", "L") else None
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        kind = "image" if isinstance(image, tv_tensors.Image) else "tensor"
        plain = image.as_subclass(Tensor)
        channel, row, column = plain.stride()
        if not channel:  # one channel seen three times, as Grayscale gives it; copied, it would be another layout
            return None
        if channel >= row >= column:
            return kind, np.ascontiguousarray(plain.numpy())
        # As torchvision makes it of a PIL image. The order must come back: random numbers fill a tensor in its order.
        if row >= column >= channel:
            return f"{kind} last", np.ascontiguousarray(plain.permute(1, 2, 0).numpy())
    return None


def from_pixels(kind: str, pixels: Pixels) -> Any:
    """Return the image that `to_pixels` took."""
    if kind == "RGB":
        return Image.fromarray(pixels)
    if kind == "L":
        return Image.fromarray(pixels).copy()  # it shares the array, and Pillow calls it readonly
    tensor = torch.from_numpy(pixels)
    if kind.endswith("last"):
        tensor = tensor.permute(2, 0, 1)
    return tv_tensors.Image(tensor) if kind.startswith("image") else tensor
