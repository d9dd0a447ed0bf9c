"""What may change between two lives of a training, and what then changes: nothing, or the experiment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import make_images
from tests.faults.conftest import Undisturbed
from tests.faults.lives import (
    Life,
    command,
    differing,
    left_behind,
    live,
    only_experiment,
    state_at_end,
    trained,
)

WriteConfig = Callable[..., Path]

MIDDLE = "rename epoch-00001-step-0000002.ckpt #1"


def begun(undisturbed: Undisturbed, tmp_path: Path, **overrides: Any) -> Path:
    """Return a work_dir with the training of `undisturbed`, killed in the middle of its second epoch."""
    work_dir = tmp_path / "work_dirs"
    work = trained(undisturbed.config, work_dir=str(work_dir), **overrides)
    assert live(work, tmp_path / "begun.txt", at=MIDDLE) == -9
    assert state_at_end(work_dir) == (1, 2)
    return work_dir


# ------------------------------------------------------------------------------------------------ the same experiment


@pytest.mark.parametrize(("first", "then"), [(3, 6), (2, 4)])
def test_more_epochs_continue_a_finished_run(undisturbed: Undisturbed, tmp_path: Path, first: int, then: int) -> None:
    said = tmp_path / "said.txt"
    for epochs, folder in ((first, "grown"), (then, "grown"), (then, "straight")):
        work = trained(undisturbed.config, epochs=epochs, work_dir=str(tmp_path / folder))
        assert live(work, said) == 0, said.read_text()
    assert state_at_end(tmp_path / "grown") == (then, 0)
    assert differing(left_behind(tmp_path / "grown"), left_behind(tmp_path / "straight")) == []


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"num_workers": 0}, {"num_workers": 2}),
        ({"num_workers": 2}, {"num_workers": 0}),
        ({"num_workers": 0}, {"num_workers": 4}),
        ({"cache": "off"}, {"cache": "disk"}),
        ({"cache": "disk"}, {"cache": "memory"}),
    ],
)
def test_other_ways_to_load_the_images(
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, Any],
    then: dict[str, Any],
) -> None:
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path / "cache"))
    work_dir, said = begun(undisturbed, tmp_path, **first), tmp_path / "said.txt"
    assert live(trained(undisturbed.config, work_dir=str(work_dir), **then), said) == 0, said.read_text()
    assert differing(left_behind(work_dir), undisturbed.left) == []


def test_moved_folders_of_experiment_and_data(undisturbed: Undisturbed, tmp_path: Path) -> None:
    work_dir, said = begun(undisturbed, tmp_path), tmp_path / "said.txt"
    moved = work_dir.rename(tmp_path / "elsewhere")
    data = tmp_path / "data"
    for split in ("train", "val"):
        shutil.copytree(undisturbed.folder / split, data / split)
    roots = {f"{split}_data_root": str(data / split) for split in ("train", "val")}
    assert live(trained(undisturbed.config, work_dir=str(moved), **roots), said) == 0, said.read_text()
    assert "Continues after epoch 1, step 2 of the next" in said.read_text()
    assert differing(left_behind(moved), undisturbed.left) == []


def test_a_clock_that_is_set_back_and_files_of_the_future(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The day before, a year ahead: progress is in the names, and the time is nothing but said."""
    work_dir, said = begun(undisturbed, tmp_path), tmp_path / "said.txt"
    experiment = only_experiment(work_dir)
    for age, path in enumerate(sorted(experiment.checkpoints_dir.iterdir())):
        os.utime(path, (4_000_000_000 - age * 86_400,) * 2)
    manifest = json.loads(experiment.experiment_json.read_text())
    experiment.experiment_json.write_text(
        json.dumps(manifest | {"created": "2099-01-01T00:00:00+0000", "updated": "?"})
    )
    config = tmp_path / "tiny_config.py"
    clock = "import itertools, time\n_back = itertools.count(0, -86_400)\ntime.time = lambda: 1e9 + next(_back)\n"
    config.write_text(undisturbed.config.read_text() + clock)
    assert live(trained(config, work_dir=str(work_dir)), said) == 0, said.read_text()
    assert differing(left_behind(work_dir), undisturbed.left) == []


