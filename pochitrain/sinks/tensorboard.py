"""TensorBoard events, rendered from the history: a resumed run has neither missing nor double points."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pochitrain.history import History, Record


def tensorboard_observer(directory: Path, history: History) -> tuple[Callable[[Record], None], Callable[[], None]]:
    """Return (observer, close). The directory is written anew from `history`, then grows epoch by epoch."""
    shutil.rmtree(directory, ignore_errors=True)
    writer = SummaryWriter(str(directory))

    def observe(record: Record) -> None:
        for name, value in record.items():
            if name != "epoch" and isinstance(value, int | float):
                writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    for record in history:
        observe(record)
    return observe, writer.close
