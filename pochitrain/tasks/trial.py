"""One training of a search: a suggestion over the config, through `train`, and what came of it."""

from __future__ import annotations

import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import load_config, replace_settings
from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.schema import Config
from pochitrain.config.search import Direction, Scalar
from pochitrain.data.source import Data, load_data
from pochitrain.engine.run import Run, build_run, choose_device
from pochitrain.errors import AlreadyRunningError, ConfigError, DiskError, PochiError, Problem, StoppedError
from pochitrain.experiment import Experiment, read_manifest, write_manifest
from pochitrain.history import History, Record
from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import begun_in, plan
from pochitrain.tasks.search_space import goal_settings, settings_of
from pochitrain.tasks.train import Trial, train

READ_WITH_THE_DATA = ("train_data_root", "val_data_root", "val_fraction", "group_by", "on_bad_image", "num_classes")
MEASURED = ("latency_ms", "parameters")  # metrics of the model as it stands, not of an epoch


class NoMetric(ConfigError):
    """What the search looks at is no column of an epoch."""


@dataclass(frozen=True)
class Work:
    """A training that is to be done; it travels to a worker process."""

    number: int
    point: Mapping[str, Scalar] | None  # what was suggested; None: the file's own values
    fixed: Mapping[str, Any]  # settings that the study decides


@dataclass(frozen=True)
class Outcome:
    """What came of it; it travels back."""

    status: str
    history: History = field(default_factory=list)
    values: list[float] | None = None  # of the metrics, at the best epoch
    experiment: str = ""  # the full id
    folder: str = ""
    seconds: float = 0.0
    threads: int = 0  # of the processor that computed it; 0: a GPU did
    error: str = ""  # why it failed, one sentence
    exit_code: int = ConfigError.exit_code  # of the command, had it been a training by itself
    trace: str = ""  # of an exception that nobody expected
    hopeless: tuple[Problem, ...] = ()  # why every other trial would fail as well: the search ends with it
    gracefully: bool = False  # interrupted by a signal that somebody sent, everything saved

    def summary(self) -> dict[str, Any]:
        """Return what is stored with the trial."""
        seconds = round(self.seconds, 3) or None  # of a process that was killed nobody knows them
        told = {"experiment": self.experiment, "folder": self.folder, "seconds": seconds, "threads": self.threads}
        return told | ({"exit_code": self.exit_code} if self.status == FAILED else {})


