"""The pictures of gradient tracing: the norm of every layer over the epochs, as curves and as a map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, NullLocator

from pochitrain.history import GRADIENT, History
from pochitrain.locale import _
from pochitrain.reports.style import (
    NO_DATA,
    Floats,
    column,
    draw_layers,
    log_locator,
    new_figure,
    readable_layer,
    save_figure,
    style_axes,
    style_bar,
    style_epochs,
    style_values,
    write_number,
)

MAP_COLORS = "magma"
ROW_INCHES, LEAST_ROW_INCHES = 0.18, 0.1  # a row of the map, and the least that holds a name of 6 points
TALLEST_INCHES = 20.0


def draw_gradients(history: History, timeline_path: Path, heatmap_path: Path) -> tuple[Figure, Figure]:
    """Draw the L2 norms `gradient_norm/<name>` of the epochs that recorded any; both pictures are logarithmic.

    Raises:
        DiskError: the disk is full or read-only.
    """
    recorded = [record for record in history if any(name.startswith(GRADIENT) for name in record)]
    names = dict.fromkeys(name for record in recorded for name in record if name.startswith(GRADIENT))
    layers = {name.removeprefix(GRADIENT): column(recorded, name) for name in names}
    epochs = column(recorded, "epoch")
    return _draw_timeline(epochs, layers, timeline_path), _draw_heatmap(epochs, layers, heatmap_path)


def _draw_timeline(epochs: Floats, layers: Mapping[str, Floats], path: Path) -> Figure:
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    style_axes(axes, title=_("Gradient norm by layer"), ylabel=_("Gradient norm (L2)"))
    style_epochs(axes, epochs)
    draw_layers(figure, axes, epochs, layers)
    style_values(axes, np.concatenate(list(layers.values())), log_scale=True)
    save_figure(figure, path)
    return figure


def _draw_heatmap(epochs: Floats, layers: Mapping[str, Floats], path: Path) -> Figure:
    """One row per layer from input to output, one column per recorded epoch; grey where there is no positive number."""
    norms = np.stack(list(layers.values()))
    height = min(ROW_INCHES * len(layers), TALLEST_INCHES)
    row = height / len(layers)
    figure = new_figure(9, max(height, 1.6) + 1)
    axes = figure.add_subplot()
    style_axes(axes, title=_("Gradient norm by layer"), ylabel="")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    style_epochs(axes, epochs)
    between = (epochs[1:] + epochs[:-1]) / 2
    half = (epochs[1] - epochs[0]) / 2 if len(epochs) > 1 else 0.5
    columns = np.array([epochs[0] - half, *between, epochs[-1] + half])
    norm, ticks = _color_scale(norms)
    masked = np.ma.masked_where(~(norms > 0), norms)
    colors = colormaps[MAP_COLORS].with_extremes(bad=NO_DATA)
    image = axes.pcolorfast(columns, np.arange(len(layers) + 1) - 0.5, masked, cmap=colors, norm=norm)
    axes.set_xlim(max(columns[0], 0.5), columns[-1])  # there is no epoch 0
    axes.set_ylim(len(layers) - 0.5, -0.5)
    step = math.ceil(LEAST_ROW_INCHES / row)
    axes.set_yticks(range(0, len(layers), step), [readable_layer(name) for name in layers][::step], parse_math=False)
    axes.tick_params(axis="y", labelsize=min(9.0, 0.85 * 72 * max(row, LEAST_ROW_INCHES)), length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=max(height, 1.6) / 0.2, ticks=ticks, format=write_number)
    bar.minorticks_off()
    style_bar(bar, _("Gradient norm (L2)"))
    save_figure(figure, path)
    return figure


def _color_scale(norms: Floats) -> tuple[Normalize, Locator]:
    positive = norms[norms > 0]
    if not positive.size:
        return Normalize(0, 1), NullLocator()
    low, high = float(positive.min()) / 1.6, float(positive.max()) * 1.6
    return LogNorm(low, high), log_locator(low, high)
