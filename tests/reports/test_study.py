"""The files of a study: true at every moment, offline, and with something to say about little."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from pochitrain.config.search import Dimension, choice_labels
from pochitrain.reports.study import PLOTLY, trials_csv, write_pages, write_tables
from pochitrain.reports.study_charts import contour_chart, history_chart, parallel_chart, slice_chart
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, RUNNING, StudyView, TrialRow

PAGES = ("optimization_history", "param_importances", "slice", "parallel_coordinate", "contour")
RATE = Dimension("learning_rate", "float", 1e-4, 1e-1, log=True)
SIZE = Dimension("batch_size", "int", 8, 64, step=8)
MODEL = Dimension("model", "categorical", choices=("a", "<b>", None), labels=choice_labels(("a", "<b>", None)))
DIMENSIONS = [RATE, SIZE, MODEL]


def row(number: int, value: float | None, state: str = COMPLETE, **more: Any) -> TrialRow:
    point = {
        "learning_rate": 10 ** -(1 + number % 3),
        "batch_size": 8 + 8 * (number % 4),
        "model": ("a", "<b>", None)[number % 3],
    }
    values = None if value is None else [value]
    epochs = {} if value is None else {1: value / 2, 2: value}
    return TrialRow(number, state, values, more.pop("point", point), epochs, "2026-01-01T00:00:00", 1.5, **more)


ROWS = [
    row(0, 50.0),
    row(1, 30.0, PRUNED),
    row(2, None, FAILED, error="The <loss> is no longer finite", trace="Traceback"),
    row(3, 70.0, experiment="abc", folder="x"),
    row(4, 70.0, repeat_of=3),
    row(5, 60.0),
    row(6, None, RUNNING),
    row(8, 65.0, retry_of=[7]),
    row(9, None, INTERRUPTED),
]


def view(
    rows: list[TrialRow] = ROWS, dimensions: list[Dimension] = DIMENSIONS, best: tuple[int, ...] = (3,), **more: Any
) -> StudyView:
    return StudyView("my <study>", ["val_accuracy"], ["maximize"], dimensions, rows, best, **more)


def figures(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    charts: dict[str, Any] = json.loads(found[1])["charts"]
    return charts


def pages(folder: Path, own: StudyView) -> dict[str, str]:
    write_pages(folder, own)
    return {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in PAGES}


def test_numbers_for_which_json_has_no_word(tmp_path: Path) -> None:
    endless = TrialRow(0, COMPLETE, [math.inf], {}, {1: math.nan, 2: -math.inf, 3: math.inf, 4: 1.5})
    write_tables(tmp_path, view([endless], [], (0,)), {})
    (entry,) = json.loads((tmp_path / "trials_history.json").read_text())
    assert entry["value"] == "inf"
    assert entry["intermediate_values"] == {"1": "nan", "2": "-inf", "3": "inf", "4": 1.5}


def test_tables_hold_every_trial(tmp_path: Path) -> None:
    own = view(importances={"learning_rate": 0.2, "batch_size": 0.8})
    write_tables(tmp_path, own, {"study_name": "my study", "status": "running"})
    assert json.loads((tmp_path / "best_params.json").read_text()) == ROWS[3].point
    history = json.loads((tmp_path / "trials_history.json").read_text())
    assert [entry["number"] for entry in history] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert [entry["value"] for entry in history] == [50.0, None, None, 70.0, 70.0, 60.0, None, 65.0, None]
    assert history[1]["intermediate_values"] == {"1": 15.0, "2": 30.0}
    assert (history[2]["error"], history[2]["traceback"]) == ("The <loss> is no longer finite", "Traceback")
    assert (history[4]["repeat_of"], history[7]["retry_of"]) == (3, [7])
    told = json.loads((tmp_path / "study_statistics.json").read_text())
    assert (told["best_trial"], told["best_value"], told["status"]) == (3, 70.0, "running")
    assert told["trials"] == {"complete": 5, "pruned": 1, "failed": 1, "interrupted": 1, "running": 1, "repeats": 1}
    assert list(told["param_importances"]) == ["batch_size", "learning_rate"]
    lines = list(csv.DictReader(io.StringIO(trials_csv(own))))
    assert [line["val_accuracy"] for line in lines] == ["50.0", "", "", "70.0", "70.0", "60.0", "", "65.0", ""]
    assert lines[2]["error"] == "The <loss> is no longer finite"
    assert [line["model"] for line in lines[:3]] == ["a", "<b>", "None"]
    assert [line["repeat_of"] for line in lines[3:5]] == ["", "3"]
    assert ">None<" in pages(tmp_path, own)["optimization_history"]


def test_pages_work_offline_and_share_one_plotly(tmp_path: Path) -> None:
    for page in pages(tmp_path, view(importances={"learning_rate": 1.0})).values():
        assert f'<script src="{PLOTLY}">' in page
        assert len(page) < 60_000
        assert "http://" not in page
        assert "https://" not in page
    assert (tmp_path / PLOTLY).stat().st_size > 1_000_000
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([PLOTLY, *(f"{name}.html" for name in PAGES)])


def test_names_of_the_users_are_text_not_html(tmp_path: Path) -> None:
    for page in pages(tmp_path, view()).values():
        assert "<b>" not in page.replace("<b>Trials</b>", "").replace("<b>Importances</b>", "").replace(
            "<b>Settings one by one</b>", ""
        ).replace("<b>Settings side by side</b>", "").replace("<b>Settings in pairs</b>", "")
        assert "<loss>" not in page
        assert "my <study>" not in page
        assert "my &lt;study&gt;" in page


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("dimensions", [[], [RATE], DIMENSIONS])
def test_each_page_says_what_it_can(tmp_path: Path, count: int, dimensions: list[Dimension]) -> None:
    names = {dimension.name for dimension in dimensions}
    points = [{name: value for name, value in each.point.items() if name in names} for each in ROWS]
    rows = [row(n, 50.0 + n, point=points[n]) for n in range(count)]
    importances = {dimension.name: 1 / len(dimensions) for dimension in dimensions} if count > 1 else {}
    found = pages(tmp_path, view(rows, dimensions, (count - 1,) if count else (), importances=importances))
    if count == 0:
        assert all("There is nothing to show yet" in found[name] for name in PAGES[1:])
        return
    if not dimensions:
        assert all("The search space is empty" in found[name] for name in ("slice", "parallel_coordinate", "contour"))
    if len(dimensions) == 1:
        assert "One setting makes no pair" in found["contour"]
        assert "slice" in figures(found["contour"])
    if dimensions and count == 1:
        assert "It takes two complete trials" in found["param_importances"]
    if importances:
        assert "So few trials say little" in found["param_importances"] or len(dimensions) == 1
    assert "history0" in figures(found["optimization_history"])


@pytest.mark.parametrize("state", [PRUNED, FAILED, INTERRUPTED, RUNNING])
def test_without_a_complete_trial_all_files_are_there(tmp_path: Path, state: str) -> None:
    own = view([row(n, None if state != PRUNED else 5.0, state) for n in range(3)], best=())
    write_tables(tmp_path, own, {})
    assert json.loads((tmp_path / "best_params.json").read_text()) == {}
    found = pages(tmp_path, own)
    assert "No trial is complete" in found["contour"]


def test_the_history_shows_every_trial_and_the_best_so_far() -> None:
    chart = history_chart(view())
    traces = {trace["name"]: trace for trace in chart["data"]}
    assert traces["complete"]["x"] == [0, 3, 4, 5, 8]
    assert (traces["best so far"]["x"], traces["best so far"]["y"]) == ([0, 3, 4, 5, 8], [50.0, 70.0, 70.0, 70.0, 70.0])
    assert (traces["pruned"]["x"], traces["pruned"]["y"]) == ([1], [30.0])
    assert (traces["failed"]["x"], traces["failed"]["yaxis"]) == ([2], "y2")
    lowest = StudyView("s", ["val_loss"], ["minimize"], DIMENSIONS, [row(0, 2.0), row(1, 3.0), row(2, 1.0)], (2,))
    assert {trace["name"]: trace for trace in history_chart(lowest)["data"]}["best so far"]["y"] == [2.0, 2.0, 1.0]


def test_what_failed_has_no_value() -> None:
    layout = history_chart(view([row(0, None, FAILED)], best=()))["layout"]
    assert layout["showlegend"]  # which plotly leaves out for a single kind
    assert (layout["yaxis2"]["overlaying"], layout["yaxis2"]["range"]) == ("y", [0, 1])
    assert not layout["yaxis"]["showticklabels"]
    assert "showticklabels" not in history_chart(view())["layout"]["yaxis"]


def test_axes_fit_their_settings() -> None:
    assert slice_chart(view(), RATE)["layout"]["xaxis"]["type"] == "log"
    assert slice_chart(view(), SIZE)["layout"]["xaxis"]["type"] == "linear"
    axis = slice_chart(view(), MODEL)["layout"]["xaxis"]
    assert (axis["type"], axis["categoryarray"]) == ("category", ["a", "&lt;b&gt;", "None"])


def test_contours_interpolate_between_numbers_only() -> None:
    surface = contour_chart(view(), RATE, SIZE)["data"][0]
    assert (surface["type"], surface["connectgaps"]) == ("contour", True)
    assert surface["x"] == sorted(surface["x"])
    assert [len(line) for line in surface["z"]] == [len(surface["x"])] * len(surface["y"])
    assert sum(cell is not None for line in surface["z"] for cell in line) == 5
    two = Dimension("optimizer", "categorical", choices=("A", "B"), labels=("A", "B"))
    rows = [row(n, 50.0 + n, point={"model": "a" if n < 2 else None, "optimizer": "AB"[n % 2]}) for n in range(4)]
    for across, up in ((RATE, MODEL), (MODEL, SIZE)):  # beside a choice lies nothing
        (points,) = contour_chart(view(), across, up)["data"]
        assert points["marker"]["color"] == [50.0, 70.0, 70.0, 60.0, 65.0]
    surface = contour_chart(view(rows, [MODEL, two]), MODEL, two)["data"][0]
    assert surface["type"] == "heatmap"
    assert (surface["x"], surface["y"], surface["z"]) == (["a", "None"], ["A", "B"], [[50.0, 52.0], [51.0, 53.0]])


def test_a_thousand_trials_make_no_page_that_cannot_be_opened() -> None:
    rows = [row(n, 50.0 + n, point={"learning_rate": 1e-4 * 1000 ** (n / 999), "batch_size": 8}) for n in range(1000)]
    wide = Dimension("other", "float", 0.0, 1.0)
    rows = [row(n, 50.0, point={**own.point, "other": n / 999}) for n, own in enumerate(rows)]
    surface = contour_chart(view(rows, [RATE, wide]), RATE, wide)["data"][0]
    assert len(surface["x"]) <= 61
    assert len(surface["y"]) <= 61


def test_parallel_lines_stand_where_their_values_are() -> None:
    chart = parallel_chart(view())
    assert chart["data"][-1]["y"] == pytest.approx([2 / 3, 0.0, 0.5, 1.0])
    for trace in chart["data"]:
        assert all(0 <= height <= 1 for height in trace["y"])
    texts = [mark["text"] for mark in chart["layout"]["annotations"]]
    assert texts == ["0.0001", "0.1", "8", "64", "a", "&lt;b&gt;", "None", "50", "70"]


def test_long_choices_leave_room_for_the_next_setting() -> None:
    names = tuple(f"a transform with a very long name {n}" for n in range(2))
    wide = Dimension("train_transform", "categorical", choices=names, labels=names)
    rows = [row(n, 50.0, point={**row(n, 0).point, "train_transform": names[n]}) for n in range(2)]
    texts = [mark["text"] for mark in parallel_chart(view(rows, [wide, *DIMENSIONS]))["layout"]["annotations"]]
    assert all(len(text) <= 28 for text in texts)
    assert texts[0] != texts[1]


def test_the_winner_of_several_objectives_is_the_best_by_the_first() -> None:
    rows = [TrialRow(n, COMPLETE, values) for n, values in enumerate([[50.0, 1.0], [60.0, 2.0], [40.0, 3.0]])]
    own = StudyView("s", ["val_accuracy", "latency_ms"], ["maximize", "minimize"], [], rows, (0, 1))
    assert own.winner == rows[1]
    assert [each.number for each in own.ranked()] == [1, 0, 2]


def test_the_cards_of_several_objectives_claim_no_best(tmp_path: Path) -> None:
    """The winner is the best by the first metric: another trial may be better by the second."""
    rows = [TrialRow(n, COMPLETE, values) for n, values in enumerate([[50.0, 1.0], [60.0, 2.0]])]
    own = StudyView("s", ["val_accuracy", "latency_ms"], ["maximize", "minimize"], [], rows, (0, 1))
    cards = re.findall(r"<dt>(.*?)</dt><dd>(.*?)<small>", pages(tmp_path, own)["optimization_history"])
    assert cards[:3] == [("val_accuracy of trial 1", "60"), ("latency_ms of trial 1", "2"), ("complete", "2")]
    cards = re.findall(r"<dt>(.*?)</dt>", pages(tmp_path, view())["optimization_history"])
    assert cards[:2] == ["best val_accuracy", "complete"]
