"""Is the best trial better than the file's own setting, or did it have luck with its seed? New seeds tell."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats  # type: ignore[import-untyped]

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import replace_settings
from pochitrain.config.schema import Config
from pochitrain.history import History, Record
from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, INTERRUPTED, TrialRow
from pochitrain.sinks.console import Log
from pochitrain.tasks.lives import LIVES
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
        epochs = {WINNER: self.optuna.optuna_epochs, SHIPPED: self.optuna.optuna_epochs}
        if "epochs" in self.optuna.search_space:  # then those of the file are a part of its own setting
            epochs[SHIPPED] = config.epochs
        self.of = {"trial": winner.number, "seeds": self.seeds, "epochs": epochs[SHIPPED]}
        self.values: dict[str, dict[int, float]] = {WINNER: {}, SHIPPED: {}}  # by seed
        self.failed: dict[str, dict[int, str]] = {WINNER: {}, SHIPPED: {}}  # seed → why
        self.deaths: Counter[int] = Counter()  # by number of the job
        self.jobs: list[Work] = []
        for seed in self.seeds:
            for who in (WINNER, SHIPPED):
                fixed = {"work_dir": str(folder), "task": f"confirm-{who}", "epochs": epochs[who], "seed": seed}
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
        """Write down what came of a training; one whose process was killed waits to be run again."""
        who, seed = SHIPPED if work.point is None else WINNER, work.fixed["seed"]
        self.deaths[work.number] += outcome.status == INTERRUPTED and not outcome.gracefully
        killed = self.deaths[work.number]
        if outcome.status == COMPLETE and outcome.values:
            self.values[who][seed] = outcome.values[0]
            said = f"{self.optuna.metrics[0]} {outcome.values[0]:.4f}"
        elif outcome.status == INTERRUPTED and killed < LIVES:
            self.waiting.append(work)
            said = _("interrupted")
        else:
            said = outcome.error or _("its process was killed {count} times", count=killed)
            self.failed[who][seed] = said
        name = {WINNER: _("winner"), SHIPPED: _("shipped")}[who]
        self.log.info(_("confirm {who}, seed {seed}: {said}", who=name, seed=seed, said=said))

    def tick(self) -> None: ...

    def nothing(self) -> dict[str, Any]:
        """Return what stands in the place of `result` when there are no two settings to compare."""
        verdict = _("Nothing to confirm: apart from its seed, the best trial has the file's own setting.")
        return {"of": self.of, "metric": self.optuna.metrics[0], "confirmed": False, "verdict": verdict}

    def result(self) -> dict[str, Any]:
        """Return what was measured, and what it says."""
        sign = 1.0 if self.optuna.directions[0] == "maximize" else -1.0
        winner, shipped = ([sign * value for value in self.values[who].values()] for who in (WINNER, SHIPPED))
        failed = sorted({*self.failed[WINNER], *self.failed[SHIPPED]})
        interval = None if failed else gain_interval(winner, shipped)
        return {
            "of": self.of,
            "metric": self.optuna.metrics[0],
            **{who: self._told(who) for who in (WINNER, SHIPPED)},
            "gain_interval": interval,
            "confirmed": interval is not None and interval[0] > 0,
            "verdict": self._verdict(interval, failed),
        }

    def _told(self, who: str) -> dict[str, Any]:
        """Return the values in the order of the seeds, None where a training failed, and why it did."""
        values, failed = self.values[who], self.failed[who]
        told = {"values": [values.get(seed) for seed in self.seeds], **_spread([*values.values()])}
        return told | ({"failed": {str(seed): failed[seed] for seed in sorted(failed)}} if failed else {})

    def _verdict(self, interval: tuple[float, float] | None, failed: Sequence[int]) -> str:
        if failed:
            seeds = ", ".join(map(str, failed))
            return _("Not confirmed: with new seeds a training failed (seed {seeds}).", seeds=seeds)
        if interval is None:
            return _(
                "Not confirmed: with so few different values nobody can tell the gain from the noise between seeds."
            )
        words = {
            "winner": _in_words([*self.values[WINNER].values()]),
            "shipped": _in_words([*self.values[SHIPPED].values()]),
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
    """Return the 95 % interval of the difference of two means, of unequal variances.

    None with a single value, and when all are equal on both sides: whatever the noise is, it was not seen.

    B. L. Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34 (1947).
    """
    if min(len(winner), len(shipped)) < 2:
        return None
    gain = statistics.fmean(winner) - statistics.fmean(shipped)
    shares = [statistics.variance(values) / len(values) for values in (winner, shipped)]
    if sum(shares) == 0:
        return None
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
