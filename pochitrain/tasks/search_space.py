"""Before the first trial: does every value of the search space fit its setting, and does it change anything?"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pochitrain.config.fields import is_identity
from pochitrain.config.identity import PARTS, canonical_settings, setting_readers
from pochitrain.config.inject import parameters
from pochitrain.config.loader import InvalidConfig, replace_settings
from pochitrain.config.mistakes import Where, class_weights_problem
from pochitrain.config.schema import Config
from pochitrain.config.search import Dimension, Scalar
from pochitrain.config.words import full_name, walk_settings
from pochitrain.data.source import AUTO
from pochitrain.data.table import list_images
from pochitrain.errors import ConfigError, DataError, Problem
from pochitrain.locale import _
from pochitrain.parts.models import build_model
from pochitrain.parts.optim import layer_groups
from pochitrain.tasks.prepare import check_parts

Point = dict[str, Scalar]  # setting → what was suggested for it

TRIED = 64  # combinations of extremes; a few milliseconds each
FIXED = ("work_dir", "task", "optuna", "train", "test")  # the study itself decides them
# Outside the identity, and yet they decide about the best epoch: how long, and on which images.
DECISIVE = ("epochs", "early_stopping", "train_data_root", "val_data_root", "val_fraction", "group_by", "num_classes")
ROOTS = ("train_data_root", "val_data_root")
TIMED = ("seconds", "images_per_second", "latency_ms")


def settings_of(dimensions: Sequence[Dimension], point: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return setting → value for what was suggested."""
    return {d.name: d.value(point[d.name]) for d in dimensions if d.name in point}


def check_space(config: Config, classes: tuple[str, ...]) -> list[str]:
    """Try the ends of every range and every choice; return what a reader should know.

    Raises:
        ConfigError: with every key that is no setting, every value that never fits, every setting without effect.
    """
    dimensions = config.optuna.dimensions()
    problems = [problem for dimension in dimensions for problem in _alone(config, dimension)]
    problems += [problem for dimension in dimensions for problem in _unreadable_roots(config, dimension)]
    made = [config]
    if not problems and dimensions:
        attempts = [(point, _attempt(config, dimensions, point, classes)) for point in combinations(dimensions)]
        problems = _never_fitting(dimensions, attempts)
        fitting = [point for point, made in attempts if isinstance(made, Config)]
        if not problems:
            problems = [p for dimension in dimensions for p in _without_effect(config, dimension, fitting, classes)]
            problems += _unmatched_patterns(config, dimensions, fitting, classes)
            made = [trial for _point, trial in attempts if isinstance(trial, Config)]
    if problems:
        where = Where(config.origin.path, config.origin.text)
        raise ConfigError(problems=[where.fill(problem) for problem in problems])
    _require_no_globals(config, made)
    return [note for dimension in dimensions for note in _notes(config, dimension)]


def _require_no_globals(config: Config, trials: Sequence[Config]) -> None:
    """Raise a ConfigError for each function that reads as a global what the trials vary: it would see the file's value.

    Besides the search space that is `epochs`, which all trials have from `optuna_epochs`, and `seed` for new seeds.
    """
    optuna, names = config.optuna, {split_key(name)[0] for name in config.optuna.search_space}
    names |= {"epochs"} if optuna.optuna_epochs != config.epochs else set()
    names |= {"seed"} if optuna.seeds_to_confirm else set()
    problems = {}
    for trial in trials:
        for function, name in setting_readers(trial, names):
            there = function.__globals__
            if "__pochi_source__" not in there and there[name] is not config.origin.namespace.get(name, config):
                continue  # a module's own constant that happens to have this name
            code, called = function.__code__, function.__qualname__
            what = _("{part} reads {name} as a global, which is the file's in every trial", part=called, name=name)
            mend = _("take it as a parameter of the model, loss, optimizer … that uses it, and pass it on")
            if any(getattr(trial, part) is function for part in PARTS):
                taken = ", ".join([*parameters(function), name])
                mend = _("take it as a parameter: {example}", example=f"def {called}({taken})")
            problems[code, name] = Problem(what, f"{code.co_filename}:{code.co_firstlineno}, {called}", mend)
    if problems:
        raise ConfigError(problems=list(problems.values()))


