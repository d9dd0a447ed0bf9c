"""The confusion matrix as a picture that can be read with 2 classes and with 100."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.reports.style import (
    GRID,
    MUTED,
    NO_DATA,
    TEXT,
    Floats,
    line_height,
    new_figure,
    readable,
    readable_lines,
    save_figure,
    shorten,
    shorten_all,
    style_bar,
    style_ticks,
    text_width,
    whole_numbers,
    write_number,
)

Counts = NDArray[np.integer]

LEAST_POINTS = 6.0  # the smallest print; a figure grows before its numbers shrink below this
NAME_LINE = 1.15 / 72  # inches from one class name to the next, for each point of their size
LEAST_INCHES, LARGEST_INCHES = 1.2, 24.0  # a matrix that needs more loses its numbers, then every second name
NAME_SHARE = 0.3  # of the shorter side asked for: longer class names are shortened in the middle
FEW = 20  # classes; beyond, an empty cell says 0, and colours follow the square root: rare mistakes stay visible
GAP = 0.1  # inches between neighbours
BAR = 0.2  # inches


def colormap(name: str) -> Colormap:
    """Return matplotlib's colour map `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in colormaps:
        near = difflib.get_close_matches(name, list(colormaps), n=3) or ["Blues", "Greens", "viridis"]
        raise ConfigError(
            _("matplotlib has no colour map '{name}'", name=name),
            "confusion_matrix_config.cmap",
            _("choose another name, for instance {names}", names=", ".join(near)),
        )
    return colormaps[name]


def draw_confusion(
    matrix: Counts,
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    fontsize: float,
    title_fontsize: float,
    label_fontsize: float,
    figsize: tuple[float, float],
    cmap: str,
    normalize: bool = False,
) -> Figure:
    """Draw `matrix` (K, K): images of the true class (row) that were given the predicted class (column).

    The sizes are those of `confusion_matrix_config`, in points and inches, and hold as long as the result can be read:
    numbers and names shrink to fit their cells, down to 6 points; then the figure grows, up to a matrix of 24 inches
    (187 classes with counts below 100, 93 with four digits); beyond, colours stay without numbers. Names turn when they
    would collide.

    Args:
        normalize: show percent of the true class instead of images; a class without images stays grey.

    Raises:
        ConfigError: `cmap` is no colour map.
        DiskError: the disk is full or read-only.
    """
    colors = colormap(cmap).with_extremes(bad=NO_DATA)
    values = _percent_of_row(matrix) if normalize else matrix.astype(np.float64)
    numbers = _numbers(values, normalize)
    words = (readable_lines(title), readable_lines(xlabel), readable_lines(ylabel))
    look = Look(*words, fontsize, title_fontsize, label_fontsize, *figsize)
    plan = plan_matrix([readable(name) for name in classes], widest=max(chain(*numbers), key=len) or "0", look=look)
    figure = new_figure(plan.width, plan.height, constrained=False)
    axes = figure.add_axes(plan.place(0, 0, plan.matrix_width, plan.matrix_height))
    norm = PowerNorm(1.0 if len(classes) <= FEW else 0.5, 0, 100.0 if normalize else max(float(values.max()), 1.0))
    masked = np.ma.masked_invalid(values)
    image = axes.imshow(masked, cmap=colors, norm=norm, aspect="auto", interpolation="nearest", origin="upper")
    _write_names(axes, plan)
    if plan.number_points:
        _write_numbers(axes, numbers, image.to_rgba(masked), plan.number_points)
    _write_words(
        figure, plan, look, _("{correct} of {total} images correct", correct=np.trace(matrix), total=matrix.sum())
    )
    bar = figure.colorbar(
        image, cax=figure.add_axes(plan.place(plan.matrix_width + 2 * GAP, 0, BAR, plan.matrix_height))
    )
    bar.ax.yaxis.set_major_locator(whole_numbers(6))
    bar.ax.yaxis.set_major_formatter(write_number)
    style_bar(bar, _("Share of the true class (%)") if normalize else _("Images"))
    save_figure(figure, path)
    return figure


