"""`pochi optimize`: a search that tells the truth, whatever happens to it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.pruners import BasePruner
from scipy import stats

from pochitrain import load_config, optimize, train
from pochitrain.cli import app, run
from pochitrain.config.loader import replace_settings
from pochitrain.data.source import load_data
from pochitrain.errors import ConfigError, DiskError, StoppedError
from pochitrain.experiment import find_experiments, read_manifest
from pochitrain.history import TIMING
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, TrialRow
from pochitrain.sinks.console import Log
from pochitrain.tasks.confirm import Confirmation, gain_interval
from pochitrain.tasks.made_of import made_of
from pochitrain.tasks.optimize import Searched
from pochitrain.tasks.search import Search
from pochitrain.tasks.study import open_study
from pochitrain.tasks.trial import Outcome, Trainer, Work
from pochitrain.tasks.workers import Workers, device_of, import_ahead
from tests.conftest import TINY, make_images, pochi

WriteConfig = Callable[..., Path]

GUIDE_FILES = {
    "best_params.json", "trials_history.json", "optimized_config.py", "study_statistics.json",
    "optimization_history.html", "param_importances.html", "contour.html",
}  # fmt: skip
FILES = GUIDE_FILES | {"slice.html", "parallel_coordinate.html", "trials.csv", "plotly.min.js", ".lock"}

RATE = {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}
SPACE = {
    "learning_rate": RATE,
    "batch_size": {"type": "categorical", "choices": [4, 8]},
    "optimizer": {"type": "categorical", "choices": ["SGD", "Adam"]},
    "scheduler_gamma": {"type": "float", "low": 0.5, "high": 1.0},
}


def optuna(space: dict[str, Any] | None = None, **settings: Any) -> str:
    """Return the lines of a config that search `space`: few trials of two epochs."""
    plain = {"n_trials": 3, "optuna_epochs": 2, "search_space": SPACE if space is None else space, **settings}
    return f"optuna = {plain!r}\n"


SCHEDULED = "scheduler, scheduler_params = 'ExponentialLR', {'gamma': 0.9}\n"


def statistics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "study_statistics.json").read_text(encoding="utf-8"))
    return found


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "trials_history.json").read_text(encoding="utf-8"))
    return found


def results(searched: Searched) -> list[Any]:
    return [(row.state, row.values, row.point, row.epochs) for row in searched.rows]


def epochs(metrics_csv: Path) -> list[dict[str, str]]:
    """Return the rows of an experiment without what a clock measured."""
    with metrics_csv.open(encoding="utf-8") as file:
        return [{name: row[name] for name in row if name not in TIMING} for row in csv.DictReader(file)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, and what it said."""
    capsys.readouterr()
    code = run(lambda **how: app([str(argument) for argument in arguments], **how))
    return code, *capsys.readouterr()


# --------------------------------------------------------------------------------------------------------- what it leaves


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Searched, Path]:
    """Return a search of eight trials in two processes, and its config; do not change the folder."""
    folder = tmp_path_factory.mktemp("searched")
    path = folder / "tiny_config.py"
    head = TINY.format(train=str(images / "train"), val=str(images / "val"), work_dir=str(folder / "work_dirs"))
    path.write_text(head + SCHEDULED + optuna(n_trials=8, n_jobs=2, keep_weights=2), encoding="utf-8")
    with threads(2):
        return optimize(load_config(path)), path


def test_every_file_of_the_guide_is_there(searched: tuple[Searched, Path]) -> None:
    found, path = searched
    assert found.folder == path.parent / "work_dirs" / "optuna_results"
    names = {file.name for file in found.folder.iterdir() if file.is_file()}
    assert names == FILES
    assert found.best is not None
    assert json.loads((found.folder / "best_params.json").read_text()) == found.best.point
    rows = trials(found.folder)
    assert len(rows) == 8
    done = [row for row in rows if row["state"] == COMPLETE]
    assert max(row["value"] for row in done) == found.best.values[0]  # type: ignore[index]
    assert all(row["value"] == max(row["intermediate_values"].values()) for row in done)
    assert all(row["duration_seconds"] > 0 for row in done)
    told = statistics(found.folder)
    assert told["status"] == "complete"
    assert told["best_trial"] == found.best.number
    assert told["trials"]["complete"] + told["trials"]["pruned"] == 8
    assert set(told["param_importances"]) == set(SPACE)
    assert (found.folder / "trials.csv").read_text().startswith("number,state,val_accuracy,learning_rate,batch_size,")


def test_every_trial_is_an_experiment(searched: tuple[Searched, Path]) -> None:
    found, _path = searched
    infos = find_experiments(found.folder)
    assert [info.task for info in infos] == [f"trial-{n:04}" for n in range(8)]
    for info, row in zip(infos, trials(found.folder), strict=True):
        assert info.experiment.id == row["experiment"]
        assert info.status == ("complete" if row["state"] == COMPLETE else "stopped")
        settings = json.loads(info.experiment.config_json.read_text())
        assert settings["learning_rate"] == row["params"]["learning_rate"]
        assert settings["scheduler_params"]["gamma"] == row["params"]["scheduler_gamma"]
        assert len(info.experiment.metrics_csv.read_text().splitlines()) == 1 + len(row["intermediate_values"])


