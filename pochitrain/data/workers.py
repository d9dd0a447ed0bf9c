"""The processes that load images: who they are, what each is reading, and how they end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import torch
from torch.utils.data import get_worker_info

_FOR_THE_TRAINING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def begin_worker(pids: Any, at: Any, training: int, number: int) -> None:
    """Begin as a loading process.

    Args:
        pids, at: the places of `Workers`, one of each is this process's.
        training: the process that trains.
    """
    if multiprocessing.get_start_method() != "forkserver" and os.getppid() != training:
        os._exit(1)  # killed before torch began to watch whether it lives
    samples: Any = get_worker_info().dataset  # type: ignore[union-attr]
    pids[number], samples.at, samples.place = os.getpid(), at, number
    for received in _FOR_THE_TRAINING:
        signal.signal(received, signal.SIG_IGN)
    torch.set_num_threads(1)
