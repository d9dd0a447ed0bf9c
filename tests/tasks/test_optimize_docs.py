"""The page about searching is true: its examples run, in both languages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain import load_config, optimize
from pochitrain.config.search import FIELDS, Optuna
from pochitrain.data.source import load_data
from pochitrain.errors import ConfigError
from pochitrain.tasks.search_space import check_space
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


@pytest.mark.parametrize("page", [ENGLISH, JAPANESE], ids=lambda page: page.name)
def test_what_is_refused_is_said_as_it_stands_there(
    page: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja" if page == JAPANESE else "en")
    rows = re.findall(r"^\| `(\"[^`]+})` \| (.+) \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 10
    data = load_data(load_config(write_config()))
    for spec, what, mend in rows:
        path = write_config(f'optuna = {{"search_space": {{{spec}}}}}')
        with pytest.raises(ConfigError) as error:
            check_space(load_config(path), data)
        assert [(problem.what, problem.mend) for problem in error.value.problems] == [(what, mend)]


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
