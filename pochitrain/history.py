"""What an epoch leaves behind: one flat record. Everything that reads training is a pure function of these records.

A record's keys, in order: `epoch`, `learning_rate`, `train_loss`, `train_accuracy`, then `val_loss` and `val_accuracy`
where there is validation data, `lr_<pattern>` for each group with layer-wise rates, and whatever else was measured.
Norms of gradients stand under `gradient_norm/<name>`, on the epochs that recorded them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from typing import Any, Protocol

Record = dict[str, Any]
History = list[Record]

GRADIENT = "gradient_norm/"
GUIDE_COLUMNS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
TIMING = ("seconds", "images_per_second", "data_seconds")
"""The columns that depend on the machine's mood: all others are equal, to the bit, however often a run was stopped."""


class Stopping(Protocol):
    """The settings of early stopping that `stopped_early` reads."""

    @property
    def enabled(self) -> bool: ...
    @property
    def patience(self) -> int: ...
    @property
    def min_delta(self) -> float: ...
    @property
    def monitor(self) -> str: ...


def monitored(history: History, monitor: str) -> str:
    """Return the column that stands for `monitor`: itself, or `train_loss` where no epoch has it (no validation)."""
    if not history or any(record.get(monitor) is not None for record in history):
        return monitor
    return "train_loss"


def lower_is_better(monitor: str) -> bool:
    """Losses are to fall, everything else (accuracies, scores) is to rise."""
    return monitor.endswith("loss")


def best_epoch(history: History, monitor: str) -> int | None:
    """Return the first epoch with the best value of `monitor` (see `monitored`), None when no epoch has a number."""
    name = monitored(history, monitor)
    sign = -1.0 if lower_is_better(name) else 1.0
    best, best_value = None, math.nan
    for record in history:
        value = sign * _number(record, name)
        if value > best_value or (math.isnan(best_value) and not math.isnan(value)):
            best, best_value = record["epoch"], value
    return best


def stopped_early(history: History, settings: Stopping) -> bool:
    """Return whether the last `patience` epochs brought no improvement.

    An epoch improves when it is better than the last improvement by more than 0 and by at least `least_change`; the
    first number is an improvement, NaN never is. Without validation data `train_loss` is watched.
    """
    if not (settings.enabled and history):
        return False
    name, min_delta = monitored(history, settings.monitor), least_change(history, settings)
    sign = -1.0 if lower_is_better(name) else 1.0
    reference, waited = math.nan, 0
    for record in history:
        value = sign * _number(record, name)
        change = value - reference
        if (change > 0 and change >= min_delta) or (math.isnan(reference) and not math.isnan(value)):
            reference, waited = value, 0
        else:
            waited += 1
    return waited >= settings.patience


def least_change(history: History, settings: Stopping) -> float:
    """Return `min_delta`; 0 where `train_loss` is watched and it was meant for percent."""
    meant = lower_is_better(monitored(history, settings.monitor)) == lower_is_better(settings.monitor)
    return settings.min_delta if meant else 0.0


def metrics_csv(history: History) -> str:
    """Return `metrics.csv`: the guide's columns, then the groups' rates, then the rest without the norms of gradients.

    Numbers are written so that they read back exactly; `val_*` stay empty without validation data.
    """
    names = [name for name in _names(history) if name not in GUIDE_COLUMNS and not name.startswith(GRADIENT)]
    rates = [name for name in names if name.startswith("lr_")]
    columns = [*GUIDE_COLUMNS, *rates, *(name for name in names if name not in rates)]
    return _csv(columns, ([record.get(name) for name in columns] for record in history))


def gradients_csv(history: History) -> str | None:
    """Return `gradients.csv`, one row per epoch that recorded norms of gradients; None when none did."""
    names = [name for name in _names(history) if name.startswith(GRADIENT)]
    if not names:
        return None
    recorded = [record for record in history if any(name in record for name in names)]
    columns = ["epoch", *(name.removeprefix(GRADIENT) for name in names)]
    return _csv(columns, ([record["epoch"], *(record.get(name) for name in names)] for record in recorded))


def _number(record: Record, name: str) -> float:
    value = record.get(name)
    return math.nan if value is None else float(value)


def _names(history: History) -> list[str]:
    return list(dict.fromkeys(name for record in history for name in record))


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # writes a float by repr: it reads back exactly
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
