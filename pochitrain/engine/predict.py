"""What a trained model says about images: every image once, in the order given, whatever the size of the batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    """The answers of a model for N images of K classes, unreadable images left out."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64] | None  # (N,) true classes as indices into `classes`; None when nobody knows them
    logits: NDArray[np.float32]  # (N, K)
    probabilities: NDArray[np.float64]  # (N, K), softmax of logits / temperature
    classes: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]  # (path, reason)
    seconds: float
    precision: str

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) the class with the highest logit, the first of equal ones."""
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) the probability of the predicted class."""
        return np.take_along_axis(self.probabilities, self.predicted[:, None], axis=1)[:, 0]

    @property
    def losses(self) -> NDArray[np.float64]:
        """(N,) −log of the probability of the true class."""
        assert self.labels is not None, "unlabelled images have no loss"
        true = np.take_along_axis(self.probabilities, self.labels[:, None], axis=1)[:, 0]
        losses: NDArray[np.float64] = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
        return losses
