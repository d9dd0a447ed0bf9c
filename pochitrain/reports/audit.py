"""What `pochi check` shows: how many images each class has, and which of them are there twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
    new_figure,
    readable,
    save_figure,
    shorten,
    style_axes,
    whole_numbers,
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


class Table(NamedTuple):
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def split_name(split: str) -> str:
    return _("Training") if split == "train" else _("Validation")


def draw_balance(counts: Mapping[str, Mapping[str, int]], path: Path) -> Figure:
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
    axes.xaxis.set_major_locator(whole_numbers(8))
    axes.set_xlabel(_("Images"), fontsize=10, **TEXT)
    keys = [Line2D([], [], color=COLORS[it], marker="s", linestyle="none", label=split_name(it)) for it in counts]
    draw_legend(axes, keys)
    save_figure(figure, path)
    return figure


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
            figure.figimage(np.asarray(picture), x, round((top - side) * DPI), origin="upper")
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
    kinds: Table,
    data: Table,
    balance: Path | None,
    pairs: Sequence[Pair],
    more_pairs: int,
    findings: Table,
) -> None:
    """Write the report as one HTML page that needs no other file.

    Args:
        kinds: the number of problems of each kind.
        data: what there is, a column for each split.
        balance: the picture of `draw_balance`.
        more_pairs: how many there are beside `pairs`.
        findings: every problem.
    """
    sections = [html.section(_("The images"), _table(data), _plot(balance) if balance else "")]
    if kinds.rows:
        sections.insert(0, html.section(_("Problems"), _table(kinds)))
    if pairs:
        note = _("problems.csv lists {count} more.", count=more_pairs) if more_pairs else ""
        wide = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr))"
        gallery = f'<div class="gallery" style="{wide}">{"".join(map(_figure, pairs))}</div>'
        sections.append(html.section(_("The same picture more than once"), gallery, note=note))
    if findings.rows:
        listed = Table(findings.titles, findings.rows[:LISTED])
        more = len(findings.rows) > LISTED
        note = _("The first {count}; problems.csv has all.", count=LISTED) if more else ""
        sections.append(html.section(_("All problems"), _table(listed), note=note))
    write_text(path, html.page(_("Check of the images"), sections, header=f"<p>{html.escape(header)}</p>"), sync=False)


def _table(table: Table) -> str:
    return html.table([html.Column(title) for title in table.titles], table.rows, sortable=len(table.rows) > 10)


def _plot(path: Path) -> str:
    with Image.open(path) as image:
        uri = html.data_uri(_webp(image.convert("RGB"), lossless=True))
    return f'<p><img src="{uri}" alt="{html.escape(_("Images per class"))}" style="max-width: 100%"></p>'


def _figure(pair: Pair) -> str:
    pictures = "".join(html.picture(_webp(image), name) for image, name in zip(pair.pictures, pair.names, strict=True))
    names = "".join(f'<span class="path">{html.name(name)}</span>' for name in pair.names)
    caption = f"<b>{html.escape(pair.title)}</b> {html.escape(pair.detail)}{names}"
    return f'<figure><div class="pictures">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _webp(image: Image.Image, *, lossless: bool = False) -> bytes:
    file = BytesIO()
    image.save(file, "WEBP", quality=80, method=2, lossless=lossless)
    return file.getvalue()
