"""What a power cut may leave, tried exhaustively on what the writer really asks of the system.

The calls of four saves are recorded. Then every state of the disk that a power cut could leave is built and read: after
each call; with every subset of the creations, renames and deletions whose directory was not synced; with what was not
synced of a file lost, torn or zero. (What file systems are free to do: Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014.)
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pochitrain.engine.checkpoint import Checkpoints
from pochitrain.errors import DataError

Call = tuple[Any, ...]


def recorded(monkeypatch: pytest.MonkeyPatch, save: Callable[[list[Call]], None]) -> list[Call]:
    """Run `save`, which gets the list to note in, and return every call that changes the disk, in order."""
    calls: list[Call] = []

    def named(descriptor: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def after(name: str, note: Callable[..., Call | None]) -> None:
        real = getattr(os, name)

        def call(*args: Any, **keywords: Any) -> Any:
            result = real(*args, **keywords)
            if (noted := note(result, *args)) is not None:
                calls.append(noted)
            return result

        monkeypatch.setattr(os, name, call)

    def content(_result: int, descriptor: int, *_rest: Any) -> Call:
        return ("write", named(descriptor), named(descriptor).read_bytes())

    def synced(_result: None, descriptor: int) -> Call:
        return ("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file", named(descriptor))

    after("mkdir", lambda _result, path, *_rest: ("mkdir", Path(path)))
    after("open", lambda _result, path, flags, *_rest: ("create", Path(path)) if flags & os.O_CREAT else None)
    after("write", content)
    after("pwrite", content)
    after("fsync", synced)
    after("replace", lambda _result, source, target: ("rename", Path(source), Path(target)))
    after("unlink", lambda _result, path, *_rest: ("unlink", Path(path)))
    save(calls)
    monkeypatch.undo()
    return calls


def disks(calls: Sequence[Call], root: Path) -> Iterator[tuple[int, frozenset[tuple[Path, bytes]]]]:
    """Yield (last epoch that was reported as saved, files on the disk) for every state that a power cut may leave."""
    files: dict[Path, int] = {}
    written: list[bytes] = []
    on_disk: dict[int, bytes] = {}
    durable_names: dict[Path, int | None] = {root: None}
    pending: list[tuple[Path, Callable[[dict[Path, int | None]], object]]] = []
    reported = 0
    for kind, *args in [*calls, ("end",)]:
        yield from ((reported, disk) for disk in _left(durable_names, pending, written, on_disk, root))
        if kind == "mkdir":
            pending.append((args[0].parent, lambda names, path=args[0]: names.update({path: None})))
        elif kind == "create":
            files[args[0]] = number = len(written)
            written.append(b"")
            pending.append((args[0].parent, lambda names, path=args[0], number=number: names.update({path: number})))
        elif kind == "write":
            written[files[args[0]]] = args[1]
        elif kind == "sync file":
            on_disk[files[args[0]]] = written[files[args[0]]]
        elif kind == "rename":
            files[args[1]] = number = files.pop(args[0])

            def rename(names: dict[Path, int | None], args: list[Path] = args, number: int = number) -> None:
                names.pop(args[0], None)
                names[args[1]] = number

            pending.append((args[0].parent, rename))
        elif kind == "unlink":
            pending.append((args[0].parent, lambda names, path=args[0]: names.pop(path, None)))
        elif kind == "sync directory":
            for directory, change in pending:
                if directory == args[0]:
                    change(durable_names)
            pending = [(directory, change) for directory, change in pending if directory != args[0]]
        elif kind == "reported":
            reported = args[0]


def _left(
    durable_names: dict[Path, int | None],
    pending: list[tuple[Path, Callable[[dict[Path, int | None]], object]]],
    written: list[bytes],
    on_disk: dict[int, bytes],
    root: Path,
) -> Iterator[frozenset[tuple[Path, bytes]]]:
    for chosen in itertools.product((False, True), repeat=len(pending)):
        names = dict(durable_names)
        for (_directory, change), persisted in zip(pending, chosen, strict=True):
            if persisted:
                change(names)
        reachable = {
            path: number
            for path, number in names.items()
            if number is not None and all(parent in names for parent in path.parents if root in parent.parents)
        }
        contents = []
        for number in reachable.values():
            data = written[number]
            unsynced = [data, b"", data[: len(data) // 2], b"\0" * len(data)]
            contents.append([data] if on_disk.get(number) == data else unsynced)
        for choice in itertools.product(*contents):
            yield frozenset(zip(reachable, choice, strict=True))


def lost(calls: Sequence[Call], root: Path, scratch: Path) -> Iterator[bool]:
    """Yield, for each different state, whether it lacks what had been reported as saved, or cannot be loaded."""
    seen = set()
    for reported, disk in disks(calls, root):
        if (reported, disk) in seen:
            continue
        seen.add((reported, disk))
        for path in scratch.iterdir():
            path.unlink()
        for path, data in disk:
            (scratch / path.name).write_bytes(data)
        try:
            loaded = Checkpoints(scratch).load_newest()
        except DataError:
            yield True
        else:
            yield (loaded.epoch if loaded else 0) < reported


def save_four(directory: Path) -> Callable[[list[Call]], None]:
    def save(calls: list[Call]) -> None:
        with Checkpoints(directory) as checkpoints:
            for epoch in range(1, 5):
                state = {"weight": torch.full((4, 3), float(epoch))}
                checkpoints.save(epoch, 0, state, then=lambda _state, epoch=epoch: calls.append(("reported", epoch)))

    return save


def test_no_power_cut_loses_what_was_reported_as_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, scratch = tmp_path / "task" / "checkpoints", tmp_path / "scratch"
    scratch.mkdir()
    calls = recorded(monkeypatch, save_four(directory))
    assert [args[0] for kind, *args in calls if kind == "reported"] == [1, 2, 3, 4]
    outcomes = list(lost(calls, tmp_path, scratch))
    assert len(outcomes) > 50
    assert not any(outcomes)

    def without(kind: str, where: Callable[[Path], bool] = lambda path: True) -> list[Call]:
        return [call for call in calls if not (call[0] == kind and where(call[1]))]

    # Each of the syncs is needed: without it the same look finds a loss.
    assert any(lost(without("sync file"), tmp_path, scratch))
    assert any(lost(without("sync directory", lambda path: path == directory), tmp_path, scratch))
    assert any(lost(without("sync directory", lambda path: path != directory), tmp_path, scratch))
