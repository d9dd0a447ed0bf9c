"""A command ends when everything is written, and says so when it cannot be."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain.cli import app, run
from tests.conftest import pochi

WriteConfig = Callable[..., Path]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


LEAVING = """
import atexit, sys, threading, time
from pochitrain.cli import main

assert atexit._ncallbacks() == 0, "what is registered before main is not called"

def thread():
    while atexit._ncallbacks() == 0:
        time.sleep(0.01)
    atexit.register(print, "registered within")
    time.sleep(0.2)
    print("the thread is over")

threading.Thread(target=thread).start()
sys.argv = ["pochi", "trian"]
main()
"""


def test_a_command_leaves_after_its_threads_and_what_was_registered() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "the thread is over\nregistered within\n"), done.stderr


HOLDING = """
import functools, gzip, tempfile
epochs = 1
@functools.cache
def opened():
    return [open("log.csv", "w"), gzip.open("log.gz", "wt"), tempfile.NamedTemporaryFile(dir=".", prefix="gone")]
class Ends:
    def __init__(self, file):
        self.file = file
    def __del__(self):
        self.file.write("end")
ends = []
def observe(record):
    for file in opened()[:2]:
        print(record["epoch"], file=file)
    ends.append(Ends(opened()[0]))
observers = [observe]
"""


def test_what_the_users_code_holds_in_open_files_is_written(write_config: WriteConfig, tmp_path: Path) -> None:
    done = pochi("train", "-c", write_config(HOLDING), cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "log.csv").read_text() == "1\nend"
    assert gzip.decompress((tmp_path / "log.gz").read_bytes()) == b"1\n"
    assert list(tmp_path.glob("gone*")) == []


ARCHIVES = """
import atexit, gzip, sys, weakref, zipfile
from pochitrain.cli import main

def note(): pass

zipped, archive = gzip.open("log.gz", "wt"), zipfile.ZipFile("log.zip", "w")
zipped.write("all")
archive.writestr("a", "all")
atexit.register(note)
weakref.finalize(archive, note)
sys.argv = ["pochi", "trian"]
main()
"""


def test_archives_get_their_end_whatever_else_is_registered(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ARCHIVES], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert gzip.decompress((tmp_path / "log.gz").read_bytes()) == b"all"
    assert zipfile.ZipFile(tmp_path / "log.zip").read("a") == b"all"


UNWRITTEN = """
import io, sys
from pochitrain.leaving import leave

class Odd(io.RawIOBase):
    closed = False
    def flush(self):
        raise KeyError("odd")

full, odd = open("/dev/full", "w"), Odd()
lost, closed = open(sys.argv[1], "w"), open(sys.argv[1])
full.write("x")
lost.detach()
closed.close()
file = open(sys.argv[1], "w")
file.write("written")
leave(int(sys.argv[2]))
"""


@needs_full
@pytest.mark.parametrize(("code", "expected"), [(0, 74), (3, 3)])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, code: int, expected: int) -> None:
    path = tmp_path / "file.txt"
    command = [sys.executable, "-c", UNWRITTEN, str(path), str(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == expected
    assert done.stderr.startswith("The disk is full\n  where: /dev/full\n")
    assert done.stderr.count("/dev/full") == 1
    assert path.read_text() == "written"


@needs_full
@pytest.mark.parametrize("arguments", [["config", "schema"], ["list"], ["--help"]])
def test_a_full_disk_behind_stdout_is_told(arguments: list[str], tmp_path: Path) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "pochitrain", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[:2]) == (74, ["The disk is full", "  where: stdout"])


@needs_full
def test_the_check_of_a_config_does_nothing_but_say_and_so_a_full_disk_is_an_error(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pochi", "config", "check", "-c", str(write_config())])
    with FULL.open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(app) == 74
    assert capsys.readouterr().err.startswith("The disk is full\n  where: stdout\n")


@pytest.mark.parametrize("arguments", ["config schema", "--help", "list"])
def test_a_pipe_that_is_closed_is_no_error(arguments: str, tmp_path: Path) -> None:
    line = f"{{ {sys.executable} -m pochitrain {arguments}; echo $? >&2; }} | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == "0\n"


def test_who_interrupts_is_answered(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pochi", "train", "-c", str(write_config("raise KeyboardInterrupt"))])
    assert run(app) == 130
    assert capsys.readouterr() == ("", "Interrupted\n")


def test_code_of_the_users_that_ends_the_program_is_told(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = """
epochs = 1
calls = []
def loss(logits, labels):
    calls.append(1)
    if len(calls) > 8:
        raise SystemExit("enough")
    return nn.functional.cross_entropy(logits, labels)
"""
    path = write_config(lines)
    monkeypatch.setattr(sys, "argv", ["pochi", "train", "-c", str(path)])
    assert run(app) == 2
    said = capsys.readouterr().err
    assert said.startswith('Your code raised SystemExit: enough\n    raise SystemExit("enough")\n')
    assert f"{path}:" in said
    folder = next((tmp_path / "work_dirs" / "tiny").glob("*/*"))
    assert "SystemExit: enough" in (folder / "train.log").read_text()
    assert '"status": "failed"' in (folder / "experiment.json").read_text()
