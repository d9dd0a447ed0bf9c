"""Bring the Japanese catalogue up to date with the source: `uv run python -m tests.catalogue`.

Extracts every `_("…")` of the package, keeps the translations that are there, compiles, and lists what is missing.
"""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

PACKAGE = Path(__file__).parents[1] / "pochitrain"
PO = PACKAGE / "locale" / "ja" / "LC_MESSAGES" / "pochitrain.po"


def source_strings() -> list[str]:
    """Return every translatable string of the package, in the order of files and lines."""
    found = extract_from_dir(str(PACKAGE), keywords={"_": None}, comment_tags=())
    return list(
        dict.fromkeys(str(message) for _file, _line, message, _comments, _context in sorted(found, key=lambda f: f[:2]))
    )


def translations() -> dict[str, str]:
    """Return English → Japanese as the catalogue holds them."""
    if not PO.exists():
        return {}
    with PO.open("rb") as file:
        return {str(m.id): str(m.string) for m in read_po(file, locale="ja") if m.id and m.string}


def catalogue(words: dict[str, str]) -> Catalog:
    fixed = datetime(2026, 1, 1, tzinfo=UTC)  # the header's dates shall not change the files with every call
    made = Catalog(
        locale="ja", project="pochitrain", fuzzy=False, charset="utf-8", creation_date=fixed, revision_date=fixed
    )
    for text in source_strings():
        made.add(text, words.get(text, ""))
    return made


def render(made: Catalog) -> tuple[bytes, bytes]:
    """Return the catalogue as source (.po) and compiled (.mo)."""
    po, mo = io.BytesIO(), io.BytesIO()
    write_po(po, made, omit_header=False, width=0, sort_output=False, no_location=True)
    write_mo(mo, made)
    return po.getvalue(), mo.getvalue()


def main(words: dict[str, str] | None = None) -> int:
    known = {**translations(), **(words or {})}
    po, mo = render(catalogue(known))
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po)
    PO.with_suffix(".mo").write_bytes(mo)
    missing = [text for text in source_strings() if not known.get(text)]
    print("\n".join(missing) or "complete", file=sys.stderr if missing else sys.stdout)
    return len(missing)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
