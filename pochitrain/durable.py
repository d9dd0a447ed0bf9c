"""The one place that writes files so that they survive a kill, a full disk and a power cut.

A file is written under a hidden name in its own directory, synced, renamed over the old one, and then the directory is
synced: a reader sees the old file or the new one, never a part, and what was reported as written stays written.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pochitrain.errors import DiskError, file_reason
from pochitrain.locale import _

CHUNK_BYTES = 1 << 20
"""The most that goes to the disk in one call: what was just hashed is still in the processor's cache."""


def _unheard(what: str, *paths: Path) -> None:
    pass


event: Callable[..., None] = _unheard
"""Called after each operation on the disk with its name and paths. The tests of crashes listen, record and kill here.

`mkdir(path)`, `create(temporary)`, `chunk(temporary)`, `fsync(temporary)`, `rename(temporary, path)`,
`dirsync(directory)`, `unlink(path)`.
"""


class DurableFile:
    """The temporary file behind a `path` that is being written. `write` takes anything bytes-like, in full."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            rest = view[start : start + CHUNK_BYTES]
            while rest:  # a write may stop short
                rest = rest[os.write(self.descriptor, rest) :]
            event("chunk", self.path)
        return len(view)

    def overwrite(self, position: int, data: bytes) -> None:
        """Replace what stands at `position`."""
        written = os.pwrite(self.descriptor, data, position)
        assert written == len(data)
        event("chunk", self.path)


@contextmanager
def durable_file(path: Path, *, sync: bool = True) -> Iterator[DurableFile]:
    """Open a file that takes the place of `path`, durably, when the block ends well; after an error nothing changed.

    Args:
        sync: False leaves out both fsyncs: whole or absent for every reader, but a power cut may take it. For what can
            be rendered again.

    Raises:
        DiskError: for every OSError inside the block.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            event("create", temporary)
            yield DurableFile(temporary, descriptor)
            if sync:
                os.fsync(descriptor)
                event("fsync", temporary)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        event("rename", temporary, path)
        if sync:
            sync_directory(path.parent)
    except OSError as error:
        _discard(temporary)
        raise disk_error(error, path) from error
    except BaseException:
        _discard(temporary)
        raise


def write_durably(path: Path, chunks: bytes | Iterable[bytes], *, sync: bool = True) -> None:
    """Write `path` so that it is there, whole, when this returns (see `durable_file`)."""
    with durable_file(path, sync=sync) as file:
        for chunk in (chunks,) if isinstance(chunks, bytes) else chunks:
            file.write(chunk)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    r"""Write UTF-8; a byte of a file name that is not UTF-8 stands as `\udcff`."""
    write_durably(path, text.encode(errors="backslashreplace"), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write `value`, keys in their order, readable by every parser: what is not finite becomes null."""
    write_text(path, json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n", sync=sync)


def make_directory(path: Path) -> None:
    """Create `path` and the directories above it that are missing, durably.

    Raises:
        DiskError: it cannot be created, or is a file.
    """
    try:
        missing = [directory for directory in (path, *path.parents) if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            event("mkdir", directory)
            sync_directory(directory.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    except OSError as error:
        raise disk_error(error, path) from error


def require_writable(directory: Path, option: str = "work_dir") -> None:
    """Raise a DiskError when `directory`, which need not exist, could not be written to. Leaves nothing behind.

    Args:
        option: the setting or option that names another folder, for the message.
    """
    try:
        existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * 4096)
    except FileNotFoundError as error:  # the folder is there, and takes no new ones: /proc
        mend = _("choose {folder}", folder=_other_folder(option))
        raise DiskError(_("The folder cannot be created"), str(directory), mend) from error
    except OSError as error:
        raise disk_error(error, directory, option) from error


def remove(path: Path) -> None:
    """Delete a file; one that is already gone is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    event("unlink", path)


def remove_stale(directory: Path) -> None:
    """Delete the temporaries that a killed process left in `directory`.

    Call it before the first write, under the experiment's lock: then nobody else writes here, and no process id, which
    the system may have given to another by now, has to be believed.
    """
    for temporary in sorted(directory.glob(".*.tmp")):
        remove(temporary)


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed and deleted in `directory` last. An OSError stays one."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    event("dirsync", directory)


def disk_error(error: OSError, path: Path, option: str = "") -> DiskError:
    """Return `error` in words that say what to do about it.

    Args:
        option: the setting or option that names another folder, if one does.
    """
    words = _WORDS.get(error.errno or 0)
    what, mend = words(_other_folder(option)) if words else (file_reason(error), "")
    if not mend:
        mend = _("check the disk and the folder, then start the same command again: what was saved is kept")
    return DiskError(what, str(path), mend)


def _other_folder(option: str) -> str:
    return _("another folder ({option})", option=option) if option else _("another folder")


def _space() -> str:
    return _("free some space and start the same command again: what was saved is kept")


_WORDS: dict[int, Callable[[str], tuple[str, str]]] = {
    errno.ENOSPC: lambda _other: (_("The disk is full"), _space()),
    errno.EDQUOT: lambda _other: (_("Your disk quota is used up"), _space()),
    errno.EFBIG: lambda other: (
        _("The file is larger than this process or this file system allows"),
        _("raise the limit (`ulimit -f`) or choose {folder}, then start the same command again", folder=other),
    ),
    errno.EROFS: lambda other: (
        _("The disk is read-only"),
        _("mount it for writing, or choose {folder}", folder=other),
    ),
    errno.EACCES: lambda other: _no_permission(other),
    errno.EPERM: lambda other: _no_permission(other),
    errno.ENOENT: lambda _other: (_("The folder is gone"), ""),
    errno.ENOTDIR: lambda other: _file_for_folder(other),
    errno.EEXIST: lambda other: _file_for_folder(other),
    errno.EIO: lambda other: (
        _("The disk reports an error"),
        _("check the disk's health, and choose {folder}", folder=other),
    ),
}


def _file_for_folder(other: str) -> tuple[str, str]:
    return _("A file is in the place of a folder"), _("rename the file, or choose {folder}", folder=other)


def _no_permission(other: str) -> tuple[str, str]:
    return (
        _("No permission to write here"),
        _("change the folder's permissions, or choose {folder}", folder=other),
    )


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # the error that brought us here is the one to report
        temporary.unlink()
        event("unlink", temporary)


def finite(value: Any) -> Any:
    """Return `value` with null where a number is NaN or infinite: JSON knows neither. Keys become texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
