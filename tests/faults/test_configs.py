"""Config files that are no Python, raise, leave, print or fork, and lambdas that have to reach other processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.lives import command, live, state_at_end

WriteConfig = Callable[..., Path]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("epochs = = 3", "The config file is not valid Python: invalid syntax\n    epochs = = 3"),
        ("\x00", "The config file is not valid Python"),
        ("\ttwo\n  three", "The config file is not valid Python"),
        ("class A:\n    def f(self):\n        return 1 / 0\nA().f()", "The config file raised ZeroDivisionError"),
        ("raise KeyboardInterrupt", None),
        ("raise MemoryError('no')", "The config file raised MemoryError: no"),
        ("def f(): f()\nf()", "The config file raised RecursionError"),
        ("import nowhere_at_all", "The config file raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import sys\nsys.exit(0)", "The config file ended the program: sys.exit(0)"),
        ("exit('enough')", "The config file ended the program: sys.exit('enough')"),
    ],
)
def test_a_config_that_does_not_run_is_refused(
    write_config: WriteConfig, tmp_path: Path, lines: str, words: str | None
) -> None:
    path, said = write_config(lines), tmp_path / "said.txt"
    code = live(command("train", "-c", path), said)
    assert code == (2 if words else 130), said.read_text()
    assert (words or "") in said.read_text()
    place = str(path) if "\0" in lines else f"{path}:"  # Python does not say in which line a zero byte stands
    assert f"where: {place}" in said.read_text() or not words
    assert "Traceback" not in said.read_text()
    assert not (tmp_path / "work_dirs").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b""])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path, said = tmp_path / "config.py", tmp_path / "said.txt"
    path.write_bytes(content)
    assert live(command("train", "-c", path), said) == 2, said.read_text()
    assert str(path) in said.read_text()
    assert "Traceback" not in said.read_text()


@pytest.mark.parametrize(
    "lines",
    [
        "print('hello')",
        "import os\nif os.fork() == 0: os._exit(0)",
        "import os\nos.fork()",
        "import os\nif os.fork() == 0: raise ValueError('only in the child')",
        "import multiprocessing\n_child = multiprocessing.get_context('fork').Process(target=int); _child.start()",
        "import threading\nthreading.Thread(target=print, daemon=True).start()",
    ],
)
def test_a_config_that_prints_forks_or_starts_threads_trains_once(
    write_config: WriteConfig, tmp_path: Path, lines: str
) -> None:
    path, said = write_config(lines + "\nepochs = 1"), tmp_path / "said.txt"
    assert live(command("train", "-c", path), said) == 0, said.read_text()
    assert state_at_end(tmp_path / "work_dirs") == (1, 0)
    assert said.read_text().count("epoch 1/1") == 1
    assert said.read_text().count("hello") == ("print" in lines and "hello" in lines)
