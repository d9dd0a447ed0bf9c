"""A config file is executed once, checked whole, and every mistake comes with its line and its mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import InvalidConfig, load_config, parse_assignment, replace_settings
from pochitrain.config.mistakes import located
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError, Problem

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
    takes = "it takes a list (each a number ≥ 0) or 'uniform' or None"
    found = [(what, mend) for what, _where, mend in problems(tmp_path, "class_weights = [1, -1]")]
    assert found == [("class_weights[1] cannot be -1", "it takes a number ≥ 0")]
    found = [(what, mend) for what, _where, mend in problems(tmp_path, "class_weights = 'unifrom'")]
    assert found == [("class_weights cannot be 'unifrom'", takes)]
    found = problems(tmp_path, "class_weights = [1, 'a', -2]\nchannels_last = 3\noptuna = {'confirm_seeds': 'x'}")
    assert [what for what, _where, _mend in found] == [
        "class_weights[1] cannot be 'a'",
        "class_weights[2] cannot be -2",
        "channels_last cannot be 3",
        "optuna.confirm_seeds cannot be 'x'",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "layer_wise_lr_config = {'layer_rates': {'fc': 0.1,\n'layer4.1': -0.1, 'a': '0.1', 7: 0.1}}",
            [
                ("layer_wise_lr_config.layer_rates['layer4.1'] cannot be -0.1", 5, "it takes a number ≥ 0"),
                ("layer_wise_lr_config.layer_rates['a'] cannot be '0.1'", 5, "it takes a number ≥ 0"),
                ("a key of layer_wise_lr_config.layer_rates cannot be 7", 4, "it takes a text"),
            ],
        ),
        ("optimizer_params = {1: 2}", [("a key of optimizer_params cannot be 1", 4, "it takes a text")]),
        ("optuna = {'metric': ['a', 3]}", [("optuna.metric[1] cannot be 3", 4, "it takes a text")]),
        ("class_weights = [1, float('inf')]", [("class_weights[1] cannot be inf", 4, "it takes a finite number")]),
        ("cache_gb = float('inf')", [("cache_gb cannot be inf", 4, "it takes a finite number")]),
        ("num_workers = 10**6", [("num_workers cannot be 1000000", 4, "it takes an integer ≥ 0, ≤ 1024 or None")]),
        ("work_dir = ''", [("work_dir cannot be ''", 4, "it takes a path")]),
    ],
)
def test_a_wrong_value_inside_is_named_with_what_is_taken_there(
    tmp_path: Path, text: str, found: list[tuple[str, int, str]]
) -> None:
    told = [(what, int(where.split(":")[1].split(",")[0]), mend) for what, where, mend in problems(tmp_path, text)]
    assert told == found


def test_a_list_of_the_wrong_length_is_told_the_right_one(tmp_path: Path) -> None:
    [(what, _where, mend)] = problems(tmp_path, "confusion_matrix_config = {'figsize': (8,)}")
    assert what == "confusion_matrix_config.figsize cannot be (8,)"
    assert mend.startswith("it takes a list of 2 (each a number > 0")


def test_weights_of_which_none_counts_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "class_weights = [0, 0.0]")[0][0] == "class_weights holds no weight above 0"
    assert load_text(tmp_path, "class_weights = [0, 1]").class_weights == [0, 1]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_text(tmp_path, "import pathlib\nwork_dir = '~/w'\nval_data_root = pathlib.Path('~/data')")
    assert (config.work_dir, config.val_data_root) == ("/home/somebody/w", "/home/somebody/data")


def test_a_device_is_known_under_torchs_names(tmp_path: Path) -> None:
    assert load_text(tmp_path, "import torch\ndevice = torch.device('cuda', 1)").device == "cuda:1"
    assert load_text(tmp_path, "device = 'CPU'").device == "cpu"


@pytest.mark.parametrize("task", ["a/b", "a\\b", "..", ".", "", "a\0", "  ", ". .", "x" * 256, "あ" * 86])
def test_a_task_is_one_folder(tmp_path: Path, task: str) -> None:
    [(what, where, mend)] = problems(tmp_path, f"task = {task!r}")
    assert what.startswith(f"task cannot be {task!r}"[:60])
    assert where == "config.py:4, task"
    assert mend == "it takes the name of one folder, without / and \\, of at most 255 bytes"


@pytest.mark.parametrize("task", ["..2 ネジ", "あ" * 85])
def test_a_task_of_one_folder(tmp_path: Path, task: str) -> None:
    assert load_text(tmp_path, f"task = {task!r}").task == task


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


CODE = """
from functools import partial as schedulers
optimiser = dict
def losss(logits, labels): pass
val_transforms = t
def modell(): pass
class Model: pass
class Models: pass
class Observers: pass
def epoch(): pass
def models(): pass
def losses(): pass
def plot(history): pass
def adapters(): pass
adapters = lambda: {}
@schedulers
def modle(): pass
if t:
    for _step in (1, 2):
        train_transfrm = t
