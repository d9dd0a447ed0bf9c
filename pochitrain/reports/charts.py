"""The figures of a page as plotly.js takes them: plain dictionaries, which need nothing of plotly's Python side."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from pochitrain.history import History
from pochitrain.locale import _
from pochitrain.reports.evaluation_plots import PALETTE
from pochitrain.reports.html import visible
from pochitrain.reports.style import BLUE, MUTED, VERMILION, column

if TYPE_CHECKING:
    from pochitrain.reports.diagnosis import Curve, Reliability  # scikit-learn: seconds that a comparison need not pay

Chart = dict[str, Any]

DIGITS = 5  # of a coordinate, more than a screen shows
AVERAGE = "#888888"  # stands out on white and on black


def label(text: str) -> str:
    """Return text for plotly.js, which reads some HTML in every label."""
    return html.escape(visible(text), quote=False)


def colorscale(cmap: str) -> list[list[Any]]:
    """Return a colour map of matplotlib as plotly.js takes it."""
    return [[at, to_hex(colormaps[cmap](at))] for at in np.linspace(0, 1, 17).tolist()]


def roc_chart(curves: Sequence[Curve]) -> Chart:
    guess = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": MUTED, "width": 1, "dash": "dash"}}
    traces = [guess | {"showlegend": False, "hoverinfo": "skip"}, *_traces(curves, "AUC")]
    return _square(traces, _("ROC curves"), _("False positive rate"), _("True positive rate"))


def precision_recall_chart(curves: Sequence[Curve]) -> Chart:
    traces = _traces(curves, "AP", shape="vh")
    return _square(traces, _("Precision-recall curves"), _("Recall"), _("Precision"))


def reliability_chart(bins: Reliability) -> Chart:
    filled = np.flatnonzero(bins.images).tolist()
    chosen = [bins.accuracy[at] for at in filled]
    middle = (bins.edges[:-1] + bins.edges[1:]) / 2
    bars = {
        "type": "bar",
        "x": _rounded(middle[filled]),
        "y": _rounded([each.value for each in chosen]),
        "width": float(bins.edges[1] - bins.edges[0]) * 0.94,
        "marker": {"color": BLUE},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _rounded([each.high - each.value for each in chosen]),
            "arrayminus": _rounded([each.value - each.low for each in chosen]),
            "color": AVERAGE,
            "thickness": 1.5,
        },
        "customdata": bins.images[filled].tolist(),
        "hovertemplate": _(
            "confidence about {x}<br>accuracy {y}<br>{count} images", x="%{x:.2f}", y="%{y:.3f}", count="%{customdata}"
        )
        + "<extra></extra>",
        "name": _("Accuracy, with its 95 % interval"),
    }
    honest = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": VERMILION, "width": 1.5, "dash": "dash"}}
    traces = [bars, honest | {"name": _("Confidence = accuracy"), "hoverinfo": "skip"}]
    return _square(traces, _("Reliability: is the confidence right?"), _("Confidence"), _("Accuracy"))


def confidence_chart(bins: Reliability) -> Chart:
    middle, width = (bins.edges[:-1] + bins.edges[1:]) / 2, float(bins.edges[1] - bins.edges[0]) * 0.94
    traces = [
        {
            "type": "bar",
            "x": _rounded(middle),
            "y": counts.tolist(),
            "width": width,
            "name": name,
            "marker": {"color": color},
        }
        for counts, name, color in ((bins.correct, _("correct"), BLUE), (bins.wrong, _("wrong"), VERMILION))
    ]
    chart = _chart(traces, _("How sure the model was"), _("Confidence"), _("Images"))
    chart["layout"] |= {"barmode": "stack"}
    chart["layout"]["xaxis"] |= {"range": [0, 1]}
    return chart


def history_chart(histories: Mapping[str, History], metric: str, title: str, ylabel: str) -> Chart:
    """Return one curve for each experiment, over the epochs."""
    traces = [
        {
            "x": column(history, "epoch").tolist(),
            "y": column(history, metric).tolist(),
            "mode": "lines+markers" if len(history) <= 40 else "lines",
            "name": label(name),
            "line": {"color": color, "width": 2},
        }
        for (name, history), color in zip(histories.items(), _colors(len(histories)), strict=True)
    ]
    chart = _chart(traces, title, _("Epoch"), ylabel)
    if max((len(history) for history in histories.values()), default=0) <= 10:
        chart["layout"]["xaxis"] |= {"dtick": 1}  # there is no epoch 1.5
    return chart


def _traces(curves: Sequence[Curve], measure: str, shape: str = "linear") -> list[dict[str, Any]]:
    colors = iter(_colors(len(curves)))
    dashes = iter(("dot", "solid"))
    return [
        {
            "x": _rounded(curve.x),
            "y": _rounded(curve.y),
            "mode": "lines",
            "name": f"{label(curve.name)} ({measure} {curve.area:.3f})",
            "line": {"color": AVERAGE, "width": 3, "dash": next(dashes), "shape": shape}
            if curve.average
            else {"color": next(colors), "width": 2, "shape": shape},
            "hovertemplate": "%{x:.3f}, %{y:.3f}",
        }
        for curve in curves
    ]


def _square(traces: list[dict[str, Any]], title: str, x: str, y: str) -> Chart:
    chart = _chart(traces, title, x, y)
    for axis in ("xaxis", "yaxis"):
        chart["layout"][axis] |= {"range": [-0.01, 1.01], "zeroline": False}
    return chart


def _chart(traces: list[dict[str, Any]], title: str, x: str, y: str) -> Chart:
    layout = {
        "title": {"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "legend": {"orientation": "h", "y": -0.24, "yanchor": "top"},
        "margin": {"l": 55, "r": 10, "t": 45, "b": 45},
        "height": 460,
    }
    return {"data": traces, "layout": layout}


def _colors(count: int) -> list[str]:
    return [PALETTE[at % len(PALETTE)] for at in range(count)]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
