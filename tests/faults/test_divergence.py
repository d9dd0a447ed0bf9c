"""A loss or weights that are no longer finite, and memory that does not suffice: what is said, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pochitrain.engine.checkpoint import load_weights
from tests.faults.lives import command, left_behind, live, only_experiment, state_at_end

WriteConfig = Callable[..., Path]

# An epoch has six steps, so the ninth call for training is step 3 of epoch 2.
LOSS = """
class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
    def forward(self, logits, labels):
        self.calls += logits.requires_grad
        loss = nn.functional.cross_entropy(logits, labels)
        {spoil}
        return loss
loss = Loss
epochs = 2
checkpoint_every_minutes = 1e-9
"""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite(write_config: WriteConfig, tmp_path: Path, value: str) -> None:
    path = write_config(LOSS.format(spoil=f"if self.calls == 9: loss = loss + float('{value}')"))
    said = tmp_path / "said.txt"
    assert live(command("train", "-c", path), said) == 4, said.read_text()
    assert "The loss is no longer finite\n  where: epoch 2, step 3, learning rate 0.01" in said.read_text()
    assert "Traceback" not in said.read_text()
    experiment = only_experiment(tmp_path / "work_dirs")
    failure = json.loads(experiment.failure_json.read_text())
    assert (failure["epoch"], failure["step"], failure["learning_rate"]) == (2, 3, 0.01)
    assert len(failure["files"]) == 4
    assert all(Path(file).is_file() for file in failure["files"])
    assert json.loads(experiment.experiment_json.read_text())["status"] == "failed"
    assert load_weights(experiment.best_pt)["epoch"] == 1
    assert state_at_end(tmp_path / "work_dirs") == (1, 2)
    assert everything_finite(tmp_path / "work_dirs")
    # The new process counts its calls anew, so the fault has passed: training goes on, nothing is left of the failure.
    assert live(command("train", "-c", path), said) == 0, said.read_text()
    assert state_at_end(tmp_path / "work_dirs") == (2, 0)
    assert not experiment.failure_json.exists()
    assert "failure" not in json.loads(experiment.experiment_json.read_text())


@pytest.mark.parametrize(("call", "step"), [(9, 3), (12, 6)])
def test_weights_that_are_not_finite_after_a_finite_loss(
    write_config: WriteConfig, tmp_path: Path, call: int, step: int
) -> None:
    """The gradient of sqrt at 0 is infinite, and 0 times it is NaN: this loss spoils the weights and looks well."""
    path = write_config(LOSS.format(spoil=f"if self.calls == {call}: loss = loss + 0 * (0 * logits).sqrt().sum()"))
    said = tmp_path / "said.txt"
    assert live(command("train", "-c", path), said) == 4, said.read_text()
    assert f"The weights are no longer finite\n  where: epoch 2, step {step}," in said.read_text()
    experiment = only_experiment(tmp_path / "work_dirs")
    assert json.loads(experiment.failure_json.read_text())["step"] == step
    assert load_weights(experiment.best_pt)["epoch"] == 1
    assert state_at_end(tmp_path / "work_dirs") == (1, step - 1)
    assert everything_finite(tmp_path / "work_dirs")


def everything_finite(work_dir: Path) -> bool:
    left = left_behind(work_dir)
    floats = [
        torch.frombuffer(bytearray(content), dtype=getattr(torch, str(kind).removeprefix("torch.")))
        for kind, shape, content in (value for value in left.values() if isinstance(value, tuple) and len(value) == 3)
        if isinstance(content, bytes) and "float" in str(kind)
    ]
    assert len(floats) > 10
    return all(bool(tensor.isfinite().all()) for tensor in floats)


@pytest.mark.parametrize(
    ("phase", "error"),
    [
        ("self.training", "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')"),
        ("self.training", "torch.empty(1 << 60)"),
        ("not self.training and len(images) > 1", "torch.empty(1 << 60)"),
    ],
)
def test_out_of_memory(write_config: WriteConfig, tmp_path: Path, phase: str, error: str) -> None:
    lines = f"""
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, images):
        if {phase}:
            {error}
        return self.fc(images.mean((2, 3)))
model = Net
"""
    said = tmp_path / "said.txt"
    assert live(command("train", "-c", write_config(lines)), said) == 5, said.read_text()
    assert "The memory of cpu does not hold a batch of 4 images" in said.read_text()
    assert "batch_size = 2" in said.read_text()
    assert "Traceback" not in said.read_text()
