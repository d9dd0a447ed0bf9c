"""The page about searching is true: its examples run, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pochitrain import load_config, optimize
from pochitrain.config.search import FIELDS, Optuna
from tests.test_docs import FENCE, Example, examples, tiny

DOCS = Path(__file__).parents[2] / "docs"
ENGLISH, JAPANESE = DOCS / "optimize.md", DOCS / "optimize.ja.md"


@pytest.mark.parametrize("example", examples(ENGLISH), ids=str)
def test_example_runs(example: Example, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_config.py"
    path.write_text(tiny(example.code), encoding="utf-8")
    found = optimize(load_config(path))
    assert found.best is not None
    assert len(found.rows) == load_config(path).optuna.n_trials


def test_both_languages_hold_the_same_blocks_and_sections() -> None:
    texts = [page.read_text(encoding="utf-8") for page in (ENGLISH, JAPANESE)]
    english, japanese = ([block.group() for block in FENCE.finditer(text)] for text in texts)
    assert english == japanese
    assert len({len(re.findall(r"^#+ ", text, re.MULTILINE)) for text in texts}) == 1


@pytest.mark.parametrize("page", [ENGLISH, JAPANESE], ids=lambda page: page.name)
def test_every_method_and_type_is_listed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    schema = Optuna.model_json_schema()["properties"]
    names = [*schema["sampler"]["enum"], *schema["pruner"]["anyOf"][0]["enum"], *FIELDS]
    assert [name for name in names if f"`{name}`" not in text] == []
