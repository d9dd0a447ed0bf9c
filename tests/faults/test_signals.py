"""Ctrl+C, SIGTERM, SIGHUP, a stopped process and a closed terminal, at the worst moments."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.kills import orphans_leave
from tests.faults.lives import (
    Life,
    command,
    differing,
    left_behind,
    live,
    relatives,
    state_at_end,
    temporaries,
    trained,
)

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


def start(path: Path, tmp_path: Path) -> Life:
    return Life(command("train", "-c", path), tmp_path / "said.txt")


def stopped_well(life: Life, code: int) -> None:
    assert life.end(60) == code, life.said
    assert "Traceback" not in life.said, life.said
    assert "and saved" in life.said
    assert orphans_leave(life) < 2


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


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ("create .identity.json.tmp #1", 130),  # nothing has been trained, and nothing is said
        ("chunk .epoch-00000-step-0000002.ckpt.tmp #2", 130),
        ("step (val)  #2", 130),
        ("rename epoch-00001-step-0000000.ckpt #1", 130),
        ("step (train)  #18", 130),
        ("chunk .last.pt.tmp #1", 0),  # everything has been trained: it waits for the last files
        ("chunk .accuracy.png.tmp #1", 0),
    ],
)
def test_ctrl_c_at_an_event(undisturbed: Undisturbed, tmp_path: Path, event: str, code: int) -> None:
    """In a checkpoint, in the validation, while the folder is made, while pictures are drawn."""
    assert event in undisturbed.events
    work_dir, said = tmp_path / "work_dirs", tmp_path / "said.txt"
    work = command("train", "-c", undisturbed.config, "--set", f"work_dir={str(work_dir)!r}")
    assert live(work, said, at=event, signals=[signal.SIGINT]) == code, said.read_text()
    assert "Traceback" not in said.read_text()
    assert live(work, said) == 0, said.read_text()
    assert differing(left_behind(work_dir), undisturbed.left) == []


def test_twice_in_a_checkpoint_leaves_at_once_and_the_one_before_is_good(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    work_dir, said = tmp_path / "work_dirs", tmp_path / "said.txt"
    work = command("train", "-c", undisturbed.config, "--set", f"work_dir={str(work_dir)!r}")
    event = "chunk .epoch-00001-step-0000003.ckpt.tmp #2"
    assert live(work, said, at=event, signals=[signal.SIGINT, signal.SIGINT]) == 130
    assert "saved" not in said.read_text()
    assert state_at_end(work_dir) == (1, 2)
    assert live(work, said) == 0
    assert temporaries(work_dir) == []
    assert differing(left_behind(work_dir), undisturbed.left) == []


def test_ctrl_c_while_spawned_loading_processes_start(write_config: WriteConfig, tmp_path: Path) -> None:
    """They take seconds to import torch, and must not die of a Ctrl+C that is meant for the training."""
    path = write_config("torch.multiprocessing.set_start_method('spawn', force=True)\nnum_workers = 1\n")
    life = start(path, tmp_path)
    life.wait_until(lambda: any("spawn_main" in relative for relative in relatives(life.pid)))
    os.killpg(life.pid, signal.SIGINT)
    stopped_well(life, 130)
    assert state_at_end(tmp_path / "work_dirs") == (0, 1)


def test_twice_while_loading_processes_hang_leaves_none_of_them(write_config: WriteConfig, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    lines = f"""
import time
from pathlib import Path
from torch.utils.data import get_worker_info
class Hangs:
    def __call__(self, image):
        if get_worker_info() is not None:
            Path({str(hanging)!r}).touch()
            time.sleep(60)
        return transforms.ToTensor()(image)
train_transform = Hangs()
num_workers = 2
"""
    life = start(write_config(lines), tmp_path)
    life.wait_until(hanging.exists)
    os.killpg(life.pid, signal.SIGINT)
    time.sleep(0.1)
    assert life.running, life.said  # it waits for the step to end
    os.killpg(life.pid, signal.SIGINT)
    assert life.end(2) == 130, life.said
    assert orphans_leave(life) < 2
    assert "Traceback" not in life.said, life.said


def test_a_stopped_process_goes_on(write_config: WriteConfig, tmp_path: Path) -> None:
    """Ctrl+Z and `fg`: a pause longer than `worker_timeout_seconds` is no silence of the loading processes."""
    path = write_config(SLOW.format(seconds=0.03, split="train") + "num_workers = 2\nworker_timeout_seconds = 2\n")
    life = start(path, tmp_path)
    life.wait_for("epoch 1/3")
    os.killpg(life.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.killpg(life.pid, signal.SIGCONT)
    assert life.end() == 0, life.said
    resumes_like_straight(path, tmp_path)
