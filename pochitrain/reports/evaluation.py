"""How good the answers are, in numbers with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A number measured on a sample, with its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What labelled predictions amount to. Shares are 0 to 1."""

    metrics: dict[str, Estimate]  # accuracy, balanced_accuracy, top_<k>_accuracy, macro_f1, log_loss, ece, cohen_kappa
    per_class: list[dict[str, Any]]  # name; precision, recall, f1: Estimate; support: int. In the order of the classes
    averages: dict[str, dict[str, Any]]  # macro, weighted → precision, recall, f1: Estimate; support
    confusion: NDArray[np.int64]  # (K, K), rows true, columns predicted
    most_confused: list[tuple[str, str, int]]  # (true, predicted, images) by name, every pair that occurs, most first


class Judged(Protocol):
    """What `evaluate_predictions` reads of `engine.predict.Predictions`."""

    @property
    def labels(self) -> NDArray[np.int64] | None: ...
    @property
    def predicted(self) -> NDArray[np.int64]: ...
    @property
    def probabilities(self) -> NDArray[np.float64]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


def evaluate_predictions(predictions: Judged, *, top_k: int = 5) -> Evaluation:
    """Return the metrics of labelled predictions (under construction)."""
    raise NotImplementedError
