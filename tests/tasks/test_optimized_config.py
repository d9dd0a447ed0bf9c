"""`optimized_config.py` means what its trial meant, from its new place, whatever the user's file contains."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pochitrain import load_config
from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import replace_settings
from pochitrain.config.search import choice_labels
from pochitrain.errors import ConfigError
from pochitrain.tasks.optimized_config import optimized_text, require_literals
from pochitrain.tasks.search_space import settings_of
from pochitrain.tasks.trial import Trainer, Work

WriteConfig = Callable[..., Path]


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


def rewritten(path: Path, overrides: dict[str, Any] | None = None, pick: int = -1) -> tuple[str, Path]:
    """Write the optimized file of the last (or another) choice of every setting; check that it means the same."""
    config = load_config(path, overrides)
    point = {dimension.name: dimension.extremes()[pick] for dimension in config.optuna.dimensions()}
    target = path.parent / "work_dirs" / "optuna_results" / "optimized_config.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = optimized_text(config, point, target, "Trial 7")
    target.write_text(text, encoding="utf-8")
    meant = canonical_settings(replace_settings(config, settings_of(config.optuna.dimensions(), point)))
    assert canonical_settings(load_config(target)) == meant
    return text, target


def test_plain_values_stand_at_the_end(write_config: WriteConfig) -> None:
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.25}, "optimizer": choices("Adam", "SGD")}
    path = write_config(f"optuna = {{'search_space': {space!r}}}")
    text, _target = rewritten(path)
    assert text.endswith("\n# Trial 7\nlearning_rate = 0.25\noptimizer = 'SGD'\n")
    assert path.read_text().strip() in text


def test_members_of_dicts(write_config: WriteConfig) -> None:
    space = {
        "scheduler_gamma": {"type": "float", "low": 0.5, "high": 0.75},
        "scheduler_step_size": {"type": "int", "low": 1, "high": 4},
        "early_stopping.patience": {"type": "int", "low": 2, "high": 5},
        "layer_wise_lr_config.layer_rates.0": {"type": "float", "low": 0.5, "high": 0.75},
        "layer_wise_lr_config.layer_rates.1.weight": {"type": "float", "low": 0.5, "high": 0.75},
        "optimizer_params.momentum": choices(0.5, 0.25),
    }
    lines = f"""
