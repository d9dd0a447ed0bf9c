"""What a user reads, in English or Japanese. Source strings are English; `ja/LC_MESSAGES` holds the catalogue."""

from __future__ import annotations

import gettext
import os
from functools import lru_cache
from pathlib import Path
from typing import Any


def language() -> str:
    """Return "ja" or "en": `POCHI_LANG` decides, else the locale variables in POSIX order."""
    for variable in ("POCHI_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(variable):
            return "ja" if value.lower().startswith("ja") else "en"
    return "en"


@lru_cache
def _catalogue(code: str) -> gettext.NullTranslations:
    return gettext.translation("pochitrain", Path(__file__).parent, languages=[code], fallback=True)


def _(message: str, /, **values: Any) -> str:
    """Return `message` in the reader's language with `{name}` fields filled from `values` (`str.format`)."""
    text = _catalogue(language()).gettext(message)
    return text.format(**values) if values else text
