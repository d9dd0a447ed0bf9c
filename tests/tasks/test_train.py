"""`pochi train` through its Python API and its command line: begins, continues, is complete, is new."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pochitrain import load_config, train
from pochitrain.data.source import load_data
from pochitrain.engine.checkpoint import Checkpoints
from pochitrain.engine.feed import usable_cores
from pochitrain.engine.run import build_run
from pochitrain.errors import ConfigError
from pochitrain.experiment import Experiment
from pochitrain.history import TIMING
from pochitrain.tasks.prepare import checked_config
from pochitrain.tasks.summary import layer_table
from tests.conftest import make_images, pochi
from tests.faults.lives import Life, command, live

WriteConfig = Callable[..., Path]


def rows(experiment: Experiment) -> list[dict[str, str]]:
    """Return metrics.csv without the columns that depend on the clock."""
    with experiment.metrics_csv.open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def same_state(a: object, b: object) -> bool:
    """Return whether two checkpoints hold the same bits, the clock's columns apart."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        keys = {k for k in a.keys() | b.keys() if k not in TIMING}
        return all(k in a and k in b and same_state(a[k], b[k]) for k in keys)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def state(experiment: Experiment) -> dict[str, object]:
    loaded = Checkpoints(experiment.checkpoints_dir).load_newest()
    assert loaded is not None
    return {"epoch": loaded.epoch, "step": loaded.step, **loaded.state}


def only_experiment(work_dir: Path) -> Experiment:
    found = list(work_dir.glob("*/*/????????????"))
    assert len(found) == 1, found
    return Experiment(found[0], "")


def test_a_run_leaves_everything_behind(write_config: WriteConfig) -> None:
    path = write_config()
    experiment, history, metric = train(load_config(path))
    assert [record["epoch"] for record in history] == [1, 2]
    assert metric == max(record["val_accuracy"] for record in history)
    names = {str(p.relative_to(experiment.dir)) for p in experiment.dir.rglob("*") if p.is_file()}
    assert names >= {
        "best.pt", "last.pt", "config.py", "config.json", "data_manifest.json.gz", "experiment.json", "identity.json",
        "metrics.csv", "train.log", "plots/loss.png", "plots/accuracy.png", "plots/confusion_matrix.png",
    }  # fmt: skip
    assert experiment.config_py.read_text() == path.read_text()
    manifest = json.loads(experiment.experiment_json.read_text())
    assert manifest["status"] == "complete"
    assert manifest["classes"] == ["ant", "bee", "cat"]
    assert len(manifest["id"]) == 64
    assert manifest["id"].startswith(experiment.dir.name)
    header = experiment.metrics_csv.read_text().splitlines()[0]
    assert header.startswith("epoch,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy")


def test_the_model_files_stand_alone(write_config: WriteConfig) -> None:
    experiment, history, metric = train(load_config(write_config()))
    best = torch.load(experiment.best_pt, weights_only=True)
    assert best["classes"] == ["ant", "bee", "cat"]
    assert best["record"]["val_accuracy"] == metric
    assert best["confusion_matrix"].sum() == 9
    assert 100 * best["confusion_matrix"].trace() / 9 == pytest.approx(metric)
    last = torch.load(experiment.last_pt, weights_only=True)
    assert last["epoch"] == len(history)
    assert last["val_transform"]["name"] == "v1.ToTensor"
    assert last["settings"]["learning_rate"] == 0.01


