"""The metrics are scikit-learn's to 1e-12, and the intervals hold what they promise."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray
from scipy.special import softmax

from pochitrain.reports import evaluation
from pochitrain.reports.evaluation import ECE_BINS, Estimate, Evaluation, evaluate_predictions, wilson

CLOSE = {"rel": 0, "abs": 1e-12}


@dataclass(frozen=True)
class Given:
    """Predictions without a model."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> NDArray[np.float64]:
        return self.probabilities.max(axis=1)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class {k}" for k in range(self.probabilities.shape[1]))


def given(images: int, classes: int, *, skill: float = 2.0, true: int | None = None, seed: int = 0) -> Given:
    """Return predictions of a model with some skill; the images are of the first `true` classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, true or classes, images)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += skill
    powers = np.exp(logits * 2)
    return Given(labels, powers / powers.sum(axis=1, keepdims=True))


SETS = [
    given(300, 10),
    given(40, 2),
    given(2000, 200),
    given(200, 12, true=5),  # a subset of the classes, and some that nobody was given
    given(60, 40, skill=8),  # few images per class, nearly all right
    given(50, 4, skill=-9),  # never right
    given(20, 3, true=1, skill=99),  # a single class, always right
    given(1, 3),
]


def value(evaluation: Evaluation, name: str) -> float:
    return evaluation.metrics[name].value


@pytest.mark.parametrize("predictions", SETS, ids=lambda p: f"{len(p.labels)} of {p.probabilities.shape[1]}")
def test_the_numbers_are_those_of_scikit_learn(predictions: Given) -> None:
    labels, predicted, probabilities = predictions.labels, predictions.predicted, predictions.probabilities
    count = len(predictions.classes)
    evaluation = evaluate_predictions(predictions, top_k=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that nobody was given
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
            "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
            "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=range(count)),
            "cohen_kappa": sklearn.metrics.cohen_kappa_score(labels, predicted),
        }
        report = sklearn.metrics.classification_report(labels, predicted, output_dict=True)
        if count > 2:
            top = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=2, labels=range(count))
            expected["top_2_accuracy"] = top
    for name, number in expected.items():
        assert value(evaluation, name) == pytest.approx(number, nan_ok=True, **CLOSE), name
    assert ("top_2_accuracy" in evaluation.metrics) == (count > 2)
    assert np.array_equal(
        evaluation.confusion, sklearn.metrics.confusion_matrix(labels, predicted, labels=range(count))
    )
    for label, row in enumerate(evaluation.per_class):
        theirs = report.get(str(label), dict.fromkeys(("precision", "recall", "f1-score"), math.nan) | {"support": 0})
        assert row["support"] == theirs["support"]
        for name in ("precision", "recall", "f1"):
            assert row[name].value == pytest.approx(theirs[name.replace("f1", "f1-score")], nan_ok=True, **CLOSE)
    for kind in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            theirs = report[f"{kind} avg"][name.replace("f1", "f1-score")]
            assert evaluation.averages[kind][name].value == pytest.approx(theirs, **CLOSE)


@pytest.mark.parametrize("predictions", SETS, ids=lambda p: f"{len(p.labels)} of {p.probabilities.shape[1]}")
def test_every_interval_holds_its_value(predictions: Given) -> None:
    evaluation = evaluate_predictions(predictions)
    shares = [row[name] for row in evaluation.per_class for name in ("precision", "recall", "f1")]
    for estimate in [*evaluation.metrics.values(), *shares]:
        unknown = math.isnan(estimate.value) or (len(predictions.labels) == 1 and math.isnan(estimate.low))
        assert unknown or estimate.low <= estimate.value <= estimate.high
    for estimate in shares:
        assert math.isnan(estimate.value) or 0 <= estimate.low <= estimate.high <= 1


def test_ece_is_the_sum_over_fifteen_bins_that_guo_defines() -> None:
    predictions = given(500, 5)
    confidence, right = predictions.confidence, predictions.labels == predictions.predicted
    expected = 0.0
    for m in range(1, ECE_BINS + 1):
        inside = [n for n in range(500) if (m - 1) / ECE_BINS < confidence[n] <= m / ECE_BINS]
        if inside:
            gap = abs(np.mean(right[inside]) - np.mean(confidence[inside]))
            expected += len(inside) / 500 * gap
    assert value(evaluate_predictions(predictions), "ece") == pytest.approx(expected, **CLOSE)


def test_equal_probabilities_count_for_the_first_class() -> None:
    predictions = Given(np.array([0, 1, 2, 3]), np.full((4, 4), 0.25))
    evaluation = evaluate_predictions(predictions, top_k=2)
    assert value(evaluation, "accuracy") == 0.25
    assert value(evaluation, "top_2_accuracy") == 0.5


def test_an_impossible_answer_costs_what_scikit_learn_lets_it_cost() -> None:
    predictions = Given(np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    expected = sklearn.metrics.log_loss(predictions.labels, predictions.probabilities)
    assert value(evaluate_predictions(predictions), "log_loss") == pytest.approx(expected, **CLOSE)


def test_the_most_confused_pairs_come_first() -> None:
    probabilities = np.eye(3)[[1, 1, 1, 2, 2, 0]]
    evaluation = evaluate_predictions(Given(np.array([0, 0, 1, 0, 1, 2]), probabilities))
    assert evaluation.most_confused == [
        ("class 0", "class 1", 2), ("class 0", "class 2", 1), ("class 1", "class 2", 1), ("class 2", "class 0", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 29, 0.0061, 0.1718)],
)  # the last two: Newcombe 1998, table I, method 3
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == Estimate(right / count, pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_bootstrap_gives_the_interval_that_theory_gives() -> None:
    """Balanced accuracy of two classes of 400 is the mean of two shares; log loss is a mean of numbers."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], 400)
    chance = np.where(random.random(800) < 0.8, random.uniform(0.5, 1, 800), random.uniform(0, 0.5, 800))
    probabilities = np.stack([np.where(labels == 0, chance, 1 - chance), np.where(labels == 1, chance, 1 - chance)], 1)
    evaluation = evaluate_predictions(Given(labels, probabilities))
    losses, right = -np.log(chance), (chance > 0.5).reshape(2, 400).mean(axis=1)
    for name, error in (
        ("log_loss", losses.std() / math.sqrt(800)),
        ("balanced_accuracy", math.sqrt((right * (1 - right) / 400).sum()) / 2),
    ):
        estimate = evaluation.metrics[name]
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.1), name
        assert (estimate.low + estimate.high) / 2 == pytest.approx(estimate.value, abs=0.2 * error), name


