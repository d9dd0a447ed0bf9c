"""Before the first trial: keys, values and combinations of a search space are tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pochitrain import load_config
from pochitrain.config.words import split_key
from pochitrain.data.source import load_data
from pochitrain.errors import ConfigError
from pochitrain.tasks.search_space import check_space, combinations

WriteConfig = Callable[..., Path]
Check = Callable[..., list[str]]

LAYERS = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)
    def forward(self, images):
        return self.fc(self.conv1(images).mean((2, 3)))
model = Net
"""


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


def floats(low: float, high: float) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high}


@pytest.fixture
def check(write_config: WriteConfig) -> Check:
    """Return a function that checks a search space: `check({key: range}, "lines of the config")`."""

    def check_it(space: dict[str, Any] | None, lines: str = "", **optuna: Any) -> list[str]:
        given = {"search_space": space, **optuna} if space is not None else optuna
        overrides = {f"optuna.{name}": value for name, value in given.items()}
        config = load_config(write_config(lines), overrides)
        return check_space(config, load_data(config))

    return check_it


@pytest.mark.parametrize(
    ("space", "lines", "words"),
    [
        ({"lerning_rate": floats(0.1, 0.2)}, "", ["lerning_rate is no setting", "did you mean learning_rate?"]),
        (
            {"early_stopping.patiense": {"type": "int", "low": 1, "high": 5}},
            "",
            ["early_stopping.patiense is no setting", "did you mean early_stopping.patience?"],
        ),
        ({"learning_rate": floats(0.1, 2.0)}, "", ["learning_rate cannot be 2.0", "> 0, ≤ 1"]),
        ({"batch_size": choices(16, "many")}, "", ["batch_size cannot be 'many'", "an integer ≥ 1"]),
        ({"optimizer": choices("Adam", "Adma")}, "", ["Unsupported optimizer: Adma", "supported: Adam, AdamW, SGD"]),
        ({"model_name": choices("resnet18", "resnet81")}, "model = None", ["resnet81"]),
        (
            {"class_weights": choices(None, [1.0, 2.0])},
            "",
            ["class_weights = [1.0, 2.0] cannot be", "(2) does not match the number of classes (3)"],
        ),
        ({"val_data_root": choices("auto", 5)}, "", ["val_data_root cannot be 5"]),
        ({"val_data_root": choices("auto", "not_there")}, "", ["The data folder cannot be read", "not_there)"]),
        ({"val_data_root": choices(None, "auto")}, "", ["val_data_root = None cannot be", "there is no val_accuracy"]),
        ({"num_classes": choices(3, 4)}, "", ["num_classes = 4 cannot be: The data has 3 classes"]),
        ({"device": choices("cpu", "mps")}, "", ["device = 'mps' cannot be: There is no device 'mps'"]),
        ({"work_dir": choices("a", "b")}, "", ["work_dir cannot be searched"]),
        ({"optuna.n_trials": {"type": "int", "low": 1, "high": 2}}, "", ["optuna.n_trials cannot be searched"]),
        (
            {"scheduler_gama": floats(0.5, 0.9)},
            "scheduler = 'ExponentialLR'",
            ["search_space.scheduler_gama", "ExponentialLR takes: gamma"],
        ),
        ({"scheduler_gamma": floats(0.5, 0.9)}, "", ["Searching scheduler_gamma would change nothing", "scheduler"]),
        (
            {"early_stopping.patience": {"type": "int", "low": 3, "high": 9}, "val_fraction": floats(0.1, 0.2)},
            "",
            ["Searching early_stopping.patience would change nothing", "Searching val_fraction would change nothing"],
        ),
        (
            {"early_stopping.patience": {"type": "int", "low": 5, "high": 80}},
            "early_stopping = {'enabled': True}\noptuna = {'optuna_epochs': 5}",
            ["Searching early_stopping.patience would change nothing", "below optuna_epochs = 5 to matter"],
        ),
        (
            {"early_stopping.enabled": choices(True, False), "early_stopping.min_delta": floats(0.1, 0.2)},
            "optuna = {'optuna_epochs': 5}",
            ["Searching early_stopping.min_delta would change nothing", "below optuna_epochs = 5 to matter"],
        ),
        (
            {
                "early_stopping": choices({"enabled": True, "patience": 1}, {"enabled": True, "patience": 2}),
                "early_stopping.patience": {"type": "int", "low": 1, "high": 3},
            },
            "",
            ["Searching early_stopping would change nothing"],
        ),
        (
            {"learning_rate": floats(0.1, 0.2), "optimizer_params.lr": floats(0.1, 0.2)},
            "",
            ["search_space.optimizer_params.lr", "The learning rate has a setting of its own"],
        ),
        (
            {"layer_wise_lr_config.layer_rates.fc": floats(0.001, 0.01)},
            LAYERS,
            ["Searching layer_wise_lr_config.layer_rates.fc would change nothing"],
        ),
        (
            {"layer_wise_lr_config.layer_rates.fcc": floats(0.001, 0.01)},
            LAYERS + "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'fc': 0.1}}",
            ["The pattern 'fcc' of layer_rates matches no parameter", "conv1, fc"],
        ),
        (
            {"optimizer_params": choices({"momentum": 0.9}, {"betas": (0.9, 0.99)}), "optimizer": choices("SGD")},
            "",
            ["optimizer_params = {'betas': (0.9, 0.99)} cannot be", "SGD"],
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_first_trial(
    check: Check, space: dict[str, Any], lines: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        check(space, lines)
    assert "optuna.search_space" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_pattern_may_hold_dots() -> None:
    assert split_key(r"layer_wise_lr_config.layer_rates.layer4\.1.conv1") == (
        "layer_wise_lr_config", ["layer_rates", r"layer4\.1.conv1"],
    )  # fmt: skip
    assert split_key("scheduler_gamma") == ("scheduler_params", ["gamma"])


@pytest.mark.parametrize(
    ("keys", "what", "mend"),
    [
        (
            ("scheduler_gamma", "scheduler_params.gamma"),
            "scheduler_gamma and scheduler_params.gamma are the same setting",
            "leave one of them out",
        ),
        (
            ("scheduler_gamma", "scheduler_params"),
            "scheduler_params replaces scheduler_gamma, which stands before it",
            "write scheduler_params first, or leave one of them out",
        ),
    ],
)
def test_one_setting_under_two_keys(check: Check, keys: tuple[str, str], what: str, mend: str) -> None:
    values = {"scheduler_params": choices({"gamma": 0.5}, {"gamma": 0.6})}
    space = {key: values.get(key, floats(0.5, 0.9)) for key in keys}
    with pytest.raises(ConfigError) as error:
        check(space, "scheduler = 'ExponentialLR'")
    assert [(problem.what, problem.mend) for problem in error.value.problems] == [(what, mend)]
    assert error.value.problems[0].where.endswith(f"optuna.search_space.{keys[1]}")


def test_a_member_after_its_dict_is_searched_in_it(check: Check) -> None:
    params = choices({"step_size": 1}, {"step_size": 2})
    assert check({"scheduler_params": params, "scheduler_gamma": floats(0.5, 0.9)}, "scheduler = 'StepLR'") == []


def test_every_mistake_at_once(check: Check) -> None:
    space = {"lerning_rate": floats(0.1, 0.2), "batch_size": choices(0), "task": choices("a")}
    with pytest.raises(ConfigError) as error:
        check(space)
    assert len(error.value.problems) == 3


def test_a_value_that_fits_with_some_others_is_left_to_the_search(check: Check) -> None:
    scheduled = {"scheduler": choices("ExponentialLR", None), "scheduler_gamma": floats(0.5, 0.9)}
    assert check(scheduled) == []
    params = {"optimizer": choices("SGD", "Adam"), "optimizer_params": choices({"momentum": 0.5}, {"amsgrad": True})}
    assert check(params) == []


def test_each_transform_is_tried_on_images(check: Check) -> None:
    lines = """
flat = transforms.Compose([transforms.ToTensor(), lambda image: image[0]])
def fails(image):
    return transforms.ToTensor()(image.no_such_method())
def one_of(*values):
    return {"type": "categorical", "choices": values}
optuna = {"search_space": {
    "train_transform": one_of(train_transform, transforms.Resize(3), flat), "val_transform": one_of(val_transform, fails),
}}
"""
    with pytest.raises(ConfigError) as error:
        check(None, lines)
    texts = [problem.what for problem in error.value.problems]
    assert len(texts) == 3
    assert texts[0].startswith("train_transform = Resize cannot be: transforms.ToTensor() is required")
    assert texts[1].startswith("train_transform = Compose #2 cannot be: ")
    assert texts[2].startswith("val_transform = fails cannot be: ")
    assert "optuna.search_space.val_transform" in error.value.problems[2].where


GLOBALS = """
seed = 7
def optimizer(params):
    return torch.optim.SGD(params, lr=helper())
def helper():
    return 0.002 * batch_size + seed
def scheduler(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
"""


def test_a_function_that_reads_what_is_searched_as_a_global_is_refused(check: Check) -> None:
    """It would see the value of the file in every trial, and the best one in the file that is written."""
    with pytest.raises(ConfigError) as error:
        check({"batch_size": choices(4, 8)}, GLOBALS, optuna_epochs=5)
    first, second = sorted(error.value.problems, key=lambda problem: problem.what)
    assert first.what == "helper reads batch_size as a global, which is the file's in every trial"
    assert first.where.endswith("tiny_config.py:28, helper")
    assert first.mend.startswith("take it as a parameter of the model, loss, optimizer")
    assert second.what == "scheduler reads epochs as a global, which is the file's in every trial"
    assert second.mend == "take it as a parameter: def scheduler(optimizer, epochs)"
    with pytest.raises(ConfigError, match="helper reads seed as a global"):
        check({}, GLOBALS, optuna_epochs=2, confirm_seeds=2)
    assert check({"learning_rate": floats(0.1, 0.2)}, GLOBALS, optuna_epochs=2) == []
    named = "def optimizer(params, batch_size):\n    return torch.optim.SGD(params, lr=0.002 * batch_size)\n"
    assert check({"batch_size": choices(4, 8)}, named) == []


@pytest.mark.parametrize(
    ("searched", "lines", "mend"),
    [
        (
            "early_stopping.patience",
            "def scheduler(optimizer):\n"
            "    return torch.optim.lr_scheduler.StepLR(optimizer, early_stopping['patience'])",
            "def scheduler(optimizer, early_stopping); it is given as an object: early_stopping.enabled",
        ),
        (
            "batch_size",
            "optimizer = lambda params: torch.optim.SGD(params, lr=batch_size)",
            "lambda params, batch_size: …",
        ),
        ("batch_size", "def adapter():\n    return {'learning_rate': 0.01 / batch_size}", "def adapter(batch_size)"),
        (
            "batch_size",
            "def train_transform(image):\n    return transforms.ToTensor()(image) / batch_size",
            "a transform is given nothing but the image: search whole transforms, each with its own value",
        ),
    ],
)
def test_how_to_get_what_is_searched(check: Check, searched: str, lines: str, mend: str) -> None:
    with pytest.raises(ConfigError) as error:
        check({searched: choices(4, 8)}, "early_stopping = {'enabled': True, 'patience': 3}\n" + lines)
    assert error.value.problems[0].mend.endswith(mend)


def test_what_has_no_effect_in_any_trial_is_told(check: Check) -> None:
    lines = "early_stopping = {'patience': 3}"
    rate = {"learning_rate": floats(0.1, 0.2)}
    assert check(rate, lines) == ["early_stopping.patience has no effect: early_stopping.enabled is False"]
    assert check({**rate, "early_stopping.enabled": choices(True, False)}, lines) == []


def test_what_the_file_lacks_the_search_may_give(check: Check) -> None:
    patience = {"type": "int", "low": 3, "high": 9}
    assert check({"early_stopping.patience": patience, "early_stopping.enabled": choices(False, True)}) == []
    assert check({"early_stopping.patience": patience}, "early_stopping = {'enabled': True}") == []
    assert check({"val_fraction": floats(0.1, 0.2)}, "val_data_root = 'auto'") == []
    assert check({"scheduler": choices("StepLR"), "scheduler_step_size": {"type": "int", "low": 1, "high": 9}}) == []


def test_what_cannot_change_the_result_is_said(check: Check) -> None:
    space = {"num_workers": choices(0, 2), "epochs": {"type": "int", "low": 1, "high": 9}}
    assert check(space) == ["num_workers leaves the weights as they are: it cannot change val_accuracy"]
    assert not any("num_workers" in note for note in check(space, metric="seconds", direction="minimize"))


def test_weights_of_another_epoch_than_the_value_are_told(check: Check) -> None:
    loss, rate = {"direction": "minimize"}, {"learning_rate": floats(0.1, 0.2)}
    note = (
        "The values of a trial are those of the epoch with the best {}, but its best.pt is that with the best {}"
        " (early_stopping.monitor)"
    )
    stopping = "early_stopping = {'enabled': True, 'patience': 1"
    assert check(rate) == check(rate, **loss) == check({}, **loss) == check(rate, stopping + "}", **loss) == []
    written = stopping + ", 'monitor': 'val_accuracy'}"
    assert check(rate, written, **loss) == [note.format("val_loss", "val_accuracy")]
    assert check({}, stopping + ", 'min_delta': 1.0}", **loss) == [note.format("val_loss", "val_accuracy")]
    assert check(rate, stopping + ", 'monitor': 'val_loss'}") == [note.format("val_accuracy", "val_loss")]
    searched = {"early_stopping.monitor": choices("val_loss", "val_accuracy")}
    assert check(searched, **loss) == [note.format("val_loss", "val_accuracy")]
    gap = {"metric": "train_loss", "direction": "minimize"}
    assert check(rate, **gap) == [note.format("train_loss", "val_accuracy")]
    assert check(rate, "val_data_root = None", **gap) == []
    both = {"metric": ["val_loss", "parameters"], "direction": ["minimize", "minimize"]}
    assert check(rate, **both) == []


def test_combinations_hold_every_extreme(write_config: WriteConfig) -> None:
    few = {"batch_size": choices(4, 8), "learning_rate": floats(0.1, 0.2)}
    dimensions = load_config(write_config(), {"optuna.search_space": few}).optuna.dimensions()
    assert len(list(combinations(dimensions))) == 4
    many = {f"scheduler_{name}": choices(*range(5)) for name in "abcdef"}
    dimensions = load_config(write_config(), {"optuna.search_space": many}).optuna.dimensions()
    points = list(combinations(dimensions))
    assert len(points) == 64
    for dimension in dimensions:
        assert {point[dimension.name] for point in points} == set(range(5))
    assert len({repr(point) for point in points}) > 60
