"""Runs that take milliseconds, made of a config file as the command makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pochitrain.config.loader import load_config
from pochitrain.data.source import load_data
from pochitrain.engine.loop import fit
from pochitrain.engine.run import Run, build_run
from pochitrain.history import TIMING, History

torch.set_num_threads(1)  # at these sizes threads only wait for each other

NET = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6, num_classes)
    def forward(self, images):
        maps = torch.relu(self.bn1(self.conv1(images)))
        return self.fc(torch.relu(self.layer1(maps)).mean((2, 3)))
model = Net
train_transform = val_transform
"""


def run_of(path: Path, **overrides: Any) -> Run:
    config = load_config(path, overrides)
    return build_run(config, load_data(config))


def fitted(path: Path, epochs: int = 2, **overrides: Any) -> tuple[Run, History]:
    run = run_of(path, **overrides)
    return run, fit(run, [], epochs=epochs)


def weights(run: Run) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Compare to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(history: History) -> History:
    return [{name: value for name, value in record.items() if name not in TIMING} for record in history]
