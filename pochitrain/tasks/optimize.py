"""`pochi optimize`: trials are trainings of the same config with other values, each in its own experiment."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pochitrain import durable
from pochitrain.config.identity import canonical_settings, settings_difference
from pochitrain.config.loader import load_config
from pochitrain.config.mistakes import located, near_name
from pochitrain.config.schema import Config
from pochitrain.data.source import Data, load_data
from pochitrain.engine.signals import StopRequest, graceful_stop
from pochitrain.errors import ConfigError, DataError, DivergedError, OutOfMemoryError, PochiError, StoppedError
from pochitrain.experiment import Experiment, lock
from pochitrain.history import GRADIENT, GUIDE_COLUMNS, TIMING
from pochitrain.locale import _
from pochitrain.reports.trials import FAILED, StudyView, TrialRow
from pochitrain.sinks.console import Log
from pochitrain.tasks.config import settings_tree
from pochitrain.tasks.made_of import made_of
from pochitrain.tasks.optimized_config import is_literal, require_literals
from pochitrain.tasks.prepare import checked_config, read_identity
from pochitrain.tasks.sampling import import_for_importances
from pochitrain.tasks.search import OPTIMIZED, RUNNING, Search
from pochitrain.tasks.search_space import check_space, no_validation, settings_of, validated
from pochitrain.tasks.study import Study, open_study
from pochitrain.tasks.trial import MEASURED
from pochitrain.tasks.workers import Workers, import_ahead

RESULTS = "optuna_results"
COMPLETED, STOPPED, TIME_LIMIT = "complete", "stopped", "time limit"


class Searched(NamedTuple):
    """What a search leaves behind."""

    folder: Path
    best: TrialRow | None  # None when no trial was complete
    rows: list[TrialRow]


def optimize(config: Config, output: Path | None = None, log: Log | None = None) -> Searched:
    """Search the settings in `config.optuna`, or go on with the search that its storage holds.

    Args:
        output: folder of the results; by default `<work_dir>/optuna_results`, numbered when another study is there.

    Raises:
        ConfigError, DataError: before anything is written.
        ConfigError, DataError, DivergedError, OutOfMemoryError: every trial failed, all of them with that one.
        StoppedError: a signal came; all files are written, and with a storage the same call goes on.
        DiskError: the disk or the storage gave up.
    """
    with graceful_stop() as request:
        return _optimize(config, output, log or Log(config.log_level), request)


def _optimize(config: Config, output: Path | None, log: Log, request: StopRequest) -> Searched:
    def go_on() -> None:
        if request():
            what = _("Stopped before the first trial; nothing has been written")
            raise StoppedError(what, mend=_("the same command starts it again"), exit_code=request.exit_code)

    require_literals(config)
    durable.require_writable(Path(config.work_dir))
    import_ahead()
    data = load_data(config)
    go_on()
    require_metrics(config, data)
    notes = check_space(config, data)
    go_on()
    import_for_importances()
    with closing(Workers(config, data, config.optuna.n_jobs)) as workers:
        workers.start()
        workers.wait(go_on)  # each has tried the file's own setting: from here on something may be written
        with closing(open_study(config, made_of(config, data))) as study:
            folder = results_folder(config, study, output)
            with lock(Experiment(folder, study.token)):
                study.take_over(folder)
                search = Search(config, study, folder, log)
                if confirmation := _read_statistics(folder).get("confirmation"):
                    search.statistics["confirmation"] = confirmation
                search.say_start(notes)
                return _search(search, workers, request)


def _search(search: Search, workers: Workers, request: StopRequest) -> Searched:
    """Search to the end, to the time limit or to a signal; the files are written in every case."""
    search.write(RUNNING)
    status = STOPPED
    try:
        with search.display.shown():
            workers.train(search, request)
        if search.is_over() or not request():
            status = TIME_LIMIT if search.is_cut_short() else COMPLETED
    finally:
        confirms = status != STOPPED and search.config.optuna.seeds_to_confirm > 0 and search.view().winner is not None
        view = search.write(RUNNING if confirms else status)
    if status == TIME_LIMIT:
        done = {"count": search.finished(), "total": search.study.total}
        search.log.warning(_("Time limit after {count} of {total} trials", **done) + "; " + how_to_go_on(search.config))
    whole = status == COMPLETED
    if confirms:
        whole = _confirm(search, view, status, workers, request) and whole
    if request() and not whole:
        raise StoppedError(
            _("Stopped after {count} trials; all files are written", count=search.finished()),
            str(search.folder),
            how_to_go_on(search.config),
            exit_code=request.exit_code,
        )
    if view.rows and all(row.state == FAILED for row in view.rows):
        raise _all_failed(search, view)
    if view.winner is not None:
        warn_of_other_settings(search, view.winner)
    say_result(search, view)
    return Searched(search.folder, view.winner, list(view.rows))


def how_to_go_on(config: Config) -> str:
    if config.optuna.storage is not None:
        return _("the same command continues")
    return _('set optuna["storage"] to be able to continue')


def _all_failed(search: Search, view: StudyView) -> PochiError:
    """Return the error of a search without a result: of the kind that all its trials ended with."""
    codes = {row.exit_code for row in view.rows if row.repeat_of is None}
    kinds = (DataError, DivergedError, OutOfMemoryError)
    kind = next((kind for kind in kinds if codes == {kind.exit_code}), ConfigError)
    reasons: dict[str, str] = {}  # those that differ in a number only are one
    for row in view.rows:
        reasons.setdefault(re.sub(r"\d[\d.e+-]*", "", row.error), row.error)
    return kind(
        _("Every trial failed: {reasons}", reasons="; ".join(list(reasons.values())[:3])),
        str(search.folder / "trials_history.json"),
        _("correct what they have in common, and search again"),
    )


def _confirm(search: Search, view: StudyView, status: str, workers: Workers, request: StopRequest) -> bool:
    """Train the winner and the file's own setting with new seeds, unless that was done before; return whether it is."""
    assert view.winner is not None
    from pochitrain.tasks.confirm import Confirmation  # SciPy: half a second that only its users pay

    ended = STOPPED
    try:
        confirmation = Confirmation(search.config, view.winner, view.rows, search.folder, search.log)
        if search.statistics.get("confirmation", {}).get("of") != confirmation.of:
            if confirmation.pointless:
                search.statistics["confirmation"] = confirmation.nothing()
            else:
                workers.train(confirmation, request)
                if request():
                    return False
                search.statistics["confirmation"] = confirmation.result()
        ended = status
    finally:
        search.write(ended)
    search.log.info(search.statistics["confirmation"]["verdict"])
    return True


