"""The tables that `pochi infer` leaves behind, and the images that it sorts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pochitrain import durable
from pochitrain.data.decode import display_name
from pochitrain.engine.predict import Predictions
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.reports.evaluation import Estimate, Evaluation

SHARES = ("precision", "recall", "f1")
RESULTS = (
    *("predictions.csv", "broken.csv", "thresholds.csv", "metrics.json", "classification_report.csv"),
    *("confusion_matrix.csv", "report.html", "confusion_matrix.png", "confusion_matrix_normalized.png", "roc.png"),
    *("precision_recall.png", "reliability.png", "confidence.png", "most_confused.png", "per_class.png"),
    *("mistakes.png", "least_certain.png"),
    "infer.json",  # removed last: it says whose results the others are
)


def result_folder(base: Path, name: str, source: str) -> Path:
    """Return `base/name`, or `base/name-2` … where that holds the results of other images.

    Args:
        source: what the results are made of, as `infer.json` has it.
    """
    number = 1
    while True:
        folder = base / (name if number == 1 else f"{name}-{number}")
        if _source_of(folder) in (None, source):
            return folder
        number += 1


def _source_of(folder: Path) -> str | None:
    try:
        source = json.loads((folder / "infer.json").read_bytes())["images"]["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return str(source)


def prepare_folder(directory: Path) -> None:
    """Make the folder of the results; those of an earlier time go, because what is not made anew would not fit."""
    durable.make_directory(directory)
    for name in RESULTS:
        durable.remove(directory / name)


def write_predictions(directory: Path, predictions: Predictions, answers: Sequence[str] | None, top_k: int) -> None:
    """Write `predictions.csv`, a line per image, and `broken.csv` where images could not be read."""
    classes = predictions.classes
    top = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :top_k]
    chances = np.take_along_axis(predictions.probabilities, top, axis=1)
    columns: dict[str, Iterable[Any]] = {"path": map(display_name, predictions.paths)}
    if predictions.labels is not None:
        columns["true"] = [classes[label] for label in predictions.labels.tolist()]
    columns["predicted"] = predictions.names
    columns["confidence"] = predictions.confidence.tolist()
    if predictions.labels is not None:
        columns["correct"] = (predictions.predicted == predictions.labels).astype(int).tolist()
    if answers is not None:
        columns["answer"] = answers
    for place in range(top.shape[1]):
        columns[f"top_{place + 1}"] = [classes[label] for label in top[:, place].tolist()]
        columns[f"probability_{place + 1}"] = chances[:, place].tolist()
    write_csv(directory / "predictions.csv", list(columns), zip(*columns.values(), strict=True))
    if predictions.broken:
        write_csv(directory / "broken.csv", ["path", "reason"], predictions.broken)


def write_evaluation(directory: Path, evaluation: Evaluation, classes: Sequence[str]) -> None:
    """Write `classification_report.csv` and `confusion_matrix.csv`."""
    header = ["class", *(f"{name}{end}" for name in SHARES for end in ("", "_low", "_high")), "support"]
    rows = [(row["name"], row) for row in evaluation.per_class]
    rows += [(f"{kind} avg", evaluation.averages[kind]) for kind in ("macro", "weighted")]
    write_csv(
        directory / "classification_report.csv",
        header,
        ([name, *(cell for share in SHARES for cell in cells(row[share])), row["support"]] for name, row in rows),
    )
    matrix = ([name, *counts] for name, counts in zip(classes, evaluation.confusion.tolist(), strict=True))
    write_csv(directory / "confusion_matrix.csv", ["true \\ predicted", *classes], matrix)


def cells(estimate: Estimate) -> list[float | None]:
    """Return value, low and high for a table; what is not known stays empty."""
    return [None if np.isnan(value) else value for value in (estimate.value, estimate.low, estimate.high)]


def metrics_values(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `metrics.json`: each number with its interval, and the counts behind them."""
    return {
        "images": int(evaluation.confusion.sum()),
        "correct": int(evaluation.confusion.trace()),
        "metrics": {name: asdict(estimate) for name, estimate in evaluation.metrics.items()},
    }


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table in UTF-8, with the byte order mark by which Excel knows it."""
    text = io.StringIO("\ufeff")
    text.seek(1)
    writer = csv.writer(text, lineterminator="\n")  # writes a float by repr: it reads back exactly
    writer.writerow(header)
    writer.writerows(rows)
    durable.write_text(path, text.getvalue(), sync=False)


def check_outside(directory: Path, folder: str, option: str) -> None:
    """Refuse a directory to write to, named by `option`, inside the folder whose images are judged."""
    if Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(folder)):
        raise ConfigError(
            _("What is written here would be read as images the next time"),
            str(directory),
            _("name a folder outside of {folder} with {option}", folder=display_name(folder), option=option),
        )


# ---- images into folders ----


def check_sorting(directory: Path) -> None:
    """Refuse a folder that holds something: what was sorted before would mix with what is sorted now."""
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(_("The folder is not empty"), str(directory), _("name a new or an empty one for --sort-into"))
    durable.require_writable(directory, "--sort-into")


def sort_images(directory: Path, predictions: Predictions, answers: Sequence[str]) -> int:
    """Put a link to each image, or a copy where links do not work, into the folder of its answer; return how many."""
    folders = folder_names([*predictions.classes, *answers])
    taken: set[Path] = set()
    for path, answer in zip(predictions.paths, answers, strict=True):
        folder = directory / folders[answer]
        if folder not in taken:
            durable.make_directory(folder)
            taken.add(folder)
        target = _free(folder / os.path.basename(path), taken)
        try:
            try:
                target.symlink_to(os.path.abspath(path))
            except OSError:  # a file system without links, or no permission for them
                shutil.copy2(path, target)
        except OSError as error:
            raise durable.disk_error(error, target) from error
    return len(predictions.paths)


def folder_names(answers: Iterable[str]) -> dict[str, str]:
    """Return for each answer the name of its own folder, whatever characters a file of weights put into its classes."""
    plain = {answer: re.sub(r"[/\0]", "_", answer).lstrip(".") or "_" for answer in answers}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for answer in sorted(plain, key=lambda answer: (plain[answer] != answer, answer)):  # those that fit keep theirs
        name, number = plain[answer], 1
        while name in taken:
            number += 1
            name = f"{plain[answer]}-{number}"
        names[answer] = name
        taken.add(name)
    return names


def _free(path: Path, taken: set[Path]) -> Path:
    free, number = path, 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    taken.add(free)
    return free
