"""What a search leaves for people and programs: tables, and pages that work offline beside one plotly.js.

Everything is made of the rows alone, so it can be written again after each trial and after an interruption.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pochitrain import durable
from pochitrain.config.search import Dimension
from pochitrain.locale import _
from pochitrain.reports import study_charts as charts
from pochitrain.reports.html import Cell, Column, chart, escape, page, plotly_js, section, table
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, RUNNING, WAITING, StudyView, TrialRow

PLOTLY = "plotly.min.js"
PAIRED = 4  # settings that contour.html shows against each other, in six pictures
FEW = 10  # complete trials; with fewer an importance is mostly chance


def write_tables(folder: Path, view: StudyView, statistics: dict[str, Any]) -> None:
    """Write `best_params.json`, `trials_history.json`, `study_statistics.json` and `trials.csv`.

    Raises:
        DiskError: one of them cannot be written.
    """
    winner = view.winner
    durable.write_json(folder / "best_params.json", view.shown(winner) if winner else {}, sync=False)
    durable.write_json(folder / "trials_history.json", [_entry(row, view) for row in view.rows], sync=False)
    durable.write_json(folder / "study_statistics.json", {**statistics, **_counted(view)}, sync=False)
    durable.write_text(folder / "trials.csv", trials_csv(view), sync=False)


def write_pages(folder: Path, view: StudyView) -> None:
    """Write the five pages, and plotly.js beside them once.

    Raises:
        DiskError: one of them cannot be written.
    """
    if not (folder / PLOTLY).exists():
        durable.write_text(folder / PLOTLY, plotly_js(), sync=False)
    makers = {
        "optimization_history": _history_page,
        "param_importances": _importances_page,
        "slice": _slice_page,
        "parallel_coordinate": _parallel_page,
        "contour": _contour_page,
    }
    for name, make in makers.items():
        sections, figures = make(view)
        title = f"{view.name}: {_titles()[name]}"
        text = page(title, sections, header=_links(name), data={"charts": figures}, charts=PLOTLY)
        durable.write_text(folder / f"{name}.html", text, sync=False)


def trials_csv(view: StudyView) -> str:
    """Return one line for each trial: what stands in `trials_history.json`, without the epochs."""
    names = [dimension.name for dimension in view.dimensions]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", *view.metrics, *names, "seconds", "error", "repeat_of", "experiment"])
    for row in view.rows:
        values = row.values if row.state == COMPLETE and row.values else [None] * len(view.metrics)
        shown = view.shown(row)
        point = [str(shown[name]) if name in shown else None for name in names]  # None is a choice like any other
        writer.writerow([row.number, row.state, *values, *point, row.seconds, row.error, row.repeat_of, row.experiment])
    return text.getvalue()


def _entry(row: TrialRow, view: StudyView) -> dict[str, Any]:
    values = row.values if row.state == COMPLETE else None
    value: Any = None
    if values:
        value = _number(values[0]) if len(values) == 1 else [_number(one) for one in values]
    return {
        "number": row.number,
        "state": row.state,
        "value": value,
        "params": view.shown(row),
        "intermediate_values": {str(epoch): _number(own) for epoch, own in sorted(row.epochs.items())},
        "started": row.started,
        "duration_seconds": row.seconds,
        "error": row.error or None,
        **({"traceback": row.trace} if row.trace else {}),
        **({"repeat_of": row.repeat_of} if row.repeat_of is not None else {}),
        **({"retry_of": row.retry_of} if row.retry_of else {}),
        "experiment": row.experiment,
        "folder": row.folder,
    }


def _number(value: float) -> float | str:
    """Return a number for JSON, which has no word for these: "nan", "inf", "-inf"."""
    return value if math.isfinite(value) else str(value)


def _counted(view: StudyView) -> dict[str, Any]:
    winner, complete = view.winner, view.in_state(COMPLETE)
    seconds = sorted(row.seconds for row in complete if row.seconds is not None and row.repeat_of is None)
    return {
        "metrics": list(view.metrics),
        "directions": list(view.directions),
        "trials": {
            "complete": len(complete),
            "pruned": len(view.in_state(PRUNED)),
            "failed": len(view.in_state(FAILED)),
            "interrupted": len(view.in_state(INTERRUPTED)),
            "running": len(view.in_state(RUNNING)),
            "repeats": sum(row.repeat_of is not None for row in view.rows),
        },
        "best_trial": winner.number if winner else None,
        "best_value": _number(winner.values[0]) if winner and winner.values else None,
        **({"pareto_front": list(view.best)} if len(view.metrics) > 1 else {}),
        "param_importances": dict(sorted(view.importances.items(), key=lambda pair: -pair[1])),
        "median_trial_seconds": seconds[len(seconds) // 2] if seconds else None,
    }


# ---------------------------------------------------------------------------------------------------------------- pages

Page = tuple[list[str], dict[str, charts.Chart]]


def _titles() -> dict[str, str]:
    return {
        "optimization_history": _("Trials"),
        "param_importances": _("Importances"),
        "slice": _("Settings one by one"),
        "parallel_coordinate": _("Settings side by side"),
        "contour": _("Settings in pairs"),
    }


def _links(here: str) -> str:
    links = [
        f"<b>{escape(title)}</b>" if name == here else f'<a href="{name}.html">{escape(title)}</a>'
        for name, title in _titles().items()
    ]
    return f'<p class="muted">{" · ".join(links)}</p>'


def _nothing_yet(view: StudyView) -> Page | None:
    if view.in_state(COMPLETE):
        return None
    return [section(_("No trial is complete"), note=_("There is nothing to show yet."))], {}


def _history_page(view: StudyView) -> Page:
    figures = {f"history{n}": charts.history_chart(view, n) for n in range(len(view.metrics)) if view.rows}
    if len(view.metrics) == 2 and view.in_state(COMPLETE):
        figures = {"front": charts.front_chart(view), **figures}
    sections = [section(_("Result"), _cards(view)), section(_("Trials"), *map(chart, figures)), _trials_table(view)]
    return sections, figures


def _cards(view: StudyView) -> str:
    winner, counted = view.winner, _counted(view)["trials"]
    repeats = _("{count} answered by an earlier one", count=counted["repeats"]) if counted["repeats"] else ""
    cards = [
        (_("complete"), str(counted["complete"]), repeats),
        (_("pruned"), str(counted["pruned"]), ""),
        (_("failed"), str(counted["failed"]), ""),
    ]
    if winner:
        assert winner.values
        number = winner.number
        if len(view.metrics) == 1:
            title, small = _("best {metric}", metric=view.metrics[0]), _("trial {number}", number=number)
            cards.insert(0, (title, charts.number(winner.values[0]), small))
        else:  # of the front the best by the first metric; others are better by another
            titles = [_("{metric} of trial {number}", metric=metric, number=number) for metric in view.metrics]
            values = map(charts.number, winner.values)
            cards[:0] = [(title, value, "") for title, value in zip(titles, values, strict=True)]
    items = [
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
        for title, value, small in cards
    ]
    return f'<dl class="cards">{"".join(items)}</dl>'


def _trials_table(view: StudyView) -> str:
    names = [dimension.name for dimension in view.dimensions]
    columns = [Column(_("trial"), number=True), Column(_("state")), *(Column(m, number=True) for m in view.metrics)]
    columns += [Column(name, number=True) for name in names] + [Column(_("seconds"), number=True), Column(_("remark"))]
    return section(_("All trials"), table(columns, [_cells(row, view, names) for row in view.rows], sortable=True))


def _cells(row: TrialRow, view: StudyView, names: Sequence[str]) -> list[Cell | str]:
    values = row.values if row.state == COMPLETE and row.values else [None] * len(view.metrics)
    mark = " ★" if row.number in view.best else ""
    remark = row.error
    if row.repeat_of is not None:
        remark = _("same values as trial {number}", number=row.repeat_of)
    elif row.state == PRUNED and row.epochs:
        last = max(row.epochs)
        remark = _("ended after epoch {epoch} at {value}", epoch=last, value=charts.number(row.epochs[last]))
    return [
        _cell(row.number),
        Cell(f'<span style="white-space: nowrap">{escape(_states()[row.state] + mark)}</span>', row.state),
        *(_cell(value) for value in values),
        *(_cell("None" if row.point.get(name, "") is None else row.point.get(name)) for name in names),
        _cell(None if row.seconds is None else round(row.seconds, 1)),
        remark,
    ]


def _states() -> dict[str, str]:
    return {
        COMPLETE: _("complete"),
        PRUNED: _("pruned"),
        FAILED: _("failed"),
        INTERRUPTED: _("interrupted"),
        RUNNING: _("running"),
        WAITING: _("waiting"),
    }


def _cell(value: Any) -> Cell:
    shown = "" if value is None else charts.number(value) if isinstance(value, float) else str(value)
    return Cell(escape(shown), "" if value is None else value if isinstance(value, int | float) else str(value))


def _importances_page(view: StudyView) -> Page:
    if not view.importances:
        if nothing := _nothing_yet(view):
            return nothing
        note = _("It takes two complete trials with different values to tell what matters.")
        return [section(_("Importances"), note=note)], {}
    complete = len(view.in_state(COMPLETE))
    note = _(
        "How much of the variance of {metric} over {count} complete trials each setting explains (fANOVA).",
        metric=view.metrics[0],
        count=complete,
    )
    if len(view.dimensions) == 1:
        note += " " + _("Only one setting is searched, so it explains all.")
    elif complete < FEW:
        note += " " + _("So few trials say little.")
    return [section(_("Importances"), chart("importances"), note=note)], {"importances": charts.importance_chart(view)}


def _slice_page(view: StudyView) -> Page:
    if nothing := _nothing_yet(view):
        return nothing
    figures = {
        f"slice{n}-{m}": charts.slice_chart(view, dimension, m)
        for n, dimension in enumerate(view.dimensions)
        for m in range(len(view.metrics))
    }
    note = _("Each point is a complete trial.") if figures else _("The search space is empty.")
    return [section(_titles()["slice"], _columns(figures), note=note)], figures


def _parallel_page(view: StudyView) -> Page:
    if nothing := _nothing_yet(view):
        return nothing
    if not view.dimensions:
        return [section(_titles()["parallel_coordinate"], note=_("The search space is empty."))], {}
    note = _(
        "Each line is a complete trial, from its settings to {metric}; the best are thick.", metric=view.metrics[0]
    )
    return [section(_titles()["parallel_coordinate"], chart("parallel"), note=note)], {
        "parallel": charts.parallel_chart(view)
    }


def _contour_page(view: StudyView) -> Page:
    if nothing := _nothing_yet(view):
        return nothing
    title = _titles()["contour"]
    if len(view.dimensions) < 2:
        if not view.dimensions:
            return [section(title, note=_("The search space is empty."))], {}
        note = _("One setting makes no pair: this is the setting alone.")
        return [section(title, chart("slice"), note=note)], {"slice": charts.slice_chart(view, view.dimensions[0])}
    chosen = _most_important(view)
    figures = {
        f"pair{n}": charts.contour_chart(view, a, b) for n, (a, b) in enumerate(itertools.combinations(chosen, 2))
    }
    note = _("{metric} over two settings; between numbers it is interpolated.", metric=view.metrics[0])
    if len(chosen) < len(view.dimensions):
        note += " " + _("Shown are the {count} most important settings.", count=len(chosen))
    return [section(title, _columns(figures), note=note)], figures


def _most_important(view: StudyView) -> list[Dimension]:
    order = sorted(view.dimensions, key=lambda dimension: -view.importances.get(dimension.name, 0.0))
    return order[:PAIRED]


def _columns(figures: dict[str, charts.Chart]) -> str:
    return f'<div class="columns">{"".join(map(chart, figures))}</div>'
