"""How sure a model may be: one temperature for its logits, and the confidence from which its answers can be relied on.

Temperature scaling is that of Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It changes no
answer and no weight: what was found lies beside the model in a file of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pochitrain import durable
from pochitrain.errors import DataError
from pochitrain.locale import _


class Confidences(NamedTuple):
    """The confidences of the answers that gave one class, by whether they were right."""

    right: list[float]
    wrong: list[float]


class Threshold(NamedTuple):
    """From `confidence` on, `right` of `answered` answers were right, out of `given`; None: there is no such point."""

    confidence: float | None
    right: int
    answered: int
    given: int


@dataclass(frozen=True)
class Calibration:
    """What `pochi calibrate` found, on images that the model was not trained on."""

    weights: str  # SHA-256 of the model's file
    temperature: float
    source: str  # of the images
    images: int
    log_loss: tuple[float, float]  # before, after
    ece: tuple[float, float]
    confidences: dict[str, Confidences]  # by class given, at this temperature


def calibration_path(model: Path) -> Path:
    """Return where the calibration of a `.pt` file lies: `best.calibration.json` beside `best.pt`."""
    return model.with_suffix(".calibration.json")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_calibration(path: Path, calibration: Calibration) -> None:
    values = asdict(calibration)
    values["confidences"] = {name: found._asdict() for name, found in calibration.confidences.items()}
    durable.write_json(path, values)


def load_calibration(model: Path) -> Calibration | None:
    """Return the calibration of a `.pt` file, None when there is none.

    Raises:
        DataError: it cannot be read, or it was made for other weights.
    """
    path, mend = calibration_path(model), _("run `pochi calibrate` again, or delete the file")
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        confidences = {name: Confidences(**found) for name, found in values.pop("confidences").items()}
        pairs = {name: tuple(values.pop(name)) for name in ("log_loss", "ece")}
        calibration = Calibration(**values, **pairs, confidences=confidences)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(_("The calibration cannot be read: {reason}", reason=error), str(path), mend) from error
    if calibration.weights != file_digest(model):
        raise DataError(_("The calibration was made for other weights than these"), str(path), mend)
    return calibration


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """Return the temperature at which the labels are most likely (L-BFGS on the log loss, in float64).

    None when there is no such temperature: every answer is right (the colder, the likelier), or the logits tell no
    more than chance (the hotter, the likelier).
    """
    outputs, true = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    of_true = outputs.gather(1, true[:, None])[:, 0]
    others = outputs.scatter(1, true[:, None], -torch.inf).amax(dim=1)
    if bool((of_true > others).all()) or float((of_true - outputs.mean(dim=1)).mean()) <= 0:
        return None
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logarithm], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(outputs / logarithm.exp(), true)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value)

    optimizer.step(loss)
    return float(logarithm.exp())


def confidences_by_class(
    classes: Sequence[str],
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    confidence: NDArray[np.float64],
) -> dict[str, Confidences]:
    """Return what `thresholds` needs to know of the images that the model was calibrated on."""
    right = predicted == labels
    return {
        name: Confidences(
            *(sorted(confidence[(predicted == label) & which].tolist(), reverse=True) for which in (right, ~right))
        )
        for label, name in enumerate(classes)
    }


def thresholds(confidences: Mapping[str, Confidences], precision: float) -> dict[str, Threshold]:
    """Return for each class the lowest confidence from which on at least `precision` of the answers are right."""
    return {name: _threshold(found, precision) for name, found in confidences.items()}


def _threshold(found: Confidences, precision: float) -> Threshold:
    confidence = np.array([*found.right, *found.wrong], dtype=np.float64)
    order = np.argsort(-confidence, kind="stable")
    right = (order < len(found.right)).cumsum()
    answered = np.arange(1, len(order) + 1)
    last_of_equal = np.append(np.diff(confidence[order]) != 0, [True] * bool(len(order)))
    good = np.flatnonzero(last_of_equal & (right >= precision * answered))
    if not len(good):
        return Threshold(None, 0, 0, len(order))
    at = good[-1]
    return Threshold(float(confidence[order[at]]), int(right[at]), int(answered[at]), len(order))
