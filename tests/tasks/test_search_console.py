"""What a search says while it runs."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from pochitrain.config.search import read_dimension
from pochitrain.reports.trials import COMPLETE, FAILED, PRUNED, StudyView, TrialRow
from pochitrain.sinks.console import Log
from pochitrain.sinks.search_console import SearchDisplay, clock

RATE = read_dimension("learning_rate", {"type": "float", "low": 1e-4, "high": 1e-1, "log": True})


def row(number: int, state: str = COMPLETE, value: float = 50.0, **more: object) -> TrialRow:
    values = [value] if state == COMPLETE else None
    return TrialRow(number, state, values, {"learning_rate": 0.01}, {1: 40.0, 2: value}, seconds=2.0, **more)  # type: ignore[arg-type]


def view(*rows: TrialRow, best: int = 0) -> StudyView:
    return StudyView("mine", ["val_accuracy"], ["maximize"], [RATE], rows, [best])


def panel(display: SearchDisplay) -> list[str]:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(display._panel())
    return [" ".join(line.split()) for line in shown.get().splitlines() if line]


@pytest.fixture
def display() -> SearchDisplay:
    return SearchDisplay(Log("info"), total=20, jobs=2)


def test_the_panel_shows_how_far_the_search_is(display: SearchDisplay) -> None:
    display.begin(7, {"learning_rate": 0.0123456}, epochs=10)
    display.begin(8, {"learning_rate": 0.5}, epochs=10)
    display.epoch(8, 3, 61.23456)
    display.view = view(row(0, value=71.5), row(1, PRUNED), row(2, PRUNED), row(3, FAILED, error="NaN"))
    headline, *running = panel(display)
    assert headline == "4 of 20 trials best val_accuracy 71.5 (trial 0) 2 pruned 1 failed"
    assert running == ["trial 7 epoch 0/10 0 s learning_rate 0.01235", "trial 8 epoch 3/10 61.23 0 s learning_rate 0.5"]


def test_the_time_that_is_left(display: SearchDisplay) -> None:
    assert display.seconds_left() is None
    display.view = view(row(0), row(1))
    display.seconds = [20.0, 40.0]  # 18 trials are left, 30 s each, two at a time
    assert display.seconds_left() == pytest.approx(270)
    assert panel(display) == ["2 of 20 trials best val_accuracy 50 (trial 0) about 4:30 left"]
    display.deadline = time.monotonic() + 60
    assert display.seconds_left() == pytest.approx(60, abs=1)
    display.deadline -= 100
    assert display.seconds_left() == 0


def test_each_trial_that_is_over_has_its_line(display: SearchDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.begin(0, {"learning_rate": 0.01}, epochs=2)
    rows = [row(0), row(1, PRUNED, 40.0), row(2, FAILED, error="out of memory"), row(3, repeat_of=0)]
    for each in rows:
        display.end(each, view(*rows))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "trial  0   val_accuracy 50.0000 *   2.0 s   learning_rate 0.01",
        "trial  1   pruned after epoch 2: 40   2.0 s   learning_rate 0.01",
        "trial  2   failed: out of memory   2.0 s   learning_rate 0.01",
        "trial  3   val_accuracy 50.0000   (as trial 0)   2.0 s   learning_rate 0.01",
    ]
    assert len(display.seconds) == 1  # the others were not trained here
    assert not display.at_work


def test_waiting_for_others_is_said_once(display: SearchDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.waiting()
    display.waiting()
    assert capsys.readouterr().out.count("waiting for the trials of other processes") == 1


def test_a_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3600, 7325)] == ["0:00", "1:00", "1:00:00", "2:02:05"]