def say_result(search: Search, view: StudyView) -> None:
    """Say what was found, and where everything lies; the value stands last, as with `pochi train`."""
    log, folder, winner = search.log, search.folder, view.winner
    log.info("")
    log.info(_("results  {path}", path=folder / "optimization_history.html"))
    log.info(_("config   {path}", path=folder / OPTIMIZED))
    if winner is None or winner.values is None:
        log.warning(_("No trial was complete: each was pruned or failed"))
        return
    for name, value in settings_of(view.dimensions, winner.point).items():
        log.info(f"  {name} = {repr(value) if is_literal(value) else winner.point[name]}")
    log.info(_("best is trial {number}", number=winner.number))
    log.info("   ".join(f"{name} {value:.4f}" for name, value in zip(view.metrics, winner.values, strict=True)))


def warn_of_other_settings(search: Search, winner: TrialRow) -> None:
    """Warn when the file that was written does not mean what the best trial was; nobody knows what a file computes."""
    path, optuna, threads = search.folder / OPTIMIZED, search.config.optuna, torch.get_num_threads()
    was = read_identity(Experiment(Path(winner.folder), winner.experiment))
    if was is None:  # it was trained elsewhere
        return
    epochs = {} if "epochs" in winner.point else {"epochs": optuna.optuna_epochs}
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search has said what the file says
            lines = settings_difference(was.settings, canonical_settings(load_config(path, epochs)))
    except ConfigError as error:
        lines = [error.problems[0].what]
    finally:
        torch.set_num_threads(threads)  # which the file may set
    if lines:
        search.log.warning(
            _("{path} is not what the best trial was trained with: {lines}", path=path, lines="; ".join(lines[:3]))
        )


def require_metrics(config: Config, data: Data) -> None:
    """Raise a ConfigError when the search looks at a validation that there is not, or at a column that nobody writes.

    What columns a `train_epoch` of the user's adds, only its first epoch shows (see `trial.check_metrics`).
    """
    metrics = config.optuna.metrics
    if data.val is None and validated(config):
        raise ConfigError(problems=[no_validation(config)])
    known = (*GUIDE_COLUMNS[1:], *TIMING, *MEASURED)
    own_columns = config.train_epoch is not None or "train_epoch" in config.optuna.search_space
    for metric in metrics:
        if not (own_columns or metric in known or metric.startswith(("lr_", GRADIENT))):
            near = near_name(metric, known)
            mend = _("did you mean {near}?", near=near) if near else _("it has: {names}", names=", ".join(known))
            raise located(ConfigError(_("An epoch has no {metric}", metric=metric), "optuna.metric", mend), config)


def results_folder(config: Config, study: Study, output: Path | None) -> Path:
    """Return the folder of a study: its own one, or one that is free.

    Raises:
        ConfigError: `output` is a file, or holds something else.
    """
    first = output or Path(config.work_dir) / RESULTS
    number, folder = 1, first
    while folder.exists() and not _is_free(folder):
        found = _read_statistics(folder).get("token")
        if found == study.token:
            return folder
        if output is not None:
            what = _("Another study is here") if found else _("The folder is not empty")
            if not folder.is_dir():
                what = _("This is a file")
            raise ConfigError(what, f"--output {output}", _("choose another folder"))
        number += 1
        folder = first.with_name(f"{first.name}_{number}")
    return folder


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())


def _read_statistics(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "study_statistics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_optimize(path: Path, overrides: Mapping[str, Any], output: Path | None) -> Searched:
    """Search as a config file says; the best value is printed last."""
    config = checked_config(path, overrides)
    if config.ignore_warnings:
        warnings.simplefilter("ignore")
    log = Log(config.log_level)
    if config.print_config:
        log.table(settings_tree(config))
    return optimize(config, output, log)
