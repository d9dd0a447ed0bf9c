"""A disk that is full, a limit that is reached, a folder that cannot be written: before, in and after the training.

The limit of a file's size stands for the full disk: it can be set for one process in mid-run, and lifted again. A real
file system that fills up is in the long form, `full_disk.py`.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain.experiment import read_manifest
from tests.faults.lives import (
    Life,
    command,
    differing,
    left_behind,
    live,
    only_experiment,
    state_at_end,
    temporaries,
    trained,
)

WriteConfig = Callable[..., Path]

SLOW = """
import time
def train_transform(image):
    time.sleep(0.01)
    return transforms.ToTensor()(image)
epochs = 4
"""


def test_a_checkpoint_that_does_not_fit_keeps_the_one_before_and_the_run_goes_on_later(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    path = write_config(SLOW)
    life = Life(command("train", "-c", path), tmp_path / "said.txt")
    life.wait_for("epoch 2/4")
    old = resource.prlimit(life.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (5000, old[1]))
    assert life.end() == 74, life.said
    assert "The file is larger than this process or this file system allows" in life.said
    assert "Traceback" not in life.said
    epoch, step = state_at_end(tmp_path / "work_dirs")
    assert epoch >= 1
    assert step == 0
    manifest = read_manifest(only_experiment(tmp_path / "work_dirs"))
    assert (manifest["status"], manifest["epochs_finished"]) == ("failed", epoch)
    assert live(command("train", "-c", path), life.output) == 0, life.said
    assert temporaries(tmp_path) == []
    assert live(trained(path, work_dir=str(tmp_path / "straight")), life.output) == 0
    assert differing(left_behind(tmp_path / "work_dirs"), left_behind(tmp_path / "straight")) == []


def test_pictures_that_do_not_fit_are_a_warning(write_config: WriteConfig, tmp_path: Path) -> None:
    """Pictures are larger than this checkpoint."""
    path = write_config()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))
        command("train", "-c", path)()

    life = Life(limited, tmp_path / "said.txt")
    assert life.end() == 0, life.said
    assert life.said.count("warning: Not every picture could be drawn: The file is larger") == 1
    assert state_at_end(tmp_path / "work_dirs") == (2, 0)
    assert temporaries(tmp_path) == []


def test_tables_and_pictures_that_cannot_be_written_are_a_warning(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config(SLOW)
    life = Life(command("train", "-c", path), tmp_path / "said.txt")
    life.wait_for("epoch 1/4")
    experiment = only_experiment(tmp_path / "work_dirs")
    experiment.plots_dir.write_text("in the way")
    life.wait_until(experiment.metrics_csv.is_file)
    experiment.metrics_csv.unlink()
    experiment.metrics_csv.mkdir()
    assert life.end() == 0, life.said
    assert life.said.count("warning: The metrics cannot be written") == 1
    assert life.said.count("warning: Not every picture could be drawn: A file is in the place of a folder") == 1
    experiment.metrics_csv.rmdir()
    experiment.plots_dir.unlink()
    assert live(command("train", "-c", path, "--epochs", 5), life.output) == 0
    assert len(experiment.metrics_csv.read_text().splitlines()) == 6  # all rows are there again


@pytest.mark.parametrize("work_dir", ["file", "file/inside", "/proc/nowhere", "locked"])
def test_an_unusable_work_dir_is_refused_before_data_is_read(
    write_config: WriteConfig, tmp_path: Path, work_dir: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o500)
    if work_dir == "locked" and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("root may write everywhere")
    path = write_config(f"train_data_root = 'nowhere'\nwork_dir = {str(tmp_path / work_dir)!r}")
    said = tmp_path / "said.txt"
    assert live(command("train", "-c", path), said) == 74, said.read_text()
    assert str(tmp_path / work_dir) in said.read_text()
    assert len(said.read_text().splitlines()) == 3  # what, where, mend
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "locked", "said.txt", "tiny_config.py"]
