"""Is the best trial better than the file's own setting, or did it have luck with its seed? New seeds tell."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats  # type: ignore[import-untyped]

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import replace_settings
from pochitrain.config.schema import Config
from pochitrain.history import History, Record
from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, TrialRow
from pochitrain.sinks.console import Log
from pochitrain.tasks.search_space import DECISIVE, settings_of
from pochitrain.tasks.trial import Outcome, Work

WINNER, SHIPPED = "winner", "shipped"
SURE = 0.95


class Confirmation:
    """The trainings that confirm a search (see `workers.Source`): both settings with the same new seeds.

    None of them is a seed that the search has tried: the winner was chosen for its result with one of those.
    """

    def __init__(self, config: Config, winner: TrialRow, rows: Sequence[TrialRow], folder: Path, log: Log) -> None:
        self.optuna, self.winner, self.log = config.optuna, winner, log
        dimensions = self.optuna.dimensions()
        tried = {config.seed, *(settings_of(dimensions, row.point).get("seed") for row in rows)}
        unused = (seed for seed in itertools.count(config.seed + 1) if seed not in tried)
        self.seeds = list(itertools.islice(unused, self.optuna.seeds_to_confirm))
        self.of = {"trial": winner.number, "seeds": self.seeds, "epochs": self.optuna.optuna_epochs}
        self.values: dict[str, list[float]] = {WINNER: [], SHIPPED: []}
        self.jobs: list[Work] = []
        for seed in self.seeds:
            for who in (WINNER, SHIPPED):
                fixed = {
                    "work_dir": str(folder),
                    "task": f"confirm-{who}",
                    "epochs": self.optuna.optuna_epochs,
                    "seed": seed,
                }
                point = (
                    {name: value for name, value in winner.point.items() if name != "seed"} if who == WINNER else None
                )
                self.jobs.append(Work(len(self.jobs), point, fixed))
        self.waiting = list(self.jobs)
        found = {name: value for name, value in settings_of(dimensions, winner.point).items() if name != "seed"}
        # What was found may be nothing but a lucky seed.
        same = canonical_settings(replace_settings(config, found)) == canonical_settings(config)
        self.pointless = same and not any(name.startswith(DECISIVE) for name in found)

    def next(self) -> Work | None:
        return self.waiting.pop(0) if self.waiting else None

    def over(self) -> bool:
        return not self.waiting

    def goes_on(self, work: Work, record: Record) -> bool:
        return True

    def keeps(self, work: Work, history: History) -> bool:
        return False

    def end(self, work: Work, outcome: Outcome) -> None:
        who = SHIPPED if work.point is None else WINNER
        said = outcome.error or _("interrupted")
        if outcome.status == COMPLETE and outcome.values:
            self.values[who].append(outcome.values[0])
            said = f"{self.optuna.metrics[0]} {outcome.values[0]:.4f}"
        self.log.info(_("confirm {who}, seed {seed}: {said}", who=who, seed=work.fixed["seed"], said=said))

    def tick(self) -> None: ...

    def nothing(self) -> dict[str, Any]:
        """Return what stands in the place of `result` when there are no two settings to compare."""
        verdict = _("Nothing to confirm: apart from its seed, the best trial has the file's own setting.")
        return {"of": self.of, "metric": self.optuna.metrics[0], "confirmed": False, "verdict": verdict}

    def result(self) -> dict[str, Any]:
        """Return what was measured, and what it says."""
        sign = 1.0 if self.optuna.directions[0] == "maximize" else -1.0
        interval = gain_interval([sign * v for v in self.values[WINNER]], [sign * v for v in self.values[SHIPPED]])
        known = {who: {"values": values, **_spread(values)} for who, values in self.values.items()}
        return {
            "of": self.of,
            "metric": self.optuna.metrics[0],
            **known,
            "gain_interval": interval,
            "confirmed": interval is not None and interval[0] > 0,
            "verdict": self._verdict(interval),
        }

    def _verdict(self, interval: tuple[float, float] | None) -> str:
        if interval is None:
            return _("Not confirmed: with so few values nobody can tell the gain from the noise between seeds.")
        words = {
            "winner": _in_words(self.values[WINNER]),
            "shipped": _in_words(self.values[SHIPPED]),
            "metric": self.optuna.metrics[0],
            "gain": f"{(interval[0] + interval[1]) / 2:.4g}",
            "low": f"{interval[0]:.4g}",
            "high": f"{interval[1]:.4g}",
        }
        if interval[0] > 0:
            return _(
                "Confirmed with new seeds: {metric} {winner}, the file's own setting {shipped}. "
                "The gain of {gain} (95 % interval {low} to {high}) is larger than the noise between seeds.",
                **words,
            )
        return _(
            "Not confirmed with new seeds: {metric} {winner}, the file's own setting {shipped}. "
            "The gain of {gain} (95 % interval {low} to {high}) is not larger than the noise between seeds.",
            **words,
        )


def gain_interval(winner: Sequence[float], shipped: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the difference of two means, of unequal variances; None with a single value.

    B. L. Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34 (1947).
    """
    if min(len(winner), len(shipped)) < 2:
        return None
    gain = statistics.fmean(winner) - statistics.fmean(shipped)
    shares = [statistics.variance(values) / len(values) for values in (winner, shipped)]
    if sum(shares) == 0:
        return gain, gain
    freedom = sum(shares) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(shares, (winner, shipped), strict=True))
    half = float(stats.t.ppf((1 + SURE) / 2, freedom)) * math.sqrt(sum(shares))
    return gain - half, gain + half


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def _in_words(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}"
