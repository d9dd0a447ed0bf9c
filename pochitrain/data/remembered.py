"""What a look at every image has found out, kept by path, size and times of change: later looks cost no decoding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pochitrain.data.decode import BrokenImage, decode_image
from pochitrain.data.folder import ImageFolder
from pochitrain.durable import make_directory, write_durably
from pochitrain.errors import DiskError
from pochitrain.locale import _

Facts = npt.NDArray[np.void]

# One file; of one that cannot be read, bytes and the times alone are not zero.
RECORD = np.dtype(
    [
        ("bytes", "<i8"),
        ("mtime_ns", "<i8"),
        ("ctime_ns", "<i8"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("digest", "u1", (32,)),  # SHA-256 of the file
        ("signature", "<f2", (8, 8)),  # `likeness.signature`
        ("remark", "S80"),  # the decoder's
    ]
)
_MAGIC = b"pochick6"  # counts up when RECORD, the decoder or the signature change their meaning


def cache_file(work_dir: str, root: Path) -> Path:
    """Return where is kept what is known of a data root: beside the experiments, for every config that reads it."""
    key = os.fsencode(os.path.realpath(root))
    return Path(work_dir, ".cache", "check", hashlib.sha256(key).hexdigest()[:16])


def stamp(path: str) -> tuple[int, int, int]:
    """Return size, mtime and ctime, by which a file is known again; all -1 when it cannot be looked at.

    Who changes the content or the rights of a file changes its ctime, even if its mtime is kept.
    """
    try:
        status = os.stat(path)
    except OSError:  # decoding it says why
        return -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def remembered(cache: Path) -> dict[bytes, Any]:
    """Return name → record of what was found out; nothing when `cache` is not there or damaged."""
    names, records = _read(cache)
    return dict(zip(names, records, strict=True))


def still_broken(folder: ImageFolder, cache: Path) -> list[tuple[int, BrokenImage]]:
    """Return (file, error) of those that were broken at the last look and are so now. Decodes no other."""
    names, records = _read(cache)
    broken = {names[at] for at in np.flatnonzero(records["width"] == 0)}
    found = []
    for index, name in enumerate(folder.files if broken else ()):
        if os.fsencode(name) in broken:
            try:
                decode_image(folder.path(index))
            except BrokenImage as error:
                found.append((index, error))
    return found


def remember(cache: Path, known: Mapping[bytes, Any], folder: ImageFolder) -> list[str]:
    """Write the records of all files that are still there; return a sentence if that fails: the check goes on."""
    here = set(map(os.fsencode, folder.files))
    kept = [name for name in known if name in here or os.path.exists(os.path.join(os.fsencode(folder.root), name))]
    names = b"\0".join(kept)  # the one byte that no file name holds
    payload = len(names).to_bytes(8, "little") + names + np.array([known[name] for name in kept], RECORD).tobytes()
    try:
        make_directory(cache.parent)
        write_durably(cache, [_MAGIC + hashlib.sha256(payload).digest(), payload], sync=False)
    except DiskError as error:
        problem = error.problems[0]
        return [_("the next check decodes again: {what} ({where})", what=problem.what, where=problem.where)]
    return []


def _read(cache: Path) -> tuple[list[bytes], Facts]:
    try:
        content = cache.read_bytes()
    except OSError:
        content = b""
    payload = memoryview(content)[40:]
    if content[:40] != _MAGIC + hashlib.sha256(payload).digest():
        return [], np.zeros(0, RECORD)
    names_end = 8 + int.from_bytes(payload[:8], "little")
    records = np.frombuffer(payload, RECORD, offset=names_end)
    return (bytes(payload[8:names_end]).split(b"\0") if len(records) else []), records
