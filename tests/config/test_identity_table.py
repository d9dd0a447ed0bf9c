"""The identity table: harmless edits keep the id, meaningful ones change it, anywhere and in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pochitrain.config.canonical import difference, digest
from tests.config.identity_table import CHANGE, FILES, KEEP, edited, flat_of, mutants

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _no_byte_code() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    yield
    sys.dont_write_bytecode = before


@pytest.fixture(scope="module")
def base() -> dict[str, str]:
    return flat_of(FILES)


@pytest.mark.parametrize("name", KEEP)
def test_harmless_edit_keeps_the_identity(name: str, base: dict[str, str]) -> None:
    assert edited(KEEP[name]) != FILES
    assert difference(base, flat_of(edited(KEEP[name]))) == []


@pytest.mark.parametrize("name", CHANGE)
def test_meaningful_edit_changes_the_identity_and_is_named(name: str, base: dict[str, str]) -> None:
    flat = flat_of(edited(CHANGE[name]))
    assert digest(flat) != digest(base)
    assert difference(base, flat) != []
    assert difference(flat, base) != []


def test_the_table_is_as_long_as_promised() -> None:
    assert len(KEEP) >= 40
    assert len(CHANGE) >= 60


def test_every_literal_and_operator_of_reached_code_counts(base: dict[str, str]) -> None:
    changed = [
        (line, digest(flat_of({**FILES, file: text})) != digest(base))
        for file, original in FILES.items()
        for line, text in mutants(original)
    ]
    same = {line.strip() for line, moved in changed if not moved}
    assert same == {"UNUSED = 99", "return x * UNUSED", "SPARE = 4", '__slots__ = ("low", "high")'}
    assert len(changed) >= 140


def test_id_is_the_golden_one(base: dict[str, str]) -> None:
    assert digest(base) == "fc12a10afe07d020b5602c09bed1fc38ea24bf3b38e432d14d39dbd2d7ebdba0"


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_id_does_not_depend_on_hash_seed_and_folder(seed: str, base: dict[str, str], tmp_path: Path) -> None:
    program = "from tests.config.identity_table import *; print(digest(flat_of(FILES)))"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout.split() == [digest(base)], run.stderr
