"""The trials of a search as plain rows, which every file and page about it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pochitrain.config.search import Dimension, Direction, Scalar, shown_point

COMPLETE, PRUNED, FAILED, INTERRUPTED = "COMPLETE", "PRUNED", "FAILED", "INTERRUPTED"
RUNNING, WAITING = "RUNNING", "WAITING"


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    state: str
    values: list[float] | None = None  # one for each metric; of a pruned trial the best of its epochs
    point: dict[str, Scalar] = field(default_factory=dict)  # what was suggested
    epochs: dict[int, float] = field(default_factory=dict)  # epoch → first metric
    started: str = ""
    seconds: float | None = None
    error: str = ""
    exit_code: int = 0  # of the command, had a trial that failed been a training by itself
    trace: str = ""
    repeat_of: int | None = None  # the trial whose result is this one's too: it had the same values
    retry_of: list[int] = field(default_factory=list)  # earlier numbers of this trial, whose processes were killed
    experiment: str = ""  # the id
    folder: str = ""
    threads: int = 0  # of the processor that computed it; 0: a GPU did


@dataclass(frozen=True)
class StudyView:
    """All that is known of a study at one moment."""

    name: str
    metrics: Sequence[str]
    directions: Sequence[Direction]
    dimensions: Sequence[Dimension]
    rows: Sequence[TrialRow]
    best: Sequence[int] = ()  # numbers of the best trials; more than one only with several objectives
    importances: dict[str, float] = field(default_factory=dict)

    def in_state(self, *states: str) -> list[TrialRow]:
        return [row for row in self.rows if row.state in states]

    @property
    def winner(self) -> TrialRow | None:
        """The best trial by the first metric."""
        best = [row for row in self.rows if row.number in self.best]
        return min(best, key=lambda row: (-self.sign(0) * value_of(row), row.number), default=None)

    def shown(self, row: TrialRow) -> dict[str, Any]:
        return shown_point(self.dimensions, row.point)

    def sign(self, metric: int) -> float:
        return 1.0 if self.directions[metric] == "maximize" else -1.0

    def ranked(self) -> list[TrialRow]:
        """Return the complete trials that were trained, best first: first those that none beats."""
        trained = [row for row in self.in_state(COMPLETE) if row.repeat_of is None]
        return sorted(trained, key=lambda row: (row.number not in self.best, -self.sign(0) * value_of(row), row.number))

    def so_far(self, metric: int) -> list[tuple[int, float]]:
        """Return (number, best value up to it) of the complete trials."""
        found: list[tuple[int, float]] = []
        for row in self.in_state(COMPLETE):
            value = value_of(row, metric)
            if found and self.sign(metric) * found[-1][1] > self.sign(metric) * value:
                value = found[-1][1]
            found.append((row.number, value))
        return found


def value_of(row: TrialRow, metric: int = 0) -> float:
    return row.values[metric] if row.values else math.nan
