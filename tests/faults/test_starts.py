"""Six starts of one experiment at the same moment: one trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults.lives import only_experiment
from tests.faults.starts import SLOW, end_and_follow, start_at_once


def test_one_trains_and_the_others_say_who(write_config: Callable[..., Path], tmp_path: Path) -> None:
    path = write_config(SLOW)
    winner, seconds = start_at_once(path, tmp_path, 6)
    assert max(seconds) < 10
    others = [text for number in range(6) if "already running" in (text := (tmp_path / f"{number}.txt").read_text())]
    assert len(others) == 5
    assert all(f"process {winner.pid} on" in text for text in others)
    assert json.loads((only_experiment(tmp_path / "work_dirs").dir / ".lock").read_text())["pid"] == winner.pid
    winner.wait_for("epoch   1/100")
    end_and_follow(path, winner, tmp_path)
