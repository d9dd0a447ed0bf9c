"""Pictures that have something to show, unlike noise, and are different for every number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(
    number: int, size: tuple[int, int] = (120, 90), *, like: int | None = None, share: float = 0.0
) -> Image.Image:
    """Return a picture of soft patches; `share` of it (0 to 1) is what the picture `like` shows, too."""
    patches = np.random.default_rng(number).uniform(0, 255, (9, 12, 3))
    if like is not None:
        patches = share * np.random.default_rng(like).uniform(0, 255, (9, 12, 3)) + (1 - share) * patches
    return Image.fromarray(patches.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def write_pictures(root: Path, classes: dict[str, int], first: int = 0) -> Path:
    """Write PNG files 000, 001, … into a folder per class; no picture is there twice."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(first).save(root / name / f"{number:03}.png")
            first += 1
    return root
