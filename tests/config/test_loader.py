"""A config file is executed once, checked whole, and every mistake comes with its line and its mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import InvalidConfig, load_config, parse_assignment, replace_settings
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError

WriteConfig = Callable[..., Path]


def load_text(tmp_path: Path, text: str, **overrides: object) -> Config:
    path = tmp_path / "config.py"
    path.write_text(
        "t = lambda image: image\ntrain_data_root = 'x'\ntrain_transform = val_transform = t\n" + text, encoding="utf-8"
    )
    return load_config(path, overrides)


def problems(tmp_path: Path, text: str, **overrides: object) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text, **overrides)
    return [(p.what, p.where.removeprefix(str(tmp_path) + "/"), p.mend) for p in caught.value.problems]


def test_settings_are_typed_and_helpers_are_kept(tmp_path: Path) -> None:
    config = load_text(tmp_path, "import math\nepochs = 3\nhidden = 128\nlearning_rate = 1\n")
    assert config.epochs == 3
    assert config.learning_rate == 1.0
    assert isinstance(config.learning_rate, float)
    assert config.batch_size == 32
    assert config.origin.helpers["hidden"] == 128
    assert "math" not in config.origin.helpers


def test_numpy_values_and_paths_are_taken_for_what_they_are(tmp_path: Path) -> None:
    text = "import numpy as np, pathlib\nepochs = np.int64(4)\nlearning_rate = np.float32(0.5)\nwork_dir = pathlib.Path('w')\nclass_weights = np.array([1.0, 2.0])\n"
    config = load_text(tmp_path, text)
    assert (config.epochs, config.learning_rate, config.work_dir, config.class_weights) == (4, 0.5, "w", [1.0, 2.0])


def test_every_mistake_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "epochs = 'ten'\n"
        "lerning_rate = 0.1\n"
        "optimizer = 'Adm'\n"
        "scheduler = 'CustomLR'\n"
        "early_stopping = {'enabled': True,\n                  'patiance': 3}\n"
        "batch_size = 0\n",
    )
    assert [where for _what, where, _mend in found] == [
        "config.py:5, lerning_rate",
        "config.py:10, batch_size",
        "config.py:4, epochs",
        "config.py:6, optimizer",
        "config.py:7, scheduler",
        "config.py:9, early_stopping.patiance",
    ]
    whats = [what for what, _where, _mend in found]
    assert whats[0] == "Unknown setting lerning_rate: did you mean learning_rate?"
    assert whats[2] == "epochs cannot be 'ten'"
    assert whats[4] == "Unsupported scheduler: CustomLR"
    assert "patience" in found[5][2]
    assert "Adam" in found[3][2]


def test_the_guides_messages_in_japanese_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja")
    assert problems(tmp_path, "scheduler = 'CustomLR'")[0][0] == "サポートされていないスケジューラー: CustomLR"
    found = problems(tmp_path, "enable_layer_wise_lr = True")
    assert found[0][0] == "層別学習率が有効ですが layer_rates が定義されていません"
    found = problems(tmp_path, "num_classes = 4\nclass_weights = [1.0, 1.0, 1.0]")
    assert found[0][0] == "クラス重みの長さ(3)がクラス数(4)と一致しません"


@pytest.mark.parametrize("missing", ["train_transform", "val_transform"])
def test_a_transform_is_required(tmp_path: Path, missing: str) -> None:
    assert problems(tmp_path, f"{missing} = None")[0][0] == f"{missing} is required"
    assert problems(tmp_path, f"del {missing}")[0][0] == f"{missing} is required"


def test_a_syntax_error_shows_the_users_line(tmp_path: Path) -> None:
    what, where, _mend = problems(tmp_path, "epochs = (3\n")[0]
    assert where == "config.py:4"
    assert "epochs = (3" in what


def test_a_wrong_value_of_a_choice_is_one_problem(tmp_path: Path) -> None:
    takes = "it takes a list, each a number ≥ 0 or 'uniform' or None"
    found = [(what, mend) for what, _where, mend in problems(tmp_path, "class_weights = [1, -1]")]
    assert found == [("class_weights cannot be -1", takes)]
    found = [(what, mend) for what, _where, mend in problems(tmp_path, "class_weights = 'unifrom'")]
    assert found == [("class_weights cannot be 'unifrom'", takes)]
    found = problems(tmp_path, "class_weights = [1, 'a', -2]\nchannels_last = 3\noptuna = {'confirm_seeds': 'x'}")
    assert [what for what, _where, _mend in found] == [
        "class_weights cannot be 'a'",
        "class_weights cannot be -2",
        "channels_last cannot be 3",
        "optuna.confirm_seeds cannot be 'x'",
    ]


@pytest.mark.parametrize("task", ["a/b", "a\\b", "..", ".", "", "a\0"])
def test_a_task_is_one_folder(tmp_path: Path, task: str) -> None:
    [(what, where, mend)] = problems(tmp_path, f"task = {task!r}")
    assert (what, where) == (f"task cannot be {task!r}", "config.py:4, task")
    assert mend == "it takes the name of one folder, without / and \\"
    assert load_text(tmp_path, "task = '..2 ネジ'").task == "..2 ネジ"


def test_a_name_where_nothing_is_registered(tmp_path: Path) -> None:
    [(what, where, mend)] = problems(tmp_path, "", model="resnet34")
    assert what == "model is the name 'resnet34', but nothing is registered"
    assert where == "model, given beside the file"
    assert "model_name" in mend
    assert str(tmp_path / "registry.json") in mend
    [(what, where, mend)] = problems(tmp_path, "dataset = 'mine'")
    assert (what, where) == ("dataset is the name 'mine', but nothing is registered", "config.py:4, dataset")
    assert "model_name" not in mend


def test_the_switches_of_the_command_that_cannot_be(tmp_path: Path) -> None:
    assert [what for what, _where, _mend in problems(tmp_path, "train = False")] == [
        "train and test are both False: nothing is left to do"
    ]
    unsplit = "def dataset(): pass"
    for text in ("test = True", f"test, val_data_root = True, 'v'\n{unsplit}"):
        assert [what for what, _where, _mend in problems(tmp_path, text)] == ["test = True needs validation data"]
    assert load_text(tmp_path, "test = True\nval_data_root = 'v'").test
    assert load_text(tmp_path, "test = True\ndef dataset(split): pass").test


def test_an_exception_shows_the_users_line_also_in_a_module_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_config.py").write_text("def half(x):\n    return x / 0\n")
    what, where, _mend = problems(tmp_path, "import beside_config\nepochs = beside_config.half(3)\n")[0]
    assert "ZeroDivisionError" in what
    assert where == "beside_config.py:2"


def test_sys_exit_in_a_config_is_an_error(tmp_path: Path) -> None:
    what, where, _mend = problems(tmp_path, "import sys\nsys.exit(0)\n")[0]
    assert "sys.exit(0)" in what
    assert where == "config.py:5"


def test_a_config_that_forks_goes_on_once(tmp_path: Path) -> None:
    marker = tmp_path / "pids"
    config = load_text(
        tmp_path,
        f"import os\nos.fork()\nwith open({str(marker)!r}, 'a') as f: f.write(f'{{os.getpid()}} ')\nepochs = 7\n",
    )
    assert config.epochs == 7
    os.wait()
    assert len(marker.read_text().split()) == 2  # both processes executed the file, one of them came back


def test_a_missing_file_names_those_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config("configs/missing.py")
    assert caught.value.exit_code == 2
    assert "configs/mine.py" in caught.value.problems[0].mend


def test_a_config_inherits_from_the_one_beside_it_and_sees_its_edits(tmp_path: Path) -> None:
    (tmp_path / "base_config.py").write_text(
        "t = lambda image: image\ntrain_data_root = 'x'\ntrain_transform = val_transform = t\nepochs = 3\n"
    )
    path = tmp_path / "child.py"
    path.write_text("from base_config import *\nlearning_rate = 0.5\n")
    assert load_config(path).epochs == 3
    (tmp_path / "base_config.py").write_text(
        "t = lambda image: image\ntrain_data_root = 'x'\ntrain_transform = val_transform = t\nepochs = 30\n"
    )
    os.utime(tmp_path / "base_config.py", (1, 1))
    assert load_config(path).epochs == 30


def test_the_text_that_was_read_is_executed_and_kept(tmp_path: Path) -> None:
    config = load_text(tmp_path, "epochs = 3  # exact\n")
    assert config.origin.text.endswith("epochs = 3  # exact\n")
    assert not list(tmp_path.glob("__pycache__/*"))


def test_overrides_reach_into_dicts(tmp_path: Path) -> None:
    text = "early_stopping = {'enabled': True}\nlayer_wise_lr_config = {'layer_rates': {'layer4.1': 0.1, 'fc': 0.2}}\n"
    overrides = {"early_stopping.patience": 5, "layer_wise_lr_config.layer_rates.layer4.1": 0.3, "scheduler_gamma": 0.9}
    config = load_text(tmp_path, text, **overrides)
    assert (config.early_stopping.enabled, config.early_stopping.patience) == (True, 5)
    assert config.layer_wise_lr_config.layer_rates == {"layer4.1": 0.3, "fc": 0.2}
    assert config.scheduler_params == {"gamma": 0.9}
    again = replace_settings(config, {"epochs": 9})
    assert (again.epochs, again.early_stopping.patience) == (9, 5)


def test_an_override_that_is_no_setting_names_the_near_one(tmp_path: Path) -> None:
    what, _where, mend = problems(tmp_path, "", lerning_rate=0.1)[0]
    assert what == "lerning_rate is no setting"
    assert "learning_rate" in mend


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("early_stopping.monitor='val_loss'", ("early_stopping.monitor", "val_loss")),
        ("optimizer=SGD", ("optimizer", "SGD")),
        ("val_data_root=None", ("val_data_root", None)),
        ("train_data_root=data/train", ("train_data_root", "data/train")),
        ("class_weights=[1.0, 2]", ("class_weights", [1.0, 2])),
    ],
)
def test_assignments_of_the_command_line(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["epochs", "=3", "epochs=3 +", "epochs=f(3)"])
def test_assignments_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_assignment(text)


def test_an_empty_assignment_says_how_an_empty_text_is_written() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignment("notes=")
    assert caught.value.problems[0].what == "notes has no value"
    assert "--set \"notes=''\"" in caught.value.problems[0].mend
    assert parse_assignment("notes=''") == ("notes", "")


def test_the_right_settings_of_a_wrong_config_are_there_for_further_checks(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_text(tmp_path, "epochs = 'ten'\nmodel_name = 'resnet19'\n")
    assert caught.value.partial is not None
    assert caught.value.partial.model_name == "resnet19"
    assert caught.value.wrong == {"epochs"}


def test_the_default_of_min_delta_fits_the_unit(tmp_path: Path) -> None:
    assert load_text(tmp_path, "early_stopping = {}").early_stopping.min_delta == 3.0
    assert load_text(tmp_path, "early_stopping = {'monitor': 'val_loss'}").early_stopping.min_delta == 0.0
    assert (
        load_text(tmp_path, "early_stopping = {'monitor': 'val_loss', 'min_delta': 0.1}").early_stopping.min_delta
        == 0.1
    )


def test_a_registered_part_is_found_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text('{"net": "nets.py:build"}')
    (tmp_path / "nets.py").write_text("def build(num_classes):\n    return num_classes\n")
    config = load_text(tmp_path, "model = 'net'")
    assert config.model(3) == 3
    assert "registered: net" in problems(tmp_path, "model = 'nett'")[0][2]


def test_an_adapter_fills_what_the_file_leaves_open(tmp_path: Path) -> None:
    text = (
        "size = 8\n"
        "def adapter(size, batch_size=1):\n    return {'batch_size': size, 'epochs': 9, 'depth': 2}\n"
        "epochs = 3\n"
    )
    config = load_text(tmp_path, text)
    assert (config.batch_size, config.epochs, config.origin.helpers["depth"]) == (8, 3, 2)


READS_GLOBALS = """
import torch
batch_size = 8
def optimizer(params):
    return torch.optim.SGD(params, lr=0.002 * batch_size, momentum=scheduler_params["gamma"])
scheduler = "ExponentialLR"
"""


def test_an_override_is_what_stands_at_the_end_of_the_file(tmp_path: Path) -> None:
    """Functions that read a setting as a global see it too, and so the id is the same."""
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    written = load_text(tmp_path, READS_GLOBALS + "batch_size = 4\nscheduler_params = {'gamma': 0.5}\n")
    told = load_text(tmp_path, READS_GLOBALS, **{"batch_size": 4, "scheduler_gamma": 0.5})
    assert callable(told.optimizer)
    assert told.optimizer(parameter).defaults["lr"] == 0.008
    assert told.optimizer(parameter).defaults["momentum"] == 0.5
    assert canonical_settings(told) == canonical_settings(written)
    assert "scheduler_params" not in told.origin.namespace  # what the file itself says
