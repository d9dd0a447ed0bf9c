"""Images of 8 bits in two files that only grow: one of pixels, one of records that say where they lie.

A store is read with `pread`: a damaged or shortened file is then an error in one place, not the death of the process.
Only a file that the kernel keeps from being shortened is looked at where it lies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import struct
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
# PIL images by their mode; torchvision's Image and plain tensors (3, H, W), contiguous or channels last in memory.
KINDS = ("RGB", "L", "image", "tensor", "image last", "tensor last")
_CHANNELS_FIRST = ("image", "tensor")
_RECORD = struct.Struct("<16sQIIII")  # key, offset, height, width, kind, CRC-32 of the pixels
_SEALED = struct.Struct("<40sI4x")  # a record with its own CRC-32: power may fail in the middle of one


class Place(NamedTuple):
    """Where an image lies in a store."""

    offset: int
    height: int
    width: int
    kind: int
    crc: int

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(KINDS[self.kind], self.height, self.width)


class Store:
    """Images by keys of 16 bytes. Safe in threads and processes; several may fill it at once.

    Args:
        pixels, index: paths of the two files, which are there.
        limit_bytes: `add` refuses what would make the pixels, with those of the others, larger.
        lasting: the files outlive the process: images are found by their content too, and checked when they are read.
        others_bytes: tells how large the stores are now that share the limit.
    """

    def __init__(
        self, pixels: str, index: str, limit_bytes: int, *, lasting: bool, others_bytes: Callable[[], int] = int
    ) -> None:
        self.paths, self.limit_bytes, self.lasting = (pixels, index), limit_bytes, lasting
        self.others_bytes = others_bytes
        self._pixels, self._index = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in self.paths)
        weakref.finalize(self, close_files, (self._pixels, self._index))
        self._never_shrinks = _never_shrinks(self._pixels)
        self._mapped: mmap.mmap | bytes = b""
        self._lock = threading.Lock()
        self._places: dict[bytes, Place] = {}
        self._read_to = 0  # bytes of the index that are known
        self.used_bytes = 0
        self.full = False
        self._refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (*self.paths, self.limit_bytes - self.others_bytes(), self.lasting)

    def file_bytes(self) -> int:
        """Return how large the pixels are now, whoever has added to them."""
        return os.fstat(self._pixels).st_size

    def count(self) -> int:
        """Return how many images are known to be there."""
        return len({place.offset for place in self._places.values()})

    def image(
        self, path: str, make: Callable[[], tuple[str, Pixels] | None], damaged: Place | None = None
    ) -> Place | None:
        """Return where the image of a file lies, after making it if it is not there; None when there is no room.

        Args:
            damaged: where it cannot be read; what lies there counts no more.

        Raises:
            whatever `make` raises; OSError when the file is not there.
        """
        keys = [_name_key(path)]
        if (place := self.find(keys[0])) not in (None, damaged):
            return place
        if self.lasting:  # the same picture under another name, or touched
            with open(path, "rb") as file:
                keys.append(hashlib.blake2b(file.read(), digest_size=16).digest())
            if (place := self.find(keys[1])) is not None and place != damaged:
                self._append(keys[:1], place)
                return place
        if self.full or (made := make()) is None or _name_key(path) != keys[0]:  # replaced meanwhile: made of which?
            return None
        return self.add(keys, *made, damaged)

    def find(self, key: bytes) -> Place | None:
        """Return where an image lies, whoever has put it there."""
        if key not in self._places:
            with self._lock:  # two threads would pass over the same records twice, and miss those that come after
                self._refresh()
        return self._places.get(key)

    def add(self, keys: Sequence[bytes], kind: str, pixels: Pixels, damaged: Place | None = None) -> Place | None:
        """Keep an image under its keys, in the place of a damaged one; None when there is no room for it."""
        height, width = pixels.shape[1:] if kind in _CHANNELS_FIRST else pixels.shape[:2]
        data = np.ascontiguousarray(pixels).data.cast("B")
        with self._locked():
            self._refresh()
            if (place := self._places.get(keys[0])) not in (None, damaged):  # another process was faster
                return place
            place = Place(self.used_bytes, height, width, KINDS.index(kind), zlib.crc32(data) if self.lasting else 0)
            if self.others_bytes() + self.used_bytes + len(data) > self.limit_bytes:
                self.full = True
                return None
            try:
                _write(self._pixels, data, place.offset)
                self._append_locked(keys, place)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                    raise
                self.full = True
                return None
        return place

    def read(self, place: Place) -> Pixels:
        """Return the pixels of an image.

        Raises:
            OSError: they are not what was written.
        """
        pixels = np.empty(place.shape, dtype=np.uint8)
        self.read_into(place, pixels)
        return pixels

    def view(self, place: Place) -> Pixels:
        """Return the pixels of an image, not to be written to: without a copy where that is safe.

        Who cuts a piece out of a photograph then reads only that.

        Raises:
            OSError: they are not what was written.
        """
        if not self._never_shrinks:
            return self.read(place)
        mapped = self._mapped
        if len(mapped) < place.offset + math.prod(place.shape):
            mapped = self._mapped = mmap.mmap(self._pixels, 0, access=mmap.ACCESS_READ)
        return np.ndarray(place.shape, dtype=np.uint8, buffer=mapped, offset=place.offset)

    def read_into(self, place: Place, pixels: Pixels) -> None:
        """Read the pixels of an image into an array of its shape."""
        data = pixels.data.cast("B")
        if os.preadv(self._pixels, [data], place.offset) != len(data):
            raise OSError(errno.EIO, "cut off", self.paths[0])
        if self.lasting and zlib.crc32(data) != place.crc:
            raise OSError(errno.EIO, "damaged", self.paths[0])

    def _append(self, keys: Sequence[bytes], place: Place) -> None:
        with self._locked(), contextlib.suppress(OSError):  # without the record it is found by its content again
            self._refresh()
            self._append_locked(keys, place)

    def _append_locked(self, keys: Sequence[bytes], place: Place) -> None:
        records = [_RECORD.pack(key, *place) for key in keys]
        sealed = b"".join(_SEALED.pack(record, zlib.crc32(record)) for record in records)
        _write(self._index, sealed, self._read_to)
        self._read_to += len(sealed)
        self._know(keys, place)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._index, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._index, fcntl.LOCK_UN)

    def _refresh(self) -> None:
        """Learn of what was added since the last look."""
        new = os.fstat(self._index).st_size - self._read_to
        if new < _SEALED.size:
            return
        data = os.pread(self._index, new - new % _SEALED.size, self._read_to)
        for record, crc in _SEALED.iter_unpack(data):
            if zlib.crc32(record) == crc:
                key, *fields = _RECORD.unpack(record)
                place = Place(*fields)
                if place.kind < len(KINDS):
                    self._know([key], place)
        self._read_to += len(data)

    def _know(self, keys: Sequence[bytes], place: Place) -> None:
        self._places.update(dict.fromkeys(keys, place))
        self.used_bytes = max(self.used_bytes, place.offset + math.prod(place.shape))


def _never_shrinks(descriptor: int) -> bool:
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except (AttributeError, OSError):  # no Linux, or no file that can be sealed
        return False


def _write(descriptor: int, data: Any, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _name_key(path: str) -> bytes:
    """Return what stands for a file as it is now: whoever writes to it changes its ctime, even if its mtime is kept."""
    status = os.stat(path)
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return hashlib.blake2b(os.fsencode(f"{os.path.abspath(path)}\0{numbers}"), digest_size=16).digest()


def _reopened(pixels: str, index: str, limit_bytes: int, lasting: bool) -> Store | None:
    try:
        return Store(pixels, index, limit_bytes, lasting=lasting)
    except FileNotFoundError:  # cleared before a loading process could open it, which then does without
        return None


def shape_of(kind: str, height: int, width: int) -> tuple[int, ...]:
    """Return the shape of the array of an image."""
    if kind in _CHANNELS_FIRST:
        return 3, height, width
    return (height, width) if kind == "L" else (height, width, 3)


def close_files(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


# ---- the stores on the disk ----


@dataclass(frozen=True)
class StoredPipeline:
    """A folder of the cache on the disk."""

    key: str
    steps: str
    images: int
    used_bytes: int
    used_at: float  # seconds since the epoch
    folder: Path


def cache_dir() -> Path:
    """Return where images are kept on the disk: POCHI_CACHE_DIR, else the user's cache folder."""
    if given := os.environ.get("POCHI_CACHE_DIR"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given, "pochitrain", "images")
    try:
        return Path.home() / ".cache" / "pochitrain" / "images"
    except RuntimeError:  # a user without a home, as in a container
        return Path(tempfile.gettempdir(), f"pochitrain-{os.getuid()}", "images")


