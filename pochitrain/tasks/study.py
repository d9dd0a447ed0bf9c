"""What Optuna is asked and told.

A trial is one of Optuna's, with what only we know in its attributes: `owner` (which folder on which host trains it),
`epochs` (what each epoch's value was), `pruned` (it goes on no more), `result`, `error`, `repeat_of`, `retry_of`,
`died`. Optuna itself is told the best value so far, because not all of its pruners look for that themselves. A trial
that failed without an `error` was killed or stopped: it is run again under a new number, and the old number no longer
counts. One that was to be pruned is over, whatever happened to its process.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from pochitrain.config.canonical import difference
from pochitrain.config.schema import Config
from pochitrain.config.search import Optuna, Scalar
from pochitrain.errors import ConfigError, DiskError
from pochitrain.locale import _
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED, TrialRow
from pochitrain.tasks.lives import (
    LIVES,
    counts,
    deaths,
    epoch_values,
    first_number,
    left_as,
    left_in,
    not_counted,
    row_of,
    was_killed,
)
from pochitrain.tasks.sampling import (
    Counted,
    build_pruner,
    distribution,
    open_storage,
    shown_url,
)
from pochitrain.tasks.trial import Outcome

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is said by us

PATIENCE_SECONDS = 300  # how long a database may be away before the search gives up

_T = TypeVar("_T")


@dataclass(frozen=True)
class Suggestion:
    """A trial that has begun."""

    trial: optuna.Trial
    point: dict[str, Scalar]
    first: int  # the number under which it was begun first, before its process was killed
    twin: FrozenTrial | None = None  # an earlier trial with the same values, whose result is the answer
    epochs: dict[int, float] = field(default_factory=dict)  # epoch → value, of an earlier life too

    @property
    def number(self) -> int:
        return self.trial.number


class Study:
    """One study in its storage. Everything here is asked by one thread."""

    def __init__(self, optuna_settings: Optuna, storage: RDBStorage | InMemoryStorage, study: optuna.Study) -> None:
        self.settings = optuna_settings
        self.dimensions = optuna_settings.dimensions()
        self.distributions = {dimension.name: distribution(dimension) for dimension in self.dimensions}
        self.storage, self.study = storage, study
        self.database = storage if isinstance(storage, RDBStorage) else None
        self.owner = ""  # set by `take_over`
        assert isinstance(study.sampler, Counted)
        study.sampler.begun = self._begin
        self.alive: set[int] = set()  # Optuna's ids of the trials that this process has begun
        self.next_beat = 0.0
        self.total = optuna_settings.n_trials
        self.grid, self.untried, self.grid_ends_at = study.sampler.grid, 0, 0
        if self.grid is not None:
            trials = self.trials()
            whole = [t.params for t in trials if counts(t, trials) and t.params.keys() == self.distributions.keys()]
            self.untried = self.grid.count - len(self.grid.numbers(whole))
            self.grid_ends_at = len(whole) + self.untried  # so many trials, with those beside the grid
            self.total = min(self.total, self.grid_ends_at)

    @property
    def token(self) -> str:
        """What tells this study from another one of the same name."""
        return str(self.study.user_attrs["token"])

    def close(self) -> None:
        if self.database is not None:
            self.database.remove_session()
            self.database.engine.dispose()

    # -- trials begin

    def take_over(self, folder: Path) -> None:
        """Run again what an earlier process of `folder` left behind. Call it under the lock of the folder."""
        self.owner = f"{socket.gethostname()}:{folder.absolute()}"
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and trial.user_attrs.get("owner") == self.owner:
                if left_as(trial) == TrialState.PRUNED:
                    found = left_in(folder, trial)
                    with contextlib.suppress(UpdateFinishedTrialError):  # by another process, a moment ago
                        self._insist(self.storage.set_trial_user_attr, trial._trial_id, "result", found)
                self._tell(trial.number, left_as(trial))
        self.revive()

    def revive(self) -> None:
        """Put back into the queue what was killed, here or elsewhere.

        What this process trains is alive, however long it could not say so: the machine may have slept.
        """
        if self.database is not None:
            self._say_alive(self.database)
            self._fail_the_silent(self.database)
        trials = self.trials()
        for trial in trials:
            ours = trial._trial_id in self.alive
            if not ours and was_killed(trial, trials) and deaths(trial, trials) < LIVES:
                self._insist(self._put_back, trial)

    def ask(self) -> Suggestion | None:
        """Begin a trial; None when enough have begun."""
        self.revive()
        while self._room():
            trial = self._insist(self._ask)
            if self._is_surplus(trial.number):  # another process asked at the same moment
                self._insist(trial.set_user_attr, "surplus", True)
                self._tell(trial.number, TrialState.FAIL)
                continue
            self.alive.add(trial._trial_id)
            return Suggestion(trial, dict(trial.params), first_number(trial), self._twin(trial), epoch_values(trial))
        return None

    def others_at_work(self) -> bool:
        """Return whether other processes have trials that are not over."""
        return any(t.state == TrialState.RUNNING and t._trial_id not in self.alive for t in self.trials())

    def _room(self) -> bool:
        trials = self.trials()
        begun = sum(counts(trial, trials) for trial in trials)
        return begun < self.total or any(trial.state == TrialState.WAITING for trial in trials)

    def _is_surplus(self, number: int) -> bool:
        trials = self.trials()
        return sum(counts(trial, trials) for trial in trials if trial.number < number) >= self.total

    def _ask(self) -> optuna.Trial:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage")  # `beat` does it
            return self.study.ask(self.distributions)

    def _begin(self, trial_id: int) -> None:
        """Say whose a trial is, before it is known what it tries: killed from here on, it is run again at once."""
        self.storage.set_trial_user_attr(trial_id, "owner", self.owner)
        if self.database is not None:
            self.database.record_heartbeat(trial_id)

    def _twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """Return the first trial with the same values that is over and was trained."""
        for other in self.trials():
            attributes = other.user_attrs
            over = other.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in attributes
            if over and other.number != trial.number and other.params == trial.params and "repeat_of" not in attributes:
                return other
        return None

    # -- trials go on

    def report(self, suggestion: Suggestion, epoch: int, value: float, *, last: bool) -> bool:
        """Store the value of an epoch; return whether the trial goes on.

        Several objectives are never pruned, and the last epoch is no time for it: the trial is complete.
        """
        try:
            self._tell_epochs(suggestion, {epoch: value})
            if len(self.settings.metrics) > 1:
                return True
            before = epoch < max(suggestion.epochs)  # in an earlier life it went on after this epoch
            if last or before or not self._insist(suggestion.trial.should_prune):
                return True
            self._insist(suggestion.trial.set_user_attr, "pruned", True)  # killed from here on, it stays so
            return False
        except UpdateFinishedTrialError:  # it was silent for so long that another process runs it again
            return False

    def _tell_epochs(self, suggestion: Suggestion, epochs: Mapping[int, float]) -> None:
        """Store the values of epochs, and for Optuna the best value so far: a number that is finite."""
        trial, known = suggestion.trial, suggestion.epochs
        known.update(epochs)
        self._insist(trial.set_user_attr, "epochs", {str(epoch): value for epoch, value in sorted(known.items())})
        if len(self.settings.metrics) > 1:
            return
        best = max if self.settings.directions[0] == "maximize" else min
        told = self._insist(self.storage.get_trial, trial._trial_id).intermediate_values
        for epoch in sorted(known.keys() - told.keys()):
            numbers = [value for n, value in known.items() if n <= epoch and math.isfinite(value)]
            if numbers:
                self._insist(trial.report, best(numbers), epoch)

    def beat(self) -> None:
        """Say now and then that the trials of this process are alive."""
        if self.database is not None and time.monotonic() >= self.next_beat:
            self._say_alive(self.database)

    def _say_alive(self, database: RDBStorage) -> None:
        self.next_beat = time.monotonic() + self.settings.heartbeat_seconds
        for trial_id in self.alive:
            with contextlib.suppress(StorageInternalError):  # one of the next will come through
                database.record_heartbeat(trial_id)

    # -- trials end

    def end(self, suggestion: Suggestion, outcome: Outcome) -> None:
        """Store what came of a trial."""
        self.alive.discard(suggestion.trial._trial_id)
        attributes: dict[str, Any] = {"result": outcome.summary()}
        if outcome.status == FAILED:
            attributes |= {"error": outcome.error, "trace": outcome.trace}
        elif outcome.status == INTERRUPTED and not outcome.gracefully:
            attributes["died"] = True
        try:
            if outcome.status in (COMPLETE, PRUNED):
                metric = self.settings.metrics[0]
                self._tell_epochs(suggestion, {r["epoch"]: r[metric] for r in outcome.history if metric in r})
            for name, value in attributes.items():
                self._insist(suggestion.trial.set_user_attr, name, value)
        except UpdateFinishedTrialError:
            return
        state = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}.get(outcome.status, TrialState.FAIL)
        if outcome.status == INTERRUPTED:
            state = left_as(suggestion.trial)
        self._tell(suggestion.number, state, outcome.values if state == TrialState.COMPLETE else None)

    def answer(self, suggestion: Suggestion) -> None:
        """Give a trial the result of its twin."""
        twin, trial = suggestion.twin, suggestion.trial
        assert twin is not None
        self.alive.discard(trial._trial_id)
        self._insist(trial.set_user_attr, "repeat_of", twin.number)
        if "error" in twin.user_attrs:
            self._insist(trial.set_user_attr, "error", twin.user_attrs["error"])
        self._tell_epochs(suggestion, epoch_values(twin))
        self._tell(trial.number, twin.state, twin.values if twin.state == TrialState.COMPLETE else None)

    # -- what is known

    def trials(self) -> list[FrozenTrial]:
        """Return every trial that Optuna knows; do not change them."""
        return self._insist(self.study.get_trials, deepcopy=False)

    def rows(self) -> list[TrialRow]:
        """Return the trials that count, and those that are at work, were stopped, or wait to be run again."""
        trials = self.trials()
        gone = not_counted(trials)
        return [row_of(trial, trials) for trial in trials if trial.number not in gone]

    def importances(self) -> dict[str, float]:
        """Return how much of the variance of the first objective each setting explains (fANOVA); {} when none can tell.

        Costs a tenth of a second, more with hundreds of trials.
        """
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        if len({t.values[0] for t in complete}) < 2 or not any(not d.single() for d in self.distributions.values()):
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self.study, evaluator=evaluator, target=lambda t: t.values[0])
        return {name: float(value) for name, value in found.items()}

    def best(self) -> list[int]:
        """Return the numbers of the best trials: one, or with several objectives those that none beats in all."""
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE and "repeat_of" not in t.user_attrs]
        if len(self.settings.metrics) > 1:
            found = {trial.number for trial in self.study.best_trials}
            return [trial.number for trial in complete if trial.number in found]
        sign = 1.0 if self.settings.directions[0] == "maximize" else -1.0
        return [max(complete, key=lambda trial: (sign * trial.values[0], -trial.number)).number] if complete else []

    # -- the storage

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # by another process, a moment ago
            self._insist(self.study.tell, number, values, state, skip_if_finished=True)

    def _put_back(self, trial: FrozenTrial) -> None:
        whole = trial.params.keys() == self.distributions.keys()  # with a part the sampler would draw another rest
        earlier = [*trial.user_attrs.get("retry_of", ()), trial.number]
        again = optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params if whole else {},
            distributions=trial.distributions if whole else {},
            user_attrs={"retry_of": earlier, "epochs": trial.user_attrs.get("epochs", {})},
            system_attrs=trial.system_attrs,  # the place in the grid, the generation of CMA-ES
        )
        self.study.add_trial(again)

    def _fail_the_silent(self, database: RDBStorage) -> None:
        silent = self._insist(database._get_stale_trial_ids, self.study._study_id)
        patience = timedelta(seconds=2 * self.settings.heartbeat_seconds)
        for trial in self.trials():
            if trial.state != TrialState.RUNNING or trial._trial_id in self.alive:
                continue
            # One that was killed before it could say whose it is has no heartbeat that could end.
            nobody = "owner" not in trial.user_attrs and trial.datetime_start
            if trial._trial_id in silent or (nobody and datetime.now() - nobody > patience):
                self._tell(trial.number, left_as(trial))

    def _insist(self, action: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Return what `action` returns, once the storage answers.

        Raises:
            DiskError: it has not answered for `PATIENCE_SECONDS`.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return action(*arguments, **named)
            except (StorageInternalError, sqlalchemy.exc.OperationalError) as error:
                if time.monotonic() > deadline:
                    reason = str(error.__cause__ or error).splitlines()[0]
                    raise DiskError(
                        _("The storage of the study does not answer: {reason}", reason=reason),
                        shown_url(self.settings.storage or ""),
                        _("look after the database; the same command continues"),
                    ) from error
                time.sleep(1)


def open_study(config: Config, made_of: Mapping[str, Any]) -> Study:
    """Return the study of a config: the one in its storage, or a new one.

    Args:
        made_of: what all trials have in common; it is stored with the study.

    Raises:
        ConfigError: the storage cannot be opened, or holds a study of this name that was made of something else.
    """
    settings = config.optuna
    storage = open_storage(settings)
    sampler = Counted(settings, config.seed)
    study = optuna.create_study(
        storage=storage,
        study_name=settings.study_name,
        directions=list(settings.directions),
        sampler=sampler,
        pruner=build_pruner(settings),
        load_if_exists=True,
    )
    sampler.study = study
    opened = Study(settings, storage, study)
    try:
        _require_same(study, made_of, settings.study_name)
    except BaseException:
        opened.close()
        raise
    return opened


def _require_same(study: optuna.Study, made_of: Mapping[str, Any], name: str) -> None:
    """Write down what a new study is made of; refuse one that was made of something else."""
    there = study.user_attrs
    if "made_of" not in there:
        study.set_user_attr("token", uuid.uuid4().hex)
        study.set_user_attr("made_of", dict(made_of))
    elif lines := difference(there["made_of"], dict(made_of)):
        raise ConfigError(
            _("The study {name} in this storage was made of something else", name=repr(name))
            + "".join(f"\n    {line}" for line in lines[:10]),
            "optuna.study_name",
            _("give the new study another name, or restore the old settings"),
        )
