"""Every error a user can meet: what happened, where, and how to mend it; each class has its exit code.

PochiError                 1  (never raised itself: an uncaught bug exits 1)
├─ ConfigError             2  wrong use, or a mistake in the config; may hold many problems at once
├─ DataError               3  images, folders, checkpoints that cannot be read
├─ DivergedError           4  the loss or the weights are no longer finite
├─ OutOfMemoryError        5  the device's memory does not hold a batch
├─ DiskError              74  disk full, read-only or gone
├─ AlreadyRunningError    75  another process trains this experiment
└─ StoppedError      130/143  a signal stopped the run after everything was saved
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pochitrain.locale import _


@dataclass(frozen=True)
class Problem:
    """One mistake: a sentence each for what is wrong, where it stands, and how to mend it."""

    what: str
    where: str = ""
    mend: str = ""

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append("  " + _("where: {where}", where=self.where))
        if self.mend:
            lines.append("  " + _("mend: {mend}", mend=self.mend))
        return "\n".join(lines)


class PochiError(ValueError):
    """An error for the reader, not a bug: `str()` is the whole message, ready to print.

    Raise it with one problem, `DataError(what, where, mend)`, or with many, `ConfigError(problems=[...])`.
    """

    exit_code = 1

    def __init__(self, what: str = "", where: str = "", mend: str = "", *, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems) or (Problem(what, where, mend),)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(PochiError):
    """Wrong use, or a mistake in the config. Nothing has been written when it is raised."""

    exit_code = 2


class DataError(PochiError):
    """Images, folders or checkpoints that cannot be used."""

    exit_code = 3


class DivergedError(PochiError):
    """The loss or the weights became NaN or infinite; the last good checkpoint is kept."""

    exit_code = 4


class OutOfMemoryError(PochiError):
    """The device's memory does not hold a batch of this size."""

    exit_code = 5


class DiskError(PochiError):
    """The disk is full, read-only or gone; what was saved before is kept."""

    exit_code = 74


class AlreadyRunningError(PochiError):
    """Another process holds the lock of this experiment."""

    exit_code = 75


class StoppedError(PochiError):
    """A signal stopped the run after it was saved. `exit_code` is 128 + the signal's number."""

    def __init__(self, what: str, where: str = "", mend: str = "", *, exit_code: int = 130) -> None:
        super().__init__(what, where, mend)
        self.exit_code = exit_code


def file_reason(error: OSError) -> str:
    """Return why a file cannot be used, in the reader's language; rare reasons in the words of the system."""
    known = {
        errno.ENOENT: _("No such file or directory"),
        errno.EACCES: _("Permission denied"),
        errno.EPERM: _("Operation not permitted"),
        errno.EISDIR: _("Is a directory"),
        errno.ENOTDIR: _("Not a directory"),
        errno.ELOOP: _("Too many levels of symbolic links"),
        errno.ENAMETOOLONG: _("File name too long"),
        errno.EIO: _("Input/output error"),
    }
    if error.errno is None:
        return str(error)
    return known.get(error.errno) or os.strerror(error.errno)
