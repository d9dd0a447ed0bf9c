"""Batches for the loop: counted order, processes or threads that work ahead, failures that are told."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from pochitrain.data.ahead import Ahead
from pochitrain.data.reading import Batch, Failure, Samples
from pochitrain.data.workers import Workers, begin_worker
from pochitrain.errors import DataError
from pochitrain.locale import _
from pochitrain.randomness import permutation

POLL_SECONDS = 5  # how long the death of a process may stay unnoticed where no signal tells of it (forkserver)
_WORKER_GONE = re.compile(r"DataLoader (worker \(pid|timed out)")  # how torch reports a death and a silence


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
    """One split of the data as batches, epoch after epoch, with its worker processes kept alive between epochs.

    Args:
        device, channels_last: where and in which memory layout `Plan.finish` works, that of the model.
        ahead: without processes, how many images `threads` threads may have ready, `together` of them at a time.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        shuffle: bool,
        workers: int,
        device: torch.device,
        pin_memory: bool,
        timeout_seconds: int,
        skip_failures: bool,
        channels_last: bool = False,
        ahead: int = 0,
        threads: int = 1,
        together: int = 1,
    ) -> None:
        self.samples = samples
        self.batches = Batches(len(samples), batch_size, samples.seed, shuffle=shuffle)
        self.skip_failures = skip_failures
        self.skipped: dict[str, str] = {}  # name of a sample → why it cannot be used
        self.timeout_seconds = timeout_seconds
        self.workers = Workers(workers)
        weakref.finalize(self, self.workers.kill)
        self.pin_memory = pin_memory
        self.device = device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.ahead, self.threads, self.together = ahead, threads, together
        self.waited_seconds = 0.0  # since somebody has asked

    @functools.cached_property
    def _loader(self) -> DataLoader[Any]:
        count = len(self.workers.pids)
        return DataLoader(
            self.samples,
            batch_sampler=self.batches,
            num_workers=count,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            persistent_workers=count > 0,
            timeout=min(self.timeout_seconds / 4, POLL_SECONDS) if count else 0,
            worker_init_fn=functools.partial(begin_worker, self.workers.pids, self.workers.at, os.getpid()),
            generator=torch.Generator(),  # its draw of a base seed shall not touch the global generator
        )

    def close(self) -> None:
        """End the loading processes and threads now; the next `epoch` starts new ones.

        Left to themselves they live until the garbage is collected.
        """
        self.workers.kill()
        if self.samples.ahead is not None:
            self.samples.ahead.close()
            self.samples.ahead = None
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
            for images, labels, failures in self._timed():
                if failures:
                    self.note(failures)
                enough = len(labels) >= (least if failures else 1)
                yield (images, labels) if enough else (images[:0], labels[:0])

    def names(self, epoch: int, step: int) -> list[str]:
        """Return the names of the samples of one batch."""
        first, end = self.batches.bounds()[step]
        return [self.samples.name(index) for index in self.batches.order(epoch)[first:end]]

    def take_waited(self) -> float:
        """Return for how many seconds the model has waited for images since the last call."""
        seconds, self.waited_seconds = self.waited_seconds, 0.0
        return seconds

    def _timed(self) -> Iterator[Batch]:
        """Yield the batches, finished on the device; count what the caller waits for them."""
        with self._reading_ahead():
            batches = self._answers()
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                images, labels, failures = batch
                idle = self.device.type != "cuda" or torch.cuda.current_stream(self.device).query()
                if self.samples.plan.finish is not None and images.dtype == torch.uint8:
                    # 8 bits travel, in a quarter of the time of floats.
                    images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)
                    images = self.samples.plan.finish(images)
                if idle:  # a GPU that still computes has not waited
                    self.waited_seconds += time.perf_counter() - asked
                yield images, labels, failures

    @contextlib.contextmanager
    def _reading_ahead(self) -> Iterator[None]:
        """Let threads prepare the images of the epoch in its order, where there are no processes that do."""
        samples, batches = self.samples, self.batches
        if self.ahead == 0 or len(self.workers.pids) or samples.labels is None:
            yield
            return
        if samples.ahead is None:
            samples.ahead = Ahead(samples.prepare, threads=self.threads, images=self.ahead, together=self.together)
        first = batches.bounds()[batches.start][0] if len(batches) > 0 else len(samples)
        samples.ahead.begin(i for i in batches.order(batches.epoch)[first:] if not samples.is_there(i))
        try:
            yield
        finally:
            if samples.ahead is not None:
                samples.ahead.forget()

    def _answers(self) -> Iterator[Batch]:
        """Yield the batches; ask again after a silence that is not yet too long, and let torch look for the dead."""
        with self.workers.starting(), _silent_on_processes():
            if (alive := self._loader._iterator) is not None:
                # Processes that live on say that they are ready for the next epoch: torch waits for each of them, and
                # sees the dead. A limit would take the pause of a stopped process (Ctrl+Z) for a silence.
                alive._timeout = 0
            batches: Any = iter(self._loader)
            batches._timeout = self._loader.timeout
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

    def note(self, failures: list[Failure]) -> None:
        """Remember samples that are skipped.

        Raises:
            DataError: they are not to be skipped, or skipping would not help.
        """
        names = [self.samples.name(failure.index) for failure in failures]
        if self.skip_failures and not any(failure.mend for failure in failures):
            self.skipped.update(zip(names, (failure.reason for failure in failures), strict=True))
            return
        code = failures[0].code
        if self.samples.labels is None:  # a data set of the user's, whose own code may read the files
            mend = _('mend or remove it, or set on_bad_image = "skip"')
            if code:
                mend = _('correct your code ({where}) or the sample, or set on_bad_image = "skip"', where=code)
        elif code is None:
            mend = _('mend or remove it (pochi check finds all such files), or set on_bad_image = "skip"')
        else:
            mend = _('correct the transform, or set on_bad_image = "skip"')
            if code:
                mend = _('correct the transform ({where}), or set on_bad_image = "skip"', where=code)
        raise DataError(
            _("A sample cannot be used: {reason}", reason=failures[0].reason),
            "\n    ".join(names[:10]),
            failures[0].mend or mend,
        )


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


@contextlib.contextmanager
def _silent_on_processes() -> Iterator[None]:
    """Keep torch's remark on more processes than cores from the reader: the summary says it in his words."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def _as_it_is(batch: Any) -> Any:
    """`Samples.__getitems__` has stacked the batch already."""
    return batch
