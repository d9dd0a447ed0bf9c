"""A config before it is an experiment: everything that can be said against it, at once, and whether it stays the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain import train
from pochitrain.config.schema import Config
from pochitrain.data.source import load_data
from pochitrain.errors import ConfigError, Problem
from pochitrain.tasks.config import check_config
from pochitrain.tasks.prepare import begun_in, checked_config, plan

WriteConfig = Callable[..., Path]


def refused(path: Path, *, device: bool = True) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        checked_config(path, device=device)
    return caught.value.problems


def test_the_device_is_among_what_is_told_at_once(write_config: WriteConfig) -> None:
    path = write_config("device = 'gpu'\nepochs = 0\noptimizer_params = {'x': 1}")
    assert [problem.where.rpartition(" ")[2] for problem in refused(path)] == ["epochs", "optimizer_params", "device"]
    [problem] = refused(write_config("device = 'gpu'"))
    assert problem.what == "There is no device 'gpu' on this machine"
    assert problem.where == f"{path}:24, device"


def test_a_device_of_another_machine_does_not_matter_where_nothing_is_computed(write_config: WriteConfig) -> None:
    assert checked_config(write_config("device = 'cuda:99'"), device=False).device == "cuda:99"


@pytest.mark.parametrize("name", ["work_dir", "task"])
def test_a_place_that_is_another_each_time_is_refused(write_config: WriteConfig, name: str) -> None:
    [problem] = refused(write_config(f"import uuid\n{name} = f'run{{uuid.uuid4()}}'"))
    assert problem.what == "The config gives other values each time it is executed"
    assert problem.where.startswith(f"{name} run")
    assert "fixed values" in problem.mend


@pytest.mark.parametrize(
    ("lines", "mend"),
    [
        ("model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))", "def model(num_classes): return …"),
        ("model = nn.Linear(192, 3)", "def model(num_classes): return …"),
        ("loss = nn.Bilinear(2, 3, 1)", "loss = MyLoss"),
    ],
)
def test_an_object_with_random_weights_is_to_be_made_by_a_function(
    write_config: WriteConfig, lines: str, mend: str
) -> None:
    [problem] = refused(write_config(lines))
    assert problem.mend == f"give the function or class that makes it, not what it made: {mend}"


def test_a_config_that_leaves_its_folder_is_executed_twice_from_the_same(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config("import os\nos.chdir('below')\nnotes = os.getcwd()", name="moving.py")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    assert checked_config("moving.py").notes == os.getcwd() == str(tmp_path / "below")


def test_train_takes_a_file_or_a_config(write_config: WriteConfig) -> None:
    path = write_config("epochs = 1\nenable_metrics_export = False")
    trained = train(path)
    assert train(str(path)) == train(checked_config(path)) == trained
    for wrong in ({"epochs": 3}, None, Config):
        with pytest.raises(
            ConfigError, match=r"A config is a file, or what load_config returns, and not (dict|NoneT|Model)"
        ):
            train(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="epochs cannot be 0"):
        train(write_config("epochs = 0"))


def test_a_check_names_the_precision_in_which_an_experiment_goes_on(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config("model_name = 'resnet18'\nnum_workers = 0\nepochs = 1\nprecision = 'auto'")
    chosen = plan(config := checked_config(path), load_data(config))
    assert begun_in(config, chosen.experiment) is None
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)  # a processor without bf16
    train(path)
    assert begun_in(config, chosen.experiment) == "fp32"
    asked = checked_config(path, {"precision": "bf16"})
    assert begun_in(asked, chosen.experiment) is None
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    capsys.readouterr()
    check_config(path, {"epochs": 2})
    assert "on cpu in fp32" in capsys.readouterr().out
