"""The pictures of a training: loss, accuracy and learning rates by epoch, each a function of the history.

`history` holds one flat record per epoch with `epoch`, `learning_rate`, `train_loss`, `train_accuracy` (percent), and,
where they exist, `val_loss`, `val_accuracy`, `lr_<pattern>` and `gradient_norm/<name>`. Any value may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pochitrain.history import GRADIENT, History
from pochitrain.locale import _
from pochitrain.reports.gradients import draw_gradients
from pochitrain.reports.style import (
    BLUE,
    INK,
    MUTED,
    TEXT,
    VERMILION,
    Floats,
    column,
    draw_layers,
    draw_legend,
    draw_line,
    is_wide,
    new_figure,
    save_figure,
    style_axes,
    style_epochs,
    style_ticks,
    style_values,
)

RATE_PREFIX = "lr_"


def draw_training(
    history: History, plots_dir: Path, *, layer_wise: bool, log_scale: bool, best: int | None
) -> list[Path]:
    """Draw what `history` holds into `plots_dir` and return the files; nothing for an empty history.

    `best` is the epoch to mark. Costs about 0.1 s per picture.

    Raises:
        DiskError: the disk is full or read-only.
    """
    if not history:
        return []
    paths = [plots_dir / "loss.png", plots_dir / "accuracy.png"]
    draw_loss(history, paths[0], best=best)
    draw_accuracy(history, paths[1], best=best, learning_rate=not layer_wise)
    if layer_wise:
        paths.append(plots_dir / "layer_wise_lr.png")
        draw_layer_rates(history, paths[-1], log_scale=log_scale)
    if any(name.startswith(GRADIENT) for record in history for name in record):
        paths += [plots_dir / "gradients_timeline.png", plots_dir / "gradients_heatmap.png"]
        draw_gradients(history, paths[-2], paths[-1])
    return paths


def draw_loss(history: History, path: Path, *, best: int | None) -> Figure:
    """Draw training and validation loss; logarithmic when they span two decades; crosses where a loss is not finite."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    epochs, train, validation = (column(history, name) for name in ("epoch", "train_loss", "val_loss"))
    style_axes(axes, title=_("Loss"), ylabel=_("Loss"), legend_above=True)
    style_epochs(axes, epochs)
    lines = _draw_pair(axes, epochs, train, validation, best, lambda value: f"{value:.4g}")
    if (missing := _epochs_without_value(history)).size:
        at_the_bottom = np.full(missing.shape, 0.03)
        lines += axes.plot(
            missing,
            at_the_bottom,
            "x",
            color=INK,
            markersize=6,
            transform=axes.get_xaxis_transform(),
            label=_("Not finite"),
        )
    values = np.concatenate([train, validation])
    style_values(axes, values, log_scale=is_wide(values))
    draw_legend(axes, lines)
    save_figure(figure, path)
    return figure


def draw_accuracy(history: History, path: Path, *, best: int | None, learning_rate: bool) -> Figure:
    """Draw training and validation accuracy in percent, and with `learning_rate` the rate on a second axis."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    epochs, train, validation = (column(history, name) for name in ("epoch", "train_accuracy", "val_accuracy"))
    style_axes(axes, title=_("Accuracy"), ylabel=_("Accuracy (%)"), legend_above=True)
    style_epochs(axes, epochs)
    lines = _draw_pair(axes, epochs, train, validation, best, lambda value: f"{value:.2f} %")
    style_values(axes, train, log_scale=False)
    _limit_to_percent(axes, np.concatenate([train, validation]))
    if learning_rate:
        lines.append(_draw_rate(axes, epochs, column(history, "learning_rate")))
    draw_legend(axes, lines)
    save_figure(figure, path)
    return figure


def draw_layer_rates(history: History, path: Path, *, log_scale: bool) -> Figure:
    """Draw the rate of each parameter group. A rate of 0 has no place on a logarithmic axis; the legend says 0."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    epochs = column(history, "epoch")
    names = dict.fromkeys(name for record in history for name in record if name.startswith(RATE_PREFIX))
    layers = {name.removeprefix(RATE_PREFIX): column(history, name) for name in names}
    style_axes(axes, title=_("Learning rate by layer"), ylabel=_("Learning rate"))
    style_epochs(axes, epochs)
    draw_layers(figure, axes, epochs, layers)
    style_values(axes, np.concatenate([*layers.values(), np.empty(0)]), log_scale=log_scale)
    save_figure(figure, path)
    return figure


def _draw_pair(
    axes: Axes, epochs: Floats, train: Floats, validation: Floats, best: int | None, write: Callable[[float], str]
) -> list[Line2D]:
    """Draw both curves, the validation only if there is one, and mark the best epoch; return what the legend shows."""
    lines = [draw_line(axes, epochs, train, BLUE, label=_("Training (last {value})", value=write(train[-1])))]
    validated = bool(np.isfinite(validation).any())
    if validated:
        label = _("Validation (last {value})", value=write(validation[-1]))
        lines.append(draw_line(axes, epochs, validation, VERMILION, label=label))
    if best is not None and (at := np.flatnonzero(epochs == best)).size:
        values, color = (validation, VERMILION) if validated else (train, BLUE)
        value = float(values[at[0]])
        label = _("Best epoch {epoch} ({value})", epoch=best, value=write(value))
        axes.axvline(best, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
        lines += axes.plot([best], [value], "*", color=color, markersize=12, markeredgecolor=INK, label=label, zorder=4)
    return lines


def _epochs_without_value(history: History) -> Floats:
    """Return the epochs whose loss was recorded, but not as a number."""
    losses = [(record.get("train_loss"), record.get("val_loss")) for record in history]
    lost = [any(loss is not None and not math.isfinite(loss) for loss in pair) for pair in losses]
    return column(history, "epoch")[lost]


def _limit_to_percent(axes: Axes, values: Floats) -> None:
    """Show the range that is in use, at least two points of it, and nothing far outside 0-100."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 100.0)
    margin = max(0.05 * (high - low), (2.0 - (high - low)) / 2, 0.1)
    edge = 0.02 * (high - low + 2 * margin)  # a curve that runs at 0 or 100 keeps its full width
    axes.set_ylim(max(low - margin, -edge), min(high + margin, 100 + edge))


def _draw_rate(axes: Axes, epochs: Floats, rates: Floats) -> Line2D:
    """Draw the rate as grey steps behind the curves, one step per epoch, on an axis at the right."""
    right = axes.twinx()
    right.set_facecolor("none")
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    width = np.append(epochs - 0.5, epochs[-1] + 0.5)
    (line,) = right.plot(width, np.append(rates, rates[-1]), drawstyle="steps-post", color=MUTED, linewidth=1.2)
    line.set_label(_("Learning rate"))
    wide = is_wide(rates)
    style_values(right, rates, log_scale=wide)
    if not wide and np.isfinite(rates).any():
        right.set_ylim(0, max(float(np.nanmax(rates)) * 1.08, 1e-12))
    right.set_ylabel(_("Learning rate"), fontsize=10, **TEXT | {"color": MUTED})
    style_ticks(right, MUTED)
    right.spines[:].set_visible(False)
    return line
