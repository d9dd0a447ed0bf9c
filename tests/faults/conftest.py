"""One training that nobody disturbs, for all tests that disturb another one like it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.events import write_rich_config
from tests.faults.lives import all_events, left_behind


@dataclass(frozen=True)
class Undisturbed:
    config: Path
    folder: Path
    events: list[str]
    left: dict[str, Any]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return a training with augmentation, dropout, layer-wise rates and a checkpoint per step, and what it left."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_rich_config(folder)
    events = all_events(config, folder)
    return Undisturbed(config, folder, events, left_behind(folder / "counted" / "work_dirs"))
