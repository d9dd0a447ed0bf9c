"""How sure a model may be: one temperature for its logits, and the confidence from which its answers can be relied on.

Temperature scaling is that of Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It changes no
answer and no weight: what was found lies beside the model in a file of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from torch.nn import functional as F

from pochitrain import durable
from pochitrain.errors import DataError, file_reason
from pochitrain.locale import _


@dataclass(frozen=True)
class Confidences:
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
    temperature: Annotated[float, Field(gt=0)]
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
    durable.write_json(path, asdict(calibration))


def load_calibration(model: Path) -> Calibration | None:
    """Return the calibration of a `.pt` file, None when there is none.

    Raises:
        DataError: it cannot be read, or it was made for other weights.
    """
    path, mend = calibration_path(model), _("run `pochi calibrate` again")
    if not path.exists():
        return None
    try:
        calibration = TypeAdapter(Calibration).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(_("The calibration is damaged"), str(path), mend) from error
    except OSError as error:
        raise DataError(_("The file cannot be read: {error}", error=file_reason(error)), str(path), mend) from error
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
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(logarithm.detach().exp())


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
            right=sorted(confidence[(predicted == label) & right].tolist(), reverse=True),
            wrong=sorted(confidence[(predicted == label) & ~right].tolist(), reverse=True),
        )
        for label, name in enumerate(classes)
    }


def thresholds(confidences: Mapping[str, Confidences], precision: float) -> dict[str, Threshold]:
    """Return for each class the lowest confidence from which on at least `precision` of the answers are right.

    The confidences themselves must promise as much: their mean from there on is the precision that the calibrated model
    expects. Alone, either would be too hopeful: few answers may be right by luck, and the model may be mistaken.
    """
    return {name: _threshold(found, precision) for name, found in confidences.items()}


def _threshold(found: Confidences, precision: float) -> Threshold:
    confidence = np.array([*found.right, *found.wrong])
    if not len(confidence):
        return Threshold(None, 0, 0, 0)
    order = np.argsort(-confidence, kind="stable")
    right, answered = (order < len(found.right)).cumsum(), np.arange(1, len(order) + 1)
    last_of_equal = np.append(np.diff(confidence[order]) != 0, True)
    least = precision * answered - 1e-9  # in floats, 0.07 · 100 is above 7
    good = np.flatnonzero(last_of_equal & (right >= least) & (confidence[order].cumsum() >= least))
    if not len(good):
        return Threshold(None, 0, 0, len(order))
    at = good[-1]
    return Threshold(float(confidence[order[at]]), int(right[at]), int(answered[at]), len(order))
