"""Batches for the loop: counted order, counted augmentation, failures as values.

A sample is asked for by (epoch, index), so that a worker process knows both without being told anything else, and
augmentation follows from (seed, epoch, index) alone.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import ModuleType
from typing import Any

import cloudpickle
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from pochitrain.config.source import is_user_code
from pochitrain.data.decode import decode_image
from pochitrain.errors import DataError
from pochitrain.locale import _
from pochitrain.randomness import permutation, seed_everything


@dataclass(frozen=True)
class Failure:
    """A sample that could not be made; it travels from a worker in the place of the sample."""

    index: int
    reason: str
    mend: str = ""  # given when it is not a matter of one bad file: `on_bad_image` does not apply


POLL_SECONDS = 5  # how long the death of a process may stay unnoticed where no signal tells of it (forkserver)
_FOR_THE_TRAINING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WORKER_GONE = re.compile(r"DataLoader (worker \(pid|timed out)")  # how torch reports a death and a silence

Sample = tuple[Tensor, int, int]  # image (3, H, W), label, index
Batch = tuple[Tensor, Tensor, list[Failure]]


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
        self.at: Any = [-1]  # the index that is being read; a loading process has its place in an array for all to see
        self.place = 0

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, position: tuple[int, int]) -> Sample | Failure:
        epoch, index = position
        self.at[self.place] = index
        seed_everything(self.seed, self.purpose, epoch if self.purpose == "augment" else 0, index)
        try:
            image, label = self._read(index)
            if isinstance(image, Image.Image):
                image = self.transform(image)
            return image, int(label), index
        except Exception as error:  # whatever a user's transform or data set raises is told with its sample
            reason = error.problems[0].what if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            return Failure(index, reason)
        finally:
            self.at[self.place] = -1

    def _read(self, index: int) -> tuple[Any, int]:
        if self.labels is None:
            image, label = self.items[index]
            return image, label
        return decode_image(self.items[index]), self.labels[index]

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
            return _restore, (cloudpickle.dumps(vars(self)),)


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


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in the order of the epoch; `start` of them are passed over without being read.

    A last batch of one image joins the one before it: BatchNorm has no variance of a single value.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, shuffle: bool) -> None:
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.epoch, self.start = 1, 0

    def order(self, epoch: int) -> list[int]:
        """Return the order of the samples in an epoch."""
        return permutation(self.count, self.seed, "order", epoch) if self.shuffle else list(range(self.count))

    def bounds(self) -> list[tuple[int, int]]:
        starts = list(range(0, self.count, self.batch_size))
        if len(starts) > 1 and self.count - starts[-1] == 1 and self.batch_size > 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], self.count], strict=True))

    def __len__(self) -> int:
        return len(self.bounds()) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self.order(self.epoch)
        for first, end in self.bounds()[self.start :]:
            yield [(self.epoch, index) for index in order[first:end]]


class Loader:
    """One split of the data as batches, epoch after epoch, with its worker processes kept alive between epochs."""

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        shuffle: bool,
        workers: int,
        pin_memory: bool,
        timeout_seconds: int,
        skip_failures: bool,
    ) -> None:
        self.samples = samples
        self.batches = Batches(len(samples), batch_size, samples.seed, shuffle=shuffle)
        self.skip_failures = skip_failures
        self.skipped: set[str] = set()
        self.timeout_seconds = timeout_seconds
        self.workers = Workers(workers)
        weakref.finalize(self, self.workers.kill)
        self.pin_memory = pin_memory

    @functools.cached_property
    def _loader(self) -> DataLoader[Any]:
        count = len(self.workers.pids)
        return DataLoader(
            self.samples,
            batch_sampler=self.batches,
            num_workers=count,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            persistent_workers=count > 0,
            timeout=min(self.timeout_seconds / 4, POLL_SECONDS) if count else 0,
            worker_init_fn=functools.partial(_begin_worker, self.workers.pids, self.workers.at),
            generator=torch.Generator(),  # its draw of a base seed shall not touch the global generator
        )

    def close(self) -> None:
        """End the loading processes now; the next `epoch` starts new ones.

        Left to themselves they live until the garbage is collected.
        """
        self.workers.kill()
        vars(self).pop("_loader", None)

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return len(self.batches.bounds())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (n, 3, H, W), labels (n,)) of an epoch from step `start` on.

        Raises:
            DataError: a sample cannot be read (unless failures are skipped), a worker died or hangs.
        """
        self.batches.epoch, self.batches.start = epoch, start
        # BatchNorm cannot train on a single image, so one that is left over among failures is passed over.
        least = 2 if self.batches.shuffle and self.batches.batch_size > 1 else 1
        with watching(self):
            for images, labels, failures in self._answers():
                if failures:
                    self._note(failures)
                enough = len(labels) >= (least if failures else 1)
                yield (images, labels) if enough else (images[:0], labels[:0])

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the samples of one batch."""
        first, end = self.batches.bounds()[step]
        return [self.samples.name(index) for index in self.batches.order(epoch)[first:end]]

    def _answers(self) -> Iterator[Batch]:
        """Yield the batches; ask again after a silence that is not yet too long, and let torch look for the dead."""
        with self.workers.starting():
            batches = iter(self._loader)
        while True:
            silent_seconds = 0.0  # counted, not read from a clock: a stopped process (Ctrl+Z) did not listen
            while True:
                try:
                    batch = next(batches, None)
                    break
                except RuntimeError as error:
                    silent_seconds += self._loader.timeout
                    if "timed out" not in str(error) or silent_seconds >= self.timeout_seconds:
                        raise
                except (OSError, EOFError) as error:  # a batch whose memory went with its process
                    raise self.gone(error) from error
            if batch is None:
                return
            yield batch

    def gone(self, error: Exception) -> DataError:
        """Return the death or silence of a loading process as an error that names its sample; end the others."""
        silent = "timed out" in str(error)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if silent:
            reason = _("no answer for {seconds} s", seconds=self.timeout_seconds)
        names = [self.samples.name(index) for index in self.workers.reading(silent)]
        self.close()
        return DataError(
            _("A process that loads images died or hangs: {reason}", reason=reason),
            ", ".join(names) or _("between two images"),
            _("start again (it continues); if it happens again, try num_workers = 0 to see the cause"),
        )

    def _note(self, failures: list[Failure]) -> None:
        names = [self.samples.name(failure.index) for failure in failures]
        if self.skip_failures and not any(failure.mend for failure in failures):
            self.skipped.update(names)
            return
        raise DataError(
            _("A sample cannot be used: {reason}", reason=failures[0].reason),
            "\n    ".join(names[:10]),
            failures[0].mend or _('mend or remove it, or set on_bad_image = "skip"'),
        )


class Workers:
    """What the loading processes tell of themselves: who they are, and which sample each is reading (-1: none)."""

    def __init__(self, count: int) -> None:
        self.pids = multiprocessing.RawArray("q", count)
        self.at = multiprocessing.RawArray("q", [-1] * count)
        self.processes: list[Any] = []

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Note the processes that are started inside.

        A terminal and a service manager send their signals to all processes, and only the training process decides what
        they mean: so the others begin deaf, before their first line of Python, and stay so.
        """
        before = multiprocessing.active_children()
        if multiprocessing.get_start_method() != "fork":
            resource_tracker.ensure_running()  # starting it later would undo what is blocked now
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_TRAINING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
            self.processes += [process for process in multiprocessing.active_children() if process not in before]

    def dead(self) -> set[int]:
        alive = {process.pid for process in multiprocessing.active_children()}
        return {pid for pid in self.pids if pid and pid not in alive}

    def reading(self, silent: bool) -> list[int]:
        """Return what the dead were reading, or in a silence, what any process is reading."""
        given_up = time.monotonic() + 2
        while not silent and not self.dead() and time.monotonic() < given_up:  # its pipes close before it is dead
            time.sleep(0.01)
        dead = self.dead()
        return [at for pid, at in zip(self.pids, self.at, strict=True) if at >= 0 and (silent or pid in dead)]

    def kill(self) -> None:
        """End the processes now: torch would wait seconds for each, and for ever for one that hangs at its exit."""
        with _deaths_unreported():
            for process in self.processes:
                process.kill()
            for process in self.processes:
                process.join()
        self.processes.clear()
        self.pids[:], self.at[:] = [0] * len(self.pids), [-1] * len(self.at)