def test_a_sample_without_mistakes_does_not_promise_perfection() -> None:
    evaluation = evaluate_predictions(given(60, 6, skill=99))
    low = wilson(60, 60).low
    assert evaluation.metrics["accuracy"] == Estimate(1.0, low, 1.0)
    for name in ("balanced_accuracy", "macro_f1", "cohen_kappa"):
        assert evaluation.metrics[name] == Estimate(1.0, pytest.approx(low), 1.0), name
    assert all(row["f1"].low < 0.9 for row in evaluation.per_class)


def test_the_kappa_of_a_model_that_always_says_the_same_may_be_below_zero() -> None:
    labels = np.arange(50) % 2
    kappa = evaluate_predictions(Given(labels, np.tile([0.9, 0.1], (50, 1)))).metrics["cohen_kappa"]
    assert kappa.value == 0
    assert kappa.low == pytest.approx(-kappa.high)
    assert kappa.low < -0.1


def test_the_ece_of_a_calibrated_model_may_be_zero() -> None:
    """Noise makes a measured ECE larger than the true one, and drawing again makes it larger still."""
    random = np.random.default_rng(0)
    chance = random.uniform(0.5, 1, 1000)
    probabilities = np.stack([chance, 1 - chance], axis=1)
    estimate = evaluate_predictions(Given((random.random(1000) > chance).astype(int), probabilities)).metrics["ece"]
    assert estimate.value > 0.01
    assert estimate.low < 0.005


@pytest.mark.parametrize(("spread", "exaggeration"), [(0.3, 1.0), (2.0, 1.0), (2.0, 1.5), (5.0, 1.5)])
def test_the_interval_of_the_ece_holds_the_true_one(
    spread: float, exaggeration: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of known calibration: labels are drawn from their logits divided by `exaggeration`."""
    monkeypatch.setattr(evaluation, "DRAWS", 200)
    random = np.random.default_rng(5)

    def judged(images: int) -> Given:
        logits = random.normal(0, spread, (images, 10))
        truth, probabilities = softmax(logits / exaggeration, axis=1), softmax(logits, axis=1)
        return Given((truth.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1), probabilities)

    true = evaluate_predictions(judged(50_000)).metrics["ece"].value
    found = [evaluate_predictions(judged(100)).metrics["ece"] for _sample in range(30)]
    assert sum(one.low <= true <= one.high for one in found) >= 25
    if exaggeration == 1.0:
        assert sum(one.low == 0 for one in found) >= 25


def test_one_image_tells_no_interval() -> None:
    metrics = evaluate_predictions(Given(np.array([0]), np.array([[0.7, 0.3]]))).metrics
    assert math.isnan(metrics["ece"].low)
    assert math.isnan(metrics["log_loss"].high)
    assert metrics["accuracy"].low < 0.3


def test_the_intervals_are_the_same_every_time() -> None:
    assert evaluate_predictions(given(300, 10)).metrics == evaluate_predictions(given(300, 10)).metrics


def test_twenty_thousand_images_of_two_hundred_classes_take_no_patience() -> None:
    predictions = given(20_000, 200)
    started = time.process_time()
    evaluate_predictions(predictions)
    assert time.process_time() - started < 5  # measured at 0.5 s