def combinations(dimensions: Sequence[Dimension], limit: int = TRIED) -> Iterator[Point]:
    """Yield every combination of extremes, or about `limit` of them in which each extreme stands with many others."""
    names, extremes = [d.name for d in dimensions], [d.extremes() for d in dimensions]
    if math.prod(map(len, extremes)) <= limit:
        yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*extremes))
        return
    count, order = max(limit, *map(len, extremes)), random.Random(0)
    columns = []
    for values in extremes:
        column = [values[n % len(values)] for n in range(count)]
        order.shuffle(column)
        columns.append(column)
    yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _alone(config: Config, dimension: Dimension) -> list[Problem]:
    """Return what the schema has against a key and its values."""
    key = f"optuna.search_space.{dimension.name}"
    setting = split_key(dimension.name)[0]
    if setting in FIXED:
        what = _("{name} cannot be searched", name=dimension.name)
        return [Problem(what, key, _("leave it out: the study decides it for all trials"))]
    problems: dict[str, Problem] = {}
    for label in dimension.extremes():
        try:
            replace_settings(config, {dimension.name: dimension.value(label)})
        except InvalidConfig as error:
            for problem in error.problems:
                if setting in error.wrong or problem.where == dimension.name:  # not what only several settings show
                    problems.setdefault(problem.what, Problem(problem.what, key, problem.mend))
    return list(problems.values())


def split_key(key: str) -> tuple[str, list[str]]:
    """Return (setting, members) of a key of the search space: `scheduler_gamma` is the member gamma of its params."""
    name, *members = full_name(key).split(".")
    return name, members


def counts_for_identity(key: str) -> bool:
    """Return whether a key of the search space is a setting that decides about the weights."""
    fields, (name, members) = dict(walk_settings()), split_key(key)
    path = [name, *members]
    known = [".".join(path[:count]) for count in range(len(path), 0, -1)]
    return is_identity(fields[next(prefix for prefix in known if prefix in fields)])


def _unreadable_roots(config: Config, dimension: Dimension) -> list[Problem]:
    """Return what is wrong with folders of images that are searched."""
    problems = []
    if dimension.name in ROOTS and config.dataset is None:
        for root in dimension.choices:
            try:
                if isinstance(root, str | os.PathLike) and root != AUTO:
                    list_images(os.fspath(root), [])
            except DataError as error:
                key = f"optuna.search_space.{dimension.name}"
                problems += [Problem(f"{p.what} ({p.where})", key, p.mend) for p in error.problems]
    return problems


def _attempt(
    config: Config, dimensions: Sequence[Dimension], point: Point, classes: Sequence[str]
) -> Config | list[Problem]:
    """Return the config of a trial at `point`, or why it cannot be."""
    try:
        made = replace_settings(config, settings_of(dimensions, point))
        canonical_settings(made)
    except ConfigError as error:
        return list(error.problems)
    weights = made.class_weights
    if isinstance(weights, list) and len(weights) != len(classes) and not {*point} & {*ROOTS, "num_classes"}:
        return [class_weights_problem(len(weights), len(classes))]
    return check_parts(made) or made


def _never_fitting(
    dimensions: Sequence[Dimension], attempts: Sequence[tuple[Point, Config | list[Problem]]]
) -> list[Problem]:
    """Return a problem for each value that fits with no other value.

    A value that fits with some is left to the search: the trials in which it does not are recorded as failed.
    """
    fits: set[tuple[str, Scalar]] = set()
    for point, made in attempts:
        if isinstance(made, Config):
            fits.update(_pairs(point))
    if not fits:
        first = next(made for _point, made in attempts if not isinstance(made, Config))
        return [Problem(problem.what, _key_of(problem, dimensions), problem.mend) for problem in first]
    problems: dict[str, Problem] = {}
    for dimension, label in ((d, label) for d in dimensions for label in d.extremes()):
        if (dimension.name, _key(label)) in fits:
            continue
        # The attempt that holds the fewest other values which never fit says it most plainly.
        wrong = [(p, made) for p, made in attempts if _key(p[dimension.name]) == _key(label)]
        _point, made = min(wrong, key=lambda pair: len(_pairs(pair[0]) - fits))
        assert not isinstance(made, Config)
        where = f"optuna.search_space.{dimension.name}"
        what = _("{name} = {value} cannot be: {reason}", name=dimension.name, value=repr(label), reason=made[0].what)
        problems[what] = Problem(what, where, made[0].mend)
    return list(problems.values())


