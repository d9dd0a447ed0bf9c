"""What `pochi check` shows: how many images of each class, how large, and which of them are there twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from pochitrain.durable import write_text
from pochitrain.locale import _
from pochitrain.reports import html
from pochitrain.reports.style import (
    BLUE,
    DPI,
    INK,
    MUTED,
    TEXT,
    VERMILION,
    draw_legend,
    font,
    line_height,
    log_locator,
    new_figure,
    readable,
    save_figure,
    shorten,
    style_axes,
    write_number,
)

COLORS = {"train": BLUE, "val": VERMILION}
ROW, HIGHEST = 0.3, 24.0  # inches of a class in the balance; of the whole figure
THUMBNAIL = 180  # pixels of a picture on the contact sheet
PAIRS_IN_ROW = 4
LISTED = 1000  # rows of the page; problems.csv has all


class Pair(NamedTuple):
    """Two pictures, each at most THUMBNAIL wide and high, that look the same; `title` says what is wrong with it."""

    title: str
    detail: str
    names: tuple[str, str]
    pictures: tuple[Image.Image, Image.Image]


def split_name(split: str) -> str:
    return _("Training") if split == "train" else _("Validation")


def draw_balance(counts: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Draw split → class → images as bars, the classes from top to bottom; with very many, not all are named."""
    classes = list(dict.fromkeys(name for found in counts.values() for name in found))
    height = min(1.2 + ROW * len(classes), HIGHEST)
    figure = new_figure(8, height)
    axes = figure.add_subplot()
    style_axes(axes, title=_("Images per class"), ylabel="", legend_above=True)
    places = np.arange(len(classes))
    thickness = 0.8 / len(counts)
    for at, (split, found) in enumerate(counts.items()):
        shift = (at - (len(counts) - 1) / 2) * thickness
        axes.barh(places + shift, [found.get(name, 0) for name in classes], thickness, color=COLORS[split])
    step = math.ceil(line_height(9) * len(classes) / (height - 1.2))
    names = [shorten(readable(name), 9, 2.5) for name in classes[::step]]
    axes.set_yticks(places[::step], names, fontsize=9, parse_math=False)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlabel(_("Images"), fontsize=10, **TEXT)
    draw_legend(axes, _keys(counts))
    save_figure(figure, path)


def draw_sizes(sizes: Mapping[str, NDArray[np.int32]], path: Path) -> None:
    """Draw split → (n, 2) widths and heights as points, the larger the more images have that size."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style_axes(axes, title=_("Image sizes"), ylabel=_("Height (pixels)"), legend_above=True)
    everything = np.concatenate(list(sizes.values()))
    for split, pixels in sizes.items():
        distinct, times = np.unique(pixels, axis=0, return_counts=True)
        area = 20 + 180 * times / len(everything)
        axes.scatter(distinct[:, 0], distinct[:, 1], area, COLORS[split], alpha=0.5, linewidths=0)
    for axis, values in ((axes.xaxis, everything[:, 0]), (axes.yaxis, everything[:, 1])):
        low, high = values.min() / 1.3, values.max() * 1.3
        axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
        axis.set_major_locator(log_locator(low, high))
        axis.set_major_formatter(write_number)
        axis.set_minor_formatter("")
    axes.set_xlabel(_("Width (pixels)"), fontsize=10, **TEXT)
    draw_legend(axes, _keys(sizes))
    save_figure(figure, path)


def draw_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Draw the contact sheet: the two pictures beside each other, pixel by pixel, their names below."""
    side, gap, text = THUMBNAIL / DPI, 0.12, 4 * line_height(7) + 0.06
    width, height = 2 * side + 0.04, side + text
    columns = min(PAIRS_IN_ROW, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = new_figure(columns * (width + gap) + gap, rows * (height + gap) + gap, constrained=False)
    full_width, full_height = figure.get_size_inches()
    for number, pair in enumerate(pairs):
        left = gap + number % columns * (width + gap)
        top = full_height - gap - number // columns * (height + gap)
        for at, picture in enumerate(pair.pictures):
            x = round((left + at * (side + 0.04)) * DPI)
            figure.figimage(np.asarray(picture), x, round(top * DPI) - picture.height, origin="upper")
        for line, words in enumerate((pair.title, pair.detail, *pair.names)):
            shown = shorten(readable(words), 7, width)
            y = (top - side - 0.03 - line * line_height(7)) / full_height
            style = TEXT | {"color": INK if line == 0 else MUTED}
            figure.text(left / full_width, y, shown, va="top", fontproperties=font(7), **style)
    save_figure(figure, path)


def write_page(
    path: Path,
    *,
    header: str,
    kinds: Sequence[Sequence[str]],
    splits: tuple[Sequence[str], Sequence[Sequence[str]]],
    plots: Mapping[Path, str],
    pairs: Sequence[Pair],
    more_pairs: int,
    findings: Sequence[Sequence[str]],
) -> None:
    """Write the report as one HTML page that needs no other file.

    Args:
        kinds: (problem, severity, number) of each kind of problem.
        splits: titles and rows of the table of the data.
        plots: picture → what it shows.
        more_pairs: how many there are beside `pairs`.
        findings: (problem, severity, file, other file, detail) of each problem.
    """
    problem, severity, file = _("problem"), _("severity"), _("file")
    sections = []
    if kinds:
        columns = [html.Column(problem), html.Column(severity), html.Column(_("number"), number=True)]
        sections.append(html.section(_("Problems"), html.table(columns, kinds)))
    titles, rows = splits
    drawn = "".join(_plot(plot, alt) for plot, alt in plots.items())
    sections.append(html.section(_("Images"), html.table([html.Column(title) for title in titles], rows), drawn))
    if pairs:
        note = _("{count} more pairs are in problems.csv.", count=more_pairs) if more_pairs else ""
        gallery = f'<div class="gallery">{"".join(map(_figure, pairs))}</div>'
        sections.append(html.section(_("The same picture more than once"), gallery, note=note))
    if findings:
        note = _("The first {count}; problems.csv has all.", count=LISTED) if len(findings) > LISTED else ""
        columns = [html.Column(title) for title in (problem, severity, file, _("other file"), _("detail"))]
        listed = html.table(columns, findings[:LISTED], sortable=True)
        sections.append(html.section(_("All problems"), listed, note=note))
    write_text(path, html.page(_("Check of the images"), sections, header=f"<p>{html.escape(header)}</p>"), sync=False)


def _keys(splits: Mapping[str, object]) -> list[Line2D]:
    return [
        Line2D([], [], color=COLORS[split], marker="o", linestyle="none", label=split_name(split)) for split in splits
    ]


def _plot(path: Path, alt: str) -> str:
    with Image.open(path) as image:
        uri = html.data_uri(_webp(image.convert("RGB"), lossless=True))
    return f'<p><img src="{uri}" alt="{html.escape(alt)}" style="max-width: 100%"></p>'


def _figure(pair: Pair) -> str:
    pictures = "".join(html.picture(_webp(image), name) for image, name in zip(pair.pictures, pair.names, strict=True))
    names = "".join(f'<span class="path">{html.name(name)}</span>' for name in pair.names)
    caption = f"<b>{html.escape(pair.title)}</b> {html.escape(pair.detail)}{names}"
    return f'<figure><div class="pictures">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _webp(image: Image.Image, *, lossless: bool = False) -> bytes:
    file = BytesIO()
    image.save(file, "WEBP", quality=80, method=2, lossless=lossless)
    return file.getvalue()
