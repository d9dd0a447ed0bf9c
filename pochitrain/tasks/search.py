"""One run of a search: where the workers' work comes from, and where their results go."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from pochitrain import durable
from pochitrain.config.mistakes import located
from pochitrain.config.schema import Config
from pochitrain.config.search import Dimension, Optuna, shown_point
from pochitrain.errors import ConfigError, DiskError
from pochitrain.experiment import Experiment
from pochitrain.history import History, Record
from pochitrain.locale import _
from pochitrain.reports.study import write_pages, write_tables
from pochitrain.reports.trials import COMPLETE, FAILED, PRUNED, StudyView, value_of
from pochitrain.sinks.console import Log, first_line
from pochitrain.sinks.search_console import SearchDisplay
from pochitrain.tasks.lives import task_of
from pochitrain.tasks.optimized_config import optimized_text
from pochitrain.tasks.sampling import shown_url
from pochitrain.tasks.study import Study, Suggestion
from pochitrain.tasks.trial import Outcome, Work, objective

OPTIMIZED = "optimized_config.py"
RUNNING = "running"  # the status of a search that is not over
OVER = (COMPLETE, PRUNED, FAILED)
IMPORTANCE_SHARE = 0.01  # of the time; computing the importances grows with the trials


class Search:
    """A study at work in its folder (see `workers.Source`)."""

    def __init__(self, config: Config, study: Study, folder: Path, log: Log) -> None:
        optuna = config.optuna
        self.config, self.study, self.folder, self.log = config, study, folder, log
        self.begun: dict[int, Suggestion] = {}
        self.deadline = time.monotonic() + 60 * (optuna.timeout_minutes or math.inf)
        self.display = SearchDisplay(log, study.total, optuna.n_jobs, self.deadline)
        self.importances: dict[str, float] = {}
        self.importances_due = 0.0
        self.dirty = False  # a trial ended since the files were written
        self.statistics: dict[str, Any] = {
            "study_name": optuna.study_name,
            "token": study.token,
            "config": str(config.origin.path),
            "storage": shown_url(optuna.storage) if optuna.storage else None,
            "sampler": optuna.sampler,
            "pruner": optuna.pruner,
            "seed": config.seed,
            "optuna_epochs": optuna.optuna_epochs,
            "n_trials": study.total,
            "n_jobs": optuna.n_jobs,
        }

    # -- what the workers ask

    def next(self) -> Work | None:
        """Begin a trial. One whose values were tried before is answered at once."""
        while time.monotonic() < self.deadline and (suggestion := self.study.ask()) is not None:
            if suggestion.twin is not None:
                self.study.answer(suggestion)
                self._say_end(suggestion.number)
                continue
            task = task_of(suggestion.first)
            fixed = {"work_dir": str(self.folder), "task": task, "epochs": self.config.optuna.optuna_epochs}
            work = Work(suggestion.number, suggestion.point, fixed)
            self.begun[work.number] = suggestion
            self.display.begin(work.number, shown_point(self.study.dimensions, suggestion.point), epochs_of(work))
            return work
        return None

    def over(self) -> bool:
        if time.monotonic() < self.deadline and self.study.others_at_work():
            self.display.waiting()
            return False
        return True

    def finished(self) -> int:
        return len(self.view().in_state(*OVER))

    def is_over(self) -> bool:
        return self.finished() >= self.study.total

    def is_cut_short(self) -> bool:
        """Return whether the time limit came before the last trial."""
        return time.monotonic() >= self.deadline and not self.is_over()

    def goes_on(self, work: Work, record: Record) -> bool:
        value = record.get(self.config.optuna.metrics[0])
        self.display.epoch(work.number, record["epoch"], value)
        last = record["epoch"] >= epochs_of(work)
        return value is None or self.study.report(self.begun[work.number], record["epoch"], value, last=last)

    def keeps(self, work: Work, history: History) -> bool:
        """Return whether a trial is among the best so far."""
        optuna, ranked = self.config.optuna, self.view().ranked()
        values = objective(history, optuna.metrics, optuna.directions)
        if len(ranked) < optuna.keep_weights or len(optuna.metrics) > 1 or values is None:
            return optuna.keep_weights > 0
        sign = self.view().sign(0)
        return optuna.keep_weights > 0 and sign * values[0] > sign * value_of(ranked[optuna.keep_weights - 1])

    def end(self, work: Work, outcome: Outcome) -> None:
        self.study.end(self.begun.pop(work.number), outcome)
        self._say_end(work.number)
        if outcome.hopeless and not self.view().in_state(COMPLETE):
            raise located(ConfigError(problems=outcome.hopeless), self.config)

    def tick(self) -> None:
        self.study.beat()
        if self.dirty:
            try:
                self.write(RUNNING)
            except DiskError as error:  # they are written again after the next trial
                self.log.warning(_("The results cannot be written: {reason}", reason=first_line(error)))

    # -- what is written

    def view(self) -> StudyView:
        optuna = self.config.optuna
        rows, best = self.study.rows(), self.study.best()
        goal = optuna.metrics, optuna.directions
        return StudyView(optuna.study_name, *goal, self.study.dimensions, rows, best, self.importances)

    def write(self, status: str) -> StudyView:
        """Write every file anew, and delete the weights that are no longer among the best."""
        self.dirty = False
        started = time.monotonic()
        if status != RUNNING or started >= self.importances_due:
            self.importances = self.study.importances()
            ended = time.monotonic()
            self.importances_due = ended + (ended - started) / IMPORTANCE_SHARE
        view = self.view()
        write_tables(self.folder, view, {**self.statistics, "status": status})
        write_pages(self.folder, view)
        durable.write_text(self.folder / OPTIMIZED, self.optimized(view), sync=False)
        self._forget_weights(view)
        return view

    def optimized(self, view: StudyView) -> str:
        winner = view.winner
        if winner is None or winner.values is None:
            return optimized_text(self.config, {}, self.folder / OPTIMIZED, _("No trial is complete yet."))
        remark = _(
            "Trial {number} of {name}: {metric} {value}, the best epoch of {epochs}.",
            number=winner.number,
            name=view.name,
            metric=view.metrics[0],
            value=f"{winner.values[0]:.6g}",
            epochs=len(winner.epochs),
        )
        threads = winner.threads if winner.threads != torch.get_num_threads() else 0
        return optimized_text(self.config, winner.point, self.folder / OPTIMIZED, remark, threads)

    def _forget_weights(self, view: StudyView) -> None:
        kept = {row.folder for row in view.ranked()[: self.config.optuna.keep_weights]}
        for row in view.in_state(*OVER):
            experiment = Experiment(Path(row.folder), row.experiment)
            if row.folder and self.folder.absolute() in experiment.dir.absolute().parents:
                shutil.rmtree(experiment.checkpoints_dir, ignore_errors=True)
                if row.folder not in kept:
                    durable.remove(experiment.best_pt)

    # -- what is said

    def _say_end(self, number: int) -> None:
        self.dirty = True
        view = self.view()
        row = next((row for row in view.rows if row.number == number), None)
        if row is not None:
            self.display.end(row, view)

    def say_start(self, notes: list[str]) -> None:
        optuna, log, view = self.config.optuna, self.log, self.view()
        self.display.view = view
        log.info(_("study       {name}, {folder}", name=optuna.study_name, folder=self.folder))
        done = len(view.in_state(*OVER))
        goal = ", ".join(f"{metric} ({way})" for metric, way in zip(optuna.metrics, optuna.directions, strict=True))
        counts = {"trials": self.study.total, "epochs": optuna.optuna_epochs, "goal": goal}
        log.info(_("goal        {goal}; trials: {trials}, epochs of each: {epochs}", **counts))
        log.info(_("method      {sampler}, {pruner}", sampler=optuna.sampler, pruner=optuna.pruner or "NopPruner"))
        for dimension in self.study.dimensions:
            log.info(f"  {dimension.name}  {range_in_words(dimension)}")
        for note in [*notes, *method_notes(optuna, self.study)]:
            log.warning(note)
        if done:
            log.info(_("Continues after {count} trials", count=done))


def epochs_of(work: Work) -> int:
    return int({**work.fixed, **(work.point or {})}["epochs"])


def range_in_words(dimension: Dimension) -> str:
    if dimension.kind == "categorical":
        return " | ".join(str(dimension.shown(label)) for label in dimension.labels)
    more = [_("logarithmic")] if dimension.log else []
    more += [_("in steps of {step}", step=dimension.step)] if dimension.step else []
    return f"{dimension.low:g} … {dimension.high:g}" + (f" ({', '.join(more)})" if more else "")


def method_notes(optuna: Optuna, study: Study) -> list[str]:
    """Return what the sampler or pruner does otherwise than one may think."""
    notes = []
    dimensions = optuna.dimensions()
    if not dimensions:
        notes.append(
            _("The search space is empty: all trials are the same training; one that has ended is not repeated")
        )
    if study.grid is not None and study.grid_ends_at != optuna.n_trials:
        now = max(0, study.total - (study.grid_ends_at - study.untried))
        counted = {"points": study.grid.count, "untried": study.untried, "now": now}
        notes.append(
            _("The grid has {points} points, {untried} not tried yet; this search tries {now} of them", **counted)
        )
    if optuna.sampler == "CmaEsSampler":
        names = ", ".join(d.name for d in dimensions if d.kind == "categorical")
        if names:
            notes.append(_("CmaEsSampler knows ranges only: {names} are drawn at random", names=names))
    if len(optuna.metrics) > 1 and optuna.pruner not in (None, "NopPruner"):
        notes.append(_("With several objectives no trial is pruned"))
    return notes