@contextlib.contextmanager
def _deaths_unreported() -> Iterator[None]:
    """Keep torch's handler of SIGCHLD from raising; blocking the signal would not do where there are other threads."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


@contextlib.contextmanager
def watching(*loaders: Loader) -> Iterator[None]:
    """Raise the end of a loading process as a DataError.

    torch reports it out of a signal handler, so it comes up wherever the training happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_GONE.match(str(error)):
            raise
        raise next((loader for loader in loaders if loader.workers.dead()), loaders[0]).gone(error) from error


def collate(samples: list[Sample | Failure]) -> Batch:
    """Return the batch of the samples that could be made, and the failures."""
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    good = [sample for sample in samples if not isinstance(sample, Failure)]
    if foreign := [sample for sample in good if not isinstance(sample[0], Tensor)]:
        mend = _("let the transform end with transforms.ToTensor()")
        reason = _("the transform gave {kind}, not a tensor", kind=type(foreign[0][0]).__name__)
        failures, good = [Failure(index, reason, mend) for _image, _label, index in foreign], []
    odd = next((sample for sample in good if sample[0].shape != good[0][0].shape), None)
    if odd is not None:
        shapes = tuple(good[0][0].shape), tuple(odd[0].shape)
        reason = _("images of different sizes do not stack: {a} and {b}", a=shapes[0], b=shapes[1])
        mend = _("add a Resize to the transform")
        failures, good = [Failure(index, reason, mend) for _image, _label, index in (good[0], odd)], []
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.int64), failures
    images = torch.stack([image for image, _label, _index in good])
    return images, torch.tensor([label for _image, label, _index in good]), failures


def _begin_worker(pids: Any, at: Any, number: int) -> None:
    samples: Any = get_worker_info().dataset  # type: ignore[union-attr]
    pids[number], samples.at, samples.place = os.getpid(), at, number
    for received in _FOR_THE_TRAINING:
        signal.signal(received, signal.SIG_IGN)
    torch.set_num_threads(1)
