"""Everything that a reader sees exists in Japanese, with the same fields, and the compiled catalogue is the source's."""

from __future__ import annotations

import string

import pytest

from pochitrain.locale import _, language
from tests.catalogue import PO, catalogue, render, source_strings, translations


def fields(text: str) -> set[str]:
    return {name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name}


def test_every_string_is_translated_with_the_same_fields() -> None:
    words = translations()
    assert not [text for text in source_strings() if not words.get(text)]
    assert not [text for text in source_strings() if fields(text) != fields(words[text])]


def test_the_files_are_what_the_source_makes_them() -> None:
    po, mo = render(catalogue(translations()))
    assert PO.read_bytes() == po, "run: uv run python -m tests.catalogue"
    assert PO.with_suffix(".mo").read_bytes() == mo


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"POCHI_LANG": "ja", "LANG": "en_US.UTF-8"}, "ja"),
        ({"POCHI_LANG": "en", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LC_ALL": "C", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("POCHI_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected
    assert _("images/s") == ("枚/秒" if expected == "ja" else "images/s")
