"""scikit-learn's handwritten digits as image files. Imported when they are written: scikit-learn takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> None:
    """Write `train/<digit>/digit_0001.png` and so on; every fifth image of a digit goes to `val` instead.

    1,442 and 355 grey images of 8 × 8. Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI Machine Learning Repository, 1998, as shipped with scikit-learn.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the set counts from 0 to 16
    count = dict.fromkeys(range(10), 0)
    for image, label in zip(pixels, map(int, labels), strict=True):
        count[label] += 1
        split = "val" if count[label] % 5 == 0 else "train"
        path = folder / split / str(label) / f"digit_{count[label]:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
