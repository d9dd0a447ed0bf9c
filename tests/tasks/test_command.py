"""What surrounds a training on the command line: its switches, the settings without effect, and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain.cli import app, run
from pochitrain.tasks.command import run_train

WriteConfig = Callable[..., Path]
Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs the command line in this process: `cli("train", "-c", path)` is the exit code."""

    def command(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pochi", *map(str, arguments)])
        return run(app)

    return command


def test_train_and_test_are_switches(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config("epochs = 1\nenable_metrics_export = False")
    only_test = {"train": False, "test": True}
    with pytest.raises(ValueError, match=r"train is False, but there is no training to judge: .*tiny"):
        run_train(path, only_test, restart=False, strict_env=False)
    trained = run_train(path, {}, restart=False, strict_env=False)
    assert not trained.experiment.infer_dir.exists()
    checkpoint = sorted(trained.experiment.checkpoints_dir.iterdir())
    both = run_train(path, {"test": True}, restart=False, strict_env=False)
    assert both == trained
    said = capsys.readouterr().out.splitlines()
    judged = json.loads((trained.experiment.infer_dir / "val" / "metrics.json").read_text())
    assert 100 * judged["metrics"]["accuracy"]["value"] == pytest.approx(trained.metric)
    assert said[-1] == f"val_accuracy {trained.metric:.4f}"
    assert any(line.startswith("results") and "infer/val" in line for line in said)
    more = {"epochs": 2, **only_test, "tags": ["judged"]}
    again = run_train(path, more, restart=False, strict_env=False)
    assert (again.experiment, again.history) == (trained.experiment, trained.history)
    assert sorted(trained.experiment.checkpoints_dir.iterdir()) == checkpoint


def test_settings_without_effect_are_told_before_training_and_by_the_check(
    write_config: WriteConfig, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config("epochs = 1\nenable_metrics_export = False")
    line = "warning: scheduler_params has no effect: scheduler is None"
    for verb in (["train"], ["config", "check"]):
        assert cli(*verb, "-c", path, "--set", "scheduler_gamma=0.5") == 0
        assert capsys.readouterr().out.splitlines().count(line) == 1
    log = next(path.parent.glob("work_dirs/*/*/*/train.log")).read_text(encoding="utf-8")
    assert line in log


def test_the_check_looks_whether_the_results_can_be_written(
    write_config: WriteConfig, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = write_config(f"work_dir = {str(tmp_path / 'file')!r}")
    assert cli("config", "check", "-c", path) == 74
    assert "A file is in the place of a folder" in capsys.readouterr().err
    assert cli("config", "check", "-c", write_config("class_weights = [1, 2]")) == 2
    assert f"{path}:24, class_weights" in capsys.readouterr().err


def test_ids_end_with_the_code_of_what_was_refused(
    write_config: WriteConfig, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fine, wrong = write_config(name="fine.py"), write_config("epochs = 0", name="wrong.py")
    empty = write_config(data=tmp_path / "nowhere", name="empty.py")
    assert cli("config", "id", fine) == 0
    assert cli("config", "id", fine, wrong) == 2
    assert cli("config", "id", empty, wrong, fine) == 3
    said = capsys.readouterr()
    assert said.out.count("fine.py") == 3
    assert "nowhere" in said.err
