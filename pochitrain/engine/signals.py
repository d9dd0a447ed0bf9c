"""Ctrl+C, SIGTERM and SIGHUP: the first asks the run to stop and save, the second ends the process at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """False until a signal came; then true, with the exit code that the shell expects (128 + the signal's number)."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self) -> bool:
        return self.exit_code != 0


_outer: StopRequest | None = None


def leave_at_once(code: int) -> NoReturn:
    """End this process and its daemons, the loading processes: one that hangs would never notice by itself.

    The cursor, which a progress bar hides, is shown again, and the shell gets a line of its own; written past all
    buffers, as a signal handler must.
    """
    if os.isatty(1):
        with contextlib.suppress(OSError):  # the terminal has just been closed
            os.write(1, b"\x1b[?25h\n")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when a loading process dies
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
    os._exit(code)


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first signal into a request, and put the old handlers back at the end.

    Inside another such block it is the request of that one: who trains many times stops as a whole. Outside the main
    thread (a notebook's worker, a test) signals cannot be caught: the request stays False.
    """
    global _outer
    if _outer is not None:
        yield _outer
        return
    request, process = StopRequest(), os.getpid()

    def receive(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:  # a loading process that has not yet chosen its own handlers
            return
        code = 128 + (signal.SIGTERM if number == signal.SIGHUP else number)
        if request():
            leave_at_once(code)
        request.exit_code = code

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # What the parent told this process to ignore (nohup, a job in the background) stays ignored.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, receive) for number in heard}
    _outer = request
    try:
        yield request
    finally:
        _outer = None
        for number, handler in old.items():
            signal.signal(number, handler)