def test_another_environment_is_told_once_and_refused_when_asked(undisturbed: Undisturbed, tmp_path: Path) -> None:
    work_dir, said = begun(undisturbed, tmp_path), tmp_path / "said.txt"
    experiment = only_experiment(work_dir)
    manifest = json.loads(experiment.experiment_json.read_text())
    manifest["environment"] |= {"torch": "2.1.0", "pillow": "9.0", "commit": "0" * 40, "pochitrain": "0.0.1"}
    manifest["resolved"] |= {"device": "cuda", "channels_last": False}
    experiment.experiment_json.write_text(json.dumps(manifest))
    arguments = ["train", "-c", undisturbed.config, "--set", f"work_dir={str(work_dir)!r}"]
    assert live(command(*arguments, "--strict-env"), said) == 2
    assert "torch 2.1.0 → " in said.read_text()
    assert json.loads(experiment.experiment_json.read_text()) == manifest
    assert state_at_end(work_dir) == (1, 2)
    said.unlink()
    assert live(command(*arguments), said) == 0, said.read_text()
    warning = next(line for line in said.read_text().splitlines() if line.startswith("warning"))
    assert said.read_text().count("warning") == 1
    assert warning.count(" → ") == 4  # neither the commit nor our own version says anything about rounding
    assert all(f"{name} " in warning for name in ("torch", "pillow", "device", "channels_last"))
    said.unlink()
    assert live(command(*arguments, "--epochs", 4), said) == 0, said.read_text()
    assert "warning" not in said.read_text()


def test_damaged_checkpoints_are_named_and_never_a_silent_new_beginning(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    work_dir, said = begun(undisturbed, tmp_path), tmp_path / "said.txt"
    arguments = ["train", "-c", undisturbed.config, "--set", f"work_dir={str(work_dir)!r}"]
    *_older, newest = sorted(only_experiment(work_dir).checkpoints_dir.glob("*.ckpt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert live(command(*arguments), said) == 0, said.read_text()
    assert f"The checkpoint {newest} is damaged; the one before it is used" in said.read_text()
    assert "Continues after epoch 1, step 1 of the next" in said.read_text()
    assert differing(left_behind(work_dir), undisturbed.left) == []
    names = sorted(only_experiment(work_dir).checkpoints_dir.glob("*.ckpt"))
    for path in names:
        path.write_bytes(path.read_bytes()[:-1])
    assert live(command(*arguments), said) == 3, said.read_text()
    assert f"Every checkpoint is damaged: {names[1].name}, {names[0].name}" in said.read_text()
    assert "--restart" in said.read_text()
    assert sorted(only_experiment(work_dir).checkpoints_dir.glob("*.ckpt")) == names
    assert live(command(*arguments, "--restart"), said) == 0, said.read_text()
    assert differing(left_behind(work_dir), undisturbed.left) == []


# --------------------------------------------------------------------------------------------- the config in the meantime

WATCHED = """
import time
from helper import pixels
def train_transform(image):
    time.sleep(0.01)
    return pixels(image)
epochs = 3
"""
HELPER = """
from torchvision import transforms
def pixels(image):
    return transforms.ToTensor()(image) * {factor}
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_editing_and_deleting_the_config_does_not_reach_a_run(
    write_config: WriteConfig, tmp_path: Path, workers: int
) -> None:
    helper, straight = tmp_path / "helper.py", tmp_path / "straight.txt"
    helper.write_text(HELPER.format(factor=1.0))
    path = write_config(WATCHED)
    text = path.read_text()
    assert live(trained(path, work_dir=str(tmp_path / "straight")), straight) == 0, straight.read_text()
    life = Life(command("train", "-c", path, "--set", f"num_workers={workers}"), tmp_path / "said.txt")
    life.wait_for("epoch 1/3")
    path.unlink()
    helper.write_text(HELPER.format(factor=0.5))
    assert life.end() == 0, life.said
    experiment = only_experiment(tmp_path / "work_dirs")
    assert experiment.config_py.read_text() == text
    assert differing(left_behind(tmp_path / "work_dirs"), left_behind(tmp_path / "straight")) == []
    path.write_text(text)
    new = tmp_path / "new.txt"
    assert live(command("train", "-c", path), new) == 0, new.read_text()
    assert "new because code of pixels changed" in new.read_text()
    assert f"(nearest: {experiment.dir.name})" in new.read_text()
    assert len(list(experiment.dir.parent.glob("*"))) == 2


# -------------------------------------------------------------------------------------------------- another experiment


def test_changed_data_is_a_new_experiment_that_counts_the_changes(write_config: WriteConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_images(data / "train", {"ant": 10, "bee": 7, "cat": 6})
    make_images(data / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
    path, said = write_config(data=data), tmp_path / "said.txt"
    assert live(command("train", "-c", path), said) == 0, said.read_text()
    first = only_experiment(tmp_path / "work_dirs").dir
    for name in ("one.png", "two.png", "three.png"):
        Image.new("RGB", (8, 8), "red").save(data / "train" / "bee" / name)
    (data / "train" / "ant" / "004.png").unlink()
    for name in ("005.png", "006.png"):
        Image.new("RGB", (8, 8), "blue").save(data / "train" / "ant" / name)
    new = tmp_path / "new.txt"
    assert live(command("train", "-c", path), new) == 0, new.read_text()
    assert f"new because data.train +3 −1 ~2 files (nearest: {first.name})" in new.read_text()
    assert len(list(first.parent.glob("*"))) == 2