class Trainer:
    """Does one training after the other on the same config and the same data."""

    def __init__(self, config: Config, data: Data | None = None) -> None:
        self.config = config
        self.settings = canonical_settings(config)
        self.dimensions = config.optuna.dimensions()
        self.data = {_data_key(config): data} if data is not None else {}

    def run(
        self,
        work: Work,
        goes_on: Callable[[Record], bool],
        keeps: Callable[[History], bool],
        begins: Callable[[str, str], None] | None = None,
    ) -> Outcome:
        """Train, and return what came of it, also when that is a failure of the trial.

        Args:
            begins: is told the id and the folder before the training begins, which may kill this process.

        Raises:
            DiskError: no other trial would fare better.
        """
        started = time.monotonic()
        metrics = self.config.optuna.metrics
        ended = False

        def ask(record: Record) -> bool:
            nonlocal ended
            check_metrics(record, metrics)
            ended = not goes_on(record)
            return not ended

        try:
            config = self.trial_config(work)
            data = self.data_of(config)
            if begins is not None:
                experiment = plan(config, data).experiment
                begins(experiment.id, str(experiment.dir))
            log = Log(config.log_level, quiet=True)
            done = train(config, data=data, log=log, trial=Trial(ask, lambda history: not ended and keeps(history)))
            measured = measure(config, data, done.experiment) if set(MEASURED) & set(metrics) else {}
            rows = [{**record, **measured} for record in done.history]
            values = objective(rows, metrics, self.config.optuna.directions)
        except (StoppedError, AlreadyRunningError) as error:  # a worker of a killed search may not be gone yet
            name, folder = self._place(work)
            seconds, stopped = time.monotonic() - started, isinstance(error, StoppedError)
            return Outcome(INTERRUPTED, experiment=name, folder=folder, seconds=seconds, gracefully=stopped)
        except DiskError:
            raise
        # Out of memory, NaN, a driver, the user's code, which may also end the program: the next trial may fare better.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return self._failure(work, error, time.monotonic() - started)
        status, error_ = PRUNED if ended else COMPLETE, ""
        if values is None and not ended:
            status, error_ = FAILED, _("No epoch has a number for {metrics}", metrics=", ".join(metrics))
        folder, seconds = str(done.experiment.dir), time.monotonic() - started
        threads = torch.get_num_threads() if choose_device(config).type == "cpu" else 0
        return Outcome(status, done.history, values, done.experiment.id, folder, seconds, threads, error_)

    def trial_config(self, work: Work) -> Config:
        """Return the file's config with the suggested values over it."""
        suggested = {} if work.point is None else settings_of(self.dimensions, work.point)
        return replace_settings(self._fresh(), {**goal_settings(self.config), **work.fixed, **suggested})

    def data_of(self, config: Config) -> Data:
        """Return the data of a trial: what was read for another one, when both ask for the same."""
        if config.dataset is not None:  # the user's function may ask for any setting
            return load_data(config)
        key = _data_key(config)
        if key not in self.data:
            self.data[key] = load_data(config)
        return self.data[key]

    def _fresh(self) -> Config:
        """Return the config; executed anew when a training has changed objects in it, which the next would notice."""
        origin = self.config.origin
        if origin.path is not None and canonical_settings(self.config) != self.settings:
            self.config = load_config(origin.path, origin.overrides, text=origin.text)
        return self.config

    def _failure(self, work: Work, error: BaseException, seconds: float) -> Outcome:
        known = error if isinstance(error, PochiError) else raised_by_user(error)
        problem = known.problems[0] if known else Problem(f"{type(error).__name__}: {error}")
        reason = problem.what + (f" ({problem.where})" if problem.where else "")
        trace = "" if isinstance(error, PochiError) else "".join(traceback.format_exception(error))
        failure = {"error": type(error).__name__, "what": reason}
        name, folder = self._place(work, {} if isinstance(error, PochiError) else {"failure": failure})
        error.__traceback__ = None  # its frames hold the model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        hopeless = error.problems if isinstance(error, NoMetric) else ()
        return Outcome(
            FAILED,
            experiment=name,
            folder=folder,
            seconds=seconds,
            error=reason,
            exit_code=known.exit_code if known else ConfigError.exit_code,
            trace=trace,
            hopeless=hopeless,
        )

    def _place(self, work: Work, more: Mapping[str, Any] | None = None) -> tuple[str, str]:
        """Return (id, folder) of a training that has ended early; empty when it ended before it had a folder.

        Args:
            more: why it failed, for its manifest; `train` has written down what it knows itself.
        """
        try:
            config = self.trial_config(work)
            experiment = plan(config, self.data_of(config)).experiment
            manifest = read_manifest(experiment)
        except DiskError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt):  # what has ended the training may come again
            return "", ""
        if more:
            write_manifest(experiment, {**manifest, "status": "failed", **more})
        return experiment.id, str(experiment.dir)


def _data_key(config: Config) -> str:
    return repr([getattr(config, name) for name in READ_WITH_THE_DATA])


def measure(config: Config, data: Data, experiment: Experiment) -> Record:
    """Return `parameters`, and `latency_ms`: the median time of one image through the model, of 30 after 10 to warm."""
    run = build_run(config, data, precision=begun_in(config, experiment))
    count = sum(parameter.numel() for parameter in run.model.parameters())
    return {"latency_ms": _latency_ms(run), "parameters": float(count)}


@torch.inference_mode()
def _latency_ms(run: Run) -> float:
    run.model.eval()
    images, labels = next(batch for batch in run.train_loader.epoch(1) if len(batch[1]))
    images, _labels = run.move(images[:1], labels[:1])
    times = []
    for _number in range(40):
        started = time.perf_counter()
        with run.autocast():
            run.forward(images).sum().item()  # waits for a GPU
        times.append(1000 * (time.perf_counter() - started))
    run.close()
    return statistics.median(times[10:])


def objective(rows: Sequence[Record], metrics: Sequence[str], directions: Sequence[Direction]) -> list[float] | None:
    """Return the values of a trial: all of the epoch that is best by the first metric. None without any number."""
    sign = 1.0 if directions[0] == "maximize" else -1.0
    counted = [row for row in rows if not any(math.isnan(row.get(metric, math.nan)) for metric in metrics)]
    best = max(counted, key=lambda row: sign * row[metrics[0]], default=None)
    return [float(best[metric]) for metric in metrics] if best else None


def check_metrics(record: Record, metrics: Sequence[str]) -> None:
    """Raise a NoMetric when a metric is no column of an epoch."""
    for metric in metrics:
        if metric not in (*record, *MEASURED):
            names = ", ".join(name for name, value in record.items() if isinstance(value, int | float))
            what, mend = _("An epoch has no {metric}", metric=metric), _("it has: {names}", names=names)
            raise NoMetric(what, "optuna.metric", mend)
