"""`pochi train`: the same settings are the same experiment, which begins, goes on, or is already there."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pochitrain import durable
from pochitrain.config.inject import name_of
from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.schema import Config
from pochitrain.data.decode import display_name
from pochitrain.data.source import Data, load_data
from pochitrain.engine.checkpoint import Checkpoints, Snapshot, load_weights
from pochitrain.engine.loop import Diverged, Observer, Stop, check_finite, fit
from pochitrain.engine.run import Run, Totals, build_run, restore, state_of
from pochitrain.engine.signals import StopRequest, graceful_stop
from pochitrain.errors import ConfigError, DataError, DiskError, PochiError, StoppedError
from pochitrain.experiment import Experiment, lock, read_manifest, set_aside, write_manifest
from pochitrain.history import History, Record, best_epoch, monitored, stopped_early
from pochitrain.locale import _
from pochitrain.sinks.console import EpochBar, Log, reason_of
from pochitrain.tasks.environment import differences, environment
from pochitrain.tasks.outputs import Outputs
from pochitrain.tasks.prepare import Plan, as_config, begun_in, plan, why_new
from pochitrain.tasks.summary import say_end, say_epoch, say_start, say_stopped_early


class Trained(NamedTuple):
    """What a training leaves behind."""

    experiment: Experiment
    history: History
    metric: float  # the monitored metric at the best epoch; NaN without a finished epoch


class Trial(NamedTuple):
    """What a search has to say in a training. Such a training draws nothing, and its checkpoints are the timed ones."""

    goes_on: Callable[[Record], bool]  # asked after each epoch; False ends the training there
    keeps: Callable[[History], bool]  # asked at the end: is `best.pt` wanted?


def train(
    config: Config | str | os.PathLike[str],
    *,
    restart: bool = False,
    strict_env: bool = False,
    log: Log | None = None,
    data: Data | None = None,
    trial: Trial | None = None,
) -> Trained:
    """Train the experiment of `config`: begin it, go on where it was, or return the result that is there.

    Args:
        config: what `load_config` returned, or the path of a config file.
        restart: begin again; the old folder is kept aside as `<id>.old-<n>`.
        strict_env: refuse to go on under other library versions or on other hardware.
        data: from `load_data(config)`, when it was read already.
        trial: given when the training is a part of a search.

    Raises:
        ConfigError, DataError: before anything is written.
        StoppedError: a signal came; everything was saved.
        DivergedError, OutOfMemoryError, DiskError, AlreadyRunningError: see their classes.
    """
    config = as_config(config)
    log = log or Log(config.log_level)
    durable.require_writable(Path(config.work_dir))
    chosen = plan(config, data or load_data(config))
    experiment = chosen.experiment
    if experiment.dir.exists() and not restart:
        with lock(experiment):
            return _go_on(chosen, strict_env, log, trial)
    run = build_run(config, chosen.data)  # what cannot be built leaves no folder behind, and moves none
    if restart and experiment.dir.exists():
        log.info(_("The old experiment is kept as {path}", path=set_aside(experiment)))
    with lock(experiment):
        if experiment.experiment_json.exists():  # another process began it in the meantime, and has ended
            return _go_on(chosen, strict_env, log, trial)
        return _begin(chosen, run, log, trial, say_why=not restart)


def _begin(chosen: Plan, run: Run, log: Log, trial: Trial | None, *, say_why: bool = True) -> Trained:
    reasons = why_new(chosen) if say_why and not trial else []
    outputs = Outputs(chosen, run, log, {})
    outputs.write_identity()
    log.write_to(chosen.experiment.train_log)
    say_start(log, chosen, run)
    if reasons:
        log.info(_("new because {reasons} (nearest: {id})", reasons="; ".join(reasons[1:]), id=reasons[0]))
    return _train(outputs, [], trial)


def _go_on(chosen: Plan, strict_env: bool, log: Log, trial: Trial | None) -> Trained:
    """Continue an experiment whose folder exists, or return its result when nothing is left to do."""
    experiment, config = chosen.experiment, chosen.config
    for directory in (experiment.dir, experiment.checkpoints_dir, experiment.plots_dir):
        durable.remove_stale(directory)
    loaded = Checkpoints(experiment.checkpoints_dir).load_newest()
    if loaded is None:
        return _begin(chosen, build_run(config, chosen.data), log, trial)
    for path in loaded.damaged:
        log.warning(_("The checkpoint {path} is damaged; the one before it is used", path=path))
    manifest = _manifest_of(experiment)
    history: History = loaded.state["history"]
    if manifest.get("status") == "complete" and _nothing_left(history, config):
        if len(history) >= config.epochs:
            log.info(_("Already complete: {epochs} epochs. Raise epochs to continue.", epochs=len(history)))
        else:
            log.info(_("Already complete: stopped early after {epochs} epochs.", epochs=len(history)))
        labels = {"tags": list(config.tags), "notes": config.notes}
        if any(manifest.get(name) != value for name, value in labels.items()):
            write_manifest(experiment, {**manifest, **labels})
        trained = Trained(experiment, history, metric_of(history, config))
        warn_of_other_best(experiment, history, config, log)
        say_end(log, trained, config)
        return trained
    run = build_run(config, chosen.data, precision=begun_in(config, experiment))
    outputs = Outputs(chosen, run, log, manifest)
    _guard_environment(manifest, outputs.resolved, strict_env, log)
    restore(run, loaded.state, loaded.step)
    log.write_to(experiment.train_log)
    say_start(log, chosen, run)
    steps = ", " + _("step {step} of the next", step=loaded.step) if loaded.step else ""
    log.info(_("Continues after epoch {epoch}", epoch=loaded.epoch) + steps)
    outputs.render(history)
    return _train(outputs, history, trial)


def _manifest_of(experiment: Experiment) -> dict[str, Any]:
    try:
        return read_manifest(experiment)
    except DataError:  # killed before it was written
        return {}


def _guard_environment(manifest: dict[str, Any], resolved: dict[str, Any], strict: bool, log: Log) -> None:
    """Say once what may change rounding against the life before: versions, hardware, memory layout."""
    old = {**manifest.get("environment", {}), **manifest.get("resolved", {})}
    lines = differences(old, {**environment(), **resolved})
    if not lines:
        return
    what = _("The environment is another than at the start: {lines}", lines="; ".join(lines))
    if strict:
        raise ConfigError(what, "--strict-env", _("restore the old versions, or start without --strict-env"))
    log.warning(what + ". " + _("Results may differ in rounding."))


def _nothing_left(history: History, config: Config) -> bool:
    return len(history) >= config.epochs or stopped_early(history, config.early_stopping)


def warn_of_other_best(experiment: Experiment, history: History, config: Config, log: Log) -> None:
    """Warn when `best.pt` holds another epoch than `monitor` calls the best: it was chosen by another one then."""
    best = best_epoch(history, config.early_stopping.monitor)
    try:
        there = load_weights(experiment.best_pt)["epoch"]
    except (DataError, KeyError):
        return
    if best is not None and there != best:
        log.warning(
            _(
                "best.pt holds epoch {there}, which another monitor chose; the weights of epoch {best} were not kept"
                " (--restart trains again)",
                there=there,
                best=best,
            )
        )


def metric_of(history: History, config: Config) -> float:
    """Return the monitored metric at the best epoch."""
    best = best_epoch(history, config.early_stopping.monitor)
    if best is None:
        return float("nan")
    return float(history[best - 1][monitored(history, config.early_stopping.monitor)])


def _train(outputs: Outputs, history: History, trial: Trial | None) -> Trained:
    """Train under the lock, from the state that the run is in to the end or to a signal."""
    with graceful_stop() as request:  # it waits also for the last files, so that none is left half told
        try:
            return _train_until(outputs, history, trial, request)
        except (Exception, SystemExit) as error:  # also what the user's own code raises
            known = error if isinstance(error, PochiError) else raised_by_user(error)
            outputs.log.note(str(known) if known else "".join(traceback.format_exception(error)))
            raise


def _train_until(outputs: Outputs, history: History, trial: Trial | None, request: StopRequest) -> Trained:
    run, config, experiment, log = outputs.run, outputs.config, outputs.experiment, outputs.log
    checkpoints, bar = Checkpoints(experiment.checkpoints_dir), EpochBar(log)
    durable.remove(experiment.failure_json)  # of a life before
    outputs.write_manifest(history)
    best: list[dict[str, Any]] = []  # what `best.pt` of a trial will hold, which saves no checkpoint of each epoch
    saved = list(history)  # what of it the newest checkpoint holds
    given_up = False

    def save(epoch: int, history: History) -> None:
        is_best = best_epoch(history, config.early_stopping.monitor) == epoch
        if trial is None:
            checkpoint(0, is_best)
            return
        if is_best:
            best[:] = [outputs.best_payload(history, Snapshot().take(run.model.state_dict()))]
        outputs.render(history)

    def checkpoint(steps: int, is_best: bool = False) -> None:
        records, payload = list(history), best.pop() if best else None
        if is_best:  # the checkpoint's copy of the weights is the one to save
            payload = outputs.best_payload(history, {})

        def then(state: dict[str, Any]) -> None:
            saved[:] = records
            if payload is not None:
                outputs.save_best(payload | {"model": state["model"]} if is_best else payload)
            if steps == 0:
                outputs.render(records)

        checkpoints.save(len(history), steps, _state(run, history), then=then)

    def ask(record: Record) -> None:
        nonlocal given_up
        given_up = trial is not None and not trial.goes_on(record)

    with ExitStack() as stack:
        observers = [*_observers(outputs, history, bar, stack), ask]
        stack.enter_context(bar.shown())
        if run.totals.steps == 0:
            outputs.heal_best(history)
        run.tick = _ticker(run, history, checkpoint, bar, request)
        stack.callback(setattr, run, "tick", Run.tick)  # without this circle the memory of the run is free at once
        try:
            fit(run, history, epochs=config.epochs, save=save, observers=observers, stop=lambda: given_up or request())
            if trial is not None and request() and not _nothing_left(history, config):
                checkpoint(0)
            checkpoints.close()
        except Stop:
            checkpoint(run.totals.steps)
            checkpoints.close()
        except (Exception, SystemExit) as error:  # also what the user's own code raises
            _note_failure(outputs, saved, checkpoints, error)
            raise
    warn_of_other_best(experiment, history, config, log)
    if request() and not given_up and not _nothing_left(history, config):
        outputs.write_manifest(history, "stopped")
        if trial is None:
            outputs.draw(history)
        raise StoppedError(
            _("Stopped after epoch {epoch}, and saved", epoch=len(history))
            if history
            else _("Stopped in the first epoch, and saved"),
            str(experiment.dir),
            _("the same command continues"),
            exit_code=request.exit_code,
        )
    return _end(outputs, history, trial, best, "stopped" if given_up else "complete")


def _end(outputs: Outputs, history: History, trial: Trial | None, best: list[dict[str, Any]], status: str) -> Trained:
    """Write what stands at the end of a training."""
    if status == "complete" and len(history) < outputs.config.epochs:
        say_stopped_early(outputs.log, history, outputs.config)
    if trial is None:
        outputs.save_last(history)
        outputs.draw(history)
    elif best and trial.keeps(history):
        outputs.save_best(best.pop())
    outputs.write_manifest(history, status)
    trained = Trained(outputs.experiment, history, metric_of(history, outputs.config))
    run, log = outputs.run, outputs.log
    if skipped := run.train_loader.skipped | (run.val_loader.skipped if run.val_loader else {}):
        log.warning(_("{count} images could not be read while training", count=len(skipped)))
        for name, reason in sorted(skipped.items())[:20]:
            log.warning(f"  {display_name(name)}: {reason}")
    say_end(log, trained, outputs.config)
    return trained


def _state(run: Run, history: History) -> dict[str, Any]:
    return {**state_of(run), "history": history}


def _ticker(
    run: Run, history: History, checkpoint: Callable[[int], None], bar: EpochBar, request: StopRequest
) -> Callable[[str, Totals], None]:
    """Return what happens after each batch: the bar, the request to stop, the checkpoint within an epoch."""
    own_epoch = run.config.train_epoch is not None  # its steps are not ours to resume
    minutes = None if own_epoch else run.config.checkpoint_every_minutes
    interval = float("inf") if minutes is None else minutes * 60
    last_save = time.monotonic()

    def tick(phase: str, totals: Totals) -> None:
        nonlocal last_save
        if bar.due:
            loader = run.train_loader if phase == "train" else run.val_loader
            name = _("train") if phase == "train" else _("validate")
            title = _("epoch {epoch}/{epochs}", epoch=len(history) + 1, epochs=run.config.epochs)
            bar.update(f"{title} {name}", totals.steps, len(loader or ()), totals.record(phase), totals.count)
        stop = request() and not own_epoch
        save = phase == "train" and time.monotonic() - last_save >= interval
        if not (stop or save) or not torch.isfinite(run.totals.loss):
            return  # a loss that is not finite is never saved: the loop is about to name its step
        check_finite(run, len(history) + 1, run.totals.steps)
        if stop:
            raise Stop
        checkpoint(totals.steps)
        last_save = time.monotonic()

    return tick


def _observers(outputs: Outputs, history: History, bar: EpochBar, stack: ExitStack) -> list[Observer]:
    config = outputs.config

    def tell(record: Record) -> None:
        bar.restart()
        say_epoch(outputs.log, record, config, history)

    observers: list[Observer] = [tell]
    if config.enable_tensorboard:
        from pochitrain.sinks.tensorboard import tensorboard_observer  # half a second that only its users pay

        observe, close = tensorboard_observer(outputs.experiment.tensorboard_dir, history)
        stack.callback(close)
        observers.append(_guarded("TensorBoard", observe, outputs.log))
    return observers + [_guarded(name_of(own), own, outputs.log) for own in config.observers]


def _guarded(name: str, observe: Observer, log: Log) -> Observer:
    """Return an observer that is switched off with a warning when it fails: it never touches the training."""
    works = True

    def guarded(record: Record) -> None:
        nonlocal works
        if not works:
            return
        try:
            observe(dict(record))
        except (Exception, SystemExit) as error:  # the user's code may raise anything at all
            works = False
            reason = reason_of(error)
            log.warning(_("The observer {name} failed and is switched off: {reason}", name=name, reason=reason))

    return guarded


def _note_failure(outputs: Outputs, saved: History, checkpoints: Checkpoints, error: BaseException) -> None:
    """Keep what was saved, and write down why the run ended. `saved` grows until the last checkpoint is written."""
    what = error.problems[0].what if isinstance(error, PochiError) else str(error)
    failure = {"error": type(error).__name__, "what": what}
    try:
        checkpoints.close()
        if isinstance(error, Diverged):
            failure |= error.details
            durable.write_json(outputs.experiment.failure_json, failure)
        outputs.write_manifest(saved, "failed", failure)
    except DiskError as second:  # the first error may be this very one, and is on its way to the reader
        outputs.log.debug(str(second))
