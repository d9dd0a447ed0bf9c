"""`pochi verify-resume` on configs that are reproducible, and on those that are not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain.cli import app, run
from pochitrain.tasks.verify import killed_saves
from tests.faults.lives import RICH

WriteConfig = Callable[..., Path]
Verify = Callable[[Path], tuple[int, str]]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Return a function that calls the command and returns its exit code and what it said."""

    def call(path: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pochi", "verify-resume", "--config", str(path), "--steps", "1"])
        code = run(app)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def table(said: str) -> dict[str, list[str]]:
    """Return training → what the table says of each of its parts."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    return {name: parts for name, *parts in cells if set(parts) & {"equal", "differs"}}


def test_everything_random_and_loading_processes(write_config: WriteConfig, tmp_path: Path, verify: Verify) -> None:
    code, said = verify(write_config(RICH + "num_workers = 2\n"))
    assert code == 0, said
    assert said.splitlines()[-1] == "bit-identical"
    assert table(said) == {
        name: ["equal"] * 4
        for name in (
            "straight", "straight, again", "killed in epoch 1 after step 1", "killed after epoch 1",
            "killed in epoch 2 after step 1",
        )
    }  # fmt: skip
    assert not (tmp_path / "work_dirs").exists()


def test_a_transform_with_a_generator_of_its_own_is_named(
    write_config: WriteConfig, images: Path, verify: Verify
) -> None:
    lines = """
import numpy as np
def noisy(tensor):
    return tensor + float(np.random.default_rng().normal())
train_transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), noisy, lambda t: t * 2])
"""
    code, said = verify(write_config(lines))
    assert code == 6, said
    assert "straight, again, weights: 0.weight: 108 of 108 values differ, at most by" in said
    assert "straight, again, metrics: [0].train_loss: " in said
    assert f"noisy gives other values each time, from a generator that the seed does not reach ({images}" in said
    assert said.splitlines()[-1] == "not bit-identical"


def test_a_counter_outside_the_checkpoint_shows_in_the_resumed_ones(write_config: WriteConfig, verify: Verify) -> None:
    lines = """
class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
    def forward(self, logits, labels):
        self.calls += 1
        return nn.functional.cross_entropy(logits, labels) * self.calls
loss = Loss
"""
    code, said = verify(write_config(lines))
    assert code == 6, said
    assert "Straight trainings are equal, resumed ones are not" in said
    assert table(said)["straight, again"] == ["equal"] * 4
    assert [parts for name, parts in table(said).items() if name.startswith("killed")] == [
        ["differs", "differs", "equal", "differs"],
        ["differs", "differs", "equal", "differs"],
        ["equal", "equal", "equal", "differs"],  # after the last step: only the validation was left
    ]


def test_an_operation_without_a_deterministic_form_is_named(write_config: WriteConfig, verify: Verify) -> None:
    """`put_` warns; the bits of the system's own generator stand for what it might do."""
    lines = """
import os
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, images):
        images = images.clone().put_(torch.tensor([0]), torch.tensor([os.urandom(1)[0] / 255]))
        return self.fc(images.mean((2, 3)))
model = Net
"""
    code, said = verify(write_config(lines))
    assert code == 6, said
    assert "put_ of torch is not deterministic here" in said


def test_a_training_that_fails_says_why(write_config: WriteConfig, verify: Verify) -> None:
    lines = "def loss(logits, labels):\n    return logits.sum() * float('nan' if len(labels) > 2 else 'inf')"
    code, said = verify(write_config(lines))
    assert code == 2, said
    assert "A short training ended with exit code 4" in said
    assert "The loss is no longer finite" in said


def test_a_config_that_is_refused_says_why_and_nothing_is_trained(write_config: WriteConfig, verify: Verify) -> None:
    code, said = verify(write_config("epochs = 'two'"))
    assert code == 2, said
    assert said.startswith("epochs")
    assert "short training" not in said


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 82])
def test_each_kill_meets_another_save(count: int) -> None:
    saves = killed_saves(count)
    assert len(saves) == len(set(saves)) == min(3, count - 1)
    assert all(1 < save <= count for save in saves)
