"""`pochi train`: the same settings are the same experiment, which begins, goes on, or is already there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pochitrain import durable
from pochitrain.config.describe import plain_settings
from pochitrain.config.inject import call_part, name_of, part_values
from pochitrain.config.schema import Config
from pochitrain.data.source import Data, load_data
from pochitrain.engine.checkpoint import Checkpoints, Loaded, load_weights, save_weights
from pochitrain.engine.loop import Diverged, Stop, fit
from pochitrain.engine.run import Run, Totals, build_run, restore, state_of
from pochitrain.engine.signals import StopRequest, graceful_stop
from pochitrain.errors import ConfigError, DataError, DiskError, PochiError, StoppedError
from pochitrain.experiment import Experiment, lock, read_manifest, set_aside, write_manifest
from pochitrain.history import History, Record, best_epoch, gradients_csv, metrics_csv, monitored, stopped_early
from pochitrain.locale import _
from pochitrain.parts.transforms import describe_transform
from pochitrain.sinks.console import EpochBar, Log, first_line
from pochitrain.tasks.environment import differences, environment
from pochitrain.tasks.prepare import Plan, data_manifest_bytes, plan, why_new
from pochitrain.tasks.summary import say_end, say_epoch, say_start


class Trained(NamedTuple):
    """What a training leaves behind."""

    experiment: Experiment
    history: History
    metric: float  # the monitored metric at the best epoch; NaN without a finished epoch


def train(
    config: Config, *, restart: bool = False, strict_env: bool = False, log: Log | None = None, data: Data | None = None
) -> Trained:
    """Train the experiment of `config`: begin it, go on where it was, or return the result that is there.

    Args:
        restart: begin again; the old folder is kept aside as `<id>.old-<n>`.
        strict_env: refuse to go on under other library versions or on another device.
        data: from `load_data(config)`, when it was read already.

    Raises:
        ConfigError, DataError: before anything is written.
        StoppedError: a signal came; everything was saved.
        DivergedError, OutOfMemoryError, DiskError, AlreadyRunningError: see their classes.
    """
    log = log or Log(config.log_level)
    chosen = plan(config, data or load_data(config))
    experiment = chosen.experiment
    durable.require_writable(Path(config.work_dir))
    if experiment.dir.exists():
        if restart:
            log.info(_("The old experiment is kept as {path}", path=set_aside(experiment)))
        else:
            with lock(experiment):
                return _go_on(chosen, strict_env, log)
    run = build_run(config, chosen.data)  # what cannot be built leaves no folder behind
    with lock(experiment):
        if experiment.experiment_json.exists():  # another process began it in the meantime, and ended
            return _go_on(chosen, strict_env, log)
        return Session(chosen, run, log).begin()


def _go_on(chosen: Plan, strict_env: bool, log: Log) -> Trained:
    """Continue an experiment whose folder exists, or return its result when nothing is left to do."""
    experiment, config = chosen.experiment, chosen.config
    durable.remove_stale(experiment.dir)
    if experiment.checkpoints_dir.exists():
        durable.remove_stale(experiment.checkpoints_dir)
    loaded = Checkpoints(experiment.checkpoints_dir).load_newest()
    for path in loaded.damaged if loaded else ():
        log.warning(_("The checkpoint {path} is damaged; the one before it is used", path=path))
    manifest = _manifest_of(experiment)
    if loaded is None:
        return Session(chosen, build_run(config, chosen.data), log).begin()
    history: History = loaded.state["history"]
    done = len(history) >= config.epochs or stopped_early(history, config.early_stopping)
    if done and manifest.get("status") == "complete":
        log.info(_("Already complete: {epochs} epochs. Raise epochs to continue.", epochs=len(history)))
        trained = Trained(experiment, history, metric_of(history, config))
        say_end(log, trained, config, experiment.plots_dir)
        return trained
    _guard_environment(manifest, strict_env, log)
    precision = manifest.get("resolved", {}).get("precision") if config.precision == "auto" else None
    run = build_run(config, chosen.data, precision=precision)
    restore(run, loaded.state, loaded.step)
    return Session(chosen, run, log, history, manifest).go_on(loaded)


def _manifest_of(experiment: Experiment) -> dict[str, Any]:
    try:
        return read_manifest(experiment)
    except DataError:  # killed before it was written
        return {}


def _guard_environment(manifest: dict[str, Any], strict: bool, log: Log) -> None:
    lines = differences(manifest.get("environment", {}), environment())
    if not lines:
        return
    what = _("The environment is another than at the start: {lines}", lines="; ".join(lines))
    if strict:
        raise ConfigError(what, "--strict-env", _("restore the old versions, or start without --strict-env"))
    log.warning(what + ". " + _("Results may differ in rounding."))


def metric_of(history: History, config: Config) -> float:
    """Return the monitored metric at the best epoch."""
    best = best_epoch(history, config.early_stopping.monitor)
    if best is None:
        return float("nan")
    return float(history[best - 1][monitored(history, config.early_stopping.monitor)])


@dataclass
class Session:
    """One life of a run under the experiment's lock: from the first line it says to the last file it writes."""

    plan: Plan
    run: Run
    log: Log
    history: History
    manifest: dict[str, Any]

    def __init__(
        self, plan: Plan, run: Run, log: Log, history: History | None = None, manifest: dict[str, Any] | None = None
    ) -> None:
        self.plan, self.run, self.log = plan, run, log
        self.history, self.manifest = history or [], manifest or {}
        self.experiment, self.config = plan.experiment, plan.config
        self.checkpoints = Checkpoints(self.experiment.checkpoints_dir)
        self.failed_outputs: set[str] = set()

    def begin(self) -> Trained:
        """Write down what this experiment is, then train."""
        new = why_new(self.plan)
        self._write_identity()
        self.log.write_to(self.experiment.train_log)
        say_start(self.log, self.plan, self.run)
        if new:
            self.log.info(_("new because {reasons} (nearest: {id})", reasons="; ".join(new[1:]), id=new[0]))
        return self._train()

    def go_on(self, loaded: Loaded) -> Trained:
        """Train on from a checkpoint."""
        self.log.write_to(self.experiment.train_log)
        say_start(self.log, self.plan, self.run)
        at = _("epoch {epoch}", epoch=loaded.epoch)
        if loaded.step:
            at += ", " + _("step {step} of the next", step=loaded.step)
        self.log.info(_("Continues after {at}", at=at))
        self._heal_best(loaded)
        self._render(list(self.history))
        return self._train()

    # -- the files that say what the experiment is

    def _write_identity(self) -> None:
        experiment, config = self.experiment, self.config
        durable.write_text(experiment.config_py, config.origin.text)
        durable.write_json(experiment.config_json, plain_settings(config))
        durable.write_durably(experiment.data_manifest, data_manifest_bytes(self.plan.data))
        durable.write_json(experiment.identity_json, {"id": experiment.id, "canonical": self.plan.canonical})
        self._write_manifest()

    def _write_manifest(self, status: str | None = None, **more: Any) -> None:
        """Write `experiment.json`; while a run goes on it has no status (the lock says that it runs)."""
        config, history = self.config, self.history
        best = best_epoch(history, config.early_stopping.monitor)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.manifest = {
            **{key: value for key, value in self.manifest.items() if key not in ("id", "status", "failure")},
            "created": self.manifest.get("created", now),
            "updated": now,
            "task": self.experiment.dir.parent.parent.name,
            "model": self.experiment.dir.parent.name,
            "tags": list(config.tags),
            "notes": config.notes,
            "config_path": str(config.origin.path or ""),
            "classes": list(self.run.classes),
            "class_weights": self.run.class_weights,
            "data": {**self.plan.data.digests, "train_images": len(self.plan.data.train)},
            "epochs": config.epochs,
            "epochs_finished": len(history),
            "best_epoch": best,
            "best": history[best - 1] if best else None,
            "monitor": monitored(history, config.early_stopping.monitor),
            "seconds": round(sum(record.get("seconds", 0.0) for record in history), 1),
            "resolved": {
                "device": str(self.run.device),
                "precision": self.run.precision,
                "channels_last": self.run.channels_last,
            },
            "environment": environment(),
            **more,
            **({"status": status} if status else {}),
        }
        write_manifest(self.experiment, self.manifest)

    # -- training

    def _train(self) -> Trained:
        bar = EpochBar(self.log)
        self._write_manifest()
        with ExitStack() as stack:
            request = stack.enter_context(graceful_stop())
            observers = self._observers(stack, bar)
            stack.enter_context(bar.shown())
            self.run.tick = self._ticker(bar, request)
            try:
                fit(
                    self.run,
                    self.history,
                    epochs=self.config.epochs,
                    save=self._save,
                    observers=observers,
                    stop=request,
                )
                self.checkpoints.close()
            except Stop:
                self.checkpoints.save(len(self.history), self.run.totals.steps, self._state())
                self.checkpoints.close()
            except PochiError as error:
                self._fail(error)
                raise
        if request() and not self._is_done():
            self._write_manifest("stopped")
            self._draw()
            raise StoppedError(
                _("Stopped after epoch {epoch}, and saved", epoch=len(self.history)),
                str(self.experiment.dir),
                _("the same command continues"),
                exit_code=request.exit_code,
            )
        return self._finish()

    def _is_done(self) -> bool:
        return len(self.history) >= self.config.epochs or stopped_early(self.history, self.config.early_stopping)

    def _ticker(self, bar: EpochBar, request: StopRequest) -> Callable[[str, Totals], None]:
        """Return what happens after each batch: the bar, the request to stop, the checkpoint within an epoch."""
        cadence = self.config.checkpoint_every_minutes
        own_epoch = self.config.train_epoch is not None  # its steps are not ours to resume
        interval = cadence * 60 if cadence is not None and not own_epoch else float("inf")
        last_save = time.monotonic()

        def tick(phase: str, totals: Totals) -> None:
            nonlocal last_save
            if bar.due:
                self._show(bar, phase, totals)
            if request() and not own_epoch:
                raise Stop
            if phase == "train" and time.monotonic() - last_save >= interval:
                self.checkpoints.save(len(self.history), totals.steps, self._state())
                last_save = time.monotonic()

        return tick

    def _show(self, bar: EpochBar, phase: str, totals: Totals) -> None:
        loader = self.run.train_loader if phase == "train" else self.run.val_loader
        record = totals.record(phase)
        speed = totals.count / max(bar.seconds, 1e-9)
        figures = f"{record[f'{phase}_loss']:.4f}  {record[f'{phase}_accuracy']:.2f} %  {speed:.0f} " + _("images/s")
        name = _("train") if phase == "train" else _("validate")
        text = _("epoch {epoch}/{epochs} {phase}", epoch=len(self.history) + 1, epochs=self.config.epochs, phase=name)
        bar.update(text, totals.steps, len(loader or ()), figures)

    def _observers(self, stack: ExitStack, bar: EpochBar) -> list[Callable[[Record], None]]:
        observers: list[Callable[[Record], None]] = []

        def tell(record: Record) -> None:
            bar.restart()
            say_epoch(self.log, record, self.config, self.history)

        observers.append(tell)
        if self.config.enable_tensorboard:
            from pochitrain.sinks.tensorboard import tensorboard_observer  # half a second that only its users pay

            observe, close = tensorboard_observer(self.experiment.tensorboard_dir, self.history)
            stack.callback(close)
            observers.append(self._guarded("TensorBoard", observe))
        observers += [self._guarded(name_of(own), own) for own in self.config.observers]
        return observers

    def _guarded(self, name: str, observe: Callable[[Record], None]) -> Callable[[Record], None]:
        """Return an observer that is switched off with a warning when it fails: it never touches the training."""

        def guarded(record: Record) -> None:
            if name in self.failed_outputs:
                return
            try:
                observe(dict(record))
            except Exception as error:  # whatever a user's function raises
                self.failed_outputs.add(name)
                reason = f"{type(error).__name__}: {error}"
                self.log.warning(
                    _("The observer {name} failed and is switched off: {reason}", name=name, reason=reason)
                )

        return guarded

    # -- what an epoch leaves behind

    def _state(self) -> dict[str, Any]:
        return {**state_of(self.run), "history": self.history}

    def _save(self, epoch: int, history: History) -> None:
        records = list(history)
        best = self._best_payload() if best_epoch(history, self.config.early_stopping.monitor) == epoch else None

        def then() -> None:
            if best is not None:
                save_weights(self.experiment.best_pt, best)
            self._render(records)

        self.checkpoints.save(epoch, 0, self._state(), then=then)

    def _render(self, history: History) -> None:
        """Write the CSV files again from the history. They can be made again, so a failure is only a warning."""
        if not self.config.enable_metrics_export or "metrics.csv" in self.failed_outputs:
            return
        try:
            durable.write_text(self.experiment.metrics_csv, metrics_csv(history), sync=False)
            if gradients := gradients_csv(history):
                durable.write_text(self.experiment.gradients_csv, gradients, sync=False)
        except DiskError as error:
            self.failed_outputs.add("metrics.csv")
            self.log.warning(_("The metrics cannot be written: {reason}", reason=first_line(error)))

    def _payload(self, model: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Return what `best.pt` and `last.pt` hold: all that inference needs, in plain values."""
        return {
            "format": 1,
            "id": self.experiment.id,
            "epoch": epoch,
            "record": self.history[epoch - 1],
            "model_name": self.experiment.dir.parent.name,
            "classes": list(self.run.classes),
            "settings": plain_settings(self.config),
            "val_transform": describe_transform(self.config.val_transform),
            "precision": self.run.precision,
            "model": model,
        }

    def _best_payload(self) -> dict[str, Any]:
        # A copy of its own: the writer saves it while the next epoch already changes the weights.
        model = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.run.model.state_dict().items()}
        confusion = None if self.run.confusion is None else self.run.confusion.to("cpu", copy=True)
        return {**self._payload(model, len(self.history)), "confusion_matrix": confusion}

    def _heal_best(self, loaded: Loaded) -> None:
        """Write `best.pt` when a kill came between the checkpoint of the best epoch and it."""
        best = best_epoch(self.history, self.config.early_stopping.monitor)
        if loaded.step or best != loaded.epoch:
            return
        try:
            there = load_weights(self.experiment.best_pt)["epoch"] == best
        except (DataError, KeyError):
            there = False
        if not there:
            from pochitrain.engine.loop import evaluate

            evaluate(self.run)  # only for the confusion matrix, which the checkpoint does not hold
            save_weights(self.experiment.best_pt, self._best_payload())

    # -- the end

    def _finish(self) -> Trained:
        model = self.run.model.state_dict()
        save_weights(self.experiment.last_pt, self._payload(dict(model), len(self.history)))
        self._draw()
        self._write_manifest("complete")
        trained = Trained(self.experiment, self.history, metric_of(self.history, self.config))
        skipped = self.run.train_loader.skipped | (self.run.val_loader.skipped if self.run.val_loader else set())
        if skipped:
            self.log.warning(_("{count} images could not be read while training", count=len(skipped)))
        say_end(self.log, trained, self.config, self.experiment.plots_dir)
        return trained

    def _draw(self) -> None:
        """Draw all pictures; one that fails is a warning."""
        if not self.config.enable_metrics_export or not self.history:
            return
        from pochitrain.reports.confusion import draw_confusion  # matplotlib: a second that a failed start need not pay
        from pochitrain.reports.curves import draw_training

        config = self.config
        try:
            durable.make_directory(self.experiment.plots_dir)
            draw_training(
                self.history,
                self.experiment.plots_dir,
                layer_wise=config.enable_layer_wise_lr,
                log_scale=config.layer_wise_lr_config.graph_config.use_log_scale,
                best=best_epoch(self.history, config.early_stopping.monitor),
            )
            matrix = load_weights(self.experiment.best_pt)["confusion_matrix"]
            if matrix is not None:
                look = plain_settings(config)["confusion_matrix_config"]
                path = self.experiment.plots_dir / "confusion_matrix.png"
                draw_confusion(matrix.numpy(), self.run.classes, path, **look)
        except (DiskError, DataError) as error:
            self.log.warning(_("The pictures cannot be drawn: {reason}", reason=error.problems[0].what))
        self._draw_own()

    def _draw_own(self) -> None:
        values = part_values(
            self.config, history=self.history, plots_dir=self.experiment.plots_dir, classes=self.run.classes
        )
        for own in self.config.plots:
            try:
                call_part("plots", own, values)
            except Exception as error:  # whatever a user's function raises
                reason = f"{type(error).__name__}: {error}"
                self.log.warning(_("The plot {name} failed: {reason}", name=name_of(own), reason=reason))

    def _fail(self, error: PochiError) -> None:
        """Keep what was saved, and write down why the run ended."""
        failure = {"error": type(error).__name__, "what": error.problems[0].what}
        if isinstance(error, Diverged):
            failure |= error.details
        try:
            self.checkpoints.close()
            if isinstance(error, Diverged):
                durable.write_json(self.experiment.failure_json, failure)
            self._write_manifest("failed", failure=failure)
        except DiskError:
            pass  # the error that brought us here may be this very one; it is on its way to the reader
