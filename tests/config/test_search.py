"""`optuna = {...}`: what is wrong with it is said before anything else happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pochitrain import load_config
from pochitrain.config.search import choice_labels, read_dimension
from pochitrain.errors import ConfigError

WriteConfig = Callable[..., Path]

RATE = {"type": "float", "low": 0.001, "high": 0.1}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"low": 1, "high": 2}, ["A range needs a type", "'float', 'int', 'categorical'"]),
        ({"type": "flaot", "low": 1, "high": 2}, ["'flaot' is no type of a range", "did you mean float?"]),
        ({"type": ["float"]}, ["['float'] is no type of a range"]),
        ({"type": "float", "low": 0.1}, ["high is missing", "low and high"]),
        ({**RATE, "hihg": 1}, ["Unknown key hihg", "did you mean high?"]),
        ({**RATE, "lgo": True}, ["Unknown key lgo", "did you mean log?"]),
        ({**RATE, "choices": [1]}, ["Unknown key choices", "float knows: low, high, log, step"]),
        ({**RATE, "low": "0.1"}, ["low cannot be '0.1'", "write a finite number"]),
        ({**RATE, "high": float("inf")}, ["high cannot be inf"]),
        ({**RATE, "low": True}, ["low cannot be True"]),
        ({"type": "int", "low": 1.5, "high": 3}, ["low cannot be 1.5", "write an integer"]),
        ({"type": "int", "low": 1, "high": 2**53 + 1}, ["high cannot be 9007199254740993", "up to 2**53"]),
        ({**RATE, "low": 0.2}, ["low is 0.2, above high = 0.1", "exchange them"]),
        ({**RATE, "low": 0, "log": True}, ["log = True needs low > 0, not 0"]),
        ({**RATE, "log": "yes"}, ["log cannot be 'yes'", "True or False"]),
        ({**RATE, "log": True, "step": 0.01}, ["log and step exclude each other"]),
        ({**RATE, "step": 0}, ["step is 0, which does not fit"]),
        ({**RATE, "step": 1.0}, ["step is 1.0, which does not fit between 0.001 and 0.1"]),
        ({"type": "categorical"}, ["choices is missing", "[16, 32]"]),
        ({"type": "categorical", "choices": [0.1, np.float32("nan")]}, ["A choice cannot be nan"]),
        ({"type": "categorical", "choices": np.array([1, 2])}, ["choices must be a list"]),
        ({"type": "categorical", "choices": []}, ["choices must be a list of at least one value"]),
        ({"type": "categorical", "choices": "SGD"}, ["choices must be a list"]),
        ({"type": "categorical", "choices": [16, 32, 16]}, ["The same value stands twice in choices: 16"]),
        ({"type": "categorical", "choices": [[1], [1]]}, ["The same value stands twice in choices: [1]"]),
    ],
)
def test_a_wrong_range_says_what_where_and_how(
    write_config: WriteConfig, spec: dict[str, Any], words: list[str]
) -> None:
    path = write_config("")
    with pytest.raises(ConfigError) as error:
        load_config(path, {"optuna.search_space": {"learning_rate": spec}})
    assert "optuna.search_space.learning_rate" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_line_of_the_file_is_named_and_all_mistakes_at_once(write_config: WriteConfig) -> None:
    path = write_config('optuna = {"search_space": {\n "learning_rate": {"type": "float", "low": 1},\n "seed": {},\n}}')
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert len(error.value.problems) == 2
    lines = path.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, start=1) if '"seed"' in line)
    assert f"{path}:{number}, optuna.search_space.seed" in str(error.value)


@pytest.mark.parametrize(
    ("optuna", "word"),
    [
        ({"direction": "minimize", "metric": "val_accuracy"}, "val_accuracy with direction minimize"),
        ({"metric": "val_loss"}, "set the direction to minimize"),
        ({"direction": ["maximize", "minimize"]}, "needs their names"),
        ({"direction": ["maximize", "minimize"], "metric": "val_loss"}, "2 directions do not fit 1 metrics"),
        ({"metric": ["val_accuracy", "val_loss"]}, "1 directions do not fit 2 metrics"),
        (
            {"direction": ["maximize", "minimize"], "metric": ["val_accuracy", "val_loss"], "sampler": "CmaEsSampler"},
            "CmaEsSampler knows one objective only",
        ),
        ({"metric": "latency_ms"}, "latency_ms with direction maximize would look for the worst"),
        ({"metric": ["val_loss"] * 2, "direction": ["minimize"] * 2}, "val_loss stands twice"),
        ({"direction": "up"}, "optuna.direction cannot be 'up'"),
        ({"sampler": "TPE"}, "optuna.sampler cannot be 'TPE'"),
        ({"n_trails": 3}, "did you mean n_trials?"),
        ({"search_space": {"": RATE}}, "A key of the search space is empty"),
        ({"storage": "sqlite://"}, "sqlite:// lives in memory"),
        ({"storage": "sqlite:///"}, "sqlite:/// lives in memory"),
        ({"storage": "sqlite:///:memory:?cache=shared"}, "lives in memory: it ends with the process"),
    ],
)
def test_a_wrong_goal_is_refused(write_config: WriteConfig, optuna: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace("?", r"\?")):
        load_config(write_config(f"optuna = {optuna!r}"))


def test_the_defaults_are_those_of_the_guide(write_config: WriteConfig) -> None:
    optuna = load_config(write_config()).optuna
    assert (optuna.study_name, optuna.n_trials, optuna.n_jobs, optuna.optuna_epochs) == (
        "pochitrain_optimization", 20, 1, 10,
    )  # fmt: skip
    assert (optuna.sampler, optuna.pruner, optuna.storage) == ("TPESampler", "MedianPruner", None)
    assert (optuna.directions, optuna.metrics) == (["maximize"], ["val_accuracy"])
    minimizing = load_config(write_config("optuna = {'direction': 'minimize'}")).optuna
    assert minimizing.metrics == ["val_loss"]
    single = load_config(write_config("optuna = {'direction': ['minimize'], 'metric': ['train_loss']}")).optuna
    assert (single.directions, single.metrics) == (["minimize"], ["train_loss"])
    assert load_config(write_config("optuna = {'direction': ['minimize']}")).optuna.metrics == ["val_loss"]
    assert load_config(write_config("optuna = {'confirm_seeds': True}")).optuna.seeds_to_confirm == 3
    assert load_config(write_config("optuna = {'confirm_seeds': 5}")).optuna.seeds_to_confirm == 5


def test_labels_of_choices() -> None:
    assert choice_labels([16, 32]) == (16, 32)
    assert choice_labels([None, "SGD", True]) == (None, "SGD", True)
    assert choice_labels([1, True]) == ("1", "True")  # equal, and yet two choices
    assert choice_labels([np.int64(3), np.float32(0.5)]) == (3, 0.5)
    assert choice_labels([[30, 60], [60]]) == ("[30, 60]", "[60]")
    assert choice_labels([print, print.__class__]) == ("print", "builtin_function_or_method")
    assert choice_labels([object(), object(), len]) == ("object #1", "object #2", "len")
    dimension = read_dimension("x", {"type": "categorical", "choices": [1, True, [2]]})
    assert [dimension.value(label) for label in dimension.labels] == [1, True, [2]]


@pytest.mark.parametrize(
    ("spec", "grid"),
    [
        ({"type": "int", "low": 1, "high": 4}, [1, 2, 3, 4]),
        ({"type": "int", "low": 0, "high": 100}, [0, 25, 50, 75, 100]),
        ({"type": "int", "low": 1, "high": 10000, "log": True}, [1, 10, 100, 1000, 10000]),
        ({"type": "int", "low": 10, "high": 95, "step": 20}, [10, 30, 50, 70, 90]),
        ({"type": "float", "low": 0.0, "high": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"type": "float", "low": 0.1, "high": 0.45, "step": 0.1}, [0.1, 0.2, 0.3, 0.4]),
        ({"type": "float", "low": 2.0, "high": 2.0}, [2.0]),
        ({"type": "categorical", "choices": ["a", None]}, ["a", None]),
    ],
)
def test_the_grid_of_a_dimension(spec: dict[str, Any], grid: list[Any]) -> None:
    assert read_dimension("x", spec).grid() == grid


def test_a_logarithmic_grid_goes_from_end_to_end() -> None:
    grid = read_dimension("x", {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}).grid()
    assert grid == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert (grid[0], grid[-1]) == (1e-5, 1e-1)