def stored_pipelines() -> list[StoredPipeline]:
    """Return what the cache on the disk holds, the last used first."""
    found = []
    for folder in _folders():
        with contextlib.suppress(OSError):  # it is being made or removed
            steps = read_steps(folder)
            status = (folder / "pixels").stat()
            images = len({_RECORD.unpack(r)[1] for r, _crc in _SEALED.iter_unpack(_whole_records(folder / "index"))})
            used = folder.stat().st_mtime
            shown = "?" if steps is None else " → ".join(steps)
            found.append(StoredPipeline(folder.name, shown, images, status.st_size, used, folder))
    return sorted(found, key=lambda one: -one.used_at)


def others_on_disk(folder: Path) -> int:
    """Return how large all stores on the disk but one are."""
    total = 0
    for other in _folders():
        if other != folder:
            with contextlib.suppress(OSError):  # it is being made or removed
                total += os.stat(other / "pixels").st_size
    return total


def _folders() -> list[Path]:
    """Return the folders of the cache, whatever else lies beside them."""
    try:
        return [folder for folder in cache_dir().iterdir() if re.fullmatch("[0-9a-f]{24}", folder.name)]
    except OSError:  # it is not there, or in a home that is not ours to look into
        return []


def read_steps(folder: Path) -> list[str] | None:
    """Return what a store was made of, None where that is not there or not whole."""
    try:
        return [str(step) for step in json.loads((folder / "pipeline.json").read_text())["steps"]]
    except (OSError, ValueError, KeyError, TypeError):  # the power failed, or the disk was full, when it was written
        return None


def _whole_records(index: Path) -> bytes:
    data = index.read_bytes()
    return data[: len(data) - len(data) % _SEALED.size]


def free_disk() -> int:
    """Return how many bytes the disk of the cache has left, those of the cache among them."""
    # os.path, not Path: what is not ours to look into is not there, and no error.
    folder = next(path for path in (cache_dir(), *cache_dir().parents) if os.path.exists(path))
    return shutil.disk_usage(folder).free + sum(one.used_bytes for one in stored_pipelines())
