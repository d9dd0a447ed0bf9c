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


ELSEWHERE = {
    "lr = 0.1": "learning_rate",
    "num_epochs = 3": "epochs",
    "weight_decay = 0.05": 'optimizer_params["weight_decay"]',
    "train_dir = 'a'": "train_data_root",
    "layer_rates = {'fc': 0.1}": 'layer_wise_lr_config["layer_rates"]',
    "gamma = 0.5": 'scheduler_params["gamma"]',
    "amp = True": "precision",
    "patience: int = 3": 'early_stopping["patience"]',
    "random_seed = 3": "seed",
    "search_space = {}": 'optuna["search_space"]',
    "criterion = len": "loss",
}


@pytest.mark.parametrize("text", ELSEWHERE)
def test_a_name_from_elsewhere_is_told_with_the_setting_that_is_meant(tmp_path: Path, text: str) -> None:
    name = text.split(" ")[0].strip(":")
    said = f"{name} is no setting, and nothing reads it"
    assert told(tmp_path, text) == [f"{said}: did you mean {ELSEWHERE[text]}?"]
    assert told(tmp_path, text.replace(name, f"_{name}")) == []
    assert told(tmp_path, f"{text}\nprint({name})") == []
    assert told(tmp_path, "", text) == []
    assert told(tmp_path, "hidden = 3") == ["hidden is no setting, and nothing reads it"]


@pytest.mark.parametrize(
    "text",
    [
        "def model(num_classes): return size",
        "def model(num_classes, size): pass",
        "def dataset(split, **settings): pass",
        "from functools import partial\ndef make(size, classes): pass\nmodel = partial(make, classes=3)",
        "epochs = globals()['si' + 'ze']",
        "class Net:\n    width = size",
        "from helpers import model",
        "def adapter(size): return {}",
        "size += 1\nepochs = size",
        "import sys\nepochs = getattr(sys.modules[__name__], 'size')",
        "import sys\nepochs = sys.modules[__name__].__dict__['size']",
    ],
)
def test_a_value_that_is_read_or_asked_for_is_a_helper(tmp_path: Path, text: str) -> None:
    (tmp_path / "helpers.py").write_text("def model(num_classes, size): pass")
    assert told(tmp_path, "size = 3\n" + text) == []


@pytest.mark.parametrize(
    "text", ["import torch\nloss = torch.nn.CrossEntropyLoss()", "import torch\noptimizer = torch.optim.SGD"]
)
def test_a_value_that_an_object_could_name_but_is_not_given_is_told(tmp_path: Path, text: str) -> None:
    assert len(told(tmp_path, "momentum = 0.9\n" + text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from config import *\nepochs = size",
        "from .config import size as epochs",
        "import config as base\nepochs = base.size",
        "import config\nname = 'si' + 'ze'\nepochs = getattr(config, name)",
    ],
)
def test_a_value_for_the_files_that_import_this_one_is_a_helper(tmp_path: Path, text: str) -> None:
    (tmp_path / "child.py").write_text(text)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert told(tmp_path, "size = 3") == []
    assert len(told(tmp_path, "other = 3")) == ("getattr" not in text)


def test_a_value_for_those_that_import_the_package_is_a_helper(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "shown.py").write_text("from package.config import size\nprint(size)")
    assert len(told(package, "size = 3")) == 1
    (package / "__init__.py").write_text("")
    assert told(package, "size = 3") == []


INSIDE = """
if True:
    try:
        lr = 0.1
    except ValueError:
        pass
for gamma in ():
    random_seed = 1
else:
    with open(__file__) as _file:
        num_epochs, workers = 3, 4
depth, (bs, *others) = 1, divmod(7, 2)
(amp := True)
def step():
    momentum = 0.9
"""


def test_names_are_found_wherever_a_statement_gives_them_a_value(tmp_path: Path) -> None:
    found = [line.split(" ")[0] for line in told(tmp_path, INSIDE)]
    assert found == ["lr", "num_epochs", "workers", "depth", "bs", "amp"]


OWN_EPOCH = "enable_gradient_tracking = True\ndef train_epoch(run, epoch):\n    "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "enable_gradient_tracking = True\ngradient_tracking_config = {'exclude_patterns': ['fc', '.*']}",
            ["enable_gradient_tracking has no effect: exclude_patterns leaves every parameter out"],
        ),
        ("enable_gradient_tracking = True\ngradient_tracking_config = {'exclude_patterns': ['fc', 'x']}", []),
        (OWN_EPOCH + "pass", ["enable_gradient_tracking has no effect: train_epoch is train_epoch"]),
        (OWN_EPOCH + "run.gradients.add()", []),
        (OWN_EPOCH + "from pochitrain.engine.loop import train_epoch as ours\n    return ours(run, epoch)", []),
    ],
)
def test_tracing_that_records_nothing_is_told(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert told(tmp_path, text) == expected