scheduler, scheduler_params = "StepLR", {{"step_size": 9}}
optimizer = "SGD"
enable_layer_wise_lr = True
layer_wise_lr_config = {{"layer_rates": {{"0": 0.1, "1.weight": 0.2, ".*": 0.3}}}}
optuna = {{"search_space": {space!r}}}
"""
    text, _target = rewritten(write_config(lines))
    assert "scheduler_params = {**scheduler_params, 'gamma': 0.75}\n" in text
    assert "scheduler_params = {**scheduler_params, 'step_size': 4}\n" in text
    assert "early_stopping = {'patience': 5}\n" in text
    assert "optimizer_params = {'momentum': 0.25}\n" in text
    assert "'layer_rates': {**layer_wise_lr_config['layer_rates'], '1.weight': 0.75}" in text


def test_the_best_epoch_is_chosen_by_the_goal(write_config: WriteConfig) -> None:
    """With what the file, its adapter, the command line and the search say of early stopping."""
    space = {"early_stopping.patience": {"type": "int", "low": 2, "high": 5}}
    goal = f"optuna = {{'direction': 'minimize', 'search_space': {space!r}}}\n"
    lines = "def adapter():\n    return {'early_stopping': {'enabled': True}}\n"
    overrides = {"early_stopping.patience": 9, "seed": 3}
    for path, given in ((write_config(goal + lines), {}), (write_config(goal), overrides)):
        config = load_config(path, given)
        _text, target = rewritten(path, given)
        trial = Trainer(config).trial_config(Work(0, {"early_stopping.patience": 5}, {}))
        found = load_config(target).early_stopping
        assert found == trial.early_stopping
        assert (found.monitor, found.patience, found.min_delta) == ("val_loss", 5, 0.0)


OBJECTS = """
def small(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def large(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

plain = transforms.ToTensor()
flipped = transforms.Compose([transforms.RandomHorizontalFlip(p=1), plain])
optuna = {"search_space": {
    "model": {"type": "categorical", "choices": [small, large]},
    "train_transform": {"type": "categorical", "choices": [plain, flipped]},
    "class_weights": {"type": "categorical", "choices": [[1.0, 2.0, 3.0], "uniform", None]},
    "loss": {"type": "categorical", "choices": [None, lambda logits, labels: logits.square().mean()]},
}}
"""


@pytest.mark.parametrize("pick", [0, 1, -1])
def test_whole_models_and_transforms(write_config: WriteConfig, pick: int) -> None:
    text, _target = rewritten(write_config(OBJECTS), pick=pick)
    assert f'model = optuna["search_space"]["model"]["choices"][{pick % 2}]'.replace('"model"]', "'model']") in text
    assert choice_labels([[1.0, 2.0, 3.0], "uniform", None])[0] == "[1.0, 2.0, 3.0]"


HEADS = [
    '"""A docstring."""\n',
    '"""A docstring\n\nof lines with "quotes" and ümläuts.\n"""\n# a comment\n',
    "# -*- coding: utf-8 -*-\nfrom __future__ import annotations\n",
    '"""日本語."""\nfrom __future__ import annotations\nfrom __future__ import division  # and a comment\n\n',
    '"""日本語."""; from __future__ import annotations; first = 1\n',
    "\n\n",
    "",
]


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_the_file_stays_the_head(write_config: WriteConfig, head: str) -> None:
    path = write_config("optuna = {'search_space': {'seed': {'type': 'int', 'low': 1, 'high': 2}}}\nlast = 1  # no end")
    path.write_text(head + path.read_text().rstrip("\n"), encoding="utf-8")
    text, target = rewritten(path)
    assert text.endswith("seed = 2\n")
    assert load_config(target).origin.namespace["__doc__"] == load_config(path).origin.namespace["__doc__"]


def test_what_lies_beside_the_original_is_found(write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(
        """
from pathlib import Path
from my_parts import brightness, Shift
batch_size = brightness
train_transform = transforms.Compose([transforms.ToTensor(), Shift(0.5)])
notes = Path(__file__).with_name("notes.txt").read_text()
model = "small net"
optuna = {"search_space": {"learning_rate": {"type": "float", "low": 0.1, "high": 0.2}}}
"""
    )
    (path.parent / "my_parts.py").write_text(
        "brightness = 3\nclass Shift:\n    def __init__(self, by):\n        self.by = by\n"
        "    def __call__(self, image):\n        return image + self.by\n"
    )
    (path.parent / "notes.txt").write_text("found")
    (path.parent / "registry.json").write_text('{"small net": "parts/net.py:Net"}')
    (path.parent / "parts").mkdir()
    (path.parent / "parts" / "net.py").write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    text, target = rewritten(path)
    assert str(path.parent) not in text.replace(path.read_text().strip(), "")  # so that the whole folder may be moved
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(os.path.relpath(target))
    assert (config.batch_size, config.notes, config.model.__name__) == (3, "found", "Net")
    assert canonical_settings(config) == canonical_settings(load_config(path, {"learning_rate": 0.2}))


def test_the_optimized_file_can_be_optimized_again(write_config: WriteConfig) -> None:
    path = write_config("optuna = {'search_space': {'seed': {'type': 'int', 'low': 1, 'high': 2}}}")
    _text, once = rewritten(path)
    text, twice = rewritten(once, pick=0)
    assert load_config(twice).seed == 1
    assert text.count("__file__ =") == 2


def test_what_was_set_on_the_command_line_stays_set(write_config: WriteConfig) -> None:
    path = write_config("optuna = {'search_space': {'seed': {'type': 'int', 'low': 1, 'high': 2}}}")
    text, _target = rewritten(
        path, {"batch_size": 2, "scheduler": "ExponentialLR", "scheduler_gamma": 0.5, "optuna.n_trials": 3}
    )
    assert "batch_size = 2\nscheduler = 'ExponentialLR'\nscheduler_params = {'gamma': 0.5}\nseed = 2\n" in text
    assert "n_trials" not in text


def test_an_object_that_no_file_could_repeat_is_refused(write_config: WriteConfig) -> None:
    path = write_config()
    require_literals(load_config(path, {"batch_size": 3}))
    with pytest.raises(ConfigError, match="loss was given as an object"):
        require_literals(load_config(path, {"loss": print}))