def _key_of(problem: Problem, dimensions: Sequence[Dimension]) -> str:
    """Return the key of the search space that a problem of a setting is about, as far as one can tell."""
    setting = problem.where.partition(".")[0]
    keys = [d.name for d in dimensions if split_key(d.name)[0] == setting]
    named = [key for key in keys if split_key(key)[1][-1:] and split_key(key)[1][-1] in problem.what]
    return ".".join(["optuna.search_space", *(named or keys)[:1]])


def _pairs(point: Point) -> set[tuple[str, Scalar]]:
    return {(name, _key(label)) for name, label in point.items()}


def _key(label: Scalar) -> str:
    return repr(label)  # 1 and True are two labels


def _without_effect(
    config: Config, dimension: Dimension, fitting: Sequence[Point], classes: Sequence[str]
) -> list[Problem]:
    """Return a problem when no two values of a dimension make different trainings, whatever the others are."""
    name = dimension.name
    decides = counts_for_identity(name) or name.startswith(DECISIVE)
    if not decides or len(dimension.extremes()) < 2:
        return []
    alike = False  # somewhere two values fit, and make the same training
    for point in fitting:
        attempts = {
            label: _attempt(config, config.optuna.dimensions(), {**point, name: label}, classes)
            for label in dimension.extremes()
        }
        forms = [
            (canonical_settings(made), None if counts_for_identity(name) or _is_idle(made, name) else _key(label))
            for label, made in attempts.items()
            if isinstance(made, Config)
        ]
        if any(form != forms[0] for form in forms[1:]):
            return []
        alike = alike or len(forms) > 1
    if not alike:
        return []
    what = _("Searching {name} would change nothing", name=name)
    mend = _("switch on what it belongs to (scheduler, enable_layer_wise_lr …), or leave it out")
    return [Problem(what, f"optuna.search_space.{name}", mend)]


def _is_idle(made: Config, name: str) -> bool:
    """Return whether a setting outside the identity has no say in the best epoch."""
    if name in ("early_stopping.patience", "early_stopping.min_delta"):
        return not made.early_stopping.enabled
    return name in ("val_fraction", "group_by") and made.val_data_root != "auto"


def _unmatched_patterns(
    config: Config, dimensions: Sequence[Dimension], fitting: Sequence[Point], classes: tuple[str, ...]
) -> list[Problem]:
    """Return the searched patterns of layer rates that no parameter of the model has."""
    if not any(d.name.startswith("layer_wise_lr_config") for d in dimensions):
        return []
    trials = (replace_settings(config, settings_of(dimensions, point)) for point in fitting)
    made = next((trial for trial in trials if trial.enable_layer_wise_lr), None)
    if made is None:
        return []
    try:
        layer_groups(build_model(replace_settings(made, {"pretrained": False}), classes), made)
    except ConfigError as error:
        return [Problem(p.what, "optuna.search_space", p.mend) for p in error.problems]
    return []


def _notes(config: Config, dimension: Dimension) -> list[str]:
    timed = set(config.optuna.metrics) & set(TIMED)
    if timed or counts_for_identity(dimension.name) or dimension.name.startswith(DECISIVE):
        return []
    metrics = ", ".join(config.optuna.metrics)
    return [
        _("{name} leaves the weights as they are: it cannot change {metrics}", name=dimension.name, metrics=metrics)
    ]
