"""Settings become Optuna's objects: the storage, the distributions, the sampler, the pruner."""

from __future__ import annotations

import random
import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import copy
from importlib.util import find_spec
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url

from pochitrain.config.search import Dimension, Optuna
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.randomness import key
from pochitrain.tasks.grid import Grid
from pochitrain.tasks.lives import first_number, not_counted

LOCKED_SECONDS = 60  # how long a statement waits for SQLite's lock


def open_storage(settings: Optuna) -> RDBStorage | InMemoryStorage:
    if settings.storage is None:
        return InMemoryStorage()
    url = settings.storage
    if url.startswith("postgresql://") and find_spec("psycopg"):  # SQLAlchemy before 2.1 would look for psycopg2
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    waits = {"connect_args": {"timeout": LOCKED_SECONDS}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(url, engine_kwargs=waits, heartbeat_interval=settings.heartbeat_seconds)
    except ImportError as error:
        mend = _('install its driver; for PostgreSQL: pip install "psycopg[binary]"')
        raise ConfigError(_("The storage needs a driver: {reason}", reason=error), "optuna.storage", mend) from error
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            _("The storage cannot be opened: {reason}", reason=reason),
            f"optuna.storage = {shown_url(settings.storage)}",
            _('for example "sqlite:///optuna_study.db" or "postgresql://user@host/database"'),
        ) from error


def shown_url(url: str) -> str:
    """Return a URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "…"


def distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.labels)
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None:  # the last step that is reached, which Optuna would otherwise find with a warning
        high = dimension.grid()[-1]  # type: ignore[assignment]
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def build_pruner(settings: Optuna) -> BasePruner:
    """Return the pruner with Optuna's defaults; what has no default there is the guide's.

    Only the first rung of successive halving is said: Optuna would take it from the first trial that is complete, and
    until then compare nothing, so that a trial beside that one would enter the first rung at a later epoch.
    """
    pruners: dict[str | None, Callable[[], BasePruner]] = {
        "MedianPruner": optuna.pruners.MedianPruner,
        "PercentilePruner": lambda: optuna.pruners.PercentilePruner(25.0),
        "SuccessiveHalvingPruner": lambda: Brackets(max_resource=1, reduction_factor=4),  # one bracket
        "HyperbandPruner": lambda: Brackets(max_resource=settings.optuna_epochs, reduction_factor=3),
        "NopPruner": optuna.pruners.NopPruner,
        None: optuna.pruners.NopPruner,
    }
    return pruners[settings.pruner]()


def places(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return number → place in the study: of one that is run again its old one, of what is no trial of its own none."""
    own = [trial.number for trial in trials if not {"retry_of", "surplus"} & trial.user_attrs.keys()]
    gone = not_counted(trials)
    return {trial.number: bisect_left(own, first_number(trial)) for trial in trials if trial.number not in gone}


def import_for_importances() -> None:
    """Import what `Study.importances` needs: scikit-learn, a second, while the workers' process imports torch."""
    small = optuna.create_study()
    for number in range(2):
        ranged = FloatDistribution(0, 1)
        small.add_trial(optuna.trial.create_trial(params={"x": number}, distributions={"x": ranged}, value=number))
    optuna.importance.get_param_importances(small, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


class GridSampler(BaseSampler):
    """Suggests one point of the grid that was not tried, whatever else was. Optuna's keeps all of them in memory."""

    def __init__(self, dimensions: Sequence[Dimension], grid: Grid, tried: set[int], seed: int) -> None:
        self.dimensions, self.grid, self.tried, self.seed = dimensions, grid, tried, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {dimension.name: distribution(dimension) for dimension in self.dimensions}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.grid.point(self.grid.draw(self.tried, random.Random(self.seed)))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("every dimension is sampled together with the others")


class Brackets(HyperbandPruner):
    """Optuna's Hyperband, from epoch 1 on; with a single bracket it is successive halving.

    Optuna draws the bracket from a trial's number and lets every number compete. Here it is drawn from the place in the
    study, and an earlier life of a trial competes no more: an interruption changes nothing. Optuna also compares a
    trial only once in each rung; here one that was killed before the answer was known is compared again.
    """

    def __init__(self, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource=1, max_resource=max_resource, reduction_factor=reduction_factor)
        self.places: dict[int, int] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.places = places(study.get_trials(deepcopy=False))
        if trial.last_step is None:
            return False
        if not self._pruners:
            self._try_initialization(study)
        bracket, epoch = self._get_bracket_id(study, trial), trial.last_step
        asked = copy(trial)
        asked.system_attrs = {
            name: value for name, value in trial.system_attrs.items() if self._rung_epoch(name, bracket) < epoch
        }
        self.places.pop(trial.number, None)  # Optuna adds the value of this trial itself
        return self._pruners[bracket].prune(self._create_bracket_study(study, bracket), asked)

    def _rung_epoch(self, attribute: str, bracket: int) -> int:
        """Return the epoch in which a trial comes to the rung that an attribute is about; 0 for any other attribute."""
        found = re.fullmatch(r"completed_rung_(\d+)", attribute)
        return self._reduction_factor ** (bracket + int(found[1])) if found else 0

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.number not in self.places:
            return -1  # in no bracket
        placed = copy(trial)
        placed.number = self.places[trial.number]
        return super()._get_bracket_id(study, placed)


class Counted(BaseSampler):
    """Gives each trial a sampler of its own, whose seed follows from the study's seed and the trial's place in it.

    So a study suggests the same after an interruption as without one. All four samplers keep what they know in the
    storage; making one costs microseconds.
    """

    def __init__(self, settings: Optuna, seed: int) -> None:
        self.settings, self.seed, self.dimensions = settings, seed, settings.dimensions()
        self.grid = Grid(self.dimensions) if settings.sampler == "GridSampler" else None
        self.study: optuna.Study | None = None  # whole: a pruner with brackets shows a trial only its own bracket
        self.begun: Callable[[int], None] = lambda trial_id: None  # called before anything is suggested
        self.now: BaseSampler = optuna.samplers.RandomSampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.begun(trial._trial_id)
        trials = (self.study or study).get_trials(deepcopy=False)
        seed = key(self.seed, "suggest", places(trials)[trial.number]) & 0xFFFFFFFF  # NumPy's limit
        if self.grid is not None:
            gone = not_counted(trials)
            tried = self.grid.numbers(other.params for other in trials if other.number not in gone)
            self.now = GridSampler(self.dimensions, self.grid, tried, seed)
        else:
            self.now = self._sampler(seed)
        self.now.before_trial(study, trial)

    def _sampler(self, seed: int) -> BaseSampler:
        samplers: dict[str, Callable[[], BaseSampler]] = {
            "TPESampler": lambda: optuna.samplers.TPESampler(seed=seed),
            "RandomSampler": lambda: optuna.samplers.RandomSampler(seed=seed),
            "CmaEsSampler": lambda: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        }
        return samplers[self.settings.sampler]()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.now.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.now.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.now.sample_independent(study, trial, param_name, param_distribution)
