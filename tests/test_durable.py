"""Files that survive: the order of the calls, what an error leaves, and what a reader sees meanwhile."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pochitrain import durable
from pochitrain.errors import DiskError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_write_syncs_the_file_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, ...]] = []
    monkeypatch.setattr(durable, "event", lambda what, *paths: events.append((what, *(path.name for path in paths))))
    monkeypatch.setattr(durable, "CHUNK_BYTES", 4)
    durable.write_durably(tmp_path / "a.bin", [b"123456", b"7"])
    temporary = f".a.bin.{os.getpid()}.tmp"
    chunks = [("chunk", temporary)] * 3
    assert events == [
        ("create", temporary),
        *chunks,
        ("fsync", temporary),
        ("rename", temporary, "a.bin"),
        ("dirsync", tmp_path.name),
    ]
    assert (tmp_path / "a.bin").read_bytes() == b"1234567"
    events.clear()
    durable.write_durably(tmp_path / "a.bin", b"1", sync=False)
    assert events == [("create", temporary), ("chunk", temporary), ("rename", temporary, "a.bin")]
    assert names(tmp_path) == ["a.bin"]


def test_json_is_valid_for_every_parser_and_keeps_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    undecodable = os.fsdecode(b"caf\xe9.png")
    durable.write_json(path, {"z": float("nan"), "a": [float("-inf"), 1.5], "名": undecodable, "t": (1,)})
    assert json.loads(path.read_text(encoding="utf-8")) == {"z": None, "a": [None, 1.5], "名": undecodable, "t": [1]}
    assert path.read_text(encoding="utf-8").index('"z"') < path.read_text(encoding="utf-8").index('"a"')
    assert "名" in path.read_text(encoding="utf-8")


def test_an_error_on_the_way_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    durable.write_text(path, "old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise KeyError("the renderer is broken")

    with pytest.raises(KeyError):
        durable.write_durably(path, chunks())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_beyond_the_limit_is_a_disk_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    durable.write_durably(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskError, match=r"ulimit -f") as caught:
            durable.write_durably(path, b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_disk_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    (tmp_path / f".a.bin.{os.getpid()}.tmp").symlink_to("/dev/full")  # the system itself answers "no space left"
    with pytest.raises(DiskError, match=r"The disk is full\n.*a\.bin\n.*free some space.*what was saved is kept"):
        durable.write_durably(path, b"new")
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_a_folder_without_permission_is_a_disk_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    script = f"""
import os, pathlib
from pochitrain import durable, errors
folder = pathlib.Path({str(folder)!r})
str(errors.DiskError("", "-", "-"))  # the catalogue is looked up while everything may be read
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
for attempt in (lambda: durable.write_text(folder / "a", "x"), lambda: durable.require_writable(folder / "b" / "c"),
                lambda: durable.make_directory(folder / "d")):
    try:
        attempt()
    except errors.DiskError as error:
        print(error.exit_code, str(error).splitlines()[0])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["74 No permission to write here"] * 3
    assert names(folder) == []


def test_a_file_in_the_place_of_a_folder_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    for attempt in (durable.make_directory, durable.require_writable):
        for folder in (tmp_path / "work", tmp_path / "work" / "task"):
            with pytest.raises(DiskError, match="A file is in the place of a folder"):
                attempt(folder)
    with pytest.raises(DiskError, match="The folder is gone"):
        durable.write_text(tmp_path / "absent" / "a.txt", "x")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "read-only"), (errno.EDQUOT, "quota"), (errno.EIO, "reports an error")]
)
def test_other_errors_of_the_disk_have_their_words(number: int, words: str) -> None:
    error = durable.disk_error(OSError(number, os.strerror(number)), Path("work/a.ckpt"))
    assert words in error.problems[0].what
    assert error.problems[0].where == "work/a.ckpt"
    assert error.problems[0].mend
    assert error.exit_code == 74


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_folder_in_which_none_can_be_created_is_not_said_to_be_gone() -> None:
    with pytest.raises(DiskError) as caught:
        durable.require_writable(Path("/proc/work"), "--output")
    assert str(caught.value) == (
        "The folder cannot be created\n  where: /proc/work\n  mend: choose another folder (--output)"
    )


def test_require_writable_leaves_nothing(tmp_path: Path) -> None:
    durable.require_writable(tmp_path / "work" / "task" / "model")
    assert names(tmp_path) == []


def test_remove_stale_takes_only_temporaries(tmp_path: Path) -> None:
    for name in (".a.ckpt.123.tmp", f".b.json.{os.getpid()}.tmp", "a.ckpt", ".lock", "b.tmp"):
        (tmp_path / name).touch()
    durable.remove_stale(tmp_path)
    assert names(tmp_path) == [".lock", "a.ckpt", "b.tmp"]
    durable.remove_stale(tmp_path / "absent")


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    size, reads = 50_000, 10_000
    durable.write_durably(path, b"0" * size)
    script = f"""
partial = 0
for _ in range({reads}):
    with open({str(path)!r}, "rb") as file:
        data = file.read()
    partial += data != data[:1] * {size}
print(partial)
"""
    reader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    writes = 0
    while reader.poll() is None:
        writes += 1
        durable.write_durably(path, [bytes([48 + writes % 10]) * (size // 2)] * 2, sync=writes % 10 == 0)
    assert reader.communicate()[0] == "0\n"
    assert writes > 10
