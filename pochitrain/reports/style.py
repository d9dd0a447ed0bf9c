"""How every picture looks: fonts, colours, axes, and the way a figure reaches the disk.

Only matplotlib's object API is used. Pyplot and `rcParams` are global state, and pictures are drawn in a background
thread and in notebooks; so every property that matters is set on the artist itself.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from pochitrain.durable import write_durably
from pochitrain.history import History
from pochitrain.locale import _

Floats = NDArray[np.float64]

DPI = 150
FAMILIES = ["DejaVu Sans", "IPAexGothic"]  # the second is asked, glyph by glyph, for what the first lacks
# Okabe and Ito, "Color Universal Design" (2008): told apart with every kind of colour vision.
BLUE, VERMILION = "#0072B2", "#D55E00"
INK, MUTED, GRID, NO_DATA = "#222222", "#767676", "#0000001C", "#D9D9D9"
DEPTH_COLORS, DEPTH_END = "viridis", 0.87  # layers from input to output; the pale yellow end is hard to see on white
MARKERS_UP_TO = 40  # epochs; with more, markers run together
THIN_FROM = 200  # epochs; thick lines turn noise into a band
LEGEND_UP_TO = 16  # lines; with more, a colour bar tells the curves apart
LAYER_INCHES = 2.6  # longer names of layers are shortened
WIDE_RANGE = 99.0  # two decades, rounded: from there a logarithmic axis shows more than a linear one
TEXT: dict[str, Any] = {"fontfamily": FAMILIES, "parse_math": False, "color": INK, "fontweight": "normal"}


@lru_cache(maxsize=1)
def glyphs() -> frozenset[int]:
    """Return the code points that `FAMILIES` can draw, and make the packaged Japanese font known to matplotlib.

    The font comes from `matplotlib_fontja`, which is found but not imported: its import changes `rcParams`.
    """
    package = find_spec("matplotlib_fontja")
    assert package, "a dependency of pochitrain"
    assert package.origin
    fontManager.addfont(Path(package.origin).parent / "fonts" / "ipaexg.ttf")
    return frozenset().union(*(FT2Font(findfont(family)).get_charmap() for family in FAMILIES))


def readable(text: str) -> str:
    r"""Return one line of `text` that can be drawn as it stands, whatever a folder may be called.

    Letters that macOS stores in two parts are joined, control characters and bytes that are no UTF-8 are escaped
    (`\n`, `\udcff`), an emoji without a glyph is spelled (`:fox face:`), anything else without a glyph becomes □.
    """
    return "".join(_readable_character(character) for character in unicodedata.normalize("NFC", text))


def _readable_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Cs"):
        return character.encode("unicode_escape").decode()
    if (
        category == "Cf" or "\ufe00" <= character <= "\ufe0f"
    ):  # joiners and variation selectors have no shape of their own
        return ""
    if ord(character) in glyphs():
        return character
    name = unicodedata.name(character, "")
    return f":{name.lower()}:" if category == "So" and name else "□"


def readable_lines(text: str) -> str:
    """Return `readable` text in which line breaks stay: for titles and axis labels that a user wrote."""
    return "\n".join(readable(line) for line in text.split("\n"))


def font(points: float) -> FontProperties:
    return FontProperties(family=FAMILIES, size=points)


def text_width(text: str, points: float) -> float:
    """Return the width in inches of one line of `text`."""
    return float(_renderer().get_text_width_height_descent(text, font(points), ismath=False)[0]) / DPI  # type: ignore[no-untyped-call]


def line_height(points: float) -> float:
    """Return the height in inches of a line with the space below it."""
    return 1.35 * points / 72


def shorten(text: str, points: float, room: float) -> str:
    """Return `text`, with as much of its middle as is needed replaced by … to fit into `room` inches."""
    width = text_width(text, points)
    if width <= room:
        return text
    for kept in range(int(len(text) * room / width), 0, -1):
        shorter = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if text_width(shorter, points) <= room:
            return shorter
    return "…"


def shorten_all(names: Sequence[str], fit: Callable[[str], str]) -> list[str]:
    """Return the names as `fit` shortens each, but different ones never alike.

    Those that would be show where they begin to differ; where that is not enough, their numbers in the list.
    """
    short = [fit(name) for name in names]
    for group in _alike(names, short):
        columns = zip(*(names[at] for at in group), strict=False)
        start = sum(1 for _same in takewhile(lambda letters: len(set(letters)) == 1, columns))
        for at in group:
            head = short[at].partition("…")[0]
            short[at] = fit(head[: len(head) // 2] + "…" + names[at][start:])
    for group in _alike(names, short):
        for at in group:
            short[at] = fit(f"{at + 1}: {names[at]}")
    return short


def _alike(names: Sequence[str], short: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, each in enumerate(short):
        groups[each].append(at)
    return [group for group in groups.values() if len({names[at] for at in group}) > 1]


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    glyphs()
    return RendererAgg(8, 8, DPI)  # type: ignore[no-untyped-call]


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """Return a white figure of `width` × `height` inches; `constrained` lets matplotlib place what is inside."""
    glyphs()
    layout: Literal["constrained"] | None = "constrained" if constrained else None
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG; readers see the old picture or the new one, never a part of it.

    Raises:
        DiskError: the disk is full or read-only.
    """
    png = BytesIO()
    # Not `figure.savefig`: it lays the figure out once more and obeys the user's `rcParams`.
    # Level 1 takes three quarters of the time of zlib's default 6, for a third more bytes: tens of kB.
    FigureCanvasAgg(figure).print_png(png, pil_kwargs={"compress_level": 1})  # type: ignore[no-untyped-call]
    write_durably(path, png.getvalue(), sync=False)


