"""The report of an evaluation: every picture as PNG, and one HTML page that holds everything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pochitrain import durable
from pochitrain.engine.predict import Predictions
from pochitrain.locale import _
from pochitrain.reports import charts, evaluation_plots
from pochitrain.reports.confusion import draw_confusion
from pochitrain.reports.diagnosis import precision_recall_curves, reliability, roc_curves
from pochitrain.reports.evaluation import Evaluation
from pochitrain.reports.gallery import (
    Card,
    cards,
    cell_pictures,
    draw_gallery,
    images_of_cells,
    least_certain,
    relative_names,
    worst_mistakes,
)
from pochitrain.reports.html import (
    Cell,
    Column,
    chart,
    data_uri,
    details,
    escape,
    name,
    page,
    picture,
    section,
    table,
    visible,
)
from pochitrain.reports.numbers import bar, interval, is_share, metric_name, number, settings_table, share_cell
from pochitrain.reports.style import shorten_all

PAIRS, BROKEN = 50, 1000  # confused pairs and unreadable images in the page


def write_report(
    predictions: Predictions,
    evaluation: Evaluation,
    directory: Path,
    *,
    title: str,
    settings: Mapping[str, Any],
    confusion_look: Mapping[str, Any],
    model: nn.Module | None = None,
    transform: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> Path:
    """Draw every picture of labelled predictions and `report.html` into `directory`; return the page's path.

    The page holds at most 15 MB, 5 of them plotly.js, however many images there are: only so many become thumbnails.

    Args:
        settings: shown at the end of the page; nested dictionaries become dotted names.
        confusion_look: the values of `confusion_matrix_config`.
        model, transform, device: for the Grad-CAM overlays, which are left out without them.

    Raises:
        ConfigError: the colour map in `confusion_look` is none. DiskError: the disk is full or read-only.
    """
    assert predictions.labels is not None, "unlabelled images cannot be judged"
    durable.make_directory(directory)
    mistakes = cards(predictions, worst_mistakes(predictions), model, transform, device)
    unsure = cards(predictions, least_certain(predictions), model, transform, device)
    figures = _draw(predictions, evaluation, directory, confusion_look)
    draw_gallery(mistakes, directory / "mistakes.png", title=_("Mistakes with the highest loss"))
    draw_gallery(unsure, directory / "least_certain.png", title=_("Correct, but least certain"))
    sections = [
        _headline(predictions, evaluation),
        _matrix_section(),
        _pairs_section(predictions, evaluation),
        _classes_section(evaluation),
        _curves_section(),
        _gallery_section(_("Mistakes with the highest loss"), mistakes, explained=model is not None),
        _gallery_section(_("Correct, but least certain"), unsure, explained=model is not None),
        _data_section(predictions),
        section(_("Settings"), details(_("Show all settings"), settings_table(settings))),
    ]
    data = {"charts": figures, "matrix": _matrix_data(predictions, evaluation, confusion_look), "words": _words()}
    text = page(title, sections, data=data, scripts=["report.js"], charts=True)
    path = directory / "report.html"
    durable.write_text(path, text, sync=False)
    return path


def _draw(
    predictions: Predictions, evaluation: Evaluation, directory: Path, look: Mapping[str, Any]
) -> dict[str, charts.Chart]:
    """Draw the PNG files; return the figures of the page, which show the same."""
    labels, probabilities, classes = predictions.labels, predictions.probabilities, predictions.classes
    assert labels is not None
    draw_confusion(evaluation.confusion, classes, directory / "confusion_matrix.png", **look)
    normalized = directory / "confusion_matrix_normalized.png"
    draw_confusion(evaluation.confusion, classes, normalized, **look, normalize=True)
    roc = roc_curves(labels, probabilities, classes)
    precision_recall = precision_recall_curves(labels, probabilities, classes)
    bins = reliability(predictions.confidence, predictions.predicted == labels)
    evaluation_plots.draw_roc(roc, directory / "roc.png")
    evaluation_plots.draw_precision_recall(precision_recall, directory / "precision_recall.png")
    evaluation_plots.draw_reliability(bins, evaluation.metrics["ece"].value, directory / "reliability.png")
    evaluation_plots.draw_confidence(bins, directory / "confidence.png")
    evaluation_plots.draw_confused_pairs(evaluation, directory / "most_confused.png")
    evaluation_plots.draw_classes(evaluation, directory / "per_class.png")
    return {
        "roc": charts.roc_chart(roc),
        "precision-recall": charts.precision_recall_chart(precision_recall),
        "reliability": charts.reliability_chart(bins),
        "confidence": charts.confidence_chart(bins),
    }


# ---- sections ----


def _headline(predictions: Predictions, evaluation: Evaluation) -> str:
    accuracy = evaluation.metrics["accuracy"]
    correct, total = int(np.trace(evaluation.confusion)), int(evaluation.confusion.sum())
    cards = "".join(
        f"<div><dt>{escape(metric_name(key))}</dt><dd>{number(estimate.value, is_share(key))}"
        f"<small>{interval(estimate, is_share(key))}</small></dd></div>"
        for key, estimate in evaluation.metrics.items()
        if key != "accuracy"
    )
    said = [
        f'<div class="headline"><b>{number(accuracy.value, True)}</b><span>',
        escape(_("accuracy, 95 % interval {interval}", interval=interval(accuracy, True))),
        '<br><span class="muted">',
        escape(_("{correct} of {total} images correct", correct=correct, total=total)),
        f'</span></span></div>{bar(accuracy)}<dl class="cards">{cards}</dl>',
    ]
    if predictions.broken:
        count = _("Unreadable images, which are not counted: {count}", count=len(predictions.broken))
        said.append(f'<p class="warning">{escape(count)}</p>')
    note = _("Small print: the 95 % interval, which narrows as more images are judged.")
    return section(_("Result"), *said, f'<p class="note">{escape(note)}</p>')


def _matrix_section() -> str:
    buttons = "".join(
        f'<button type="button" class="plain" data-mode="{mode}" aria-pressed="{pressed}">{escape(title)}</button>'
        for mode, title, pressed in (
            ("images", _("Images"), "true"),
            ("share", _("Share of the true class (%)"), "false"),
            ("mistakes", _("Mistakes only"), "false"),
        )
    )
    names = {"true": escape(_("true class")), "predicted": escape(_("predicted class"))}
    selects = " → ".join(f'<select id="{key}" aria-label="{title}"></select>' for key, title in names.items())
    panel = f'<div class="controls">{selects}</div><div id="cell" aria-live="polite"></div>'
    plot = f'<div><div class="controls">{buttons}</div><div class="chart matrix" id="matrix"></div></div>'
    note = _("A click on a cell shows its images. Dragging over the matrix enlarges a part, a double click shows all.")
    return section(_("Confusion matrix"), f'<div class="columns">{plot}<div>{panel}</div></div>', note=note)


def _pairs_section(predictions: Predictions, evaluation: Evaluation) -> str:
    pairs = evaluation.most_confused[:PAIRS]
    if not pairs:
        return section(_("Most confused pairs"), note=_("No mistake"))
    at = {each: label for label, each in enumerate(predictions.classes)}
    support = evaluation.confusion.sum(axis=1)
    rows = []
    for true, predicted, count in pairs:
        share = count / int(support[at[true]])
        button = f'<button type="button" class="plain" data-cell="{at[true]},{at[predicted]}">{count}</button>'
        rows.append(
            [
                Cell(name(true), true),
                Cell(name(predicted), predicted),
                Cell(button, count),
                Cell(number(share, True), share),
            ]
        )
    columns = [
        Column(_("True class")),
        Column(_("Predicted class")),
        Column(_("Images"), number=True),
        Column(_("Share of the true class"), number=True),
    ]
    return section(_("Most confused pairs"), table(columns, rows, sortable=True))


def _classes_section(evaluation: Evaluation) -> str:
    columns = [
        Column(_("Class")),
        Column(_("Images"), number=True),
        *(Column(title, number=True) for title in (_("Precision"), _("Recall"), "F1")),
    ]
    rows = [_class_row(each["name"], each) for each in evaluation.per_class]
    titles = {"macro": _("Macro average"), "weighted": _("Weighted average")}
    averages = [_class_row(titles.get(key, key), each) for key, each in evaluation.averages.items()]
    note = _("A click on a heading sorts by it.")
    below = escape(_("Averages"))
    parts = [table(columns, rows, sortable=True), f"<h3>{below}</h3>", table(columns, averages)]
    return section(_("Classes"), *parts, note=note)


def _class_row(title: str, each: Mapping[str, Any]) -> list[Cell | str]:
    estimates = [share_cell(each[key]) for key in ("precision", "recall", "f1")]
    return [Cell(name(title), title), Cell(str(each["support"]), each["support"]), *estimates]


def _curves_section() -> str:
    places = "".join(chart(key) for key in ("roc", "precision-recall", "reliability", "confidence"))
    note = _("Each class against the rest. A click on a name in a legend hides its curve.")
    return section(_("Curves"), f'<div class="columns">{places}</div>', note=note)


def _gallery_section(title: str, shown: Sequence[Card], *, explained: bool) -> str:
    if not shown:
        return section(title, note=_("None"))
    note = ""
    pairs = any(card.overlay for card in shown)
    if pairs:
        note = _("At the right what the model saw; what spoke most for its answer glows (Grad-CAM).")
    elif explained:
        note = _("This model has no convolutional feature map, so Grad-CAM cannot show where it looked.")
    kind = "gallery pairs" if pairs else "gallery"
    return section(title, f'<div class="{kind}">{"".join(map(_figure, shown))}</div>', note=note)


def _figure(card: Card) -> str:
    pictures = "".join(picture(each, card.name) for each in (card.picture, card.overlay) if each)
    wrong = card.true != card.predicted
    lines = [_probability(_("predicted"), card.predicted, card.probability_predicted, "bad" if wrong else "good")]
    if wrong:
        lines.append(_probability(_("true"), card.true, card.probability_true, ""))
    said = "<br>".join(lines)
    caption = f'<figcaption>{said}<span class="path">{name(card.name)}</span></figcaption>'
    return f'<figure><div class="pictures">{pictures}</div>{caption}</figure>'


def _probability(word: str, class_name: str, share: float, kind: str) -> str:
    return f'{escape(word)} <b class="{kind}">{name(class_name)}</b> {number(share, True)}'


def _data_section(predictions: Predictions) -> str:
    root, _names = relative_names(predictions.paths)
    count = len(predictions.paths)
    speed = count / predictions.seconds if predictions.seconds > 0 else math.nan
    facts = {
        _("Folder"): root,
        _("Images"): str(count),
        _("Classes"): str(len(predictions.classes)),
        _("Unreadable images"): str(len(predictions.broken)),
        _("Precision of the arithmetic"): predictions.precision,
        _("Speed"): _("{speed:.0f} images/s", speed=speed),
    }
    parts = [
        table(
            [Column(""), Column("")],
            ([Cell(escape(key), key), Cell(name(value), value)] for key, value in facts.items()),
        )
    ]
    if predictions.broken:
        columns = [Column(_("File")), Column(_("Reason"))]
        rows = [[Cell(name(path), path), Cell(name(reason), reason)] for path, reason in predictions.broken[:BROKEN]]
        more = len(predictions.broken) - len(rows)
        listed = [table(columns, rows)]
        if more:
            said = _("and {count} more, see broken.csv", count=more)
            listed.append(f'<p class="note">{escape(said)}</p>')
        parts.append(details(_("Unreadable images"), *listed))
    return section(_("Data"), *parts)


# ---- what the scripts read ----


def _matrix_data(predictions: Predictions, evaluation: Evaluation, look: Mapping[str, Any]) -> dict[str, Any]:
    cells = images_of_cells(predictions)
    pictures = cell_pictures(predictions.paths, cells)
    _root, names = relative_names(predictions.paths)
    labels, predicted = predictions.labels, predictions.predicted
    assert labels is not None

    def entry(at: int) -> list[Any]:
        probabilities = predictions.probabilities[at]
        shares = [round(float(probabilities[label]), 4) for label in (labels[at], predicted[at])]
        return [names[at], *shares, *([data_uri(pictures[at])] if at in pictures else [])]

    classes = [visible(each) for each in predictions.classes]
    return {
        "classes": classes,
        "short": shorten_all(classes, lambda name: name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"),
        "counts": evaluation.confusion.tolist(),
        "colors": charts.colorscale(look["cmap"]),
        "title": look["title"],
        "xlabel": look["xlabel"],
        "ylabel": look["ylabel"],
        "first": _first_cell(evaluation.confusion),
        "cells": {f"{true},{answer}": [entry(at) for at in images] for (true, answer), images in cells.items()},
    }


def _first_cell(confusion: NDArray[np.int64]) -> list[int]:
    """Return the cell that is open at first: the most frequent mistake, or the first class where there is none."""
    mistakes = confusion - np.diag(np.diag(confusion))
    return [int(at) for at in np.unravel_index(mistakes.argmax(), mistakes.shape)]


def _words() -> dict[str, str]:
    """Return the sentences of the page that depend on where the reader clicks."""
    fields = {name: f"{{{name}}}" for name in ("true", "predicted", "count", "share", "shown")}
    return {
        "hover": _("true {true}<br>predicted {predicted}<br>images: {count} ({share} of the true class)", **fields),
        "cell": _("{true} → {predicted}: {count} ({share} of the true class)", **fields),
        "more": _("{shown} of {count} images are shown; predictions.csv lists all.", **fields),
        "predictedWith": _("predicted with {share}", **fields),
        "trueWith": _("true class {share}", **fields),
    }
