"""One self-contained HTML page: its frame, its tables, what it carries. It works offline, opened from the file system.

Every text that comes from outside (class names, paths, settings) passes through `escape` or `name`, or travels as data
that the page's scripts show as text. A policy in the page's head forbids every connection and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pochitrain.durable import finite
from pochitrain.locale import language

_STATIC = files("pochitrain.reports") / "static"
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no UTF-8, separators of lines and paragraphs


@dataclass(frozen=True)
class Column:
    """A column of a table; `number` puts its cells to the right and makes the first click show the largest."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows, as HTML, and the number or text that it is sorted by."""

    html: str
    key: float | str


def page(
    title: str,
    sections: Iterable[str],
    *,
    header: str = "",
    data: Mapping[str, Any] | None = None,
    scripts: Sequence[str] = (),
    charts: bool | str = False,
) -> str:
    """Return a whole page. Its bytes depend on the arguments and the language alone.

    Args:
        sections: HTML, made by `section`.
        header: HTML below the title.
        data: what the scripts read, JSON values; `charts` in it (id → Plotly figure) are drawn into `chart(id)`.
        scripts: names of files in `static/`, run in this order after `page.js`.
        charts: whether the page carries plotly.js, 4.8 MB; or the name of the file beside it that several pages share.
    """
    sources = [_static("page.js"), *(_static(name) for name in scripts)]
    shared = f'<script src="{escape(charts)}"></script>' if isinstance(charts, str) else ""
    if charts and not shared:
        sources.insert(0, plotly_js())
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="{language()}">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(sources, beside=bool(shared))}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{name(title)}</title>",
            f"<style>{_static('page.css')}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{name(title)}</h1>{header}</header>",
            "<main>",
            *sections,
            "</main>",
            f'<script type="application/json" id="data">{script_json(data or {})}</script>',
            shared,
            *(f"<script>{source}</script>" for source in sources),
            "</body>",
            "</html>",
            "",
        ]
    )


def plotly_js() -> str:
    """Return the library that draws the charts."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a section with a heading; `note` is a plain sentence below it."""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{''.join(parts)}</section>"


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], *, sortable: bool = False) -> str:
    """Return a table; a cell that is a plain string is shown as it stands, as text."""
    head = "".join(_heading(column, sortable) for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(cell, column) for cell, column in zip(row, columns, strict=True))}</tr>" for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title: str, *parts: str) -> str:
    """Return what is shown when the reader asks for it."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def chart(key: str) -> str:
    """Return the place where the figure `data["charts"][key]` is drawn."""
    return f'<div class="chart" id="{escape(key)}"></div>'


def picture(jpeg_or_webp: bytes, alt: str) -> str:
    """Return an embedded picture."""
    return f'<img src="{data_uri(jpeg_or_webp)}" alt="{name(alt)}" loading="lazy">'


def data_uri(picture: bytes) -> str:
    kind = "webp" if picture[:4] == b"RIFF" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def escape(text: object) -> str:
    """Return text for the inside of an element or of a quoted attribute; line breaks stay."""
    return html.escape(str(text))


def visible(text: str) -> str:
    r"""Return one line of text: control characters and bytes that are no UTF-8 are spelled (`\n`, `\udcff`)."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _ESCAPED else letter
        for letter in text
    )


def name(text: object) -> str:
    """Return the name of a class or file on one line, escaped."""
    return escape(visible(str(text)))


def script_json(value: Any) -> str:
    """Return JSON that can stand inside <script>: no `<`, so that nothing in it ends the element; NaN becomes null."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _heading(column: Column, sortable: bool) -> str:
    kind = ' class="number"' if column.number else ""
    title = f'<button type="button">{escape(column.title)}</button>' if sortable else escape(column.title)
    return f'<th scope="col"{kind}>{title}</th>'


def _cell(cell: Cell | str, column: Column) -> str:
    kind = ' class="number"' if column.number else ""
    if isinstance(cell, str):
        return f"<td{kind}>{escape(cell)}</td>"
    return f'<td{kind} data-key="{name(cell.key)}">{cell.html}</td>'


def _policy(sources: Sequence[str], beside: bool) -> str:
    """Return the page's Content Security Policy: pictures inside the page, these scripts, and nothing else.

    Args:
        beside: a script may also come from a file beside the page.
    """
    digests = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources)
    allowed = " ".join([*(f"'sha256-{digest}'" for digest in digests), *(["'self'", "file:"] if beside else [])])
    return (
        "default-src 'none'; form-action 'none'; base-uri 'none'; "
        f"img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"
    )


def _static(file: str) -> str:
    return (_STATIC / file).read_text(encoding="utf-8").strip()
