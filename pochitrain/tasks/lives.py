"""Which of Optuna's trials stand for a trial of the search, and which were killed and are run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from pochitrain.errors import ConfigError
from pochitrain.experiment import find_experiments
from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, RUNNING, WAITING, TrialRow

LIVES = 3  # a trial whose process dies so often counts as failed: it may be what kills it

_STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
}


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials that were run again under another number."""
    return {number for trial in trials for number in trial.user_attrs.get("retry_of", ())}


def not_counted(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers that stand for no trial: run again under another number, or one too many from the start."""
    return superseded(trials) | {trial.number for trial in trials if "surplus" in trial.user_attrs}


def was_killed(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial ended without a result or a reason, and was not run again yet."""
    explained = {"error", "surplus"} & trial.user_attrs.keys()
    return trial.state == TrialState.FAIL and not explained and trial.number not in superseded(trials)


def left_as(trial: FrozenTrial | Trial) -> TrialState:
    """Return the state of a trial whose process is gone: it was to be pruned, or is run again."""
    return TrialState.PRUNED if "pruned" in trial.user_attrs else TrialState.FAIL


def deaths(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return how often the process of a trial died while the search lived; what ends both is no fault of the trial."""
    numbers = {*trial.user_attrs.get("retry_of", ()), trial.number}
    return sum(other.number in numbers and "died" in other.user_attrs for other in trials)


def counts(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial is one of `n_trials`."""
    if trial.state == TrialState.FAIL:
        return "error" in trial.user_attrs or (was_killed(trial, trials) and deaths(trial, trials) >= LIVES)
    return trial.state != TrialState.WAITING


def first_number(trial: FrozenTrial | Trial) -> int:
    """Return the number under which a trial was begun first, before its process was killed."""
    first: int = min([trial.number, *trial.user_attrs.get("retry_of", ())])
    return first


def task_of(first: int) -> str:
    """Return the task of a trial's experiment, by its first number."""
    return f"trial-{first:04}"


def left_in(folder: Path, trial: FrozenTrial) -> dict[str, str]:
    """Return as its `result` where a trial was trained whose process is gone."""
    found = [info.experiment for info in find_experiments(folder) if info.task == task_of(first_number(trial))]
    return {"experiment": found[0].id, "folder": str(found[0].dir)} if found else {}


def epoch_values(trial: FrozenTrial | Trial) -> dict[int, float]:
    """Return epoch → value of a trial."""
    return {int(epoch): value for epoch, value in trial.user_attrs.get("epochs", {}).items()}


def row_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> TrialRow:
    """Return a trial as everything outside knows it."""
    attributes, result = trial.user_attrs, trial.user_attrs.get("result", {})
    state, error = _STATES.get(trial.state, FAILED), attributes.get("error", "")
    if was_killed(trial, trials):
        killed = deaths(trial, trials)
        state = FAILED if killed >= LIVES else INTERRUPTED
        error = _("its process was killed {count} times", count=killed) if killed >= LIVES else ""
    return TrialRow(
        number=trial.number,
        state=state,
        values=list(trial.values) if trial.values else None,
        point=dict(trial.params),
        epochs=epoch_values(trial),
        started=trial.datetime_start.isoformat(timespec="seconds") if trial.datetime_start else "",
        seconds=result.get("seconds"),
        error=error,
        exit_code=result.get("exit_code", ConfigError.exit_code),
        trace=attributes.get("trace", ""),
        repeat_of=attributes.get("repeat_of"),
        retry_of=list(attributes.get("retry_of", ())),
        experiment=result.get("experiment", ""),
        folder=result.get("folder", ""),
        threads=result.get("threads", 0),
    )
