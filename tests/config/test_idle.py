"""A setting that was given and cannot take effect is told; one that is kept for later is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pochitrain.config.idle import idle_settings
from pochitrain.config.loader import load_config

SHIPPED = Path(__file__).parents[2] / "configs" / "pochi_train_config.py"
START = "t = lambda image: image\ntrain_data_root = 'x'\ntrain_transform = val_transform = t\n"


def told(tmp_path: Path, text: str, base: str = "", **overrides: Any) -> list[str]:
    (tmp_path / "base_config.py").write_text(START + base)
    path = tmp_path / "config.py"
    path.write_text("from base_config import *\n" + text)
    return idle_settings(load_config(path, overrides))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scheduler_params = {'gamma': 0.5}", ["scheduler_params has no effect: scheduler is None"]),
        (
            "layer_wise_lr_config = {'layer_rates': {'fc': 0.1}}",
            ["layer_wise_lr_config.layer_rates has no effect: enable_layer_wise_lr is False"],
        ),
        (
            "early_stopping = {'patience': 3, 'monitor': 'val_loss'}",
            ["early_stopping.patience has no effect: early_stopping.enabled is False"],
        ),
        (
            "gradient_tracking_config = {'group_by_block': False}",
            ["gradient_tracking_config.group_by_block has no effect: enable_gradient_tracking is False"],
        ),
        ("val_data_root = 'v'\nval_fraction = 0.3", ["val_fraction has no effect: val_data_root is 'v'"]),
        ("group_by = 'part'", ["group_by has no effect: val_data_root is None"]),
        ("val_data_root = 'auto'\nval_fraction = 0.3\ngroup_by = None", []),
        (
            "def loss(logits, labels): pass\nclass_weights = [1, 2]",
            ["class_weights has no effect: loss does not name it"],
        ),
        ("def loss(logits, labels, weight): pass\nclass_weights = [1, 2]", []),
        (
            "import torch\nloss = torch.nn.CrossEntropyLoss()\nclass_weights = [1, 2]",
            ["class_weights has no effect: CrossEntropyLoss does not name it"],
        ),
        ("import torch\nloss = torch.nn.CrossEntropyLoss\nclass_weights = [1, 2]", []),
        (
            "def optimizer(params, lr): pass\noptimizer_params = {'lr': 1, 'momentum': 0.9}",
            ["optimizer_params.momentum has no effect: optimizer does not name it"],
        ),
        ("def optimizer(params, **more): pass\noptimizer_params = {'momentum': 0.9}", []),
        ("def optimizer(params, optimizer_params): pass\noptimizer_params = {'momentum': 0.9}", []),
        (
            "def train_epoch(run, epoch): pass\ncheckpoint_every_minutes = 3",
            ["checkpoint_every_minutes has no effect: train_epoch is train_epoch"],
        ),
        ("def model(num_classes, pretrained): pass\npretrained = False", []),
    ],
)
def test_a_setting_without_effect_is_told(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert told(tmp_path, text) == expected


def test_what_is_kept_beside_its_switch_is_meant_so(tmp_path: Path) -> None:
    text = "scheduler = None\nscheduler_params = {'gamma': 0.5}\nearly_stopping = {'enabled': False, 'patience': 3}"
    assert told(tmp_path, text) == []
    assert told(tmp_path, "", text) == []
    assert told(tmp_path, "scheduler = 'ExponentialLR'\nscheduler_params = {'gamma': 0.5}", scheduler=None) == []
    assert idle_settings(load_config(SHIPPED)) == []


def test_what_is_given_nearer_than_its_switch_is_told(tmp_path: Path) -> None:
    off = "scheduler = None\nmodel_name = 'resnet18'\nenable_layer_wise_lr = False\ndef model(num_classes): pass\n"
    assert told(tmp_path, "scheduler_params = {'gamma': 0.5}", off) == [
        "scheduler_params has no effect: scheduler is None"
    ]
    assert told(tmp_path, off, model_name="resnet50") == ["model_name has no effect: model is model"]
    assert told(tmp_path, off, scheduler_gamma=0.5) == ["scheduler_params has no effect: scheduler is None"]
    given = {"layer_wise_lr_config.layer_rates.fc": 0.1}
    assert told(tmp_path, off, **given) == [
        "layer_wise_lr_config.layer_rates has no effect: enable_layer_wise_lr is False"
    ]
