"""The figures of a study's pages as plotly.js takes them: plain dictionaries, which cost a millisecond."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from pochitrain.config.search import Dimension, Scalar
from pochitrain.locale import _
from pochitrain.reports.html import visible
from pochitrain.reports.trials import COMPLETE, FAILED, PRUNED, StudyView, TrialRow, value_of

Chart = dict[str, Any]

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#888888"  # Okabe and Ito, as everywhere; grey shows on black and white
SCALE = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"]  # viridis, from worst to best
CELLS = 60  # of a contour's axis; more make the page slow
HIGH = 340  # pixels
ROW = 140  # characters that fit side by side into a page


def label(text: object) -> str:
    """Return text for plotly.js, which reads some HTML in every label."""
    return html.escape(visible(str(text)), quote=False)


def number(value: float) -> str:
    return f"{value:.4g}"


def history_chart(view: StudyView, metric: int = 0) -> Chart:
    """Return value over trial number, and the best so far as a line."""
    complete, pruned, failed = view.in_state(COMPLETE), view.in_state(PRUNED), view.in_state(FAILED)
    best = view.so_far(metric)
    traces = [
        _markers(complete, [value_of(row, metric) for row in complete], _("complete"), BLUE),
        _lines([n for n, _value in best], [value for _n, value in best], _("best so far")),
    ]
    if len(view.metrics) == 1:
        ends = [row for row in pruned if row.epochs]
        lasts = [row.epochs[max(row.epochs)] for row in ends]
        traces.append(_markers(ends, lasts, _("pruned"), GREY, "x"))
    if failed:  # they have no value, and stand at the lower edge
        marks = _markers(failed, [0.03] * len(failed), _("failed"), VERMILION, "triangle-down")
        traces.append({**marks, "yaxis": "y2"})
    shown = [trace for trace in traces if trace["x"]]
    chart = _chart(shown, _("trial"), view.metrics[metric], height=420)
    chart["layout"]["showlegend"] = True  # also of a single kind
    if failed:
        chart["layout"]["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
        if len(shown) == 1:  # nothing was measured
            chart["layout"]["yaxis"] |= {"showticklabels": False, "showgrid": False, "zeroline": False}
    if len(view.rows) < 20:
        chart["layout"]["xaxis"] |= {"dtick": 1}
    return chart


def front_chart(view: StudyView) -> Chart:
    """Return the second objective over the first; the trials that none beats are marked."""
    complete = view.in_state(COMPLETE)
    traces = []
    for rows, name, color in (
        ([row for row in complete if row.number not in view.best], _("beaten by another trial"), GREY),
        ([row for row in complete if row.number in view.best], _("beaten by none"), BLUE),
    ):
        trace = _markers(rows, [value_of(row, 1) for row in rows], name, color)
        traces.append({**trace, "x": [value_of(row, 0) for row in rows]})
    return _chart([trace for trace in traces if trace["x"]], view.metrics[0], view.metrics[1], height=420)


def importance_chart(view: StudyView) -> Chart:
    names = sorted(view.importances, key=lambda name: view.importances[name])
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(view.importances[name], 4) for name in names],
        "y": [label(name) for name in names],
        "text": [f"{100 * view.importances[name]:.0f} %" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BLUE},
        "hoverinfo": "skip",
    }
    chart = _chart([bars], _("share of the variance"), "", height=120 + 36 * len(names))
    chart["layout"]["xaxis"] |= {"range": [0, 1.08], "tickformat": ".0%"}
    chart["layout"]["yaxis"] |= {"type": "category"}
    chart["layout"]["showlegend"] = False
    return chart


def slice_chart(view: StudyView, dimension: Dimension, metric: int = 0) -> Chart:
    """Return value over one setting; later trials are lighter, as the search has learnt more by then."""
    rows = [row for row in view.in_state(COMPLETE) if dimension.name in row.point]
    trace = _markers(rows, [value_of(row, metric) for row in rows], "", BLUE)
    trace["x"] = [_coordinate(dimension, row.point[dimension.name]) for row in rows]
    trace["marker"] |= {
        "color": [row.number for row in rows],
        "colorscale": _scale(),
        "colorbar": {"title": {"text": _("trial"), "side": "right"}, "thickness": 10},
    }
    chart = _chart([trace], dimension.name, view.metrics[metric])
    chart["layout"]["xaxis"] |= _axis(dimension)
    chart["layout"]["showlegend"] = False
    return chart


def contour_chart(view: StudyView, across: Dimension, up: Dimension) -> Chart:
    """Return the first metric over two settings as a surface; over a number and a choice as points."""
    rows = [row for row in view.in_state(COMPLETE) if {across.name, up.name} <= row.point.keys()]
    points = _markers(rows, [], "", "rgba(255,255,255,0.9)")
    points |= {
        "x": [_coordinate(across, row.point[across.name]) for row in rows],
        "y": [_coordinate(up, row.point[up.name]) for row in rows],
    }
    points["marker"] |= {"line": {"color": "#000000", "width": 1}, "size": 7}
    traces = [points]
    if (across.kind == "categorical") != (up.kind == "categorical"):
        points["marker"] |= {"color": [value_of(row) for row in rows], "size": 11, **_colours(view)}
    elif len((surface := _surface(view, rows, across, up))["x"]) > 1 and len(surface["y"]) > 1:
        traces.insert(0, surface)
    chart = _chart(traces, across.name, up.name)
    chart["layout"]["xaxis"] |= _axis(across)
    chart["layout"]["yaxis"] |= _axis(up)
    chart["layout"]["showlegend"] = False
    return chart


def _surface(view: StudyView, rows: Sequence[TrialRow], across: Dimension, up: Dimension) -> dict[str, Any]:
    x, y = _cells(across, rows), _cells(up, rows)
    columns, lines = _in_order(across, x), _in_order(up, y)
    sums: dict[tuple[Any, Any], list[float]] = {}
    for row, at_x, at_y in zip(rows, x, y, strict=True):
        sums.setdefault((at_x, at_y), []).append(value_of(row))
    cells = {place: sum(values) / len(values) for place, values in sums.items()}
    surface = {
        "type": "heatmap",
        "x": columns,
        "y": lines,
        "z": [[cells.get((at_x, at_y)) for at_x in columns] for at_y in lines],
        "hoverinfo": "none",
        **_colours(view),
    }
    if across.kind == "categorical":  # and so is `up`: nothing lies between choices
        return surface
    line = {"smoothing": 0.8, "width": 0.5}
    return surface | {"type": "contour", "connectgaps": True, "contours": {"coloring": "heatmap"}, "line": line}


def _colours(view: StudyView) -> dict[str, Any]:
    return {
        "colorscale": _scale() if view.sign(0) > 0 else _scale(SCALE[::-1]),
        "colorbar": {"title": {"text": label(view.metrics[0]), "side": "right"}, "thickness": 10},
    }


def _in_order(dimension: Dimension, values: Sequence[Any]) -> list[Any]:
    if dimension.kind != "categorical":
        return sorted(set(values))
    return [own for own in (label(each) for each in dimension.labels) if own in values]


def parallel_chart(view: StudyView) -> Chart:
    """Return one line for each trial through its settings to its value; the best are drawn last, in the light end."""
    rows = sorted(view.in_state(COMPLETE), key=lambda row: view.sign(0) * value_of(row))
    values = [value_of(row) for row in rows]
    low, high = min(values), max(values)
    span = high - low or 1.0
    columns = [_heights(dimension, rows) for dimension in view.dimensions]
    columns.append([(value - low) / span for value in values])
    traces = []
    for rank, row in enumerate(rows):
        part = rank / max(len(rows) - 1, 1)
        traces.append(
            {
                "x": list(range(len(columns))),
                "y": [column[rank] for column in columns],
                "mode": "lines",
                "line": {"color": _blend(part), "width": 1 + 2 * part},
                "opacity": 0.35 + 0.65 * part,
                "hoverinfo": "text",
                "text": _hover(row),
            }
        )
    names = [dimension.name for dimension in view.dimensions] + [view.metrics[0]]
    chart = _chart(traces, "", "", height=460)
    chart["layout"] |= {
        "showlegend": False,
        "hovermode": "closest",
        "annotations": [mark for at, d in enumerate(view.dimensions) for mark in _ticks(at, d, ROW // len(names))]
        + [_mark(len(names) - 1, 0, number(low)), _mark(len(names) - 1, 1, number(high))],
        "shapes": [
            {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1}}
            for at in range(len(names))
        ],
    }
    chart["layout"]["xaxis"] |= {
        "tickvals": list(range(len(names))),
        "ticktext": [label(name) for name in names],
        "range": [-0.3, len(names) - 0.7],
        "showgrid": False,
        "zeroline": False,
    }
    chart["layout"]["yaxis"] |= {"visible": False, "range": [-0.1, 1.1]}
    return chart


def _heights(dimension: Dimension, rows: Sequence[TrialRow]) -> list[float | None]:
    return [_height(dimension, row.point[dimension.name]) if dimension.name in row.point else None for row in rows]


def _height(dimension: Dimension, value: Scalar) -> float:
    """Return where a value stands on an axis from 0 to 1."""
    if dimension.kind == "categorical":
        return dimension.index(value) / max(len(dimension.labels) - 1, 1)
    assert isinstance(value, int | float)
    low, high = dimension.low, dimension.high
    if low == high:
        return 0.5
    if dimension.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _ticks(at: int, dimension: Dimension, longest: int) -> list[dict[str, Any]]:
    if dimension.kind == "categorical":
        return [_mark(at, _height(dimension, own), _shortened(str(own), longest)) for own in dimension.labels]
    return [_mark(at, 0, number(dimension.low)), _mark(at, 1, number(dimension.high))]


def _shortened(text: str, longest: int) -> str:
    """Return a text without its middle: long names often differ at their ends."""
    tail = max((longest - 1) // 2, 1)
    return text if len(text) <= longest else f"{text[:tail]}…{text[-tail:]}"


def _mark(x: int, y: float, text: str) -> dict[str, Any]:
    place = {"x": x, "y": y, "xanchor": "left", "xshift": 4, "showarrow": False}
    return {**place, "text": label(text), "font": {"size": 11}, "bgcolor": "rgba(128,128,128,0.15)"}


def _markers(
    rows: Sequence[TrialRow], values: Sequence[float], name: str, color: str, symbol: str = "circle"
) -> dict[str, Any]:
    return {
        "x": [row.number for row in rows],
        "y": list(values),
        "mode": "markers",
        "name": name,
        "marker": {"color": color, "size": 9, "symbol": symbol},
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _lines(x: Sequence[int], y: Sequence[float], name: str) -> dict[str, Any]:
    line = {"color": VERMILION, "width": 2, "shape": "hv"}
    return {"x": list(x), "y": list(y), "mode": "lines", "name": name, "line": line, "hoverinfo": "skip"}


def _hover(row: TrialRow) -> str:
    lines = [_("trial {number}", number=row.number)]
    if row.values:
        lines[0] += ": " + ", ".join(number(value) for value in row.values)
    lines += [f"{name} = {number(v) if isinstance(v, float) else v}" for name, v in row.point.items()]
    lines += [row.error] if row.error else []
    return "<br>".join(label(line) for line in lines)


def _coordinate(dimension: Dimension, value: Scalar) -> Scalar:
    return label(value) if dimension.kind == "categorical" else value


def _cells(dimension: Dimension, rows: Sequence[TrialRow]) -> list[Any]:
    """Return the coordinates of the rows, moved into at most `CELLS` cells of the axis."""
    values = [row.point[dimension.name] for row in rows]
    if dimension.kind == "categorical" or len(set(values)) <= CELLS:
        return [_coordinate(dimension, value) for value in values]
    cells = [round(_height(dimension, value) * CELLS) / CELLS for value in values]
    if dimension.log:
        return [dimension.low * (dimension.high / dimension.low) ** cell for cell in cells]
    return [dimension.low + (dimension.high - dimension.low) * cell for cell in cells]


def _axis(dimension: Dimension) -> dict[str, Any]:
    if dimension.kind == "categorical":
        return {"type": "category", "categoryarray": [label(own) for own in dimension.labels]}
    return {"type": "log", "exponentformat": "e", "dtick": 1} if dimension.log else {"type": "linear"}


def _scale(colors: Sequence[str] = SCALE) -> list[list[Any]]:
    return [[at / (len(colors) - 1), color] for at, color in enumerate(colors)]


def _blend(part: float) -> str:
    """Return the colour at `part`, 0 to 1, of the scale."""
    place = part * (len(SCALE) - 1)
    first = min(int(place), len(SCALE) - 2)
    mixed = []
    for at in (1, 3, 5):
        a, b = (int(SCALE[first + n][at : at + 2], 16) for n in (0, 1))
        mixed.append(round(a + (b - a) * (place - first)))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _chart(traces: list[dict[str, Any]], x: str, y: str, height: int = HIGH) -> Chart:
    layout = {
        "xaxis": {"title": {"text": label(x)}},
        "yaxis": {"title": {"text": label(y)}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "height": height,
    }
    return {"data": traces, "layout": layout}
