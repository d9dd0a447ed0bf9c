"""Checkpoints of a training, which nothing can damage unnoticed, and plain weight files for everybody else.

A checkpoint is 8 bytes of magic, the SHA-256 of the rest, and what `torch.save` wrote: `torch.load` by itself accepts
most flipped bits. Only tensors and plain containers are inside, so reading one never runs code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pochitrain import durable
from pochitrain.errors import ConfigError, DataError, file_reason
from pochitrain.locale import _

MAGIC = b"POCHICK1"
HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size

_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.ckpt")
_UNREADABLE = (  # what zipfile and torch.load(weights_only=True) answer to bytes that are no file of tensors
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Loaded:
    """The newest checkpoint that is whole: `epoch` epochs are finished and `step` steps of the next one are done."""

    epoch: int
    step: int
    state: dict[str, Any]
    path: Path
    damaged: tuple[Path, ...]
    """Newer ones that are not whole, newest first."""


class Checkpoints:
    """The checkpoints in one directory, saved by a thread beside the training; the newest `keep` stay.

    `save` copies the tensors and returns; an error of the thread is raised by the next `save`, `wait` or `close`. Leave
    the `with` block, or call `close`, before the results are used.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        assert keep >= 2, "one file may turn out damaged"
        self.directory = directory
        self.keep = keep
        self._pending: Future[None] | None = None
        self._snapshot = Snapshot()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(
        self, epoch: int, step: int, state: dict[str, Any], *, then: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Save `state` after `epoch` epochs and `step` steps of the next one, then call `then` once it is durable.

        Costs the caller one copy of the tensors, and waits for the save before this one. `then` runs on the writer's
        thread; it gets that copy, which the next save writes over.

        Raises:
            ConfigError: the state holds something that a checkpoint cannot.
            DiskError: the save before this one failed.
        """
        self.wait()
        if not self.directory.is_dir():
            durable.make_directory(self.directory)
        snapshot = self._snapshot.take(state)
        # A thread per save: between saves there is none, so the loader's workers are forked from a quiet process.
        writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = writer.submit(self._write, epoch, step, snapshot, then)
        writer.shutdown(wait=False)

    def wait(self) -> None:
        """Return when what was saved is durable and its `then` has run; raise what went wrong with it."""
        if self._pending is not None:
            error = self._pending.exception()
            self._pending = None
            if error is not None:
                raise error

    def close(self) -> None:
        """Wait, as `wait` does."""
        self.wait()

    def load_newest(self) -> Loaded | None:
        """Return the newest checkpoint whose digest is right, None when there is none at all. Deletes nothing.

        Raises:
            DataError: there are checkpoints, and every one is damaged.
        """
        damaged: list[Path] = []
        for path in reversed(self._paths()):
            state = _load(path)
            if state is not None:
                epoch, step = _progress(path)
                return Loaded(epoch, step, state, path, tuple(damaged))
            damaged.append(path)
        if not damaged:
            return None
        raise DataError(
            _("Every checkpoint is damaged: {names}", names=", ".join(path.name for path in damaged)),
            str(self.directory),
            _("restore one from a backup, or begin again with --restart (this folder is kept aside)"),
        )

    def _write(
        self, epoch: int, step: int, state: dict[str, Any], then: Callable[[dict[str, Any]], None] | None
    ) -> None:
        path = self.directory / f"epoch-{epoch:05d}-step-{step:07d}.ckpt"
        with durable.durable_file(path) as file:
            file.write(MAGIC.ljust(HEADER_BYTES, b"\0"))
            file.overwrite(len(MAGIC), _torch_save(state, file))
        self._prune(path)
        if then is not None:
            then(state)

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and those before it; a later one was damaged, or training would have gone on from there."""
        paths = self._paths()
        end = paths.index(newest) + 1
        for path in [*paths[: max(0, end - self.keep)], *paths[end:]]:
            durable.remove(path)

    def _paths(self) -> list[Path]:
        """By progress, whatever the clock said when they were written."""
        return sorted((path for path in self.directory.glob("*.ckpt") if _NAME.fullmatch(path.name)), key=_progress)


class Snapshot:
    """Copies of a state's tensors in memory of their own, which the next copy uses again when it has the same shapes.

    Fresh memory costs more than the copy itself: the system hands out each page when it is first written.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return `state` in plain containers, its tensors copied to the CPU. The next call overwrites the copies."""
        buffers: dict[str, torch.Tensor] = {}

        def copy(path: str, tensor: torch.Tensor) -> torch.Tensor:
            buffer = self._buffers.get(path)
            if buffer is None or (buffer.dtype, buffer.shape) != (tensor.dtype, tensor.shape):
                buffer = torch.empty_like(tensor, device="cpu", requires_grad=False)
            buffers[path] = buffer
            return buffer.copy_(tensor.detach())

        snapshot: dict[str, Any] = plain(state, copy)
        self._buffers = buffers
        return snapshot


def plain(state: Any, tensor: Callable[[str, torch.Tensor], torch.Tensor], path: str = "state") -> Any:
    """Return `state` in containers that `torch.load(weights_only=True)` accepts, its tensors passed through `tensor`.

    The `OrderedDict` of a model keeps its `_metadata` (some models refuse a state without it), a `Counter` stays one.

    Raises:
        ConfigError: there is something else inside, such as an object of a user's own optimizer.
    """
    if isinstance(state, torch.Tensor):
        return tensor(path, state)
    if isinstance(state, np.generic):
        return state.item()
    if state is None or type(state) in (bool, int, float, complex, str, bytes):
        return state
    if isinstance(state, dict):
        copied = type(state)() if type(state) in (OrderedDict, Counter) else {}
        copied.update({key: plain(value, tensor, f"{path}[{key!r}]") for key, value in state.items()})
        if isinstance(state, OrderedDict):
            vars(copied).update(vars(state))
        return copied
    if isinstance(state, list | tuple):
        items = [plain(value, tensor, f"{path}[{index}]") for index, value in enumerate(state)]
        return tuple(items) if isinstance(state, tuple) else items
    raise ConfigError(
        _("A checkpoint cannot hold a {kind}: {path}", kind=type(state).__qualname__, path=path),
        "state_dict()",
        _("keep tensors, numbers, texts, lists and dictionaries only in what state_dict() returns"),
    )


def save_weights(path: Path, payload: dict[str, Any]) -> None:
    """Write a file that `torch.load(path, weights_only=True)` reads without this package, durably.

    Raises:
        ConfigError: the payload holds more than tensors, numbers, texts, lists and dictionaries.
        DiskError: it cannot be written; the file that was there before is untouched.
    """
    with durable.durable_file(path) as file:
        _torch_save(plain(payload, lambda _path, tensor: tensor.detach()), file)


def load_weights(path: Path) -> dict[str, Any]:
    """Return what `save_weights` wrote, its tensors on the CPU. Nothing in the file is ever run.

    Raises:
        DataError: it is not there, damaged, or holds something else than plain values.
    """
    mend = _("give a .pt file that `pochi train` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        return _plain_dict(path)
    except OSError as error:
        raise DataError(_("The file cannot be read: {error}", error=file_reason(error)), str(path), mend) from error
    except _UNREADABLE as error:
        raise DataError(_("The file is damaged, or is no file of weights."), str(path), mend) from error


def _load(path: Path) -> dict[str, Any] | None:
    """Return the state in a checkpoint, None when it is not whole."""
    try:
        with path.open("rb") as file:
            header, payload = file.read(HEADER_BYTES), file.read()
    except OSError:
        return None
    if header != MAGIC + hashlib.sha256(payload).digest():
        return None
    try:
        return _plain_dict(io.BytesIO(payload))
    except _UNREADABLE:  # right digest, wrong content: somebody else wrote it
        return None


def _plain_dict(file: Path | io.BytesIO) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TorchScript, which is refused right after
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError(type(state).__qualname__)
    return state


def _progress(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2])


def _torch_save(state: dict[str, Any], file: durable.DurableFile) -> bytes:
    """Write `state` into `file` while it is serialised, never whole in memory; return the SHA-256 of the bytes."""
    stream = _Stream(file)
    with io.BufferedWriter(stream, durable.CHUNK_BYTES) as buffered:  # torch writes small pieces between the tensors
        torch.save(state, buffered)
    if stream.error is not None:
        raise stream.error
    return stream.digest.digest()


class _Stream(io.RawIOBase):
    """Hashes and writes. torch makes a RuntimeError of what `write` raises, so the first error waits for the end."""

    def __init__(self, file: durable.DurableFile) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view) if self.error is None else 0, durable.CHUNK_BYTES):
            chunk = view[start : start + durable.CHUNK_BYTES]
            self.digest.update(chunk)  # hashed while the write would bring it into the processor's cache anyway
            try:
                self.file.write(chunk)
            except OSError as error:
                self.error = error
                break
        return len(view)
