"""Ctrl+C, SIGTERM, SIGHUP, a stopped process and a closed terminal, at the worst moments."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.lives import Life, command, differing, left_behind, only_experiment, relatives, state_at_end, trained

WriteConfig = Callable[..., Path]

SLOW = """
import time
class Slow:
    def __call__(self, image):
        time.sleep({seconds})
        return transforms.ToTensor()(image)
{split}_transform = Slow()
epochs = 3
"""
SPAWN = "torch.multiprocessing.set_start_method('{method}', force=True)\nnum_workers = 2\n"


def start(path: Path, tmp_path: Path) -> Life:
    return Life(command("train", "-c", path), tmp_path / "said.txt")


def stopped_well(life: Life, code: int) -> None:
    assert life.end(20) == code, life.said
    assert "Traceback" not in life.said, life.said
    assert "and saved" in life.said
    assert relatives(life.pid) == []


def resumes_like_straight(path: Path, tmp_path: Path) -> None:
    straight = Life(trained(path, work_dir=str(tmp_path / "straight")), tmp_path / "straight.txt")
    again = start(path, tmp_path)
    assert (again.end(), straight.end()) == (0, 0), again.said
    assert differing(left_behind(tmp_path / "work_dirs"), left_behind(tmp_path / "straight")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_saves(write_config: WriteConfig, tmp_path: Path, number: signal.Signals) -> None:
    """A terminal sends Ctrl+C and its own end to the loading processes, too; a service manager sends SIGTERM so."""
    path = write_config(SLOW.format(seconds=0.03, split="train") + "num_workers = 2\n")
    life = start(path, tmp_path)
    life.wait_for("epoch 1/3")
    time.sleep(0.1)
    os.killpg(life.pid, number)
    stopped_well(life, 130 if number == signal.SIGINT else 143)
    epoch, step = state_at_end(tmp_path / "work_dirs")
    assert epoch == 1
    assert step > 0
    resumes_like_straight(path, tmp_path)
