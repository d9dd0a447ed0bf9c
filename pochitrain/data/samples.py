"""Real images to start with, before one has one's own: scikit-learn's handwritten digits, written as class folders."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
from PIL import Image


def digits_folder(root: str | Path = "data/digits") -> Path:
    """Return a folder with `train` and `val`, each holding ten class folders of 8 × 8 grey PNG images.

    1,442 and 355 images (every fifth of a class), the same ones on every machine; written (0.1 s) unless `root` exists.
    The folder appears complete or not at all, also when two processes start at once.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    1998, as shipped by scikit-learn.
    """
    root = Path(root)
    if root.exists():
        return root
    draft = root.parent / f".{root.name}-{uuid.uuid4().hex}"
    try:
        _write_digits(draft)
        draft.rename(root)
    except OSError:
        if not root.exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits  # a second, which only the first start pays

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the set counts from 0 to 16
    count = dict.fromkeys(range(10), 0)
    for image, label in zip(pixels, map(int, labels), strict=True):
        split = "val" if count[label] % 5 == 4 else "train"
        count[label] += 1
        path = folder / split / str(label) / f"digit_{count[label]:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
