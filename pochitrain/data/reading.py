"""Samples: an image by its number, made of decoder, cache and transform, the same to the bit however it is made.

A sample is asked for by (epoch, index), so that a worker process knows both without being told anything else, and
augmentation follows from (seed, epoch, index) alone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import cloudpickle
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.source import is_user_code
from pochitrain.data.ahead import Ahead
from pochitrain.data.decode import decode_image, decode_pixels, decode_with_remark
from pochitrain.data.drawing import Size
from pochitrain.data.one_thread import one_thread
from pochitrain.data.own import label_number
from pochitrain.data.pipeline import Finish, Plan, from_pixels, plan_of, to_pixels
from pochitrain.data.store import KINDS, Pixels, Place, Store
from pochitrain.errors import DataError
from pochitrain.locale import _
from pochitrain.randomness import seed_everything, seed_torch

_T = TypeVar("_T")
WORTH_SECONDS = 2e-4  # what takes less is done sooner than it is handed to another thread


@dataclass(frozen=True)
class Failure:
    """A sample that could not be made; it travels from a worker in the place of the sample."""

    index: int
    reason: str
    mend: str = ""  # given when it is not a matter of one bad file: `on_bad_image` does not apply
    code: str | None = None  # given when it is no file that is bad: the line of the user's that raised, if any is known


Sample = tuple[Tensor, int, int]  # image (3, H, W), label, index
Batch = tuple[Tensor, Tensor, list[Failure]]  # images (n, 3, H, W); of 8 bits when `Plan.finish` is still to come


class Samples(Dataset[Any]):
    """What the loaders read: (epoch, index) → (image, label) or Failure.

    Args:
        items: the user's data set, or paths with `labels`.
        transform: applied to PIL images; what is no PIL image is taken as it is.
        purpose: "augment" makes the draws differ from epoch to epoch, "val" keeps them the same in every epoch.
    """

    def __init__(
        self,
        items: Sequence[Any] | Dataset[Any],
        labels: Sequence[int] | None,
        transform: Callable[[Any], Any],
        seed: int,
        purpose: str,
    ) -> None:
        self.items, self.labels, self.transform, self.seed, self.purpose = items, labels, transform, seed, purpose
        self.plan = plan_of(transform) if labels is not None else Plan(each=(transform,))
        self.store: Store | None = None
        self.places: list[Place | None] = []  # where images lie in the store, once known
        self.ahead: Ahead | None = None
        self.at: Any = [-1]  # the index that is being read; a loading process has its place in an array for all to see
        self.place = 0

    def confirm_plan(self, indices: Iterable[int], device: torch.device, enough: int | None = None) -> None:
        """Do the transform as it is written where its plan gives other bits, on these images or on this device.

        Args:
            enough: how many of the images that can be read are compared; None: all.
        """
        if self.plan.finish is not None and not self.plan.finish.exact(device):
            self.plan = self.plan.without_finish()
        if not self.plan.once and self.plan.finish is None:
            return
        compared = 0
        for index in indices:
            if compared == enough:
                return
            planned = self[(1, index)]
            self._seed(1, index)
            try:
                with one_thread():
                    plain = self.transform(decode_image(self.items[index]))
            except Exception:  # the plan raises it as well, and `__getitem__` tells it; others may be sound
                continue
            if isinstance(planned, Failure) or not _same(planned[0], plain):
                self.plan = Plan(each=(self.transform,))
                return
            compared += 1

    def keep_in(self, store: Store | None) -> None:
        """Keep what is the same in every epoch in a store."""
        self.store, self.places = store, [None] * len(self)

    def is_there(self, index: int) -> bool:
        """Tell whether an image lies in the store, so that there is nothing to prepare."""
        return self.store is not None and self.places[index] is not None

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, position: tuple[int, int]) -> Sample | Failure:
        """Return one sample, finished."""
        with one_thread():
            sample = self._sample(*position)
            if isinstance(sample, Failure) or self.plan.finish is None:
                return sample
            return _finished(sample, self.plan.finish)

    def __getitems__(self, positions: Sequence[tuple[int, int]]) -> Batch:
        """Return a batch; `Plan.finish` is left to whoever has it on the device of the model."""
        with one_thread():
            return self._stored_batch(positions) or collate(self._samples(positions), self.plan)

    def prepare(self, index: int) -> Any:
        """Return the image after the steps that are the same in every epoch, and keep it. Safe in threads.

        With a store its pixels, where `Plan.draw` takes them: not to be written to.
        """
        if self.store is None or self.labels is None:
            return self.plan.prepare(decode_image(self.items[index]))
        made, as_pixels = list[Any](), self.plan.takes_arrays

        def make() -> Any:
            plain = decode_pixels(self.items[index])
            if plain is not None and as_pixels and self.plan.keeps((plain.shape[0], plain.shape[1])):
                made.append(plain)
                return "RGB", plain
            image = decode_with_remark(self.items[index])[0] if plain is None else Image.fromarray(plain)
            image = self.plan.prepare(image)
            pixels = to_pixels(image)
            made.append(pixels[1] if pixels and as_pixels and pixels[0] == "RGB" else image)
            return pixels

        # The file is gone, or the store cannot be used: the decoder says what is wrong.
        with contextlib.suppress(OSError):
            place = self.places[index] or self.store.image(self.items[index], make)
            if place is not None and not made:
                try:
                    kind = KINDS[place.kind]
                    if as_pixels and kind == "RGB":
                        made.append(self.store.view(place))
                    else:
                        made.append(from_pixels(kind, self.store.read(place)))
                except OSError:  # power failed, or the disk forgets
                    place = self.store.image(self.items[index], make, damaged=place)
            self.places[index] = place
        if not made:
            make()
        return made[0]

    def _sample(self, epoch: int, index: int) -> Sample | Failure:
        self.at[self.place] = index
        try:
            return _told(index, lambda: self._made(epoch, index))
        finally:
            self.at[self.place] = -1

    def _made(self, epoch: int, index: int) -> Sample:
        if self.labels is None:
            self._seed(epoch, index)
            image, label = self.items[index]
            if isinstance(image, Image.Image):
                image = self.plan.draw(image)
            return image, label_number(label), index
        image = self.ahead.take(index) if self.ahead else self.prepare(index)
        if self.plan.each:
            self._seed(epoch, index)
        return self.plan.draw(image), self.labels[index], index

    def _samples(self, positions: Sequence[tuple[int, int]]) -> list[Sample | Failure]:
        """Return the samples of a batch: drawn one after the other, made side by side where that is worth it."""
        ahead, plan = self.ahead, self.plan
        if ahead is None or self.store is None or not plan.all_on_arrays or not any(step.slow for step in plan.arrays):
            return [self._sample(*position) for position in positions]
        make = self._begun(ahead, *positions[0])
        started = time.perf_counter()
        first = make()
        if time.perf_counter() - started < WORTH_SECONDS:
            return [self._labelled(positions[0], first), *(self._sample(*position) for position in positions[1:])]
        parts, size = [], -(-len(positions) // (4 * ahead.threads))
        for start in range(1, len(positions), size):
            parts.append(ahead.crop([self._begun(ahead, *each) for each in positions[start : start + size]]))
        made = [first, *(each for part in parts for each in part.result())]
        ahead.cropping.clear()
        return [self._labelled(*each) for each in zip(positions, made, strict=True)]

    def _begun(self, ahead: Ahead, epoch: int, index: int) -> Callable[[], Tensor | Failure | None]:
        """Draw for an image; return what makes it, in whatever thread: None when it has another size by then."""

        def begin() -> Callable[[], Any]:
            place, pixels = self.places[index], None
            if place is not None and KINDS[place.kind] == "RGB" and index not in ahead.begun:
                size = place.height, place.width
            else:
                pixels = ahead.take(index)
                if not isinstance(pixels, np.ndarray):
                    self._seed(epoch, index)
                    done = self.plan.draw(pixels)
                    return lambda: done
                size = pixels.shape[0], pixels.shape[1]
            self._seed(epoch, index)
            return functools.partial(self._changed, index, pixels, size, self.plan.drawn(size))

        begun = _told(index, begin)
        return (lambda: begun) if isinstance(begun, Failure) else lambda: _told(index, begun)

    def _changed(self, index: int, pixels: Pixels | None, size: Size, change: Callable[[Pixels], Any]) -> Any:
        """Do with an image what was drawn for its size; None when it is no longer of this size."""
        image = self.prepare(index) if pixels is None else pixels
        return change(image) if isinstance(image, np.ndarray) and image.shape[:2] == size else None

    def _labelled(self, position: tuple[int, int], made: Tensor | Failure | None) -> Sample | Failure:
        """Return the sample of what `_begun` makes."""
        if made is None:
            return self._sample(*position)
        assert self.labels is not None
        return made if isinstance(made, Failure) else (made, self.labels[position[1]], position[1])

    def _seed(self, epoch: int, index: int) -> None:
        # Known steps draw from torch alone. Whether they are known is a matter of the transform, not of the cache.
        seed = seed_torch if self.plan.all_on_arrays else seed_everything
        seed(self.seed, self.purpose, epoch if self.purpose == "augment" else 0, index)

    def _stored_batch(self, positions: Sequence[tuple[int, int]]) -> Batch | None:
        """Return a batch that lies ready in the store, None when it does not: nothing is drawn, one size, all there."""
        finish, indices = self.plan.finish, [index for _epoch, index in positions]
        if self.store is None or self.labels is None or self.plan.each or finish is None:
            return None
        if self.ahead is not None and not self.ahead.begun.keys().isdisjoint(indices):
            return None  # the threads hold them ready, and go on when they are taken
        places = [self.places[index] for index in indices]
        first = places[0]
        if first is None or any(p is None or p[1:4] != first[1:4] for p in places):
            return None
        kind = KINDS[first.kind]
        if kind == "L" or (kind == "RGB") != finish.takes_pil:
            return None
        pixels = np.empty((len(places), *first.shape), dtype=np.uint8)
        try:
            for place, image in zip(places, pixels, strict=True):
                assert place is not None
                self.store.read_into(place, image)
        except OSError:  # damaged: made again, one by one
            return None
        images = torch.from_numpy(pixels)
        images = images.permute(0, 3, 1, 2) if kind.endswith("last") else finish.arrange(images)
        return images, torch.tensor([self.labels[i] for i in indices]), []

    def name(self, index: int) -> str:
        """Return what a reader calls a sample: its path, or its place in the user's data set."""
        return str(self.items[index]) if self.labels is not None else _("sample {index}", index=index)

    def __reduce__(self) -> tuple[Any, ...]:
        # Reached when a worker is spawned, not forked. The user's functions live in modules that the new process
        # cannot import (a config file, a lambda), so they travel by value.
        with contextlib.ExitStack() as stack:
            for module in _own_modules():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
            return _restore, (cloudpickle.dumps({**vars(self), "ahead": None}),)


