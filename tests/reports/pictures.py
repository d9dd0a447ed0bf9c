"""What the tests of the pictures share: histories to draw, and questions to ask of a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pochitrain.history import History


def make_history(epochs: int, *, validation: bool = True) -> History:
    """Losses fall from 2, accuracies rise from 50 to below 100, the rate is halved after every third of the epochs."""
    history: History = []
    for epoch in range(1, epochs + 1):
        done = (epoch - 1) / epochs
        record = {"epoch": epoch, "learning_rate": 0.01 * 0.5 ** int(3 * done)}
        record |= {"train_loss": 2.0 - done, "train_accuracy": 50 + 45 * done}
        if validation:
            record |= {"val_loss": 2.2 - done, "val_accuracy": 48 + 44 * done}
        history.append(record)
    return history


def texts(figure: Figure) -> list[str]:
    """Return every text of a figure that has been drawn."""
    found = (text for text in figure.findobj(Text) if text.get_visible())
    return [text.get_text() for text in found if text.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def is_cut(path: Path) -> bool:
    """Tell whether something touches the edge of the picture: every text and axis ends before it."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    rim = np.ones(pixels.shape[:2], dtype=bool)
    rim[2:-2, 2:-2] = False
    return bool((pixels[rim] != 255).any())
