"""The pictures of an evaluation, the confusion matrix apart: curves, reliability, confused pairs, classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pochitrain.locale import _
from pochitrain.reports.evaluation import Estimate, Evaluation
from pochitrain.reports.style import (
    BLUE,
    INK,
    MUTED,
    TEXT,
    VERMILION,
    font,
    new_figure,
    readable,
    save_figure,
    shorten,
    shorten_all,
    style_axes,
    whole_numbers,
    write_number,
)

if TYPE_CHECKING:
    from pochitrain.reports.diagnosis import Curve, Reliability  # scikit-learn: seconds that drawing need not pay

# Okabe and Ito's colours but black, then three of Paul Tol's "muted" scheme (2021): as many as a figure has classes.
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800"),
    *("#332288", "#882255", "#6E7F00"),
)
PAIRS = 15  # confused pairs in the picture
CLASSES = 40  # in the picture of classes; of more, the worst
NAME_INCHES, PAIR_INCHES = 2.6, 1.9  # longer names are shortened; the second where more stands in the same line


def draw_roc(curves: Sequence[Curve], path: Path) -> Figure:
    """Draw ROC curves with the diagonal of a model that guesses."""
    figure, axes = _square(_("ROC curves, each class against the rest"))
    _label(axes, _("False positive rate"), _("True positive rate"))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    _draw_curves(axes, curves, "AUC")
    save_figure(figure, path)
    return figure


def draw_precision_recall(curves: Sequence[Curve], path: Path) -> Figure:
    figure, axes = _square(_("Precision-recall curves, each class against the rest"))
    _label(axes, _("Recall"), _("Precision"))
    _draw_curves(axes, curves, "AP", drawstyle="steps-pre")
    save_figure(figure, path)
    return figure


def draw_reliability(bins: Reliability, ece: float, path: Path) -> Figure:
    """Draw the accuracy of each step of confidence with its interval, against the diagonal on which it ought to be."""
    figure, axes = _square(_("Reliability: is the confidence right?"))
    _label(axes, _("Confidence"), _("Accuracy"))
    middle, filled = (bins.edges[:-1] + bins.edges[1:]) / 2, bins.images > 0
    width = float(bins.edges[1] - bins.edges[0])
    value, low, high = _columns(bins.accuracy)
    axes.bar(middle, np.nan_to_num(value), width * 0.94, color=BLUE, alpha=0.75)
    axes.vlines(middle[filled], low[filled], high[filled], color=INK, linewidth=1.2)
    axes.plot(bins.confidence[filled], value[filled], "o", color=INK, markersize=4)
    axes.plot([0, 1], [0, 1], color=VERMILION, linewidth=1.2, linestyle=(0, (4, 3)))
    handles = [
        Patch(color=BLUE, alpha=0.75, label=_("Accuracy, with its 95 % interval")),
        Line2D([], [], marker="o", color=INK, linestyle="none", markersize=4, label=_("Mean confidence of the step")),
        Line2D([], [], color=VERMILION, linestyle=(0, (4, 3)), label=_("Confidence = accuracy")),
        Line2D([], [], linestyle="none", label=f"ECE {ece:.3f}"),
    ]
    _legend_beside(axes, handles)
    save_figure(figure, path)
    return figure


def draw_confidence(bins: Reliability, path: Path) -> Figure:
    """Draw how many images were predicted with which confidence, the wrong ones on top of the right ones."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    style_axes(axes, title=_("How sure the model was"), ylabel=_("Images"))
    axes.set_xlabel(_("Confidence"), fontsize=10, **TEXT)
    middle, width = (bins.edges[:-1] + bins.edges[1:]) / 2, float(bins.edges[1] - bins.edges[0]) * 0.94
    axes.bar(middle, bins.correct, width, color=BLUE)
    axes.bar(middle, bins.wrong, width, bottom=bins.correct, color=VERMILION)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(whole_numbers(6))
    _legend_beside(axes, [Patch(color=VERMILION, label=_("wrong")), Patch(color=BLUE, label=_("correct"))])
    save_figure(figure, path)
    return figure


def draw_confused_pairs(evaluation: Evaluation, path: Path) -> Figure:
    """Draw the most confused pairs as bars, the most frequent on top."""
    pairs = evaluation.most_confused[:PAIRS]
    figure, axes = _rows(max(len(pairs), 1), _("Most confused pairs"))
    axes.set_xlabel(_("Images (share of the true class)"), fontsize=10, **TEXT)
    support = {each["name"]: each["support"] for each in evaluation.per_class}
    for row, (true, _predicted, count) in enumerate(pairs):
        axes.barh(row, count, 0.7, color=VERMILION)
        share = f"{count} ({100 * count / support[true]:.1f} %)"
        axes.annotate(share, (count, row), (4, 0), textcoords="offset points", va="center", fontsize=8, **TEXT)
    names = _names([name for *both, _count in pairs for name in both], PAIR_INCHES)
    _name_rows(axes, [f"{names[true]} → {names[predicted]}" for true, predicted, _count in pairs])
    if not pairs:
        axes.text(0.5, 0.5, _("No mistake"), transform=axes.transAxes, ha="center", va="center", fontsize=13, **TEXT)
        axes.set_xticks([])
    axes.set_xlim(0, max((count for _t, _p, count in pairs), default=1) * 1.4)
    axes.xaxis.set_major_locator(whole_numbers(6))
    save_figure(figure, path)
    return figure


