"""Wrong arguments are refused in the reader's language, in the form of every other error."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from pochitrain.cli import app, run

CASES = {
    "foo": "There is no command foo | where: pochi | mend: see pochi --help",
    "trian": "There is no command trian | where: pochi | mend: did you mean train?",
    "config di": "There is no command di | where: pochi config | mend: did you mean diff?",
    "train --epoch 3": "There is no option --epoch | where: pochi train | mend: did you mean --epochs?",
    "train -x": "There is no option -x | where: pochi train | mend: see pochi train --help",
    "infer": "experiment is missing | where: pochi infer | mend: see pochi infer --help",
    "train a b": "Not understood: a b | where: pochi train | mend: see pochi train --help",
    "train my.py": "Not understood: my.py | where: pochi train | mend: pochi train --config my.py",
    "check --debug 'a b.py'": "Not understood: a b.py | where: pochi check | mend: pochi check --debug --config 'a b.py'",
    "train a.py --epochs 3": "Not understood: a.py | where: pochi train | mend: pochi train --config a.py --epochs 3",
    "train a.py b.py": "Not understood: a.py b.py | where: pochi train | mend: see pochi train --help",
    "train -c a.py b.py": "Not understood: b.py | where: pochi train | mend: see pochi train --help",
    "train --config=a.py b.py": "Not understood: b.py | where: pochi train | mend: see pochi train --help",
    "my.py": "There is no command my.py | where: pochi | mend: pochi train --config my.py",
    "config my.py": "There is no command my.py | where: pochi config | mend: see pochi config --help",
    "train --epochs": "--epochs needs a value",
    "train --debug=3": "--debug takes no value",
    "train --epochs x": "--epochs takes an integer | where: pochi train | mend: see pochi train --help",
    "optimize --timeout x": "--timeout takes a number | where: pochi optimize | mend: see pochi optimize --help",
    "infer x --top-k 0": "--top-k is at least 1 | where: pochi infer | mend: see pochi infer --help",
}


def said(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["pochi", *shlex.split(line)])
    assert run(app) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.rstrip("\n").replace("\n  ", " | ")


@pytest.mark.parametrize("line", CASES)
def test_wrong_arguments(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(line, monkeypatch, capsys) == CASES[line]


@pytest.mark.parametrize("line", CASES)
def test_wrong_arguments_in_japanese(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja")
    first = said(line, monkeypatch, capsys).partition(" | ")[0]
    assert any("ぁ" <= letter <= "ヶ" for letter in first), first


def test_without_a_command_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said("", monkeypatch, capsys).startswith("Usage: pochi ")


def test_versions_are_told_without_loading_torch() -> None:
    code = "import sys; from pochitrain.cli import main; sys.argv = ['pochi', '--version']; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"pochitrain \S+, torch \S+, torchvision \S+, Python 3\.\d+\.\d+\n", done.stdout)
    assert not re.search(r"\| +torch$", done.stderr, re.M)
    assert re.search(r"\| +typer$", done.stderr, re.M)


@pytest.mark.parametrize("line", ["", "train", "optimize", "config", "config id", "infer", "cache clear"])
def test_no_english_is_left_in_the_japanese_help(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja")
    monkeypatch.setattr(sys, "argv", ["pochi", *line.split(), "--help"])
    assert run(app) == 0
    page = capsys.readouterr().out
    assert not [
        word
        for word in ("Usage", "Options:", "Commands:", "Arguments:", "Show this", "[default", "[req")
        if word in page
    ]


def test_a_terminal_that_knows_no_japanese_gets_question_marks() -> None:
    command = [sys.executable, "-m", "pochitrain", "config"]
    environment = {**os.environ, "POCHI_LANG": "ja", "PYTHONIOENCODING": "ascii"}
    for verb, code in (("schema", 0), ("di", 2)):
        done = subprocess.run([*command, verb], capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert "??" in done.stdout + done.stderr


def test_closed_streams_are_left_alone() -> None:
    line = f"{sys.executable} -m pochitrain list --work-dir /nowhere >&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
