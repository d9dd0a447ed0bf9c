"""`pochi calibrate`: how sure a model may be, measured on images that it was not trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain.engine.calibration import (
    Calibration,
    calibration_path,
    confidences_by_class,
    file_digest,
    fit_temperature,
    load_calibration,
    save_calibration,
)
from pochitrain.engine.predict import softmax
from pochitrain.errors import DataError
from pochitrain.locale import _
from pochitrain.reports.evaluation import evaluate_predictions
from pochitrain.reports.numbers import metric_name
from pochitrain.sinks.console import Log
from pochitrain.tasks.judge import Judge
from pochitrain.tasks.verdict import say_broken

FEW = 100  # images: T then has a standard deviation of about 20 % (of 30 images 40 %, of 1 000 6 %; simulated)


def calibrate(
    experiment: str,
    images: Sequence[str] = (),
    *,
    batch_size: int | None = None,
    device: str | None = None,
    work_dir: Path = Path("work_dirs"),
    log: Log | None = None,
) -> Calibration:
    """Fit a temperature on labelled images, the validation data unless others are named; store it beside the model.

    Raises:
        ConfigError, DataError, DiskError: as `infer`; DataError also when the true classes are not known, or are one.
    """
    judge = Judge.of(work_dir, experiment, device, batch_size, log)
    picked = judge.pick(images, allow_missing=True)
    if not picked.labelled:
        raise DataError(
            _("Without the true classes nothing can be calibrated"),
            picked.source,
            _("give a folder with one folder per class"),
        )
    before = judge.answers(picked)
    say_broken(judge.log, before.broken)
    assert before.labels is not None
    if len(set(before.labels.tolist())) < 2:
        raise DataError(
            _("A temperature cannot be found on images of one class"), picked.source, _("give images of all classes")
        )
    if len(before.paths) < FEW:
        judge.log.warning(
            _(
                "only {count} images: the temperature can be off by 20 % and more; take {few} or more",
                count=len(before.paths),
                few=FEW,
            )
        )
    temperature = fit_temperature(before.logits, before.labels)
    if temperature is None:
        judge.log.warning(_("no temperature fits: every answer is right, or none better than chance; 1 is kept"))
    after = replace(before, probabilities=softmax(before.logits, temperature or 1.0))
    found = [evaluate_predictions(predictions).metrics for predictions in (before, after)]
    calibration = Calibration(
        weights=file_digest(judge.loaded.path),
        temperature=temperature or 1.0,
        source=picked.source,
        images=len(before.paths),
        log_loss=(found[0]["log_loss"].value, found[1]["log_loss"].value),
        ece=(found[0]["ece"].value, found[1]["ece"].value),
        confidences=confidences_by_class(after.classes, after.predicted, before.labels, after.confidence),
    )
    path = calibration_path(judge.loaded.path)
    with contextlib.suppress(DataError):  # what cannot be used is no loss
        if old := load_calibration(judge.loaded.path):
            words = {"temperature": f"{old.temperature:.4f}", "count": old.images, "source": old.source}
            judge.log.info(_("replaces the temperature {temperature}, from {count} images: {source}", **words))
    save_calibration(path, calibration)
    judge.log.table(_table(calibration))
    judge.log.info(_("temperature  {temperature:.4f}", temperature=calibration.temperature))
    judge.log.info(_("stored       {path}", path=path))
    return calibration


def _table(calibration: Calibration) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for name in (_("before"), _("after")):
        table.add_column(name, justify="right")
    table.add_row(metric_name("log_loss"), *(f"{value:.4f}" for value in calibration.log_loss))
    table.add_row(metric_name("ece"), *(f"{100 * value:.2f} %" for value in calibration.ece))
    return table