def _told(index: int, make: Callable[[], _T]) -> _T | Failure:
    """Return what `make` returns, or why it cannot."""
    try:
        return make()
    except DataError as error:
        return Failure(index, error.problems[0].what, error.problems[0].mend)
    except Exception as error:  # whatever a user's transform or data set raises is told with its sample
        own = raised_by_user(error)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Failure(index, reason, code=own.problems[0].where if own else "")


def _same(planned: Any, plain: Any) -> bool:
    if not (isinstance(planned, Tensor) and isinstance(plain, Tensor)):
        return type(planned) is type(plain)
    return planned.dtype == plain.dtype and torch.equal(planned, plain.as_subclass(Tensor))


def _own_modules() -> list[ModuleType]:
    """Return the user's modules, which a new process would look for in vain; cloudpickle itself sees to `__main__`."""
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name == module.__name__ != "__main__" and is_user_code(module)
    ]


def _restore(state: bytes) -> Samples:
    samples = Samples.__new__(Samples)
    vars(samples).update(cloudpickle.loads(state))
    return samples


def _finished(sample: Sample, finish: Finish) -> Sample:
    image, label, index = sample
    return (finish(finish.stack([image]))[0] if image.dtype == torch.uint8 else image), label, index


def collate(samples: Sequence[Sample | Failure], plan: Plan) -> Batch:
    """Return the batch of the samples that could be made, and the failures."""
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    good = [sample for sample in samples if not isinstance(sample, Failure)]
    if foreign := [sample for sample in good if not isinstance(sample[0], Tensor)]:
        mend = _("let the transform end with transforms.ToTensor()")
        reason = _("the transform gave {kind}, not a tensor", kind=type(foreign[0][0]).__name__)
        failures, good = [Failure(index, reason, mend) for _image, _label, index in foreign], []
    finish = plan.finish
    if finish is not None and not all(image.dtype == torch.uint8 for image, _label, _index in good):
        good, finish = [_finished(sample, finish) for sample in good], None  # some have gone through the tail alone
    odd = next((sample for sample in good if sample[0].shape != good[0][0].shape), None)
    if odd is not None:
        shapes = tuple(good[0][0].shape), tuple(odd[0].shape)
        reason = _("images of different sizes do not stack: {a} and {b}", a=shapes[0], b=shapes[1])
        mend = _("add a Resize to the transform")
        if shapes[0][:1] != shapes[1][:1]:
            mend = _('use Grayscale(num_output_channels=3), or .convert("RGB") in a data set of your own')
        failures, good = [Failure(index, reason, mend) for _image, _label, index in (good[0], odd)], []
    # A batch of several kinds would become the widest of them without a word: 0 to 255 beside 0 to 1.
    if finish is None and (other := [sample for sample in good if sample[0].dtype != torch.float32]):
        mend = _("make every image float32: v2.ToDtype(torch.float32, scale=True)")
        reason = _("an image of {dtype}, not of torch.float32", dtype=other[0][0].dtype)
        failures, good = [Failure(index, reason, mend) for _image, _label, index in other], []
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), failures
    images = [image for image, _label, _index in good]
    batch = finish.stack(images) if finish else torch.stack(images)
    return batch, torch.tensor([label for _image, label, _index in good]), failures
