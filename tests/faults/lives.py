"""Lives of a training: forked processes that are killed at a chosen event, and what they leave behind.

A forked life costs a twentieth of a second where a fresh process spends seconds on importing torch. What is run in it is
the real `train()` or the real command line; only the hooks that tell of events belong to the tests.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import pochitrain.reports.confusion
import pochitrain.reports.curves
import pochitrain.reports.gradients
import pochitrain.tasks.command  # noqa: F401  imported once, before the forks
import pochitrain.tasks.train as training
from pochitrain import durable, load_config
from pochitrain.cli import app, run
from pochitrain.engine.checkpoint import Checkpoints, load_weights
from pochitrain.experiment import Experiment
from pochitrain.history import TIMING
from pochitrain.tasks.environment import environment

CHUNK_BYTES = 4096  # so that a checkpoint of a tiny net is written in several pieces
RICH = """
epochs = 3
optimizer = "SGD"
learning_rate = 0.05
scheduler = "StepLR"
scheduler_params = {"step_size": 1, "gamma": 0.7}
enable_layer_wise_lr = True
layer_wise_lr_config = {"layer_rates": {"0": 0.01, "6": 0.05}}
enable_gradient_tracking = True
checkpoint_every_minutes = 1e-9  # after each step
train_transform = transforms.Compose([
    transforms.RandomHorizontalFlip(), transforms.RandomRotation(20), transforms.ColorJitter(0.3, 0.3),
    transforms.ToTensor(), transforms.RandomErasing(0.3),
])
"""
"""Lines for a config in which everything is random that can be: order, augmentation, dropout."""

Work = Callable[[], object]


class Life:
    """A forked process in a session of its own; its output goes to a file."""

    def __init__(self, work: Work, output: Path) -> None:
        self.output = output
        output.touch()
        environment()  # asks git, once for all lives
        self._process = multiprocessing.get_context("fork").Process(target=_live, args=(work, output))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads are idle, and the child uses none
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Return the exit code, a signal's number negative, once the process has ended."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.said}")
        return code

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Return when the process has said `text`."""
        self.wait_until(lambda: text in self.said, seconds)

    def wait_until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running, f"ended with {self.end()}:\n{self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)


def _live(work: Work, output: Path) -> None:
    gc.freeze()  # what other tests left to be collected is not this process's to end
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(descriptor, number)
        setattr(sys, stream, os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False))
    torch.set_num_threads(1)  # the parent's threads are not in this process
    warnings.resetwarnings()
    work()


def command(*arguments: object, cwd: Path | None = None) -> Work:
    """Return work that is the command line `pochi …`, to its exit code."""

    def work() -> NoReturn:
        if cwd is not None:
            os.chdir(cwd)
        sys.argv = ["pochi", *map(str, arguments)]
        sys.exit(run(app))

    return work


def trained(path: Path, **overrides: Any) -> Work:
    """Return work that trains a config file through the Python interface."""
    return lambda: training.train(load_config(path, overrides))


def live(
    work: Work,
    output: Path,
    *,
    at: str | int | None = None,
    signals: Sequence[signal.Signals] = (signal.SIGKILL,),
    events: Path | None = None,
) -> int:
    """Run a life to its end and return its exit code, -9 when it was killed.

    Args:
        at: the event, by its name (see `_listen`) or number, at which the process sends itself `signals`.
        events: a file that gets the name of each event.
    """

    def listened() -> None:
        _listen(at, signals, events)
        work()

    return Life(listened, output).end()


def _listen(at: str | int | None, signals: Sequence[signal.Signals], events: Path | None) -> None:
    """Name each event "step #3" or "rename best.pt #2"; the names are the same in every life that begins equally.

    Counted per name, because the thread that saves and the one that trains have no common order.
    """
    counts: Counter[str] = Counter()
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if events else -1

    def happen(what: str, *paths: Path) -> None:
        name = re.sub(r"\.\d+\.tmp$", ".tmp", paths[-1].name) if paths else ""
        counts[f"{what} {name}"] += 1
        event = f"{what} {name} #{counts[f'{what} {name}']}"
        if descriptor >= 0:
            os.write(descriptor, f"{event}\n".encode())
        if at in (event, counts.total()):
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # the system keeps one signal of a kind: the second must not meet the first

    real = training._ticker

    def ticker(*arguments: Any) -> Callable[..., None]:
        tick = real(*arguments)

        def counted(phase: str, totals: Any) -> None:
            happen(f"step ({phase})")
            tick(phase, totals)

        return counted

    training._ticker = ticker
    durable.event = happen
    durable.CHUNK_BYTES = CHUNK_BYTES


def all_events(path: Path, folder: Path) -> list[str]:
    """Return the name of every event of the uninterrupted training of a config."""
    events = folder / "events"
    (folder / "counted").mkdir()
    code = live(trained(path, work_dir=str(folder / "counted" / "work_dirs")), folder / "counted.txt", events=events)
    assert code == 0, (folder / "counted.txt").read_text()
    return events.read_text().splitlines()


# -------------------------------------------------------------------------------------------------- what was left behind


def only_experiment(work_dir: Path) -> Experiment:
    found = [folder for folder in work_dir.glob("*/*/*") if re.fullmatch("[0-9a-f]{12}", folder.name)]
    assert len(found) == 1, found
    return Experiment(found[0], found[0].name)


def left_behind(work_dir: Path) -> dict[str, Any]:
    """Return everything that an interruption must not change, by name; equal runs give equal dictionaries.

    That is: the newest checkpoint, both CSV files and both model files, without what the clock said.
    """
    experiment = only_experiment(work_dir)
    loaded = Checkpoints(experiment.checkpoints_dir).load_newest()
    assert loaded is not None
    files = {path.name: load_weights(path) for path in (experiment.best_pt, experiment.last_pt) if path.exists()}
    for payload in files.values():
        del payload["settings"]  # they tell where the run was written
    tables = {path.name: rows(path) for path in (experiment.metrics_csv, experiment.gradients_csv) if path.exists()}
    state = {"epoch": loaded.epoch, "step": loaded.step, **loaded.state, **files, **tables}
    return dict(_flat(state))


def rows(path: Path) -> list[dict[str, str]]:
    """Return a CSV file without the columns that depend on the clock."""
    with path.open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in TIMING:
                yield from _flat(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        yield f"{path}/count", len(value)
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}/{index}")
    elif isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        buffer.write(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.dim() else b"")
        yield path, (str(value.dtype), tuple(value.shape), buffer.getvalue() or value.item())
    else:
        yield path, value


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the names of what is not equal."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name, ...) != b.get(name, ...))


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*.tmp") if path.is_file()]


def empty(folder: Path) -> Path:
    """Return the folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def state_at_end(work_dir: Path) -> tuple[int, int]:
    """Return the finished epochs and the steps of the next one that the newest checkpoint holds."""
    loaded = Checkpoints(only_experiment(work_dir).checkpoints_dir).load_newest()
    assert loaded is not None
    return loaded.epoch, loaded.step


def relatives(session: int) -> list[str]:
    """Return the processes that are still alive in a session, by their command lines."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                alive.append(f"{folder.name}: {(folder / 'cmdline').read_text()}")
    return alive
