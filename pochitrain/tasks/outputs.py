"""The files of an experiment: what it is, what each epoch leaves behind, and the pictures at the end."""

from __future__ import annotations

import copy
import time
from typing import Any

from pochitrain import durable
from pochitrain.config.describe import plain_settings
from pochitrain.config.inject import call_part, name_of, part_values
from pochitrain.data.source import AUTO
from pochitrain.engine.checkpoint import load_weights, save_weights
from pochitrain.engine.loop import evaluate
from pochitrain.engine.run import Run
from pochitrain.errors import DataError, DiskError, PochiError
from pochitrain.experiment import write_manifest
from pochitrain.history import History, best_epoch, gradients_csv, metrics_csv, monitored
from pochitrain.locale import _
from pochitrain.parts.transforms import describe_transform
from pochitrain.sinks.console import Log, as_text, reason_of
from pochitrain.tasks.config import settings_tree
from pochitrain.tasks.environment import environment
from pochitrain.tasks.prepare import Plan, data_manifest_bytes, split_table


class Outputs:
    """Writes the files of one experiment.

    What the checkpoint holds can be rendered again at any time, so a CSV or a picture that cannot be written is a
    warning; a checkpoint, a model or a manifest that cannot be written is an error.
    """

    def __init__(self, plan: Plan, run: Run, log: Log, manifest: dict[str, Any]) -> None:
        self.plan, self.run, self.log, self.manifest = plan, run, log, manifest
        self.experiment, self.config = plan.experiment, plan.config
        self.csv_works = self.config.enable_metrics_export

    @property
    def resolved(self) -> dict[str, Any]:
        """Return what was decided for this machine and may change rounding."""
        run = self.run
        return {
            "device": str(run.device),
            "precision": run.precision,
            "channels_last": run.channels_last,
            "compile": self.config.compile,
        }

    def write_identity(self) -> None:
        """Write what the experiment is made of: the config's text and values, what its id means, the file lists."""
        durable.write_text(self.experiment.config_py, self.config.origin.text)
        durable.write_json(self.experiment.config_json, plain_settings(self.config))
        if self.config.print_config:
            durable.write_text(self.experiment.config_tree_log, as_text(settings_tree(self.config)))
        if self.config.tags:
            durable.write_text(self.experiment.tags_log, "\n".join(self.config.tags) + "\n")
        durable.write_durably(self.experiment.data_manifest, data_manifest_bytes(self.plan.data))
        if self.config.val_data_root == AUTO:
            durable.write_text(self.experiment.split_csv, split_table(self.plan.data))
        durable.write_json(self.experiment.identity_json, {"id": self.experiment.id, **vars(self.plan.identity)})

    def write_manifest(
        self, history: History, status: str | None = None, failure: dict[str, Any] | None = None
    ) -> None:
        """Write `experiment.json`. A run that goes on has no status: that it runs is told by its lock."""
        config, data = self.config, self.plan.data
        best = best_epoch(history, config.early_stopping.monitor)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.manifest = {
            "created": self.manifest.get("created", now),
            "updated": now,
            "task": self.experiment.dir.parent.parent.name,
            "model": self.experiment.dir.parent.name,
            "tags": list(config.tags),
            "notes": config.notes,
            "config_path": str(config.origin.path or ""),
            "classes": list(data.classes),
            "class_weights": self.run.class_weights,
            "data": {**data.digests, "train_images": len(data.train), "val_images": len(data.val or ())},
            "epochs": config.epochs,
            "epochs_finished": len(history),
            "monitor": monitored(history, config.early_stopping.monitor),
            "best_epoch": best,
            "best": history[best - 1] if best else None,
            "seconds": round(sum(record.get("seconds", 0.0) for record in history), 1),
            "resolved": self.resolved,
            "environment": environment(),
        }
        if status:
            self.manifest["status"] = status
        if status == "complete" and len(history) < config.epochs:
            self.manifest["reason"] = "early stopping"
        if failure:
            self.manifest["failure"] = failure
        write_manifest(self.experiment, self.manifest)

    # -- each epoch

    def render(self, history: History) -> None:
        """Write the CSV files from the history; after a first failure never again."""
        if not self.csv_works:
            return
        try:
            durable.write_text(self.experiment.metrics_csv, metrics_csv(history), sync=False)
            if gradients := gradients_csv(history):
                durable.write_text(self.experiment.gradients_csv, gradients, sync=False)
        except DiskError as error:
            self.csv_works = False
            self.log.warning(_("The metrics cannot be written: {reason}", reason=reason_of(error)))

    def best_payload(self, history: History, model: dict[str, Any]) -> dict[str, Any]:
        """Return what `best.pt` will hold. It is saved while the next epoch changes the run: `model` must be a copy."""
        confusion = None if self.run.confusion is None else self.run.confusion.to("cpu", copy=True)
        return {**self._payload(model, history), "confusion_matrix": confusion}

    def save_best(self, payload: dict[str, Any]) -> None:
        save_weights(self.experiment.best_pt, payload)

    def heal_best(self, history: History) -> None:
        """Write `best.pt` if a kill came between the checkpoint of the best epoch and it.

        Call it when the run stands at the end of the last epoch of `history`.
        """
        if best_epoch(history, self.config.early_stopping.monitor) != len(history):
            return
        try:
            there = load_weights(self.experiment.best_pt)["epoch"] == len(history)
        except (DataError, KeyError):
            there = False
        if not there:
            evaluate(self.run)  # for the confusion matrix, which a checkpoint does not hold
            self.save_best(self.best_payload(history, self.run.model.state_dict()))

    def _payload(self, model: dict[str, Any], history: History) -> dict[str, Any]:
        """Return all that inference needs, in plain values."""
        return {
            "format": 1,
            "id": self.experiment.id,
            "epoch": len(history),
            "record": history[-1],
            "model_name": self.experiment.dir.parent.name,
            "classes": list(self.run.classes),
            "settings": plain_settings(self.config),
            "val_transform": describe_transform(self.config.val_transform),
            "precision": self.run.precision,
            "model": model,
        }

    # -- the end

    def save_last(self, history: History) -> None:
        save_weights(self.experiment.last_pt, self._payload(self.run.model.state_dict(), history))

    def draw(self, history: History) -> None:
        """Draw all pictures. One that cannot be drawn is a warning: the training is over, and stands."""
        if not self.config.enable_metrics_export or not history:
            return
        from pochitrain.reports.confusion import draw_confusion  # matplotlib: a second that a failed start need not pay
        from pochitrain.reports.curves import draw_training

        config, plots_dir = self.config, self.experiment.plots_dir
        best = best_epoch(history, config.early_stopping.monitor)
        try:
            durable.make_directory(plots_dir)
            draw_training(
                history,
                plots_dir,
                layer_wise=config.enable_layer_wise_lr,
                log_scale=config.layer_wise_lr_config.graph_config.use_log_scale,
                best=best,
            )
            matrix = load_weights(self.experiment.best_pt)["confusion_matrix"] if best else None
            if matrix is not None:
                look = plain_settings(config)["confusion_matrix_config"]
                draw_confusion(matrix.numpy(), self.run.classes, plots_dir / "confusion_matrix.png", **look)
        except (PochiError, MemoryError) as error:
            self.log.warning(_("Not every picture could be drawn: {reason}", reason=reason_of(error)))
        self._draw_own(history)

    def _draw_own(self, history: History) -> None:
        plots_dir = self.experiment.plots_dir
        for own in self.config.plots:
            its = copy.deepcopy(history)  # it may change what it is given
            values = part_values(self.config, history=its, plots_dir=plots_dir, classes=self.run.classes)
            try:
                call_part("plots", own, values)
            except (Exception, SystemExit) as error:  # the user's code may raise anything at all
                self.log.warning(_("The plot {name} failed: {reason}", name=name_of(own), reason=reason_of(error)))
