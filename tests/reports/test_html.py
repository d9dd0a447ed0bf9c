"""A page holds everything that it needs, and nothing that somebody wrote into a name is read as HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from pochitrain.reports.html import Cell, Column, details, name, page, picture, script_json, section, table, visible

EVIL = """</script><script>alert(1)</script> " onerror="alert(2)" ' <b>&amp; 良品🦊\nzwei"""


class Parsed(HTMLParser):
    """What a browser would find: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


def test_names_are_text_wherever_they_stand() -> None:
    rows = [[EVIL, Cell(name(EVIL), EVIL)]]
    body = section(EVIL, table([Column(EVIL), Column("b", number=True)], rows, sortable=True), details(EVIL), note=EVIL)
    found = Parsed(page(EVIL, [body, picture(b"\xff\xd8", EVIL)], data={EVIL: [EVIL]}))
    assert {tag for tag, _attributes in found.tags} == {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "main", "section", "h2", "p", "div"),
        *("table", "thead", "tbody", "tr", "th", "td", "button", "details", "summary", "img", "script"),
    }
    assert not any(key.startswith("on") for _tag, attributes in found.tags for key in attributes)
    assert found.named("img")[0]["alt"] == visible(EVIL)
    assert found.named("td")[1]["data-key"] == visible(EVIL)
    assert json.loads(found.scripts[0]) == {EVIL: [EVIL]}
    assert found.text.count("alert(1)") >= 6
    assert len(found.scripts) == 2


def test_a_page_needs_nothing_but_itself_and_runs_nothing_but_its_scripts() -> None:
    text = page("title", [], data={"charts": {}}, charts=True)
    found = Parsed(text)
    assert not found.named("link")
    assert not any("src" in attributes for attributes in found.named("script"))
    policy = next(str(each["content"]) for each in found.named("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; form-action 'none'; base-uri 'none'; img-src data: blob:; ")
    digests = re.findall(r"'sha256-([^']+)'", policy)
    code = found.scripts[1:]
    assert digests == [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in code]
    assert "plotly.js v" in code[0][:200]
    assert text == page("title", [], data={"charts": {}}, charts=True), "the same page, to the byte"


def test_a_page_without_charts_is_light() -> None:
    assert len(page("title", [section("a", "<p>b</p>")])) < 20_000


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_page_says_its_language(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", language)
    assert Parsed(page("title", [])).named("html") == [{"lang": language}]


def test_what_cannot_be_shown_is_spelled_and_the_rest_stands_as_it_is() -> None:
    assert visible("a\nb\udcff\x1b") == r"a\nb\udcff\x1b"
    assert visible("全角　空白 👩‍👩‍👧 é") == "全角　空白 👩‍👩‍👧 é"


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert json.loads(script_json({"a": (float("nan"), float("inf"), 1.5), "b": {"c": "<"}})) == {
        "a": [None, None, 1.5],
        "b": {"c": "<"},
    }
