"""What the figures of an evaluation show: how well probabilities rank the images, and whether they can be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from pochitrain.locale import _
from pochitrain.reports.evaluation import ECE_BINS, Estimate, confidence_bins, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EACH_UP_TO = 10  # classes; of more, the averages and the worst are drawn
WORST = 5
POINTS = 400  # of a drawn curve; more cannot be told apart on a screen


@dataclass(frozen=True)
class Curve:
    """One line of a figure. `area` is computed from all points, before the curve was thinned for drawing."""

    name: str
    x: Floats
    y: Floats
    area: float
    average: bool = False  # over the classes, not of one


def roc_curves(labels: Ints, probabilities: Floats, classes: Sequence[str]) -> list[Curve]:
    """Return the ROC curves to draw (false against true positive rate, area: AUC); averages first, then the classes.

    A class has a curve when some images are of it and some are not. Up to ten classes are all there, of more the five
    worst. The macro average is the mean over all classes, the micro average counts every pair of image and class.

    Args:
        labels: (N,). probabilities: (N, K).
    """

    def curve(true: Ints, scores: Floats) -> tuple[Floats, Floats, float]:
        x, y, _thresholds = roc_curve(true, scores)
        return x, y, float(auc(x, y))

    return _chosen(labels, probabilities, classes, curve)


def precision_recall_curves(labels: Ints, probabilities: Floats, classes: Sequence[str]) -> list[Curve]:
    """Return the curves to draw of recall against precision (area: average precision), chosen as in `roc_curves`."""

    def curve(true: Ints, scores: Floats) -> tuple[Floats, Floats, float]:
        y, x, _thresholds = precision_recall_curve(true, scores, drop_intermediate=True)
        area = float(-np.sum(np.diff(x) * y[:-1]))  # scikit-learn's average_precision_score, which would sort again
        return x[::-1], y[::-1], area

    return _chosen(labels, probabilities, classes, curve)


def _chosen(
    labels: Ints,
    probabilities: Floats,
    classes: Sequence[str],
    curve: Callable[[Ints, Floats], tuple[Floats, Floats, float]],
) -> list[Curve]:
    counts = np.bincount(labels, minlength=len(classes))
    present = np.flatnonzero((counts > 0) & (counts < len(labels)))
    full = {k: curve((labels == k).astype(np.int64), probabilities[:, k]) for k in present.tolist()}
    of_class = [_thinned(classes[k], *full[k]) for k in full]
    if len(full) < 3:
        return of_class
    one_hot = np.zeros(probabilities.shape, dtype=np.int64)
    one_hot[np.arange(len(labels)), labels] = 1
    grid = np.linspace(0, 1, POINTS + 1)
    mean = np.mean([np.interp(grid, x, y) for x, y, _area in full.values()], axis=0)
    averages = [
        _thinned(_("micro average"), *curve(one_hot.ravel(), probabilities.ravel()), average=True),
        Curve(_("macro average"), grid, mean, float(np.mean([area for _x, _y, area in full.values()])), average=True),
    ]
    if len(full) > EACH_UP_TO:
        of_class = sorted(of_class, key=lambda each: each.area)[:WORST]
    return averages + of_class


def _thinned(name: str, x: Floats, y: Floats, area: float, average: bool = False) -> Curve:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(np.int64))
    return Curve(name, x[kept], y[kept], area, average)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in equal steps of confidence."""

    edges: Floats  # (steps + 1,)
    correct: Ints  # (steps,) images
    wrong: Ints  # (steps,) images
    confidence: Floats  # (steps,) mean; NaN where there is no image
    accuracy: list[Estimate]

    @property
    def images(self) -> Ints:
        return self.correct + self.wrong


def reliability(confidence: Floats, correct: NDArray[np.bool_]) -> Reliability:
    """Return how often predictions of a confidence are right, in the steps that the calibration error (ECE) counts."""
    at = confidence_bins(confidence)
    images = np.bincount(at, minlength=ECE_BINS)
    right = np.bincount(at[correct], minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(at, weights=confidence, minlength=ECE_BINS) / images
    accuracy = [wilson(int(k), int(n)) for k, n in zip(right, images, strict=True)]
    return Reliability(np.linspace(0, 1, ECE_BINS + 1), right, images - right, mean, accuracy)