def text_colors(cells: Floats) -> NDArray[np.str_]:
    """Return "black" or "white" for cells of RGBA in 0-1, shape (..., 4): whichever has the higher contrast.

    Relative luminance and contrast are those of WCAG 2.2; both contrasts are equal at a luminance of 0.179.
    """
    rgb = cells[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.where(linear @ (0.2126, 0.7152, 0.0722) > 0.179, "black", "white")


@dataclass(frozen=True)
class Look:
    """What the user asked for."""

    title: str
    xlabel: str
    ylabel: str
    fontsize: float
    title_fontsize: float
    label_fontsize: float
    width: float
    height: float


@dataclass(frozen=True)
class Plan:
    """Where everything goes, in inches; sizes of print in points (0: no numbers)."""

    names: list[str]
    name_points: float
    number_points: float
    rotation: int
    left: float
    bottom: float
    matrix_width: float
    matrix_height: float
    width: float
    height: float

    def place(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Return a box, given in inches from the matrix' lower left corner, in matplotlib's figure fractions."""
        x, y = x + self.left, y + self.bottom
        return x / self.width, y / self.height, width / self.width, height / self.height


def plan_matrix(names: Sequence[str], *, widest: str, look: Look) -> Plan:
    """Find sizes so that nothing is cut or collides; `widest` is the longest number that a cell holds.

    Margins follow from the measured texts, so no layout engine has to measure thousands of cell texts.
    """
    classes = len(names)
    name_points = max(LEAST_POINTS, min(0.85 * look.label_fontsize, 0.7 * look.height / classes / NAME_LINE))
    room = NAME_SHARE * min(look.width, look.height)
    names = shorten_all(names, lambda name: shorten(name, name_points, room))
    name_width = max(text_width(name, name_points) for name in names)

    least = min(LEAST_POINTS, look.fontsize)
    cell_width, cell_height = max(1.2 * text_width(widest, least), LEAST_POINTS * NAME_LINE), line_height(least)
    numbered = classes * max(cell_width, cell_height) <= LARGEST_INCHES
    if not numbered:
        cell_width = cell_height = min(LEAST_POINTS * NAME_LINE, LARGEST_INCHES / classes)

    left = _block(look.ylabel, look.label_fontsize) + name_width + 2 * GAP
    right = 2 * GAP + BAR + text_width(widest, 9) + line_height(9) + 3 * GAP
    width = max(look.width, left + right + max(classes * cell_width, LEAST_INCHES))
    cell_width = (width - left - right) / classes
    rotation, names_below = _turn(name_width, name_points * NAME_LINE, cell_width)

    bottom = _block(look.xlabel, look.label_fontsize) + names_below + 2 * GAP
    top = _block(look.title, look.title_fontsize) + line_height(9) + 2 * GAP
    height = max(look.height, top + bottom + max(classes * cell_height, LEAST_INCHES))
    cell_height = (height - top - bottom) / classes
    fitting = min(cell_width / (1.2 * text_width(widest, 100)) * 100, cell_height / line_height(1))
    return Plan(
        names=names,
        name_points=max(min(name_points, cell_width / NAME_LINE, cell_height / NAME_LINE), LEAST_POINTS),
        number_points=min(look.fontsize, fitting) if numbered else 0.0,
        rotation=rotation,
        left=left,
        bottom=bottom,
        matrix_width=classes * cell_width,
        matrix_height=classes * cell_height,
        width=width,
        height=height,
    )


def _turn(name_width: float, name_height: float, cell_width: float) -> tuple[int, float]:
    """Return the angle at which names below the columns do not collide, and the height they take."""
    if name_width + GAP <= cell_width:
        return 0, name_height
    slope = math.sqrt(0.5)
    if name_height <= cell_width * slope:
        return 45, (name_width + name_height) * slope
    return 90, name_width


def _block(text: str, points: float) -> float:
    """Return the height of the lines of `text` and a gap; nothing for an empty text."""
    return (text.count("\n") + 1) * line_height(points) + GAP if text else 0.0


def _percent_of_row(matrix: Counts) -> Floats:
    totals = matrix.sum(axis=1, keepdims=True)
    return np.where(totals > 0, 100.0 * matrix / np.maximum(totals, 1), np.nan)


def _numbers(values: Floats, normalize: bool) -> list[list[str]]:
    """Return the text of each cell. With many classes zeros are left out and percents get at most three characters."""
    few = len(values) <= FEW

    def write(value: float) -> str:
        if math.isnan(value) or (value == 0 and not few):
            return ""
        if not normalize:
            return f"{value:.0f}"
        return f"{value:.1f}" if few or 0.05 <= value < 9.95 else f"{value:.0f}"

    return [[write(value) for value in row] for row in values.tolist()]


def _write_names(axes: Axes, plan: Plan) -> None:
    classes = len(plan.names)
    style_ticks(axes)
    turned: dict[str, Any] = {}
    if plan.rotation:
        turned = {"rotation": plan.rotation, "ha": "right", "rotation_mode": "anchor", "va": "center"}
    cell_width, cell_height = plan.matrix_width / classes, plan.matrix_height / classes
    name_height = plan.name_points * NAME_LINE * 0.999  # a name that fits exactly fits
    columns = range(0, classes, math.ceil(name_height / cell_width) if plan.rotation else 1)
    rows = range(0, classes, math.ceil(name_height / cell_height))
    axes.set_xticks(columns, [plan.names[at] for at in columns], fontsize=plan.name_points, parse_math=False, **turned)
    axes.set_yticks(rows, [plan.names[at] for at in rows], fontsize=plan.name_points, parse_math=False)
    axes.spines[:].set_color(GRID)
    if plan.number_points:
        _draw_grid(axes, classes)


def _draw_grid(axes: Axes, classes: int) -> None:
    """Draw lines between the cells: two artists, where minor ticks would be hundreds."""
    end = classes - 0.5
    rows = [((-0.5, between), (end, between)) for between in np.arange(0.5, end)]
    columns = [((between, -0.5), (between, end)) for between in np.arange(0.5, end)]
    axes.add_collection(LineCollection(rows + columns, colors=GRID, linewidths=0.8 if classes <= FEW else 0.5))


def _write_numbers(axes: Axes, numbers: list[list[str]], cells: Floats, points: float) -> None:
    colors = text_colors(cells).tolist()
    style: dict[str, Any] = TEXT | {"ha": "center", "va": "center_baseline", "fontsize": points}
    for row, texts in enumerate(numbers):
        for column, text in enumerate(texts):
            if text:
                axes.text(column, row, text, **style | {"color": colors[row][column]})


def _write_words(figure: Figure, plan: Plan, look: Look, correct: str) -> None:
    """Write the title with the line below it, and the axis labels, each shrunk to the room that it has."""
    middle_x, middle_y = plan.left + plan.matrix_width / 2, plan.bottom + plan.matrix_height / 2
    above = plan.bottom + plan.matrix_height + GAP
    room_right = plan.width - plan.left - GAP
    room_x, room_y = (
        2 * (min(middle, whole - middle) - GAP) for middle, whole in ((middle_x, plan.width), (middle_y, plan.height))
    )

    def write(text: str, x: float, y: float, points: float, room: float, **style: Any) -> None:
        lines = text.split("\n")
        widest = max(text_width(line, points) for line in lines)
        if widest > room:  # widths do not shrink quite in proportion, because glyphs are fitted to pixels
            points = max(0.97 * points * room / widest, LEAST_POINTS)
        fitting = "\n".join(shorten(line, points, room) for line in lines)
        figure.text(x / plan.width, y / plan.height, fitting, fontsize=points, **TEXT | style)

    write(correct, plan.left, above, 9, room_right, color=MUTED)
    write(look.title, plan.left, above + line_height(9) + GAP / 2, look.title_fontsize, room_right)
    write(look.xlabel, middle_x, GAP, look.label_fontsize, room_x, ha="center", va="bottom")
    write(look.ylabel, GAP, middle_y, look.label_fontsize, room_y, ha="left", va="center", rotation=90)