def test_trials_can_be_shown_and_compared(
    searched: tuple[Searched, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _path = searched
    first = found.rows[0]
    code, shown, err = command(capsys, "show", first.experiment[:8], "--work-dir", found.folder)
    assert (code, err) == (0, "")
    assert "trial-0000" in shown
    kept = [file.parent.name for file in found.folder.rglob("best.pt")]
    code, compared, err = command(
        capsys, "compare", *kept, "--work-dir", found.folder, "--output", tmp_path / "compared.html"
    )
    assert (code, err) == (0, "")
    assert "learning_rate" in compared


def test_the_weights_of_the_best_few_stay(searched: tuple[Searched, Path]) -> None:
    found, _path = searched
    complete = [row for row in found.rows if row.state == COMPLETE and row.values]
    best = sorted(complete, key=lambda row: (-row.values[0], row.number))[:2]  # type: ignore[index]
    kept = {file.parent for file in found.folder.rglob("*.pt")}
    assert kept == {Path(row.folder) for row in best}
    assert not list(found.folder.rglob("*.ckpt"))


def test_the_optimized_config_gives_the_numbers_of_the_best_trial(searched: tuple[Searched, Path]) -> None:
    found, _path = searched
    assert found.best is not None
    with threads(2):
        config = load_config(found.folder / "optimized_config.py", {"epochs": 2})
        assert torch.get_num_threads() == 1  # each of the two processes had one of two
        experiment, history, metric = train(config)
    assert experiment.id == found.best.experiment
    assert metric == found.best.values[0]  # type: ignore[index]
    assert {record["epoch"]: record["val_accuracy"] for record in history} == found.best.epochs


def test_an_empty_search_space_is_training(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(SCHEDULED + optuna({}))
    trained = train(load_config(path))
    found = optimize(load_config(path))
    assert "The search space is empty" in capsys.readouterr().out
    assert [row.values for row in found.rows] == [[trained.metric]] * 3
    assert [row.repeat_of for row in found.rows] == [None, 0, 0]
    (info,) = find_experiments(found.folder)
    assert info.experiment.id == trained.experiment.id
    ours, theirs = (epochs(each.metrics_csv) for each in (info.experiment, trained.experiment))
    assert len(ours) == 2
    assert ours == theirs


def test_a_sequential_search_repeats_exactly(write_config: WriteConfig) -> None:
    path = write_config(SCHEDULED + optuna())
    one, other = optimize(load_config(path)), optimize(load_config(path))
    assert results(one) == results(other)
    assert (one.folder.name, other.folder.name) == ("optuna_results", "optuna_results_2")


def test_objects_of_the_file_can_be_searched(write_config: WriteConfig) -> None:
    lines = """
plain = transforms.ToTensor()
bright = lambda image: transforms.ToTensor()(image) + 0.5
def wide(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
optuna = {"n_trials": 4, "optuna_epochs": 1, "sampler": "GridSampler", "search_space": {
    "train_transform": {"type": "categorical", "choices": [plain, bright]},
    "model": {"type": "categorical", "choices": [model, wide]},
}}
"""
    found = optimize(load_config(write_config(lines)))
    assert sorted(tuple(row.point.values()) for row in found.rows) == [
        ("<lambda>", "model"), ("<lambda>", "wide"), ("ToTensor", "model"), ("ToTensor", "wide"),
    ]  # fmt: skip
    assert len({row.experiment for row in found.rows}) == 4
    assert found.best is not None
    trained = train(load_config(found.folder / "optimized_config.py", {"epochs": 1}))
    assert trained.experiment.id == found.best.experiment
    assert [trained.metric] == found.best.values


def test_a_written_file_that_means_something_else_is_told(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = """
import sys
here = sys._getframe().f_code.co_filename
optimizer, optimizer_params = "SGD", {"momentum": 0.5 if "optimized" in here else 0.75}
"""
    for first in ("", lines):
        optimize(load_config(write_config(first + optuna({"learning_rate": RATE}, n_trials=1, optuna_epochs=1))))
        told = capsys.readouterr().out
        assert ("is not what the best trial was trained with: optimizer_params.momentum 0.75 → 0.5" in told) == bool(
            first
        )


def test_several_objectives(write_config: WriteConfig) -> None:
    goal = {"metric": ["val_accuracy", "parameters"], "direction": ["maximize", "minimize"]}
    lines = "def wide(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    models = {"type": "categorical", "choices": ["#model", "#wide"]}
    one = {"type": "categorical", "choices": [1]}
    space = optuna({"model": models, "epochs": one}, sampler="GridSampler", **goal)
    found = optimize(load_config(write_config(lines + space.replace("'#model'", "model").replace("'#wide'", "wide"))))
    sizes = {row.point["model"]: row.values[1] for row in found.rows if row.values}
    assert sizes == {"wide": 579.0, "model": 135.0}
    assert statistics(found.folder)["pareto_front"]
    assert all(len(row["intermediate_values"]) == 1 for row in trials(found.folder))
    assert ", the best epoch of 1.\n" in (found.folder / "optimized_config.py").read_text()


# -------------------------------------------------------------------------------------------------------- trials that fail


def test_a_failing_trial_is_recorded_and_the_search_goes_on(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = """
def refuses(logits, labels):
    raise KeyError("no such label")
def diverges(logits, labels):
    return nn.functional.cross_entropy(logits, labels) * float("nan")
optuna = {"n_trials": 3, "optuna_epochs": 1, "sampler": "GridSampler", "search_space": {
    "loss": {"type": "categorical", "choices": [None, refuses, diverges]},
    "class_weights": {"type": "categorical", "choices": [[1.0, 2.0, 2.0]]},
}}
"""
    found = optimize(load_config(write_config(lines)))
    by_loss = {row["params"]["loss"]: row for row in trials(found.folder)}
    assert by_loss[None]["state"] == COMPLETE
    assert "KeyError: 'no such label'" in by_loss["refuses"]["error"]
    assert "Traceback" in by_loss["refuses"]["traceback"]
    assert "The loss is no longer finite" in by_loss["diverges"]["error"]
    assert read_manifest(find_experiments(found.folder)[0].experiment)
    assert found.best is not None
    assert found.best.point == {"loss": "None", "class_weights": "[1.0, 2.0, 2.0]"}
    best = json.loads((found.folder / "best_params.json").read_text())
    assert best == {"loss": None, "class_weights": [1.0, 2.0, 2.0]}  # what is a value for JSON is no label there
    told = capsys.readouterr().out
    assert "  loss = None\n" in told
    assert "loss refuses, class_weights [1.0, 2.0, 2.0]\n" in told
    assert statistics(found.folder)["trials"]["failed"] == 2


def test_when_every_trial_fails_the_reasons_are_told(write_config: WriteConfig, tmp_path: Path) -> None:
    lines = "def refuses(logits, labels):\n    raise KeyError('mine')\nbroken = refuses\n"
    space = "optuna = {'n_trials': 2, 'optuna_epochs': 1, 'search_space': {'loss': {'type': 'categorical', 'choices': [refuses]}}}"
    with pytest.raises(ConfigError, match="Every trial failed") as error:
        optimize(load_config(write_config(lines + space)))
    assert "KeyError: 'mine'" in error.value.problems[0].what
    folder = tmp_path / "work_dirs" / "optuna_results"
    assert {file.name for file in folder.iterdir() if file.is_file()} == FILES
    assert load_config(folder / "optimized_config.py").learning_rate == 0.01
    assert "# No trial is complete yet.\n" in (folder / "optimized_config.py").read_text()


def test_what_all_trials_ended_with_is_the_exit_code(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "def loss(logits, labels):\n    return nn.functional.cross_entropy(logits, labels) * float('nan')\n"
    path = write_config(lines + optuna({"seed": {"type": "int", "low": 1, "high": 9}}))
    code, _out, err = command(capsys, "optimize", "-c", path)
    assert code == 4
    assert err.count("The loss is no longer finite") == 1  # though each has another number in it


def test_a_metric_that_only_some_trials_have_ends_no_search(write_config: WriteConfig) -> None:
    lines = """
def more(run, epoch):
    return {"train_loss": 1.0, "train_accuracy": 0.0, "gap": 1.0}
def less(run, epoch):
    return {"train_loss": 1.0, "train_accuracy": 0.0}
train_epoch = more
"""
    both = optuna({"train_epoch": {"type": "categorical", "choices": ["#less", "#more"]}}, n_trials=2, optuna_epochs=1,
                  metric="gap", sampler="GridSampler")  # fmt: skip
    found = optimize(load_config(write_config(lines + both.replace("'#more'", "more").replace("'#less'", "less"))))
    assert [(row.state, row.point["train_epoch"]) for row in found.rows] == [(COMPLETE, "more"), (FAILED, "less")]


class Merciless(BasePruner):
    def prune(self, study: Any, trial: Any) -> bool:
        return True


def test_when_every_trial_is_pruned_all_files_are_there(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pochitrain.tasks.study.build_pruner", lambda settings: Merciless())
    found = optimize(load_config(write_config(SCHEDULED + optuna(confirm_seeds=2))))
    assert found.best is None
    assert [row.state for row in found.rows] == [PRUNED] * 3
    assert {file.name for file in found.folder.iterdir() if file.is_file()} == FILES
    assert load_config(found.folder / "optimized_config.py").learning_rate == 0.01
    assert "No trial was complete" in capsys.readouterr().out


def test_a_pruned_trial_ends_between_epochs(write_config: WriteConfig) -> None:
    lines = """
def learns(run, epoch):
    return {"train_loss": 1.0, "train_accuracy": 50.0, "score": epoch * (10.0 if run.config.seed < 7 else 1.0)}
train_epoch = learns
"""
    space = {"seed": {"type": "int", "low": 1, "high": 9}}
    goal = optuna(space, n_trials=9, optuna_epochs=6, sampler="GridSampler", metric="score")
    found = optimize(load_config(write_config(lines + goal)))
    assert found.best is not None
    assert found.best.values == [60.0]
    pruned = [row for row in found.rows if row.state == PRUNED]
    assert pruned
    for row in pruned:
        manifest = json.loads((Path(row.folder) / "experiment.json").read_text())
        assert manifest["epochs_finished"] == max(row.epochs) < 6
        assert not (Path(row.folder) / "best.pt").exists()


# ------------------------------------------------------------------------------------------------- processes that are gone

KILLED = """
import os, signal
def train_epoch(run, epoch):
    marker = f"died-{{run.config.seed}}"
    if run.config.seed in {seeds} and epoch == 2 and ({always} or not os.path.exists(marker)):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"train_loss": float(run.config.seed), "train_accuracy": 0.0}}
"""
SEEDS = {"seed": {"type": "int", "low": 1, "high": 6}}
LOSS = {"metric": "train_loss", "direction": "minimize", "sampler": "GridSampler"}


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_killed_worker_takes_nothing_along(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.chdir(tmp_path)
    goal = optuna(SEEDS, n_trials=6, optuna_epochs=3, n_jobs=jobs, pruner=None, **LOSS)
    found = optimize(load_config(write_config(KILLED.format(seeds=[2, 5], always=False) + goal)))
    assert [row.state for row in found.rows] == [COMPLETE] * 6
    assert sorted(row.point["seed"] for row in found.rows) == [1, 2, 3, 4, 5, 6]
    assert {row.point["seed"] for row in found.rows if row.retry_of} == {2, 5}
    assert len(find_experiments(found.folder)) == 6  # the second life is in the folder of the first
    assert all(len(row.epochs) == 3 for row in found.rows)


def test_a_trial_that_kills_every_process_has_failed(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    goal = optuna(SEEDS, n_trials=3, optuna_epochs=2, pruner=None, **LOSS)
    found = optimize(load_config(write_config(KILLED.format(seeds=[1, 2, 4, 5, 6], always=True) + goal)))
    assert len(found.rows) == 3
    assert {row.state for row in found.rows} <= {COMPLETE, FAILED}
    failed = [row for row in found.rows if row.state == FAILED]
    assert {row.error for row in failed} == {"its process was killed 3 times"}
    assert {(row.experiment, Path(row.folder)) for row in failed} <= {
        (info.experiment.id, info.experiment.dir) for info in find_experiments(found.folder)
    }


SLOW = """
import time
from pathlib import Path
def train_epoch(run, epoch):
    while Path("hold").exists() and run.config.seed in (3, 4):
        Path("held").touch()
        time.sleep(0.02)
        run.tick("train", run.totals)
    return {"train_loss": float(run.config.seed), "train_accuracy": 0.0}
"""


def search_elsewhere(path: Path, output: Path | None = None) -> None:
    """Search; to be called in a process that was forked with torch in it."""
    os.chdir(path.parent)
    optimize(load_config(path), output)


def hold(path: Path) -> None:
    (path.parent / "hold").touch()
    (path.parent / "held").unlink(missing_ok=True)


def wait_until_held(path: Path) -> None:
    for _attempt in range(6000):
        if (path.parent / "held").exists():
            return
        time.sleep(0.01)
    raise AssertionError("no trial was held")


def interrupt(path: Path) -> None:
    """Do as Ctrl+C does while a trial is held, and let it go on when the signal must have reached it."""
    wait_until_held(path)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    (path.parent / "hold").unlink()


def alive(folder: Path) -> list[int]:
    """Return the processes that work in a folder, but this one and its children: the fork server may stand anywhere."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s*(\d+)", (process / "status").read_text(), re.MULTILINE)
            if (process / "cwd").resolve() == folder and parent is not None:
                found += [int(process.name)] if os.getpid() not in (int(process.name), int(parent[1])) else []
        except OSError:
            continue
    return found


def test_a_search_that_was_stopped_and_killed_goes_on_as_if_nothing_had_been(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl+C in a trial, SIGKILL of everything in a trial, and then the same call to the end."""
    monkeypatch.chdir(tmp_path)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    lines = SLOW + optuna(SEEDS, n_trials=6, pruner=None, storage=storage, **LOSS)
    path = write_config(lines)
    hold(path)
    ctrl_c = threading.Thread(target=interrupt, args=(path,))
    ctrl_c.start()
    code, _out, err = command(capsys, "optimize", "-c", path)
    ctrl_c.join()
    assert code == 130
    assert "Traceback" not in err
    assert "all files are written" in err
    assert "the same command continues" in err
    folder = tmp_path / "work_dirs" / "optuna_results"
    assert {file.name for file in folder.iterdir() if file.is_file()} == FILES
    assert statistics(folder)["status"] == "stopped"
    interrupted = trials(folder)[-1]
    assert interrupted["state"] == "INTERRUPTED"
    assert Path(interrupted["folder"]).name == interrupted["experiment"][:12]
    assert interrupted["duration_seconds"] > 0.4

    hold(path)
    process = multiprocessing.get_context("forkserver").Process(target=search_elsewhere, args=(path,), daemon=False)
    process.start()
    wait_until_held(path)
    process.kill()
    process.join()
    for _attempt in range(200):
        if not alive(tmp_path):
            break
        time.sleep(0.05)
    assert not alive(tmp_path)  # no worker outlives the search

    (path.parent / "hold").unlink()
    found = optimize(load_config(path))
    assert found.folder == folder
    straight = optimize(load_config(path, {"optuna.storage": None, "work_dir": str(tmp_path / "straight")}))
    assert results(found) == results(straight)
    assert len(found.rows) == 6
    assert [row["state"] for row in trials(folder)] == [COMPLETE] * 6
    again = optimize(load_config(path))  # complete: nothing is trained, nothing is lost
    assert results(again) == results(straight)
    assert again.folder == folder
    more = optimize(load_config(path, {"optuna.n_trials": 6, "optuna.sampler": "RandomSampler"}))
    assert len(more.rows) == 6


def test_a_signal_before_the_first_trial_leaves_nothing_behind(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pochitrain.tasks.optimize.import_for_importances", lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    code, out, err = command(capsys, "optimize", "-c", write_config("import time\ntime.sleep(1)\n" + optuna({})))
    assert (code, out) == (130, "")
    assert "Stopped before the first trial; nothing has been written" in err
    assert not (tmp_path / "work_dirs").exists()
    assert time.monotonic() - started < 10


def test_a_signal_after_the_last_trial_changes_nothing(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Search.end

    def end(search: Search, work: Work, outcome: Outcome) -> None:
        plain(search, work, outcome)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Search, "end", end)
    code, out, err = command(capsys, "optimize", "-c", write_config(optuna({}, n_trials=1, optuna_epochs=1)))
    assert (code, err) == (0, "")
    assert "best is trial 0" in out


# ------------------------------------------------------------------------------------------------------------ command line


def test_the_command_says_what_it_does_in_plain_lines(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config(SCHEDULED + optuna(n_jobs=2))
    mine = tmp_path / "mine"
    done = pochi("optimize", "-c", path, "--n-trials", 2, "--output", mine, "--set", "seed=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"val_accuracy [0-9.]+", lines[-1])
    assert any(line.startswith("  learning_rate  0.001 … 0.1 (logarithmic)") for line in lines)
    assert sum(re.match(r"trial \d   val_accuracy ", line) is not None for line in lines) == 2
    assert "\x1b" not in done.stdout
    assert len(trials(mine)) == 2
    assert "seed = 7\n" in (mine / "optimized_config.py").read_text()


def test_a_wrong_search_space_leaves_nothing_behind(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(optuna({"lerning_rate": RATE}))
    code, out, err = command(capsys, "optimize", "-c", path)
    assert (code, out) == (2, "")
    assert "lerning_rate is no setting" in err
    assert "did you mean learning_rate?" in err
    assert f"{path}:" in err
    assert not (tmp_path / "work_dirs").exists()


# -------------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_trained_is_said_before_anything_is_written(write_config: WriteConfig, tmp_path: Path) -> None:
    broken = "def model(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 99))\n"
    with pytest.raises(ConfigError, match=r"and not \(1, 3\)"):
        optimize(load_config(write_config(broken + optuna({"learning_rate": RATE}))))
    assert not (tmp_path / "work_dirs").exists()


def test_without_validation_data(write_config: WriteConfig) -> None:
    blind = "val_data_root = None\n"
    with pytest.raises(ConfigError, match="Without validation data there is no val_accuracy"):
        optimize(load_config(write_config(blind + optuna())))
    goal = {"metric": "train_loss", "direction": "minimize", "n_trials": 1}
    found = optimize(load_config(write_config(blind + optuna({"learning_rate": RATE}, **goal))))
    assert found.best is not None


def test_a_metric_that_no_epoch_has(write_config: WriteConfig, tmp_path: Path) -> None:
    """A misspelt one is refused; one that a part of the user's might have written ends the search with the first trial."""
    with pytest.raises(ConfigError, match=r"An epoch has no val_acuracy[^?]*did you mean val_accuracy\?"):
        optimize(load_config(write_config(optuna({"learning_rate": RATE}, metric="val_acuracy"))))
    assert not (tmp_path / "work_dirs").exists()
    lines = "def train_epoch(run, epoch):\n    return {'train_loss': 1.0, 'train_accuracy': 0.0, 'gap': 1.0}\n"
    with pytest.raises(ConfigError, match="An epoch has no gab") as error:
        optimize(load_config(write_config(lines + optuna({"learning_rate": RATE}, metric="gab"))))
    assert "train_loss, train_accuracy, gap" in str(error.value)
    folder = tmp_path / "work_dirs" / "optuna_results"
    assert [row["state"] for row in trials(folder)] == [FAILED]
    assert statistics(folder)["status"] == "stopped"


def test_another_study_is_never_overwritten(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config(optuna({}, n_trials=1))
    found = optimize(load_config(path), tmp_path / "mine")
    before = (found.folder / "study_statistics.json").read_text()
    with pytest.raises(ConfigError, match="This is a file") as error:
        optimize(load_config(path), path)
    assert f"--output {path}" in str(error.value)
    with pytest.raises(ConfigError, match="The folder is not empty"):
        optimize(load_config(path), tmp_path)
    with pytest.raises(ConfigError, match="Another study is here"):
        optimize(load_config(path), tmp_path / "mine")
    assert (found.folder / "study_statistics.json").read_text() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": {**RATE, "log": False}}, "optuna.search_space.learning_rate float (log) → float (linear)"),
        ({"learning_rate": {"type": "categorical", "choices": [0.1]}}, "float (log) → categorical (0.1,)"),
        ({"learning_rate": RATE, "optimizer_params.momentum": {"type": "float", "low": 0.0, "high": 0.9}}, "momentum"),
    ],
)
def test_a_study_goes_on_with_its_own_dimensions_only(
    write_config: WriteConfig, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    config = load_config(write_config("optimizer = 'SGD'\n" + optuna({"learning_rate": RATE})))
    study = {"optuna.storage": f"sqlite:///{tmp_path / 'study.db'}"}
    data = load_data(config)
    open_study(replace_settings(config, study), made_of(config, data)).close()
    wider = replace_settings(config, {**study, "optuna.search_space": {"learning_rate": {**RATE, "high": 0.5}}})
    open_study(wider, made_of(wider, data)).close()
    other = replace_settings(config, {**study, "optuna.search_space": changed})
    with pytest.raises(ConfigError, match="was made of something else") as error:
        open_study(other, made_of(other, data))
    assert words in str(error.value)


CHOICES = """
import functools
width = {width}
def wide(num_classes, width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, {outputs}))
sized = transforms.Compose([transforms.Resize({size}), transforms.ToTensor()])
learning_rate = {rate}
optimizer_params = {{"weight_decay": {decay}}}
scheduler_params = {{"gamma": {gamma}}}
early_stopping = {{"enabled": True, "min_delta": {delta}}}
def choices(*values):
    return {{"type": "categorical", "choices": values}}
optuna = {{"storage": {storage!r}, "optuna_epochs": {optuna_epochs}, "search_space": {{
    "model": choices(model, wide), "train_transform": choices(train_transform, sized), "learning_rate": choices({rates}),
    "optimizer": choices("Adam", "AdamW"), "scheduler": choices(None, "ExponentialLR"),
    "early_stopping.patience": {{"type": "int", "low": 2, "high": {patience}}}, "val_data_root": choices(val_data_root, {val!r}),
}}}}
"""
PLAIN = {
    "width": 3, "outputs": "num_classes", "size": 8, "rate": 0.01, "decay": 0.1, "gamma": 0.5, "delta": 1.0,
    "optuna_epochs": 4, "rates": "0.1, 0.2", "patience": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rate": 0.5, "patience": 9}, None),  # the file's own value of what is searched, and the end of a range
        ({"width": 4}, "search_space.model.choices[1]"),
        ({"outputs": "3"}, "search_space.model.choices[1]"),
        ({"size": 6}, "search_space.train_transform.choices[1] Compose #2 "),
        ({"rates": "0.1, 0.3"}, "learning_rate"),
        ({"decay": 0.2}, "optimizer_params.weight_decay 0.1 → 0.2"),
        ({"gamma": 0.9}, "search_space.scheduler.choices[1]"),
        ({"delta": 2.0}, "early_stopping.min_delta 1.0 → 2.0"),
        ({"optuna_epochs": 5}, "optuna.optuna_epochs"),
        ({}, "search_space.val_data_root.choices[1]"),  # another image there
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_study_goes_on_with_what_its_choices_were(
    write_config: WriteConfig, tmp_path: Path, changed: dict[str, Any], words: str | None
) -> None:
    val = make_images(tmp_path / "val", {"ant": 1, "bee": 1, "cat": 1})
    places = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "val": str(val)}
    config = load_config(write_config(CHOICES.format(**PLAIN, **places)))
    open_study(config, made_of(config, load_data(config))).close()
    if not changed:
        make_images(val, {"ant": 2})
    config = load_config(write_config(CHOICES.format(**{**PLAIN, **changed}, **places)))
    made = made_of(config, load_data(config))
    if words is None:
        open_study(config, made).close()
        return
    with pytest.raises(ConfigError, match="was made of something else") as error:
        open_study(config, made)
    assert words in str(error.value)


def test_a_full_disk_ends_the_search(write_config: WriteConfig, tmp_path: Path) -> None:
    lines = """
def train_epoch(run, epoch):
    from pochitrain.errors import DiskError
    raise DiskError("The disk is full.", "here", "free some")
"""
    with pytest.raises(DiskError, match="disk is full"):
        optimize(load_config(write_config(lines + optuna({}, metric="train_loss", direction="minimize"))))
    assert statistics(tmp_path / "work_dirs" / "optuna_results")["status"] == "stopped"


def test_no_trial_begins_after_the_time_limit(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    lines = """
import time
def train_epoch(run, epoch):
    time.sleep(0.1)
    return {"train_loss": 1.0, "train_accuracy": 0.0}
"""
    # Twenty seconds of trials, 1.2 seconds for them: enough of both for a machine that is fast or busy.
    goal = optuna({"learning_rate": RATE}, n_trials=100, timeout_minutes=0.02, pruner=None)
    found = optimize(load_config(write_config(lines + goal)))
    assert 1 <= len(found.rows) < 100
    assert {(row.state, len(row.epochs)) for row in found.rows} == {(COMPLETE, 2)}  # what has begun is finished
    assert statistics(found.folder)["status"] == "time limit"
    said = f'Time limit after {len(found.rows)} of 100 trials; set optuna["storage"] to be able to continue'
    assert said in " ".join(capsys.readouterr().out.split())


def test_the_process_that_workers_come_from_does_not_hear_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[set[int]] = []
    monkeypatch.setattr(
        forkserver, "ensure_running", lambda: masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    )
    import_ahead()
    assert [signal.SIGINT in mask for mask in masks] == [True]  # what it inherits
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_that_is_slow_to_start_holds_nobody_up(write_config: WriteConfig) -> None:
    """Others must hear meanwhile that this search lives, and Ctrl+C must not wait for it."""
    lines = "import multiprocessing, time\nif multiprocessing.parent_process() is not None:\n    time.sleep({})\n"
    for seconds, stopped in ((0.6, False), (60, True)):
        config = load_config(write_config(lines.format(seconds)))
        ticks: list[int] = []

        def tick(ticks: list[int] = ticks, stopped: bool = stopped) -> None:
            ticks.append(1)
            if stopped:
                raise StoppedError("stopped")

        started = time.monotonic()
        with suppress(StoppedError), closing(Workers(config, load_data(config), 1)) as workers:
            workers.start()
            workers.wait(tick)
        assert ticks
        assert time.monotonic() - started < 20


def test_workers_take_the_gpus_in_turn() -> None:
    assert [device_of(place, None, 2) for place in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [device_of(place, "cuda", 2) for place in range(2)] == ["cuda:0", "cuda:1"]
    assert [device_of(place, "cuda:1", 2) for place in range(2)] == ["cuda:1", "cuda:1"]
    assert [device_of(place, "cpu", 2) for place in range(2)] == ["cpu", "cpu"]
    assert [device_of(place, None, count) for place, count in ((3, 1), (3, 0))] == [None, None]


# --------------------------------------------------------------------------------------------------------------- confirm


def test_the_winner_is_confirmed_with_new_seeds(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the process of one of these trainings is killed: it is run again."""
    monkeypatch.chdir(tmp_path)
    lines = """
import os, shutil, signal
def train_epoch(run, epoch):
    noise = run.config.seed % 3
    if run.config.task.startswith("confirm"):
        shutil.copy(run.config.work_dir + "/study_statistics.json", "meanwhile.json")
    if run.config.task == "confirm-shipped" and noise == 2 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"train_loss": 100 * run.config.learning_rate + noise, "train_accuracy": 0.0}
"""
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.9}}
    goal = {"metric": "train_loss", "direction": "minimize", "n_trials": 4, "confirm_seeds": True, "pruner": None}
    goal["storage"] = f"sqlite:///{tmp_path / 'study.db'}"
    path = write_config(lines + "learning_rate = 0.5\n" + optuna(space, **goal))
    found = optimize(load_config(path))
    told = statistics(found.folder)["confirmation"]
    assert (tmp_path / "died").exists()
    assert json.loads((tmp_path / "meanwhile.json").read_text(encoding="utf-8"))["status"] == "running"
    assert statistics(found.folder)["status"] == "complete"
    assert told["of"]["seeds"] == [43, 44, 45]
    assert told["shipped"]["values"] == [51.0, 52.0, 50.0]
    assert found.best is not None
    rate = found.best.point["learning_rate"]
    assert told["winner"]["values"] == pytest.approx([100 * rate + noise for noise in (1, 2, 0)])  # type: ignore[operator]
    assert told["confirmed"]
    assert "is larger than the noise between seeds" in told["verdict"]
    assert told["verdict"] in capsys.readouterr().out
    assert len([info for info in find_experiments(found.folder) if info.task.startswith("confirm-")]) == 6
    optimize(load_config(path))  # what was confirmed is not confirmed again
    out = capsys.readouterr().out
    assert told["verdict"] in out
    assert "confirm winner" not in out
    assert statistics(found.folder)["confirmation"] == told


def test_new_seeds_are_none_that_were_tried(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """When only the seed was searched, the best trial is the file's own setting, and nothing can be compared."""
    space: dict[str, Any] = {"seed": {"type": "categorical", "choices": [43, 45]}}
    goal = {"sampler": "GridSampler", "optuna_epochs": 1, "confirm_seeds": 2, "n_trials": 2}
    found = optimize(load_config(write_config(optuna(space, **goal))))
    told = statistics(found.folder)["confirmation"]
    assert told["of"]["seeds"] == [44, 46]
    assert told["verdict"].startswith("Nothing to confirm: apart from its seed")
    assert told["verdict"] in capsys.readouterr().out
    assert not [info for info in find_experiments(found.folder) if info.task.startswith("confirm-")]
    other = {**space, "learning_rate": {"type": "float", "low": 0.1, "high": 0.9}}
    config = load_config(write_config(optuna(other, **goal)))
    point: dict[str, Any] = {"seed": 43, "learning_rate": 0.5}
    confirmation = Confirmation(config, TrialRow(0, COMPLETE, point=point), [], found.folder, Log("info"))
    assert not confirmation.pointless
    confirmation.end(confirmation.jobs[1], Outcome("INTERRUPTED"))
    assert capsys.readouterr().out == "confirm shipped, seed 43: interrupted\n"


def test_a_seed_in_which_the_winner_fails_confirms_nothing(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.9}}
    config = load_config(write_config(optuna(space, confirm_seeds=3)))
    confirmation = Confirmation(config, TrialRow(7, COMPLETE, point={"learning_rate": 0.5}), [], tmp_path, Log("info"))
    monkeypatch.setenv("POCHI_LANG", "ja")
    for job in reversed(confirmation.jobs):  # in whatever order they end
        seed, won = job.fixed["seed"], job.point is not None
        if won and seed == 44:
            confirmation.end(job, Outcome(FAILED, error="The loss is no longer finite"))
        else:
            confirmation.end(job, Outcome(COMPLETE, values=[seed + 40.0 * won]))
    said = capsys.readouterr().out
    assert "winner" not in said
    assert "shipped" not in said
    monkeypatch.setenv("POCHI_LANG", "en")
    told = confirmation.result()
    assert told["winner"]["values"] == [83.0, None, 85.0]
    assert told["winner"]["failed"] == {"44": "The loss is no longer finite"}
    assert told["shipped"]["values"] == [43.0, 44.0, 45.0]
    assert (told["confirmed"], told["gain_interval"]) == (False, None)
    assert told["verdict"] == "Not confirmed: with new seeds a training failed (seed 44)."


def test_a_confirming_training_that_kills_every_process_has_failed(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.9}}
    config = load_config(write_config(optuna(space, confirm_seeds=2)))
    confirmation = Confirmation(config, TrialRow(7, COMPLETE, point={"learning_rate": 0.5}), [], tmp_path, Log("info"))
    begun = []
    while work := confirmation.next():
        begun.append(work.number)
        kills = work is confirmation.jobs[0]
        confirmation.end(work, Outcome(INTERRUPTED) if kills else Outcome(COMPLETE, values=[1.0]))
    assert (sorted(begun), confirmation.over()) == ([0, 0, 0, 1, 2, 3], True)
    assert confirmation.failed["winner"] == {43: "its process was killed 3 times"}
    assert confirmation.result()["winner"]["values"] == [None, 1.0]
    assert capsys.readouterr().out.count("confirm winner, seed 43: interrupted\n") == 2


def test_the_files_own_setting_is_confirmed_with_its_own_epochs(write_config: WriteConfig, tmp_path: Path) -> None:
    """Which they are, when the search may change them."""
    rate = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.9}}
    searched = {**rate, "epochs": {"type": "int", "low": 3, "high": 9}}
    for space, point, expected in (
        (rate, {"learning_rate": 0.5}, {"winner": 2, "shipped": 2}),
        (searched, {"learning_rate": 0.5, "epochs": 8}, {"winner": 8, "shipped": 5}),
    ):
        config = load_config(write_config("epochs = 5\n" + optuna(space, confirm_seeds=1)))
        winner = TrialRow(7, COMPLETE, point=dict(point))
        confirmation = Confirmation(config, winner, [], tmp_path, Log("info"))
        trainer = Trainer(config)
        made = [trainer.trial_config(job) for job in confirmation.jobs]
        assert {str(each.task).removeprefix("confirm-"): each.epochs for each in made} == expected
        assert confirmation.of["epochs"] == expected["shipped"]


def test_the_interval_of_a_gain() -> None:
    assert gain_interval([1.0], [2.0]) is None
    assert gain_interval([2.0, 2.0], [1.0, 1.0]) is None
    winner, shipped = [54.2, 55.1, 53.9, 54.0], [50.1, 51.5, 50.6]
    reference = stats.ttest_ind(winner, shipped, equal_var=False).confidence_interval(0.95)
    assert gain_interval(winner, shipped) == pytest.approx((reference.low, reference.high))
    low, high = gain_interval([54.0, 50.0, 52.0], [51.0, 53.0, 49.0]) or (0, 0)
    assert low < 0 < high
