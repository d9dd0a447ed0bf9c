"""How good the answers are, in numbers with 95 % intervals. The numbers are scikit-learn's, to the last digits.

Shares of images (accuracy, precision, recall) have Wilson's interval (Wilson 1927), which holds for few images and near
100 % too; F1 is 2 J / (1 + J) of such a share, J = right / (true or given), and has the interval of that. All other
numbers have bootstrap intervals (Davison and Hinkley 1997): the images are drawn again with replacement, the same draws
for every number. They are basic ones (section 5.2), but for the calibration error, which is never 0 in a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

DRAWS = 1000
ECE_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


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
    averages: dict[str, dict[str, Any]]  # macro, weighted → precision, recall, f1: Estimate; support: int
    confusion: Indices  # (K, K), rows true, columns predicted
    most_confused: list[tuple[str, str, int]]  # (true, predicted, images) by name, every pair that occurs, most first


class Judged(Protocol):
    """What `evaluate_predictions` reads of `engine.predict.Predictions`."""

    @property
    def labels(self) -> Indices | None: ...
    @property
    def predicted(self) -> Indices: ...
    @property
    def confidence(self) -> Floats: ...
    @property
    def probabilities(self) -> Floats: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


def evaluate_predictions(predictions: Judged, *, top_k: int = 5) -> Evaluation:
    """Return the metrics of labelled predictions. Costs half a second for 20 000 images of 200 classes.

    A share of nothing is 0, with the interval 0 to 1. So a class that no image has, but some were given, counts with 0
    in the macro averages; one that was not given either counts nowhere, and its own numbers are NaN.

    Args:
        top_k: adds `top_<k>_accuracy` when there are more classes; of equal probabilities the first class goes first.
    """
    labels, predicted, count = predictions.labels, predictions.predicted, len(predictions.classes)
    assert labels is not None, "the true classes are needed"
    images = len(labels)
    confusion = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    accuracy = wilson(int(confusion.trace()), images)
    exact = _numbers(_sums(predictions, labels, [np.ones(images)]))
    drawn = _numbers(_sums(predictions, labels, _draws(images)))
    found = {name: _estimate(name, float(value[0]), drawn[name], accuracy) for name, value in exact.items()}
    found["ece"] = _calibration_error(predictions.confidence, float(exact["ece"][0]), drawn["ece"])
    if images == 1:  # drawn again, it is the same one
        found |= {name: Estimate(found[name].value, math.nan, math.nan) for name in ("log_loss", "ece")}
    metrics = {
        "accuracy": accuracy,
        "balanced_accuracy": found["balanced_accuracy"],
        **_top_k(predictions.probabilities, labels, top_k),
        **{name: found[name] for name in ("macro_f1", "log_loss", "ece", "cohen_kappa")},
    }
    averages = {
        kind: {**{name: found[f"{kind}_{name}"] for name in ("precision", "recall", "f1")}, "support": images}
        for kind in ("macro", "weighted")
    }
    per_class = [_of_class(name, label, confusion) for label, name in enumerate(predictions.classes)]
    return Evaluation(metrics, per_class, averages, confusion, _confused(predictions.classes, confusion))


def wilson(right: int, count: int) -> Estimate:
    """Return right / count with Wilson's score interval; of nothing, 0 in the interval 0 to 1."""
    if count == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, z2 = right / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return Estimate(share, 0.0 if right == 0 else middle - half, 1.0 if right == count else middle + half)


def confidence_bins(confidence: Floats) -> Indices:
    """Return (N,) the bin of each confidence: bin m of M holds (m/M, (m+1)/M], as in Guo et al. 2017."""
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, ECE_BINS - 1)


def log_losses(probabilities: Floats, labels: Indices) -> Floats:
    """Return (N,) −log of the true class's probability, which is clipped as scikit-learn's `log_loss` does."""
    eps = float(np.finfo(np.float64).eps)
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    losses: Floats = -np.log(np.clip(true, eps, 1 - eps))
    return losses


# ---- the sums of a draw, and the numbers that are made of them ----


class Sums(NamedTuple):
    """Sums over the images of each of D draws."""

    true: Floats  # (D, K) images of each class
    given: Floats  # (D, K) images that were given each class
    right: Floats  # (D, K) images that are of it and were given it
    loss: Floats  # (D,)
    gap: Floats  # (D, bins) confidence − right


def _draws(images: int) -> Iterator[Floats]:
    """Yield, for each draw of as many images as there are, how often each image was drawn."""
    random = np.random.default_rng(0)
    for _draw in range(DRAWS):
        yield np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)