def style_axes(axes: Axes, *, title: str, ylabel: str, legend_above: bool = False) -> None:
    """Give `axes` over epochs its title, labels and light grid; `legend_above` leaves a row for `draw_legend`."""
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=13, pad=28 if legend_above else 10, **TEXT)
    axes.set_xlabel(_("Epoch"), fontsize=10, **TEXT)
    axes.set_ylabel(ylabel, fontsize=10, **TEXT)
    style_ticks(axes)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)


def style_ticks(axes: Axes, color: str = INK) -> None:
    axes.tick_params(which="both", labelsize=9, labelcolor=color, labelfontfamily=FAMILIES, color=MUTED, length=3)


def whole_numbers(most: int) -> MaxNLocator:
    """Return a locator of at most so many intervals between round whole numbers: 0, 20, 40, not 0, 15, 30."""
    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def style_epochs(axes: Axes, epochs: Floats) -> None:
    """Whole numbers only, from half an epoch before the first; room on the right for the last marker."""
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5 + 0.01 * len(epochs))
    axes.xaxis.set_major_locator(whole_numbers(10))
    axes.xaxis.set_major_formatter(write_number)


def style_values(axes: Axes, values: Floats, *, log_scale: bool) -> None:
    """Set a linear or logarithmic axis with plain numbers for `values`: no offset, no power of ten beside the axis.

    Without a positive value it stays linear, without any value it gets no ticks.
    """
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    if log_scale and positive.size:
        low, high = float(positive.min()), float(positive.max())
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(low / 1.6, high * 1.6)  # 1.6² exceeds the step from 2 to 5, so at least one tick is in sight
        axes.yaxis.set_major_locator(log_locator(low, high))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(write_number)
        return
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_powerlimits((-9, 12))
    axes.yaxis.set_major_formatter(formatter)
    if not known.size:
        axes.set_yticks([])


def log_locator(low: float, high: float) -> LogLocator:
    """Ticks at 1, 2 and 5 of each power of ten; over many powers at 1 only."""
    return LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,))