def test_the_best_weights_are_those_of_their_epoch_although_training_goes_on(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config()
    wanted = train(load_config(path, {"epochs": 1, "work_dir": str(tmp_path / "one")})).experiment.best_pt
    write, wait, trained_on = Checkpoints._write, Checkpoints.wait, threading.Event()

    def late(*given: Any) -> None:
        assert trained_on.wait(60)
        write(*given)

    def asked(checkpoints: Checkpoints) -> None:
        if checkpoints._pending is not None:  # the second epoch is over, or the run
            trained_on.set()
        wait(checkpoints)

    monkeypatch.setattr(Checkpoints, "_write", late)
    monkeypatch.setattr(Checkpoints, "wait", asked)
    monkeypatch.setattr("pochitrain.tasks.train.best_epoch", lambda _history, _monitor: 1)
    experiment = train(load_config(path)).experiment
    best, last, first = (torch.load(p, weights_only=True) for p in (experiment.best_pt, experiment.last_pt, wanted))
    assert best["epoch"] == 1
    assert same_state(best["model"], first["model"])
    assert not same_state(best["model"], last["model"])


def test_complete_is_complete_and_more_epochs_continue_to_the_bit(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config()
    first = train(load_config(path))
    stamp = first.experiment.last_pt.stat().st_mtime_ns
    again = train(load_config(path))
    assert "Already complete: 2 epochs" in capsys.readouterr().out
    assert again.metric == first.metric
    assert first.experiment.last_pt.stat().st_mtime_ns == stamp
    more = train(load_config(path, {"epochs": 4}))
    assert more.experiment == first.experiment
    straight = train(load_config(path, {"epochs": 4, "work_dir": str(tmp_path / "straight")}))
    assert straight.experiment.id == more.experiment.id
    assert rows(straight.experiment) == rows(more.experiment)
    assert same_state(state(straight.experiment), state(more.experiment))


def test_what_changed_makes_a_new_experiment_and_is_named(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(load_config(write_config()))
    second = train(load_config(write_config("learning_rate = 0.02")))
    assert second.experiment.id != first.experiment.id
    assert "new because learning_rate 0.01 → 0.02" in capsys.readouterr().out
    data = make_images(tmp_path / "data" / "train", {"ant": 10, "bee": 7, "cat": 6}).parent
    make_images(data / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
    moved = train(load_config(write_config(data=data)))
    assert moved.experiment.id == first.experiment.id  # the folder moved, the images are the same
    (data / "train" / "ant" / "000.png").unlink()
    make_images(data / "train", {"dog": 0, "bee": 8})
    (data / "train" / "dog").rmdir()
    fewer = train(load_config(write_config(data=data)))
    assert fewer.experiment.id != first.experiment.id
    assert "data.train +1 −1 ~" in capsys.readouterr().out


def test_the_nearest_experiment_may_be_of_another_task_but_the_own_one_is_preferred(
    write_config: WriteConfig, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def new(lines: str) -> str:
        train(load_config(write_config("epochs = 1\nval_data_root = None\n" + lines)))
        said = capsys.readouterr().out
        return "".join(line for line in said.splitlines() if line.startswith("new because"))

    assert new("seed = 1\ntask = 'a'") == ""
    assert new("seed = 2\ntask = 'b'").startswith("new because seed 1 → 2 (nearest: ")
    assert new("seed = 3\ntask = 'b'").startswith("new because seed 2 → 3 (nearest: ")
    assert new("seed = 4\ntask = 'a'").startswith("new because seed 1 → 4 (nearest: ")
    assert new("seed = 1\ntask = 'b'").startswith("new because task a → b (nearest: ")
    assert new("seed = 3\nbatch_size = 5\ntask = 'c'").startswith("new because batch_size 4 → 5 (nearest: ")
    assert new(f"seed = 5\ntask = 'd'\ntrain_data_root = {str(images / 'val')!r}") == ""  # nothing in common


@pytest.mark.parametrize(
    "lines",
    [
        "num_workers = 2",
        "num_workers = 0",
        "cache = 'off'",
        "cache = 'disk'",
        "cache_gb = 1e-6",
        "pin_memory = True",
        "enable_gradient_tracking = True",
        "enable_tensorboard = True",
        "enable_metrics_export = False",
        "checkpoint_every_minutes = 1e-9",
        "checkpoint_every_minutes = None",
        "log_level = 'warning'",
        "tags = ['a']\nnotes = 'b'\ntask = 'c'",
        "observers = [print]\nplots = [lambda history, plots_dir: None]",
        "early_stopping = {'enabled': True, 'patience': 9}",
        "confusion_matrix_config = {'title': '混同行列'}",
        "print_config = True\nignore_warnings = True",
        "worker_timeout_seconds = 60",
        "cudnn_benchmark = True",
    ],
)
def test_operational_settings_leave_id_and_weights_alone(write_config: WriteConfig, tmp_path: Path, lines: str) -> None:
    plain = train(load_config(write_config(), {"work_dir": str(tmp_path / "plain")}))
    other = train(load_config(write_config(lines)))
    assert other.experiment.id == plain.experiment.id
    ours, theirs = state(plain.experiment), state(other.experiment)
    for key in ("model", "optimizer", "scheduler"):
        assert same_state(ours[key], theirs[key]), key


def test_labels_are_kept_and_can_be_changed_later(write_config: WriteConfig) -> None:
    first = train(load_config(write_config("tags = ['a']\nprint_config = True")))
    assert first.experiment.tags_log.read_text() == "a\n"
    assert "learning_rate = 0.01" in first.experiment.config_tree_log.read_text(encoding="utf-8")
    train(load_config(write_config("tags = ['b', 'c']\nnotes = '後で'")))
    manifest = json.loads(first.experiment.experiment_json.read_text())
    assert (manifest["tags"], manifest["notes"], manifest["status"]) == (["b", "c"], "後で", "complete")


def test_enforced_tags_are_asked_for_or_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    path, said = write_config("enforce_tags = True"), tmp_path / "said.txt"
    assert live(command("train", "-c", path, cwd=tmp_path), said) == 2
    assert "--tag" in said.read_text()
    assert not (tmp_path / "work_dirs").exists()
    assert live(command("train", "-c", path, "--tag", "first", cwd=tmp_path), said) == 0
    listed = pochi("list", cwd=tmp_path)
    assert listed.stdout.splitlines()[1].endswith("\tfirst")


def test_without_validation_data(write_config: WriteConfig) -> None:
    experiment, history, metric = train(load_config(write_config("val_data_root = None")))
    assert metric == min(record["train_loss"] for record in history)
    assert all(row["val_loss"] == "" for row in rows(experiment))


def test_restart_keeps_the_old_folder_aside(write_config: WriteConfig) -> None:
    config = load_config(write_config())
    first = train(config)
    second = train(config, restart=True)
    assert second.experiment == first.experiment
    aside = first.experiment.dir.with_name(first.experiment.dir.name + ".old-1")
    assert (aside / "best.pt").exists()


def test_an_observer_that_fails_is_switched_off(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "seen = []\ndef bad(record):\n    raise KeyError('x')\nobservers = [bad, seen.append]"
    config = load_config(write_config(lines))
    train(config)
    assert capsys.readouterr().out.count("The observer bad failed") == 1
    assert [record["epoch"] for record in config.origin.helpers["seen"]] == [1, 2]


def test_what_a_user_gives_to_look_at_may_end_itself_and_changes_nothing(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = """
seen = []
def leaves(record):
    raise SystemExit(3)
def clears(history):
    history[0].clear()
    history.clear()
    raise SystemExit(4)
def looks(history):
    seen.extend(record["epoch"] for record in history)
observers, plots = [leaves], [clears, looks]
"""
    config = load_config(write_config(lines))
    done = train(config)
    said = capsys.readouterr().out
    assert said.count("The observer leaves failed and is switched off: SystemExit: 3") == 1
    assert "The plot clears failed: clears ended the program: sys.exit(4) (plots)" in said
    assert config.origin.helpers["seen"] == [record["epoch"] for record in done.history] == [1, 2]
    assert manifest_of(done.experiment)["status"] == "complete"


def manifest_of(experiment: Experiment) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(experiment.experiment_json.read_text(encoding="utf-8"))
    return manifest


def test_a_colour_map_that_does_not_exist_is_refused_with_all_other_mistakes(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_config(write_config("model, model_name = None, 'resnet19'\nconfusion_matrix_config = {'cmap': 'Blue'}"))
    told = [(problem.what, problem.mend) for problem in caught.value.problems]
    assert told == [
        ("Unknown model: resnet19", "did you mean resnet18?"),
        ("matplotlib has no colour map 'Blue'", "choose another name, for instance Blues, Blues_r"),
    ]
    checked_config(write_config("confusion_matrix_config = {'cmap': 'viridis'}"))


def test_a_size_in_pixels_is_refused_before_it_fills_the_memory(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_config(write_config("confusion_matrix_config = {'figsize': (800, 6.5), 'title_fontsize': 500}"))
    told = [(problem.what, problem.mend) for problem in caught.value.problems]
    assert [what.rpartition(" ")[2] for what, _mend in told] == ["500", "800"]
    assert told[0][1].endswith("a number > 0, ≤ 144 points")
    assert "a number > 0, ≤ 60 inches" in told[1][1]


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = train(load_config(write_config("confusion_matrix_config = {'cmap': 'Blue'}"))).experiment
    warned = "warning: Not every picture could be drawn: matplotlib has no colour map 'Blue'"
    assert capsys.readouterr().out.count(warned) == 1
    assert manifest_of(experiment)["status"] == "complete"
    assert sorted(path.name for path in experiment.plots_dir.iterdir()) == ["accuracy.png", "loss.png"]


RISING = """
epochs = 5
early_stopping = {"enabled": True, "patience": 2, "min_delta": 200.0}
class Rising(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
    def forward(self, logits, labels):
        self.calls += 1
        return nn.functional.cross_entropy(logits, labels) + self.calls
loss = Rising
"""


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("", "an improvement of 200 in val_accuracy"),
        ("val_data_root = None", "an improvement in train_loss"),  # whose change min_delta does not measure
    ],
)
def test_a_run_that_stops_early_says_so(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], lines: str, what: str
) -> None:
    path = write_config(RISING + lines)
    done = train(load_config(path))
    said = f"stopped early: 2 epochs without {what}"
    assert len(done.history) == 3
    assert capsys.readouterr().out.splitlines().count(said) == 1
    assert said in done.experiment.train_log.read_text(encoding="utf-8")
    assert manifest_of(done.experiment)["reason"] == "early stopping"
    train(load_config(path, {"early_stopping.enabled": False}))
    assert "stopped early" not in capsys.readouterr().out
    assert "reason" not in manifest_of(done.experiment)


def test_only_what_is_there_is_announced(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = train(load_config(write_config("enable_metrics_export = False\nepochs = 1"))).experiment
    said = capsys.readouterr().out
    assert f"model    {experiment.best_pt}\n" in said
    assert "metrics  " not in said
    assert "plots    " not in said
    train(load_config(write_config("epochs = 2")))
    said = capsys.readouterr().out
    assert f"metrics  {experiment.metrics_csv}\n" in said
    assert f"plots    {experiment.plots_dir}\n" in said


def test_without_a_number_to_choose_by_there_is_no_best_epoch(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = """
early_stopping = {"monitor": "val_loss"}
def loss(logits, labels):
    return nn.functional.cross_entropy(logits, labels) * (1 if logits.requires_grad else float("nan"))
"""
    experiment = train(load_config(write_config(lines))).experiment
    said = capsys.readouterr().out
    assert "warning: val_loss was never a number: there is no best epoch\n" in said
    assert said.count("warning") == 1
    assert "None" not in said
    assert said.endswith(f"model    {experiment.last_pt}\n")
    assert sorted(path.name for path in experiment.plots_dir.iterdir()) == ["accuracy.png", "loss.png"]


def test_the_log_tells_why_a_run_ended(write_config: WriteConfig, tmp_path: Path) -> None:
    lines = "def train_epoch(run, epoch):\n    raise KeyError('mine')"
    path = write_config(lines)
    with pytest.raises(KeyError):
        train(load_config(path))
    log = only_experiment(tmp_path / "work_dirs").train_log.read_text(encoding="utf-8")
    ends = [line[20:] for line in log.splitlines()[-4:]]
    assert ends[:2] == ["Your code raised KeyError: 'mine'", "    raise KeyError('mine')"]
    assert str(path) in ends[2]


def test_a_long_pattern_folds_in_a_narrow_terminal(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = r"(0|1)\.(weight|bias|a_part_that_is_not_there|another_part_that_is_not_there)"
    lines = f"enable_layer_wise_lr = True\nlayer_wise_lr_config = {{'layer_rates': {{{pattern!r}: 0.1}}}}"
    config = load_config(write_config(lines))
    Console(width=50, highlight=False).print(layer_table(build_run(config, load_data(config))))
    column = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert pattern in "".join(column)


def test_the_command_line_prints_the_metric_last_and_no_control_codes(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    done = pochi("train", "-c", write_config(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("val_accuracy ")
    assert "\x1b" not in done.stdout
    log = only_experiment(tmp_path / "work_dirs").train_log.read_text(encoding="utf-8")
    assert "epoch 2/2" in log


SLOW = """
import os, time
class Slow:
    def __call__(self, image):
        time.sleep(30 if os.path.exists("hang") else 0.03 if os.path.exists("slow") else 0)
        return transforms.ToTensor()(image)
train_transform = Slow()
epochs = 3
"""


def start_slow(path: Path, tmp_path: Path) -> Life:
    """Return a process in the second of its three epochs, which takes most of a second."""
    (tmp_path / "slow").touch()
    life = Life(command("train", "-c", path, cwd=tmp_path), tmp_path / "said.txt")
    life.wait_for("epoch 1/3")
    return life


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_saves_and_the_same_command_continues_to_the_bit(
    write_config: WriteConfig, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = write_config(SLOW)
    life = start_slow(path, tmp_path)
    time.sleep(0.3)
    life.send(number)
    assert life.end() == code
    assert "Traceback" not in life.said
    assert "saved" in life.said
    assert "Stopped after epoch 1, and saved" in only_experiment(tmp_path / "work_dirs").train_log.read_text()
    stopped = state(only_experiment(tmp_path / "work_dirs"))
    assert stopped["epoch"] == 1
    assert stopped["step"] > 0  # type: ignore[operator]
    resumed = train(load_config(path))
    straight = train(load_config(path, {"work_dir": str(tmp_path / "straight")}))
    assert rows(resumed.experiment) == rows(straight.experiment)
    assert same_state(state(resumed.experiment), state(straight.experiment))


def test_a_second_signal_leaves_at_once(write_config: WriteConfig, tmp_path: Path) -> None:
    life = start_slow(write_config(SLOW), tmp_path)
    (tmp_path / "hang").touch()
    time.sleep(0.1)
    life.send(signal.SIGINT)
    time.sleep(0.1)
    assert life.running  # it sleeps in the transform
    life.send(signal.SIGINT)
    assert life.end(2) == 130
    assert state(only_experiment(tmp_path / "work_dirs"))["epoch"] == 1


def test_a_closed_pipe_does_not_stop_the_training(write_config: WriteConfig, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pochitrain", "train", "-c", str(write_config("epochs = 3"))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert len(rows(only_experiment(tmp_path / "work_dirs"))) == 3


WRONGLY_MARKED = """
from pochitrain import deterministic
@deterministic
def turned(image):
    return image.rotate(float(torch.rand(1)) * 90)
train_transform = transforms.Compose([turned, transforms.Resize((16, 16)), transforms.ToTensor()])
"""


@pytest.mark.parametrize(("lines", "told"), [("", False), (WRONGLY_MARKED, True)])
def test_a_transform_that_cannot_be_done_in_parts_is_told(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], lines: str, told: bool
) -> None:
    train(load_config(write_config(lines)))
    assert ("the transform in one piece" in capsys.readouterr().out) is told


def test_more_processes_than_cores_are_told_once(write_config: WriteConfig) -> None:
    count = usable_cores() + 1
    done = pochi("train", "-c", write_config(f"num_workers = {count}\nepochs = 1\n"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"warning: {count} loading processes share {count - 1} processor cores") == 1
    assert done.stderr == ""


def test_two_starts_at_once_train_once(write_config: WriteConfig, tmp_path: Path) -> None:
    path, second, third = write_config(SLOW), tmp_path / "second.txt", tmp_path / "third.txt"
    first = start_slow(path, tmp_path)
    (tmp_path / "hang").touch()
    assert live(command("train", "-c", path, cwd=tmp_path), second) == 75
    assert f"process {first.pid} on" in second.read_text()
    first.send(signal.SIGKILL)
    first.end()
    for name in ("hang", "slow"):
        (tmp_path / name).unlink()
    assert live(command("train", "-c", path, cwd=tmp_path), third) == 0, third.read_text()


@pytest.mark.parametrize(("lines", "count"), [("", 1), ("ignore_warnings = True\n", 0)])
def test_a_warning_of_the_config_itself_is_said_once_or_not_at_all(
    write_config: WriteConfig, lines: str, count: int
) -> None:
    path = write_config(lines + "import warnings\nwarnings.warn('my own')")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked_config(path)
    assert [str(warning.message) for warning in caught] == ["my own"] * count
