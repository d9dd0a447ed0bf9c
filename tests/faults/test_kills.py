"""SIGKILL, the last word: whatever was being done, the same command goes on and nobody can tell afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.events import kill_and_resume, kill_often
from tests.faults.kills import SLOW as KILLED_SLOWLY
from tests.faults.kills import kill, orphans_leave
from tests.faults.lives import (
    RICH,
    Life,
    command,
    differing,
    left_behind,
    live,
    only_experiment,
    temporaries,
    trained,
)

AT = (  # one of each kind, early and late; `python -m tests.faults.events` tries all of them
    "mkdir model #1",
    "chunk .config.py.tmp #1",
    "rename identity.json #1",
    "create .experiment.json.tmp #1",
    "step (train)  #1",
    "create .epoch-00000-step-0000001.ckpt.tmp #1",
    "chunk .epoch-00000-step-0000002.ckpt.tmp #3",
    "unlink epoch-00000-step-0000001.ckpt #1",
    "step (val)  #1",
    "fsync .epoch-00001-step-0000000.ckpt.tmp #1",
    "rename epoch-00001-step-0000000.ckpt #1",
    "chunk .best.pt.tmp #2",
    "rename best.pt #1",
    "chunk .metrics.csv.tmp #1",
    "rename metrics.csv #2",
    "step (train)  #10",
    "rename epoch-00001-step-0000005.ckpt #1",
    "dirsync checkpoints #13",
    "step (val)  #5",
    "create .gradients.csv.tmp #3",
    "rename last.pt #1",
    "chunk .loss.png.tmp #2",
    "rename experiment.json #2",
)


def test_every_event_of_the_list_happens(undisturbed: Undisturbed) -> None:
    assert set(AT) <= set(undisturbed.events)
    assert len(undisturbed.events) > 300


@pytest.mark.parametrize("event", AT)
def test_killed_at_an_event_and_resumed_is_the_same(undisturbed: Undisturbed, event: str) -> None:
    assert kill_and_resume(undisturbed.config, undisturbed.folder, event) == []


def test_killed_again_and_again_is_the_same(undisturbed: Undisturbed) -> None:
    numbers = random.Random(1)
    for _life in range(2):
        kills, problems = kill_often(undisturbed.config, undisturbed.folder, numbers, most=10)
        assert kills == 10
        assert problems == []


@pytest.mark.parametrize(("moment", "workers"), [("training", 2), ("checkpoint", 0)])
def test_killed_from_outside_is_the_same(
    write_config: Callable[..., Path], tmp_path: Path, moment: str, workers: int
) -> None:
    path = write_config(RICH + KILLED_SLOWLY + f"num_workers = {workers}")
    work_dir, said = tmp_path / "work_dirs", tmp_path / "said.txt"
    life = Life(command("train", "-c", path), said)
    assert kill(life, work_dir, moment, 0.3)
    orphans_leave(life)
    assert temporaries(work_dir) or moment != "checkpoint"
    assert live(command("train", "-c", path), said) == 0, said.read_text()
    assert temporaries(only_experiment(work_dir).dir) == []
    assert live(trained(path, work_dir=str(tmp_path / "straight"), num_workers=0), said) == 0
    assert differing(left_behind(work_dir), left_behind(tmp_path / "straight")) == []
