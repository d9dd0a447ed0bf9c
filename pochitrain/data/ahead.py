"""Threads that make images while the model computes; in tasks of several images, where one is soon done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from pochitrain.data.one_thread import one_thread


@dataclass(frozen=True)
class _Raised:
    error: Exception


class Ahead:
    """Threads that prepare the images that come next, while the model computes on those before.

    Only decoding and the steps that draw nothing are done there: random numbers are drawn in one thread, in order. What
    was drawn for a batch is carried out by other threads, where it does not stand behind the images that come next.

    Args:
        prepare: index of an image → the image; may raise.
        images: how many may be ready or begun, more or less `together`.
        together: how many a thread takes at a time. To hand over a task costs Python as much as a small image does.
    """

    def __init__(self, prepare: Callable[[int], Any], *, threads: int, images: int, together: int = 1) -> None:
        self.prepare, self.threads, self.images, self.together = prepare, threads, images, together
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=one_thread)
        self.croppers = ThreadPoolExecutor(threads, thread_name_prefix="crop", initializer=one_thread)
        self.cropping: list[Future[Any]] = []
        self.coming: deque[int] = deque()
        self.begun: dict[int, tuple[Future[list[Any]], int]] = {}  # index → its task, and its place there

    def begin(self, indices: Iterable[int]) -> None:
        """Begin with the images of an epoch, in their order."""
        self.forget()
        self.coming.extend(indices)
        self._top_up()

    def take(self, index: int) -> Any:
        """Return a prepared image; raises what its preparation raised."""
        begun = self.begun.pop(index, None)
        self._top_up()
        if begun is None:
            return self.prepare(index)
        task, place = begun
        made = task.result()[place]
        if isinstance(made, _Raised):
            raise made.error
        return made

    def crop(self, makes: Sequence[Callable[[], Any]]) -> Future[list[Any]]:
        """Let a thread carry out what was drawn for some images of a batch."""
        self.cropping.append(self.croppers.submit(_all, makes))
        return self.cropping[-1]

    def forget(self) -> None:
        """Let go of what was prepared and is not wanted any more."""
        self.coming.clear()
        tasks = {task for task, _place in self.begun.values()}
        # What runs is waited for: no thread may be at the store when its files are closed or a process is forked.
        wait([task for task in (*tasks, *self.cropping) if not task.cancel()])
        self.begun.clear()
        self.cropping.clear()

    def close(self) -> None:
        """End the threads."""
        self.forget()
        self.pool.shutdown(wait=True)
        self.croppers.shutdown(wait=True)

    def _top_up(self) -> None:
        while self.coming and (not self.begun or len(self.begun) + self.together <= self.images):
            part = [self.coming.popleft() for _image in range(min(self.together, len(self.coming)))]
            part = [index for index in dict.fromkeys(part) if index not in self.begun]
            task = self.pool.submit(self._prepared, part)
            self.begun.update((index, (task, place)) for place, index in enumerate(part))

    def _prepared(self, indices: Sequence[int]) -> list[Any]:
        made: list[Any] = []
        for index in indices:
            try:
                made.append(self.prepare(index))
            except Exception as error:  # whatever a step of the user's raises is raised again where it is asked for
                made.append(_Raised(error))
        return made


def _all(makes: Sequence[Callable[[], Any]]) -> list[Any]:
    return [make() for make in makes]
