"""What the tests of the pictures share: histories to draw, and questions to ask of a figure."""

from __future__ import annotations

import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

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
    """Return every text that is drawn."""
    FigureCanvasAgg(figure).draw()
    found = (text for text in figure.findobj(Text) if text.get_visible())
    return [text.get_text() for text in found if text.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def cut(figure: Figure) -> list[str]:
    """Return the texts that reach over the edge of the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    over = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and _is_drawn(text):
            box = text.get_window_extent(canvas.get_renderer())
            if box.x0 < 0 or box.y0 < 0 or box.x1 > math.ceil(width) or box.y1 > math.ceil(height):
                over.append(text.get_text())
    return over


def _is_drawn(text: Text) -> bool:
    """Tell whether a tick's label is in sight: those beyond the limits of an axis exist, but are left out."""
    axes = text.axes
    if axes is None:
        return True
    for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if text in (tick.label1, tick.label2):
                return low <= tick.get_loc() <= high
    return True