def draw_classes(evaluation: Evaluation, path: Path) -> Figure:
    """Draw the F1 of each class with its interval, precision and recall beside it; of many classes the worst."""
    known = [each for each in evaluation.per_class if not math.isnan(each["f1"].value)]
    known.sort(key=lambda each: float(each["f1"].value))
    shown = known[:CLASSES]
    title = _("Classes by F1")
    if len(shown) < len(known):
        title = _("The {shown} worst of {all} classes by F1", shown=len(shown), all=len(known))
    figure, axes = _rows(max(len(shown), 1), title)
    axes.set_xlabel("%", fontsize=10, **TEXT)
    rows = np.arange(len(shown))
    value, low, high = _columns([each["f1"] for each in shown])
    axes.barh(rows, 100 * value, 0.7, color=BLUE, alpha=0.75)
    axes.hlines(rows, 100 * low, 100 * high, color=INK, linewidth=1.2)
    for key, marker, color in (("precision", "D", VERMILION), ("recall", "o", "#009E73")):
        values = _columns([each[key] for each in shown])[0]
        axes.plot(100 * values, rows, marker, color=color, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
    names = _names([each["name"] for each in shown], NAME_INCHES)
    _name_rows(axes, [f"{names[each['name']]} ({each['support']})" for each in shown])
    axes.set_xlim(0, 101)
    handles = [
        Patch(color=BLUE, alpha=0.75, label=_("F1, with its 95 % interval")),
        Line2D([], [], marker="D", color=VERMILION, linestyle="none", markersize=4, label=_("Precision")),
        Line2D([], [], marker="o", color="#009E73", linestyle="none", markersize=4, label=_("Recall")),
    ]
    _legend_beside(axes, handles)
    save_figure(figure, path)
    return figure


def _square(title: str) -> tuple[Figure, Axes]:
    """Return a figure with square axes from 0 to 1 and room for a legend at the right."""
    figure = new_figure(9, 5.6)
    axes = figure.add_subplot()
    style_axes(axes, title=title, ylabel="")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal", anchor="W")  # what is left of the width belongs to the legend
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(write_number)
    return figure, axes


def _rows(rows: int, title: str) -> tuple[Figure, Axes]:
    """Return a figure whose height follows from the number of rows, the first one on top."""
    figure = new_figure(9, 1.1 + 0.27 * max(rows, 4))
    axes = figure.add_subplot()
    style_axes(axes, title=title, ylabel="")
    axes.grid(False, axis="y")
    axes.set_ylim(rows - 0.4, -0.6)
    return figure, axes


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=10, **TEXT)
    axes.set_ylabel(y, fontsize=10, **TEXT)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)


def _draw_curves(axes: Axes, curves: Sequence[Curve], measure: str, **style: Any) -> None:
    handles = []
    colors, names = iter(PALETTE), _names([curve.name for curve in curves], PAIR_INCHES)
    looks: Iterator[dict[str, Any]] = iter([{"linestyle": (0, (1, 1.2))}, {"linestyle": "-"}])
    for curve in curves:
        look = {"color": INK, **next(looks)} if curve.average else {"color": next(colors), "linestyle": "-"}
        label = f"{names[curve.name]} ({measure} {curve.area:.3f})"
        handles += axes.plot(curve.x, curve.y, linewidth=2 if curve.average else 1.5, label=label, **look, **style)
    _legend_beside(axes, handles)


def _legend_beside(axes: Axes, handles: Sequence[Any]) -> None:
    """Put the legend right of the axes, where it hides no data."""
    if not handles:
        return
    legend = axes.legend(
        handles=handles,
        labels=[handle.get_label() for handle in handles],  # matplotlib leaves out those that begin with an underscore
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        prop=font(9),
        labelcolor=INK,
        handlelength=1.5,
        labelspacing=0.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _names(names: Iterable[str], room: float) -> dict[str, str]:
    """Return name → how it is written in a picture."""
    each = list(dict.fromkeys(names))
    return dict(
        zip(each, shorten_all([readable(name) for name in each], lambda name: shorten(name, 9, room)), strict=True)
    )


def _columns(estimates: Sequence[Estimate]) -> tuple[Any, Any, Any]:
    """Return values, lows and highs as arrays."""
    table = np.array([(each.value, each.low, each.high) for each in estimates], dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
