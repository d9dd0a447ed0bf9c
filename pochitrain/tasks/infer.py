"""`pochi infer`: what a trained model says about images, and how good that is where the true classes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pochitrain import durable
from pochitrain.config.describe import plain_value
from pochitrain.data.pick import Picked
from pochitrain.engine.calibration import Calibration, calibration_path, load_calibration
from pochitrain.engine.predict import Predictions
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.reports.evaluation import Evaluation, evaluate_predictions, wilson
from pochitrain.sinks.console import Log
from pochitrain.tasks.judge import Judge
from pochitrain.tasks.judged import (
    check_outside,
    check_sorting,
    metrics_values,
    prepare_folder,
    result_folder,
    sort_images,
    write_evaluation,
    write_predictions,
)
from pochitrain.tasks.reliance import Reliance, reliance, write_thresholds
from pochitrain.tasks.verdict import say_broken, say_evaluation, say_fp32, say_predicted, say_reliance, say_speed


@dataclass(frozen=True)
class Wish:
    """What `pochi infer` is asked for."""

    images: Sequence[str] = ()  # a folder, a table, files or patterns; empty: the validation data of the experiment
    output: Path | None = None
    batch_size: int | None = None  # None: that of the training
    device: str | None = None  # None: that of the training where there is one
    top_k: int = 5
    tta: bool = False
    allow_missing_classes: bool = False
    sort_into: Path | None = None
    target_precision: float | None = None
    check_precision: bool = False
    report: bool = True


@dataclass(frozen=True)
class Inferred:
    """What came of it."""

    directory: Path
    predictions: Predictions
    evaluation: Evaluation | None  # None where the true classes are not known
    report: Path | None


def infer(
    experiment: str, wish: Wish | None = None, *, work_dir: Path = Path("work_dirs"), log: Log | None = None
) -> Inferred:
    """Let a trained model judge images; write what it says, and a report where the true classes are known.

    Args:
        experiment: the beginning of an id, an experiment's folder, or a `.pt` file.

    Raises:
        ConfigError: there is no such experiment, image, device or calibration.
        DataError: the model or the images cannot be used.
        DiskError: the results cannot be written.
    """
    wish = wish or Wish()
    if wish.sort_into is not None:
        check_sorting(wish.sort_into)
    judge = Judge.of(work_dir, experiment, wish.device, wish.batch_size, log)
    calibration = _calibration(judge, wish)
    picked = judge.pick(wish.images, allow_missing=wish.allow_missing_classes)
    if wish.sort_into is not None and not isinstance(picked.items, list):
        mend = _("give images with --data")
        raise ConfigError(_("The samples of a data set are no files that could be sorted"), "--sort-into", mend)
    directory = wish.output or _default_folder(judge, picked, wish)
    if picked.folder and wish.sort_into is not None:
        check_outside(wish.sort_into, picked.folder, "--sort-into")
    if picked.folder and (picked.labelled or wish.output is None):  # only with labels it holds pictures
        check_outside(directory, picked.folder, "--output")
    durable.require_writable(directory, "--output")

    predictions = judge.answers(picked, temperature=calibration.temperature if calibration else 1.0, tta=wish.tta)
    evaluation = None if predictions.labels is None else evaluate_predictions(predictions, top_k=wish.top_k)
    target = wish.target_precision
    relied = None if calibration is None or target is None else reliance(calibration, predictions, target)
    fp32 = _compared_with_fp32(judge, picked, predictions, wish) if wish.check_precision else None

    facts = _facts(judge, picked, predictions, wish, calibration)
    _write(directory, predictions, evaluation, relied, {"fp32": fp32, **facts}, wish.top_k)
    _say(judge.log, predictions, evaluation, relied, fp32)
    if calibration and evaluation and calibration.source == picked.source:
        judge.log.warning(_("calibrated on these very images: on others the confidence is less exact"))
    if wish.sort_into is not None:
        sort_images(wish.sort_into, predictions, relied.answers if relied else predictions.names)
        judge.log.info(_("sorted         {path}", path=wish.sort_into))
    report = _report(judge, predictions, evaluation, directory, facts) if evaluation and wish.report else None
    judge.log.info(_("results        {path}", path=report or directory))
    return Inferred(directory, predictions, evaluation, report)


def _calibration(judge: Judge, wish: Wish) -> Calibration | None:
    """Return the calibration that applies: it was measured on single images, so not to averages of two.

    Raises:
        ConfigError: one is needed, and there is none. DataError: it cannot be used.
    """
    target = wish.target_precision
    if target is not None and not 0 < target <= 1:
        what = _("A precision is above 0 and at most 1, not {target}", target=target)
        raise ConfigError(what, "--target-precision", _("for example 0.99"))
    if wish.tta and target is not None:
        what = _("The calibration holds without --tta only, and so do thresholds for a precision")
        raise ConfigError(what, "--target-precision", _("leave out --tta"))
    if wish.tta:
        if calibration_path(judge.loaded.path).exists():
            judge.log.warning(_("the calibration holds without --tta only, so it is not used"))
        return None
    calibration = judge.calibration() if target is None else load_calibration(judge.loaded.path)
    if target is not None and calibration is None:
        raise ConfigError(
            _("Thresholds for a precision need a calibrated model"),
            "--target-precision",
            _("run first: pochi calibrate {path}", path=judge.loaded.path),
        )
    if calibration is not None:
        shown = f"{calibration.temperature:.3f}"
        judge.log.info(_("calibrated  temperature {shown}, from {source}", shown=shown, source=calibration.source))
    return calibration


def _default_folder(judge: Judge, picked: Picked, wish: Wish) -> Path:
    """Return `infer/<name of the images>` in the experiment, or beside a file on its own."""
    loaded = judge.loaded
    base = loaded.experiment.infer_dir if loaded.experiment else loaded.path.parent / "infer"
    weights = [] if loaded.path.stem == "best" else [loaded.path.stem]
    return result_folder(base, "-".join([picked.name, *weights, *(["tta"] if wish.tta else [])]), picked.source)


def _compared_with_fp32(judge: Judge, picked: Picked, predictions: Predictions, wish: Wish) -> dict[str, Any]:
    """Return how many answers are other ones in full precision."""
    exact = judge.answers(picked, precision="fp32", tta=wish.tta)
    other = int((exact.predicted != predictions.predicted).sum())
    found: dict[str, Any] = {"images": len(exact.paths), "different": other}
    if exact.labels is not None:
        right = int((exact.predicted == exact.labels).sum())
        found["accuracy"] = asdict(wilson(right, len(exact.paths)))
    return found


def _facts(
    judge: Judge, picked: Picked, predictions: Predictions, wish: Wish, calibration: Calibration | None
) -> dict[str, Any]:
    """Return what the results were made of: the content of `infer.json`."""
    loaded, count = judge.loaded, len(predictions.paths)
    calibrated = calibration and {
        name: getattr(calibration, name) for name in ("temperature", "source", "images", "log_loss", "ece")
    }
    return {
        "model": {"path": str(loaded.path), "id": loaded.id, "name": loaded.name, "epoch": loaded.epoch},
        "images": {"source": picked.source, "count": count, "broken": len(predictions.broken)},
        "device": str(judge.device),
        "precision": predictions.precision,
        "batch_size": judge.batch_size,
        "tta": wish.tta,
        "calibration": plain_value(calibrated),
        "images_per_second": round(count / predictions.seconds, 1),
    }


def _write(
    directory: Path,
    predictions: Predictions,
    evaluation: Evaluation | None,
    relied: Reliance | None,
    facts: Mapping[str, Any],
    top_k: int,
) -> None:
    prepare_folder(directory)
    write_predictions(directory, predictions, relied.answers if relied else None, top_k)
    if relied:
        write_thresholds(directory, relied)
    if evaluation:
        write_evaluation(directory, evaluation, predictions.classes)
        further = {"target_precision": relied and relied.values(), "fp32": facts["fp32"]}
        found = {**metrics_values(evaluation), "broken": len(predictions.broken)}
        found |= {name: value for name, value in further.items() if value is not None}
        durable.write_json(directory / "metrics.json", found, sync=False)
    durable.write_json(directory / "infer.json", facts, sync=False)


def _say(
    log: Log,
    predictions: Predictions,
    evaluation: Evaluation | None,
    relied: Reliance | None,
    fp32: Mapping[str, Any] | None,
) -> None:
    say_broken(log, predictions.broken)
    if evaluation:
        say_evaluation(log, evaluation)
    else:
        say_predicted(log, predictions)
    if relied:
        say_reliance(log, relied)
    if fp32:
        say_fp32(log, predictions, fp32["different"])
    say_speed(log, predictions)


def _report(
    judge: Judge, predictions: Predictions, evaluation: Evaluation, directory: Path, facts: Mapping[str, Any]
) -> Path:
    from pochitrain.reports.report import write_report  # matplotlib: seconds that wrong input need not pay

    loaded = judge.loaded
    return write_report(
        predictions,
        evaluation,
        directory,
        title=f"{loaded.name} {loaded.id[:12]} · {directory.name}",
        settings={**facts, "training": loaded.settings},
        confusion_look=plain_value(loaded.config.confusion_matrix_config),
        model=loaded.model,
        transform=loaded.transform,
        device=judge.device,
    )
