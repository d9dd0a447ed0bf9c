"""Answers that can be relied on: below the confidence that its class needs, the answer is "unknown"."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pochitrain.engine.calibration import Calibration, Threshold, thresholds
from pochitrain.engine.predict import Predictions
from pochitrain.reports.evaluation import Estimate, wilson
from pochitrain.tasks.judged import cells, write_csv


@dataclass(frozen=True)
class Reliance:
    """What a wished precision makes of predictions."""

    target: float
    thresholds: list[Threshold]  # by class
    predictions: Predictions
    answered: NDArray[np.bool_]  # (N,)

    @property
    def answers(self) -> list[str]:
        """The class of each image, or `unknown`."""
        names, word = self.predictions.names, self.unknown
        return [name if sure else word for name, sure in zip(names, self.answered.tolist(), strict=True)]

    @property
    def unknown(self) -> str:
        """The word "unknown", in parentheses where a class has that name."""
        word = "unknown"
        while word in self.predictions.classes:
            word = f"({word})"
        return word

    @property
    def coverage(self) -> Estimate:
        """The share of the images that get an answer."""
        return wilson(int(self.answered.sum()), len(self.answered))

    @property
    def precision(self) -> Estimate | None:
        """The share of the answers that are right, None where the true classes are not known."""
        if self.predictions.labels is None:
            return None
        right = self.predictions.predicted == self.predictions.labels
        return wilson(int((right & self.answered).sum()), int(self.answered.sum()))

    def values(self) -> dict[str, Any]:
        found = {"coverage": self.coverage, "precision": self.precision}
        return {"target": self.target, **{name: asdict(value) for name, value in found.items() if value}}


def reliance(calibration: Calibration, predictions: Predictions, target: float) -> Reliance:
    """Return which answers can be relied on: those from the confidence on that calibration found for their class."""
    found = thresholds(calibration.confidences, target)
    of_class = [found.get(name, Threshold(None, 0, 0, 0)) for name in predictions.classes]
    least = np.array([np.inf if it.confidence is None else it.confidence for it in of_class])
    return Reliance(target, of_class, predictions, predictions.confidence >= least[predictions.predicted])


def write_thresholds(directory: Path, relied: Reliance) -> None:
    """Write `thresholds.csv`: what was found for each class when the model was calibrated, and what it does here."""
    header = ["class", "threshold"]
    header += [
        f"calibration_{name}" for name in ("answers", "precision", "precision_low", "precision_high", "coverage")
    ]
    predicted, answered = relied.predictions.predicted, relied.answered
    rows = []
    for label, (name, found) in enumerate(zip(relied.predictions.classes, relied.thresholds, strict=True)):
        given = predicted == label
        then = [found.answered, *cells(wilson(found.right, found.answered)), found.answered / max(found.given, 1)]
        rows.append([name, found.confidence, *then, int(given.sum()), int((given & answered).sum())])
    write_csv(directory / "thresholds.csv", [*header, "given", "answered"], rows)