def write_number(value: float, _position: object = None) -> str:
    return f"{value:g}"


def is_wide(values: Floats) -> bool:
    """Tell whether all `values` are positive and so far apart that a linear axis would hide the small ones."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() >= WIDE_RANGE)


def column(history: History, name: str) -> Floats:
    """Return one value per record; NaN where the record has none or an infinite one."""
    values = np.array([record.get(name, np.nan) for record in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def draw_line(axes: Axes, epochs: Floats, values: Floats, color: Any, *, label: str) -> Line2D:
    """Draw one curve, with a marker on every epoch of a short history and on epochs that stand alone between NaNs."""
    known = np.pad(np.isfinite(values), 1)
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])
    short = len(epochs) <= MARKERS_UP_TO
    (line,) = axes.plot(
        epochs,
        values,
        color=color,
        linewidth=1.8 if len(epochs) <= THIN_FROM else 1.0,
        linestyle="-",
        marker="o" if short or alone.size else "none",
        markersize=4,
        markevery=None if short else alone.tolist(),
    )
    line.set_label(label)
    return line


def draw_legend(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Put the legend in one row between title and axes, where it hides no data."""
    _legend(axes, lines, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), columnspacing=1.4)


def _legend(axes: Axes, lines: Sequence[Line2D], **place: Any) -> None:
    """Labels are passed by hand: matplotlib leaves out those that begin with an underscore."""
    labels = [str(line.get_label()) for line in lines]
    legend = axes.legend(
        lines,
        labels,
        frameon=False,
        borderpad=0,
        handlelength=1.5,
        handletextpad=0.5,
        prop=font(9),
        title_fontproperties=font(9),
        alignment="left",
        labelcolor=INK,
        **place,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_layers(figure: Figure, axes: Axes, epochs: Floats, layers: Mapping[str, Floats]) -> None:
    """Draw one curve per layer, coloured from input to output, with its last value in the legend at the right.

    Layers with equal values share one curve that carries all their names. A legend of more than
    `LEGEND_UP_TO` lines gives way to a colour bar with evenly spread names.
    """
    shared: dict[bytes, list[str]] = {}
    for name, values in layers.items():
        shared.setdefault(values.tobytes(), []).append(name)
    colors = colormaps[DEPTH_COLORS](np.linspace(0, DEPTH_END, len(shared)))
    labels = [_together(names) for names in shared.values()]
    lines = [
        draw_line(axes, epochs, layers[names[0]], color, label=f"{label} ({layers[names[0]][-1]:.3g})")
        for color, label, names in zip(colors, labels, shared.values(), strict=True)
    ]
    if sum(label.count("\n") + 1 for label in labels) <= LEGEND_UP_TO:
        _legend(axes, lines, loc="upper left", bbox_to_anchor=(1, 1), labelspacing=0.6, title=_("Layer (last value)"))
        return
    names = [readable_layer(", ".join(names)) for names in shared.values()]
    depth = ScalarMappable(Normalize(-0.5, len(names) - 0.5), ListedColormap(colors))
    bar = figure.colorbar(depth, ax=axes, pad=0.02, aspect=35)
    step = math.ceil(len(names) / LEGEND_UP_TO)
    bar.set_ticks(range(0, len(names), step), labels=names[::step], parse_math=False)
    bar.ax.invert_yaxis()
    style_bar(bar)


def _together(names: Sequence[str]) -> str:
    """Return up to three names, one per line; of more the first two and how many follow."""
    if len(names) <= 3:
        return "\n".join(map(readable_layer, names))
    return "\n".join([*map(readable_layer, names[:2]), _("and {count} more", count=len(names) - 2)])


def readable_layer(name: str) -> str:
    return shorten(readable(name), 9, LAYER_INCHES)


def style_bar(bar: Colorbar, label: str = "") -> None:
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=9, **TEXT)
    style_ticks(bar.ax)
