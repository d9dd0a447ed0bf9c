"""What a run says: names as they are, no markup, no emoji; what the bar shows; and what ends the saying."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from pochitrain.sinks.console import EpochBar, Log

NAMES = ["[/x]", "[red]", ":smile:"]


def test_names_are_no_markup_on_the_terminal_and_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, table = Log(), Table("[/head]", title="[red]title")
    log.write_to(tmp_path / "train.log")
    for name in NAMES:
        table.add_row(name)
        log.info(name)
        log.warning(name)
    log.table(table)
    for said in (capsys.readouterr().out, (tmp_path / "train.log").read_text(encoding="utf-8")):
        assert [said.count(name) for name in NAMES] == [3, 4, 3], "the title holds one of them"
        assert "[/head]" in said


def shown(bar: EpochBar) -> str:
    """Return what stands on the terminal."""
    console = bar.progress.console
    with console.capture() as capture:
        console.print(bar.progress.get_renderable())
    return capture.get().rstrip("\n")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], EpochBar]:
    def make(columns: int) -> EpochBar:
        monkeypatch.setenv("FORCE_COLOR", "1")  # Rich takes it for a terminal
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        return EpochBar(Log())

    return make


def update(bar: EpochBar, images: int, phase: str = "train") -> str:
    bar.update(f"epoch 10/50 {phase}", images // 10, 200, {"train_loss": 0.12345, "train_accuracy": 98.123}, images)
    return shown(bar)


@pytest.mark.parametrize(
    ("columns", "figures"),
    [
        (100, ["98.12 %", "0.1235", "images/s"]),
        (80, ["98.12 %", "0.1235", "images/s"]),
        (66, ["98.12 %", "0.1235", "images/s"]),
        (60, ["0.1235", "images/s"]),
        (50, ["0.1235"]),
        (40, []),
    ],
)
def test_the_bar_gives_way_before_the_figures(
    terminal: Callable[[int], EpochBar], columns: int, figures: list[str]
) -> None:
    bar = terminal(columns)
    update(bar, 500, "validate")
    time.sleep(0.05)
    line = update(bar, 510, "validate")
    assert line.startswith("epoch 10/50 validate ")
    assert " 51/200 " in line
    assert line.endswith("-:--:--")
    assert [each for each in ("98.12 %", "0.1235", "images/s") if each in line] == figures
    assert ("━" in line) is (columns >= 80)


def test_the_speed_counts_from_the_first_batch_of_this_life_and_phase(terminal: Callable[[int], EpochBar]) -> None:
    bar = terminal(100)

    def speed(images: int, phase: str) -> int:
        assert "images/s" not in update(bar, images, phase)
        time.sleep(0.05)
        return int(re.findall(r"(\d+) images/s", update(bar, images + 10, phase))[0])

    assert 0 < speed(100_000, "train") <= 200, "an earlier life has seen the others"
    assert 0 < speed(0, "validate") <= 200
    bar.restart()
    assert 0 < speed(100_000, "validate") <= 200


def test_between_two_epochs_there_is_no_bar(terminal: Callable[[int], EpochBar]) -> None:
    bar = terminal(100)
    assert shown(bar) == ""
    assert "validate" in update(bar, 100, "validate")
    bar.restart()
    assert shown(bar) == ""
    assert "train" in update(bar, 10)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_ends_the_saying_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        log = Log()
        log.write_to(tmp_path / "train.log")
        log.info("one")
        log.info("two")
    said = [line[20:] for line in (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()]
    assert said == ["warning: The disk is full (stdout)", "one", "two"]
