"""Every example of the config guide trains when it is pasted into the shipped config, or is refused in its words."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pochitrain import PochiError, train
from pochitrain.config.describe import plain_value
from pochitrain.config.idle import idle_settings
from pochitrain.config.schema import Config
from tests.guide_examples import REFUSED, SHIPPED, TRAINS, load_example, train_example


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all examples train: the digits of the shipped config are written once."""
    return tmp_path_factory.mktemp("guide")


@pytest.mark.parametrize("title", TRAINS)
def test_example_trains(title: str, folder: Path) -> None:
    config = load_example(TRAINS[title], folder)
    for name, value in written(TRAINS[title], config).items():
        assert_holds(plain_value(getattr(config, name)), plain_value(value))
    assert idle_settings(config) == []
    record = train_example(config)
    assert math.isfinite(record["train_loss"])
    assert math.isfinite(record["val_accuracy"])
    assert record["learning_rate"] == config.learning_rate
    if config.enable_layer_wise_lr:
        rates = config.origin.namespace["layer_wise_lr_config"]["layer_rates"]
        assert {pattern: record[f"lr_{pattern}"] for pattern in rates} == rates


def test_what_the_examples_draw(folder: Path) -> None:
    titles = (
        "層別学習率 / スケジューラーとの併用例 (1)",
        "勾配トレース設定 / 基本設定",
        "混同行列設定 / 日本語表示の例",
    )
    experiment, _history, _metric = train(load_example("".join(TRAINS[title] for title in titles), folder))
    with experiment.gradients_csv.open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["epoch", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    assert {path.stem for path in experiment.plots_dir.iterdir()} == {
        "loss",
        "accuracy",
        "layer_wise_lr",
        "gradients_timeline",
        "gradients_heatmap",
        "confusion_matrix",
    }
    shutil.rmtree(folder / "work_dirs")


@pytest.mark.parametrize("title", REFUSED)
def test_mistake_is_refused_in_the_words_of_the_guide(
    title: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, message = REFUSED[title]
    monkeypatch.setenv("POCHI_LANG", "ja")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the guide shows a ValueError
        train_example(load_example(code, folder))
    assert isinstance(caught.value, PochiError)
    assert str(caught.value).splitlines()[0] == message


def test_mean_and_std_of_an_example_reach_the_transforms(folder: Path) -> None:
    config = load_example(TRAINS["カスタム正規化 / 医用画像用"], folder)
    for transform in (config.train_transform, config.val_transform):
        assert transform.transforms[-1].mean == [0.485, 0.485, 0.485]


# The tables of the guide: (setting, default) and (setting, choices).
DEFAULTS = {
    "enable_metrics_export": True,
    "work_dir": "work_dirs",
    "device": None,
    "cudnn_benchmark": False,
    "early_stopping": {"enabled": False, "patience": 30, "min_delta": 3.0, "monitor": "val_accuracy"},
    "enable_gradient_tracking": False,
    "gradient_tracking_config": {
        "record_frequency": 1,
        "exclude_patterns": ["fc\\.", "\\.bias"],
        "group_by_block": True,
        "aggregation_method": "median",
    },
    "confusion_matrix_config": {
        "title": "Confusion Matrix",
        "xlabel": "Predicted Label",
        "ylabel": "True Label",
        "fontsize": 14,
        "title_fontsize": 16,
        "label_fontsize": 12,
        "figsize": [8, 6],
        "cmap": "Blues",
    },
    "optuna": {
        "study_name": "pochitrain_optimization",
        "direction": "maximize",
        "n_trials": 20,
        "n_jobs": 1,
        "optuna_epochs": 10,
        "sampler": "TPESampler",
        "pruner": "MedianPruner",
    },
}
CHOICES = {
    "model_name": ["resnet18", "resnet34", "resnet50"],
    "optimizer": ["Adam", "AdamW", "SGD"],
    "early_stopping.monitor": ["val_accuracy", "val_loss"],
    "gradient_tracking_config.aggregation_method": ["median", "mean", "max", "rms"],
    "optuna.direction": ["maximize", "minimize"],
    "optuna.sampler": ["TPESampler", "RandomSampler", "CmaEsSampler", "GridSampler"],
    "optuna.pruner": [
        "MedianPruner",
        "PercentilePruner",
        "SuccessiveHalvingPruner",
        "HyperbandPruner",
        "NopPruner",
        None,
    ],
    "optuna.storage": [None, "sqlite:///optuna_study.db"],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_is_that_of_the_guide(name: str) -> None:
    assert_holds(plain_value(Config.model_fields[name].default), DEFAULTS[name])


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_of_the_guide_is_taken(name: str, folder: Path) -> None:
    setting, _dot, member = name.partition(".")
    for choice in CHOICES[name]:
        code = f"{setting}[{member!r}] = {choice!r}\n" if member else f"{setting} = {choice!r}\n"
        value = getattr(load_example(code, folder), setting)
        assert (getattr(value, member) if member else value) == choice


def test_the_shipped_config_shows_every_setting_of_the_guide() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    settings = {name for code in TRAINS.values() for name in Config.model_fields if name in code}
    assert not [name for name in (settings | DEFAULTS.keys()) if name not in text]


def written(code: str, config: Config) -> dict[str, Any]:
    """Return the settings that an example sets, with the values that it gave them; `epochs` is one in every example."""
    names = {line.split("[")[0].split("=")[0].strip() for line in code.splitlines() if line[:1].isalpha()}
    return {name: config.origin.namespace[name] for name in names & Config.model_fields.keys() - {"epochs"}}


def assert_holds(stored: Any, expected: Any) -> None:
    """Compare; where a dict is expected, further keys are welcome."""
    if isinstance(expected, Mapping) and isinstance(stored, Mapping):
        for key, value in expected.items():
            assert_holds(stored[key], value)
    else:
        assert stored == expected