_a, (optimzer, *_rest) = 1, (print, 2)
learning_rates = [0.1, 0.2]
optuna = {"search_space": {"learning_rate": {"type": "categorical", "choices": learning_rates}}}
batch_sizes = [1, 2]
schedule = print
def scheduler(optimizer, observer): return schedule
def observer(record): pass
"""


def test_a_misspelt_setting_that_holds_code_is_told_unless_something_reads_it(tmp_path: Path) -> None:
    found = [what for what, _where, _mend in problems(tmp_path, CODE)]
    assert found == [
        "Unknown setting optimiser: did you mean optimizer?",
        "Unknown setting losss: did you mean loss?",
        "Unknown setting val_transforms: did you mean val_transform?",
        "Unknown setting modell: did you mean model?",
        "Unknown setting adapters: did you mean adapter?",
        "Unknown setting train_transfrm: did you mean train_transform?",
        "Unknown setting optimzer: did you mean optimizer?",
        "Unknown setting batch_sizes: did you mean batch_size?",
    ]


def test_a_misspelt_setting_inside_a_statement_has_its_line(tmp_path: Path) -> None:
    text = (
        "if t:\n    lerning_rate = 0.1\nelse:\n    pass\nepochs, bach_size = 3, 4\nwith open(__file__):\n    sed = 3\n"
    )
    found = problems(tmp_path, text + "try:\n    early_stopping = {'patiance': 3}\nfinally:\n    seed = 'x'")
    assert [where for _what, where, _mend in found] == [
        "config.py:5, lerning_rate",
        "config.py:8, bach_size",
        "config.py:10, sed",
        "config.py:12, early_stopping.patiance",
        "config.py:14, seed",
    ]


def test_code_that_a_file_beside_it_imports_is_no_mistake(tmp_path: Path) -> None:
    text = "def modell(): pass\nmodels_of_mine = 3\n"
    assert len(problems(tmp_path, text)) == 1
    (tmp_path / "child.py").write_text("from config import *\nmodel = lambda num_classes: modell()\n")
    assert load_text(tmp_path, text)
    assert load_config(tmp_path / "child.py")


def test_a_misspelt_setting_of_an_adapter_is_told(tmp_path: Path) -> None:
    [(what, where, _mend)] = problems(tmp_path, "def adapter():\n    return {'lerning_rate': 3, 'depth': 2}")
    assert (what, where) == ("Unknown setting lerning_rate: did you mean learning_rate?", "config.py:4, adapter")


def test_a_config_with_the_name_of_a_library_is_refused(tmp_path: Path) -> None:
    text = "t = lambda image: image\ntrain_data_root = 'x'\ntrain_transform = val_transform = t\n"
    (tmp_path / "refused").mkdir()  # the folder of a config that loads stays importable
    for name in ("matplotlib", "queue"):
        path = tmp_path / "refused" / f"{name}.py"
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"has the name of a library: {name}\n.*\n.*my_{name}.py"):
            load_config(path)
    for name in ("test", "my-own", "train", "exp.torch"):
        (tmp_path / f"{name}.py").write_text(text)
        assert load_config(tmp_path / f"{name}.py")


def test_a_config_may_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "registry.json").write_text('{"net": "nets.py:build"}')
    (tmp_path / "nets.py").write_text("build = dict")
    (tmp_path / "data").mkdir()
    (tmp_path / "config.py").write_text(
        "import os\nos.chdir('data')\nmodel = 'net'\ntrain_data_root = '.'\ntrain_transform = val_transform = len\n"
    )
    config = load_config("config.py")
    assert config.model is dict
    assert config.origin.path == tmp_path / "config.py"
    with pytest.raises(ConfigError, match=r"There is no config file config.py\n  where: config.py"):
        load_config("config.py")


def test_an_exception_without_words_ends_with_its_name(tmp_path: Path) -> None:
    [(what, _where, _mend)] = problems(tmp_path, "assert False")
    assert what == "The config file raised AssertionError\n    assert False"


def test_a_null_byte_has_no_line(tmp_path: Path) -> None:
    what, where, _mend = problems(tmp_path, "a = 1\0")[0]
    assert where in ("config.py", "config.py:4")
    assert "null bytes" in what


def test_a_missing_package_is_to_be_installed(tmp_path: Path) -> None:
    [(_what, where, mend)] = problems(tmp_path, "import pandaas.core")
    assert where == "config.py:4"
    assert mend == "install the package, e.g. uv add pandaas, or put pandaas.py beside the config"


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("scheduler_params = {'T_max': epochz}", "did you mean epochs?"),
        ("import torch\noptimizer = torch.optim.adamW", "did you mean AdamW?"),
        ("from torchvision import transform", "did you mean transforms?"),
        ("early_stopping['enabled'] = True", "give it a value in a line above: early_stopping = …"),
        ("def f(width): return widht\nf(3)", "did you mean width?"),
        ("from base_confg import *", "did you mean base_config?"),
        (
            "from .base_config import *",
            "a config is no part of a package; its folder is searched first: from base_config import *",
        ),
        ("epochs = 1 / 0", "correct the line"),
        ("epochs = zzz", "correct the line"),
        ("raise NameError('None')", "correct the line"),
        ("import torchvision.transform", "did you mean transforms?"),
        ("import torchvision.zzz", "correct the line"),
    ],
)
def test_a_name_that_is_not_there_is_told_the_near_one(tmp_path: Path, text: str, mend: str) -> None:
    (tmp_path / "base_config.py").write_text("")
    [(_what, where, told)] = problems(tmp_path, f"epochs = 3\n{text}")
    assert where.startswith("config.py:")
    assert told == mend


def test_a_mistake_in_a_file_that_is_imported_whole_has_its_place_there(tmp_path: Path) -> None:
    (tmp_path / "first_config.py").write_text("from base_config import *\nsed = 3\n")
    (tmp_path / "base_config.py").write_text(
        "if 1: from first_config import *\nlerning_rate = 0.1\nearly_stopping = {\n    'patiance': 3}\nepochs = 'x'\n"
    )
    found = problems(tmp_path, "from base_config import *\nepochs = 'y'\n")
    assert [where for _what, where, _mend in found] == [
        "first_config.py:2, sed",
        "base_config.py:2, lerning_rate",
        "config.py:5, epochs",
        "base_config.py:4, early_stopping.patiance",
    ]


def test_parameters_that_are_missing_are_looked_for_at_what_lacks_them(tmp_path: Path) -> None:
    problem = ConfigError(problems=[Problem("wrong", "scheduler_params"), Problem("wrong", "optimizer_params.beta")])
    found = located(problem, load_text(tmp_path, "scheduler = 'StepLR'")).problems
    assert [p.where.rpartition("/")[2] for p in found] == [
        "config.py:4, scheduler_params",
        "config.py, optimizer_params.beta",
    ]


def test_a_setting_with_a_type_and_no_value_is_told(tmp_path: Path) -> None:
    found = problems(tmp_path, "epochs: 3\nseed: int\nbatch_size = 3\nbatch_size: -8\nwidth: 3\nnotes: 'str'\ntags: []")
    assert found == [
        (f"{name} is given no value: a colon only says its type", f"config.py:{line}, {name}", f"{name} = …")
        for name, line in {"epochs": 4, "batch_size": 7, "tags": 10}.items()
    ]


def test_what_a_dict_or_a_device_may_be_is_told(tmp_path: Path) -> None:
    found = problems(tmp_path, "early_stopping = True\ndevice = 0")
    assert [mend for _what, _where, mend in found] == [
        "it takes a dict with any of the keys enabled, patience, min_delta, monitor",
        "it takes a text such as 'cpu' or 'cuda:1', or None",
    ]


def test_what_is_no_dict_cannot_be_put_over_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no dict, but list"):
        load_config(tmp_path / "config.py", ["epochs=3"])  # type: ignore[arg-type]


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
    overrides["layer_wise_lr_config.layer_rates.layer3.0"] = 0.4
    config = load_text(tmp_path, text, **overrides)
    assert (config.early_stopping.enabled, config.early_stopping.patience) == (True, 5)
    assert config.layer_wise_lr_config.layer_rates == {"layer4.1": 0.3, "fc": 0.2, "layer3.0": 0.4}
    assert config.scheduler_params == {"gamma": 0.9}
    again = replace_settings(config, {"epochs": 9})
    assert (again.epochs, again.early_stopping.patience) == (9, 5)


def test_an_override_that_is_no_setting_names_the_near_one(tmp_path: Path) -> None:
    near = {
        "lerning_rate": "learning_rate",
        "early_stoping.patience": "early_stopping.patience",
        "early_stopping.patiance": "early_stopping.patience",
        "early_stopping.patience.x": "early_stopping.patience",
        "lr": "learning_rate",
        "patience": "early_stopping.patience",
        "weight_decay": "optimizer_params.weight_decay",
    }
    for key, meant in near.items():
        [(what, where, mend)] = problems(tmp_path, "early_stopping = {'enabled': True}", **{key: 1})
        assert (what, where) == (f"{key} is no setting", f"{key}, given beside the file")
        assert mend == f"did you mean {meant}?"


def test_a_member_that_stands_beside_the_file_alone_is_looked_for_there(tmp_path: Path) -> None:
    problem = ConfigError(problems=[Problem("wrong", "scheduler_params")])
    config = load_text(tmp_path, "", scheduler_gama=3)
    assert located(problem, config).problems[0].where == "scheduler_params.gama, given beside the file"
    config = load_text(tmp_path, "scheduler_params = {}", scheduler_gama=3)
    assert located(problem, config).problems[0].where.endswith("config.py:4, scheduler_params")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("early_stopping.monitor='val_loss'", ("early_stopping.monitor", "val_loss")),
        ("optimizer=SGD", ("optimizer", "SGD")),
        ("val_data_root=None", ("val_data_root", None)),
        ("train_data_root=data/train", ("train_data_root", "data/train")),
        ("class_weights=[1.0, 2]", ("class_weights", [1.0, 2])),
        ("notes=hello, world", ("notes", "hello, world")),
        ("notes='hello'", ("notes", "hello")),
        ("task=2024", ("task", "2024")),
        ("train_data_root=C:\\data", ("train_data_root", "C:\\data")),
        ("val_data_root=my data/val", ("val_data_root", "my data/val")),
        (r"group_by=[a-z]+(\d+)", ("group_by", r"[a-z]+(\d+)")),
        ("optuna.metric=['val_loss', 'seconds']", ("optuna.metric", ["val_loss", "seconds"])),
        ("pretrained=false", ("pretrained", False)),
        ("channels_last=TRUE", ("channels_last", True)),
        ("optimizer_params.nesterov=false", ("optimizer_params.nesterov", False)),
        ("scheduler=none", ("scheduler", None)),
        ("notes=true", ("notes", "true")),
    ],
)
def test_assignments_of_the_command_line(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("epochs", "--set learning_rate=0.01"),
        ("=3", "--set learning_rate=0.01"),
        ("epochs=3 +", "it takes an integer ≥ 1"),
        ("epochs=f(3)", "it takes an integer ≥ 1"),
        ("optimizer_params={[]: 1}", "it takes a dict or None"),
        ("tags=[a, b]", """quoted text: --set "tags=['a', 'b']\""""),
        ("scheduler_anneal_strategy=a b", """quoted text: --set "scheduler_anneal_strategy='a b'\""""),
    ],
)
def test_assignments_that_are_none(text: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignment(text)
    assert caught.value.problems[0].mend.endswith(mend)


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
