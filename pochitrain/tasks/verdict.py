"""What `pochi infer` says at its end: the essentials, on one screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain.engine.predict import Predictions
from pochitrain.locale import _
from pochitrain.reports.evaluation import Estimate, Evaluation, wilson
from pochitrain.reports.numbers import is_share, metric_name
from pochitrain.sinks.console import Log
from pochitrain.tasks.reliance import Reliance

SHOWN = 20  # unreadable images
WORST = 3  # classes, and pairs of classes


def say_broken(log: Log, broken: Sequence[tuple[str, str]]) -> None:
    """Say which images were left out, and why."""
    if not broken:
        return
    lines = [f"  {path}: {reason}" for path, reason in broken[:SHOWN]]
    if len(broken) > SHOWN:
        lines.append("  " + _("and {count} more", count=len(broken) - SHOWN))
    log.warning("\n".join([_("{count} images cannot be read and are left out", count=len(broken)), *lines]))


def say_predicted(log: Log, predictions: Predictions) -> None:
    """Say how often each class was given."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column(_("class"), overflow="fold")
    table.add_column(_("images"), justify="right")
    names = predictions.names
    for name in sorted(set(names), key=lambda name: (-names.count(name), name))[:SHOWN]:
        table.add_row(name, str(names.count(name)))
    log.table(table)


def say_evaluation(log: Log, evaluation: Evaluation) -> None:
    """Say the metrics, the classes that are found worst and the pairs that are confused most."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column(_("value"), justify="right")
    table.add_column(_("95 % interval"), justify="right")
    for name, estimate in evaluation.metrics.items():
        table.add_row(metric_name(name), *_shown(estimate, is_share(name)))
    log.table(table)
    true = [row for row in evaluation.per_class if row["support"]]
    worst = sorted(true, key=lambda row: row["recall"].value)[:WORST]
    if worst[0]["recall"].value < 1:
        log.table(_classes_table(worst))
    if evaluation.most_confused:
        pairs = evaluation.most_confused[:WORST]
        log.info(_("most confused  {pairs}", pairs=",  ".join(f"{true} → {given} ({n})" for true, given, n in pairs)))


def _classes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(_("worst classes"), overflow="fold")
    for name in (_("recall"), _("95 % interval"), _("precision"), _("F1"), _("images")):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [*_shown(row["recall"]), _shown(row["precision"])[0], _shown(row["f1"])[0], str(row["support"])]
        table.add_row(row["name"], *cells)
    return table


def _shown(estimate: Estimate, share: bool = True) -> tuple[str, str]:
    factor, unit = (100, " %") if share else (1, "")
    digits = 2 if share else 4
    value, low, high = (f"{factor * it:.{digits}f}" for it in (estimate.value, estimate.low, estimate.high))
    interval = "" if math.isnan(estimate.low + estimate.high) else f"{low} – {high}{unit}"
    return "–" if math.isnan(estimate.value) else value + unit, interval


def say_reliance(log: Log, relied: Reliance) -> None:
    """Say from which confidence on each class is answered, how many images get an answer, and how many are right."""
    log.table(_thresholds_table(relied))
    coverage = "{} ({})".format(*_shown(relied.coverage))
    log.info(
        _("answers        {coverage} of the images, the others are {word}", coverage=coverage, word=relied.unknown)
    )
    if relied.precision and relied.answered.any():
        precision = "{} ({})".format(*_shown(relied.precision))
        log.info(
            _(
                "               {precision} of the answers are right; wished {target}",
                precision=precision,
                target=f"{100 * relied.target:g} %",
            )
        )
    never = sum(found.confidence is None for found in relied.thresholds)
    if never:
        log.warning(_("no confidence was enough for {count} classes: they are never answered", count=never))


def _thresholds_table(relied: Reliance) -> Table:
    """Return what was found on the calibration images; of many classes those with the least coverage."""
    table = Table(box=SIMPLE_HEAD, title=_("What the calibration found"), title_justify="left")
    table.add_column(_("class"), overflow="fold")
    for name in (_("answered from"), _("precision"), _("95 % interval"), _("coverage")):
        table.add_column(name, justify="right")
    rows = list(zip(relied.predictions.classes, relied.thresholds, strict=True))
    if len(rows) > SHOWN:
        rows = sorted(rows, key=lambda row: row[1].answered / max(row[1].given, 1))[:SHOWN]
    for name, found in rows:
        if found.confidence is None:
            table.add_row(name, _("never"), "", "", _shown(wilson(0, found.given))[0])
            continue
        precision = _shown(wilson(found.right, found.answered))
        coverage = _shown(wilson(found.answered, found.given))[0]
        table.add_row(name, f"{100 * found.confidence:.2f} %", *precision, coverage)
    return table


def say_fp32(log: Log, predictions: Predictions, different: int) -> None:
    """Say what the precision cost."""
    if predictions.precision == "fp32":
        log.info(_("precision      the answers are in fp32 already"))
        return
    shown = f"{different} / {len(predictions.paths)}"
    log.info(
        _("precision      {shown} answers in {name} are others than in fp32", shown=shown, name=predictions.precision)
    )


def say_speed(log: Log, predictions: Predictions) -> None:
    count = len(predictions.paths)
    speed = f"{count / predictions.seconds:.0f}"
    log.info(
        _(
            "speed          {speed} images/s ({count} images in {seconds} s)",
            speed=speed,
            count=count,
            seconds=f"{predictions.seconds:.1f}",
        )
    )