def _sums(predictions: Judged, labels: Indices, draws: Iterable[Floats]) -> Sums:
    predicted, count = predictions.predicted, len(predictions.classes)
    right = (labels == predicted).astype(np.float64)
    losses = log_losses(predictions.probabilities, labels)
    gaps, bins = predictions.confidence - right, confidence_bins(predictions.confidence)
    rows = [
        (
            np.bincount(labels, times, count),
            np.bincount(predicted, times, count),
            np.bincount(labels, times * right, count),
            (times * losses).sum(),  # not `@`: on a busy machine BLAS waits for its threads longer than it computes
            np.bincount(bins, times * gaps, ECE_BINS),
        )
        for times in draws
    ]
    return Sums(*(np.stack(column) for column in zip(*rows, strict=True)))


def _numbers(sums: Sums) -> dict[str, Floats]:
    """Return each number, (D,)."""
    true, given, right, loss, gap = sums
    images = true.sum(axis=1)
    occurs = true + given > 0
    classes = {
        "precision": _share(right, given),
        "recall": _share(right, true),
        "f1": _share(2 * right, true + given),
    }
    found = {}
    for name, values in classes.items():
        found[f"macro_{name}"] = values.sum(axis=1) / occurs.sum(axis=1)
        found[f"weighted_{name}"] = (values * true).sum(axis=1) / images
    found["balanced_accuracy"] = classes["recall"].sum(axis=1) / (true > 0).sum(axis=1)
    found["log_loss"] = loss / images
    found["ece"] = np.abs(gap).sum(axis=1) / images
    by_chance = images - (true * given).sum(axis=1) / images
    observed = images - right.sum(axis=1)
    found["cohen_kappa"] = 1 - np.divide(observed, by_chance, out=np.full_like(images, np.nan), where=by_chance > 0)
    return found


def _share(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _estimate(name: str, value: float, drawn: Floats, accuracy: Estimate) -> Estimate:
    """Return a value with its interval: the draws lie around the value as the value lies around the truth.

    The log loss is skewed and is taken by its logarithm. What is made of classes is never surer than the accuracy: in a
    sample with few mistakes, or none, drawing again finds no others.
    """
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else (math.nan, math.nan)
    if math.isnan(value) or math.isnan(low):
        return Estimate(value, math.nan, math.nan)
    least = -1.0 if name == "cohen_kappa" else 0.0
    if name == "log_loss":
        low, high = value * value / high, value * value / low
    else:
        low, high = max(2 * value - high, least), min(2 * value - low, 1.0)
        low = min(low, max(value - (accuracy.value - accuracy.low), least))
        high = max(high, min(value + (accuracy.high - accuracy.value), 1.0))
    return Estimate(value, min(low, value), max(high, value))


def _calibration_error(confidence: Floats, value: float, drawn: Floats) -> Estimate:
    """Return the ECE with its interval.

    A sample's ECE is above 0 even if every confidence is right, and that of a sample of the sample is higher still. So
    the upper end is that of the draws, and the lower end is 0 as long as chance alone makes an ECE like this one: as
    `DRAWS` samples show whose answers are right with just the probability that the confidence says.
    """
    random, bins = np.random.default_rng(1), confidence_bins(confidence)
    by_chance = [
        np.abs(np.bincount(bins, confidence - (random.random(len(bins)) < confidence))).sum() / len(bins)
        for _draw in range(DRAWS)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    low = max(2 * value - high, 0.0) if value > np.quantile(by_chance, 0.975) else 0.0
    return Estimate(value, min(low, value), max(high, value))


# ---- by class ----


def _top_k(probabilities: Floats, labels: Indices, k: int) -> dict[str, Estimate]:
    count = probabilities.shape[1]
    if k >= count:
        return {}
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = (probabilities == true) & (np.arange(count) < labels[:, None])
    ahead = (probabilities > true).sum(axis=1) + before.sum(axis=1)
    return {f"top_{k}_accuracy": wilson(int((ahead < k).sum()), len(labels))}


def _of_class(name: str, label: int, confusion: Indices) -> dict[str, Any]:
    true, given = int(confusion[label].sum()), int(confusion[:, label].sum())
    right = int(confusion[label, label])
    if not (true or given):
        nothing = Estimate(math.nan, math.nan, math.nan)
        return {"name": name, "precision": nothing, "recall": nothing, "f1": nothing, "support": 0}
    both = wilson(right, true + given - right)
    f1 = Estimate(2 * right / (true + given), 2 * both.low / (1 + both.low), 2 * both.high / (1 + both.high))
    return {"name": name, "precision": wilson(right, given), "recall": wilson(right, true), "f1": f1, "support": true}


def _confused(classes: Sequence[str], confusion: Indices) -> list[tuple[str, str, int]]:
    wrong = confusion - np.diag(confusion.diagonal())
    true, given = np.nonzero(wrong)
    pairs = [(classes[t], classes[g], int(wrong[t, g])) for t, g in zip(true.tolist(), given.tolist(), strict=True)]
    return sorted(pairs, key=lambda pair: -pair[2])
