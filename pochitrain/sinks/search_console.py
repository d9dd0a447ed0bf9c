"""What a search says while it runs: a line for each trial, and on a terminal a panel of those at work below them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, FAILED, PRUNED, StudyView, TrialRow
from pochitrain.sinks.console import Log


@dataclass
class AtWork:
    """A trial that runs here."""

    point: Mapping[str, Any]
    epochs: int
    began: float = field(default_factory=time.monotonic)
    epoch: int = 0
    value: float | None = None


class SearchDisplay:
    """Says what happens. In a pipe nothing but lines."""

    def __init__(self, log: Log, total: int, jobs: int, deadline: float = math.inf) -> None:
        """`deadline` is when `time.monotonic` says that no trial begins any more."""
        self.log, self.total, self.jobs, self.deadline = log, total, jobs, deadline
        self.at_work: dict[int, AtWork] = {}
        self.view: StudyView | None = None  # as of the last trial that ended
        self.said_waiting = False
        self.seconds: list[float] = []  # of the trials that were trained here, the clock's

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the panel while the block lasts."""
        if not self.log.console.is_terminal or self.log.level > 1:
            yield
            return
        with Live(console=self.log.console, get_renderable=self._panel, refresh_per_second=2, transient=True):
            yield

    def begin(self, number: int, point: Mapping[str, Any], epochs: int) -> None:
        self.at_work[number] = AtWork(point, epochs)

    def epoch(self, number: int, epoch: int, value: float | None) -> None:
        trial = self.at_work[number]
        trial.epoch, trial.value = epoch, value

    def end(self, row: TrialRow, view: StudyView) -> None:
        """Say one line for a trial that is over."""
        self.view = view
        trial = self.at_work.pop(row.number, None)
        if trial is not None and row.state in (COMPLETE, PRUNED):
            self.seconds.append(time.monotonic() - trial.began)
        star = " *" if row.number in view.best else ""
        width = len(str(self.total - 1))
        self.log.info(
            _("trial {number}", number=f"{row.number:{width}}")
            + f"   {outcome_in_words(row, view)}{star}"
            + (f"   {row.seconds:.1f} s" if row.seconds else "")
            + (f"   {point_in_words(view.shown(row))}" if row.point else "")
        )

    def waiting(self) -> None:
        """Say, once, that only other processes have something to do."""
        if not self.said_waiting:
            self.log.info(_("waiting for the trials of other processes"))
        self.said_waiting = True

    def seconds_left(self) -> float | None:
        """Return how long the rest will take if its trials are like those before; None before the first is over."""
        if not self.seconds or self.view is None:
            return None
        rest = self.total - len(self.view.in_state(COMPLETE, PRUNED, FAILED))
        left = max(rest, 0) * sum(self.seconds) / len(self.seconds) / self.jobs
        return max(0.0, min(left, self.deadline - time.monotonic()))

    def _panel(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for number, trial in sorted(self.at_work.items()):
            value = "" if trial.value is None else f"{trial.value:.4g}"
            progress = _("epoch {epoch}/{epochs}", epoch=trial.epoch, epochs=trial.epochs)
            name = _("trial {number}", number=number)
            table.add_row(name, progress, value, f"{time.monotonic() - trial.began:.0f} s", point_in_words(trial.point))
        return Group(Text(self.headline()), table)

    def headline(self) -> str:
        """Return how far the search is, in one line."""
        view = self.view
        counted = {state: len(view.in_state(state)) if view else 0 for state in (COMPLETE, PRUNED, FAILED)}
        parts = [_("{done} of {total} trials", done=sum(counted.values()), total=self.total)]
        if view and view.winner and view.winner.values:
            best = {"metric": view.metrics[0], "value": f"{view.winner.values[0]:.4g}", "number": view.winner.number}
            parts.append(_("best {metric} {value} (trial {number})", **best))
        parts += [_("{count} pruned", count=counted[PRUNED])] if counted[PRUNED] else []
        parts += [_("{count} failed", count=counted[FAILED])] if counted[FAILED] else []
        left = self.seconds_left()
        parts += [_("about {time} left", time=clock(left))] if left is not None else []
        return "   ".join(parts)


def outcome_in_words(row: TrialRow, view: StudyView) -> str:
    if row.state == FAILED:
        return _("failed: {reason}", reason=row.error)
    if row.state == PRUNED:
        last = max(row.epochs, default=0)
        value = f"{row.epochs[last]:.4g}" if row.epochs else ""
        return _("pruned after epoch {epoch}: {value}", epoch=last, value=value)
    if row.state != COMPLETE:
        return _("interrupted")
    values = "   ".join(f"{name} {value:.4f}" for name, value in zip(view.metrics, row.values or (), strict=True))
    if row.repeat_of is None:
        return values
    return values + "   (" + _("as trial {number}", number=row.repeat_of) + ")"


def point_in_words(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in point.items()
    )


def clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
