"""Before the first trial: does every value of the search space fit its setting, and does it change anything?"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch

from pochitrain.config.fields import Settings, is_identity
from pochitrain.config.identity import PARTS, canonical_settings, setting_readers
from pochitrain.config.idle import idle_settings
from pochitrain.config.inject import parameters
from pochitrain.config.loader import InvalidConfig, raw, replace_settings
from pochitrain.config.mistakes import Where, class_weights_problem
from pochitrain.config.schema import Config
from pochitrain.config.search import Dimension, Scalar
from pochitrain.config.words import split_key, walk_settings
from pochitrain.data.source import AUTO, Data
from pochitrain.data.table import list_images
from pochitrain.engine.feed import build_loader
from pochitrain.engine.run import choose_device
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


def goal_settings(config: Config) -> dict[str, Any]:
    """Return the settings of a trial that follow from its goal: `best.pt` is to hold the epoch that gives its value.

    {} when the file, or the search, says itself by what the best epoch is chosen, or writes a `min_delta` in the unit
    of the default `monitor`; and when the goal is no metric that can be monitored.
    """
    stopping, metric = config.early_stopping, config.optuna.metrics[0]
    searched = {"early_stopping", "early_stopping.monitor", "early_stopping.min_delta"} & {*config.optuna.search_space}
    said = searched or {"monitor", "min_delta"} & stopping.model_fields_set
    if said or metric == stopping.monitor or metric not in ("val_accuracy", "val_loss"):
        return {}
    known = raw(stopping) if config.adapter is not None else {}  # a member that is set hides the dict of an adapter
    return {f"early_stopping.{name}": value for name, value in {**known, "monitor": metric}.items()}


def check_space(config: Config, data: Data) -> list[str]:
    """Try the ends of every range and every choice; return what a reader should know.

    Raises:
        ConfigError: with every key that is no setting, every value that never fits, every setting without effect.
    """
    dimensions = config.optuna.dimensions()
    problems = [problem for dimension in dimensions for problem in _alone(config, dimension)]
    problems += _same_setting([dimension.name for dimension in dimensions])
    problems += [problem for dimension in dimensions for problem in _unreadable_roots(config, dimension)]
    made, classes = [replace_settings(config, goal_settings(config))], data.classes
    if not problems and dimensions:
        attempts = [(point, _attempt(config, dimensions, point, classes)) for point in combinations(dimensions)]
        problems = _never_fitting(dimensions, attempts)
        fitting = [point for point, made in attempts if isinstance(made, Config)]
        if not problems:
            problems = [p for dimension in dimensions for p in _without_effect(config, dimension, fitting, classes)]
            problems += _unmatched_patterns(config, dimensions, fitting, classes)
            problems += [p for dimension in dimensions for p in _failing_transforms(config, dimension, data)]
            made = [trial for _point, trial in attempts if isinstance(trial, Config)]
    if problems:
        where = Where(config.origin.path, config.origin.text)
        raise ConfigError(problems=[where.fill(problem) for problem in problems])
    _require_no_globals(config, made)
    idle = idle_settings(config)
    for trial in made if idle else ():
        told = idle_settings(trial)
        idle = [line for line in idle if line in told]
    return [*idle, *_of_another_epoch(made, data), *(n for dimension in dimensions for n in _notes(config, dimension))]


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
            if "__pochi_config__" not in there and there[name] is not config.origin.namespace.get(name, config):
                continue  # a module's own constant that happens to have this name
            code, called = function.__code__, function.__qualname__
            what = _("{part} reads {name} as a global, which is the file's in every trial", part=called, name=name)
            place = f"{code.co_filename}:{code.co_firstlineno}, {called}"
            problems[code, name] = Problem(what, place, _instead_of_a_global(trial, function, name))
    if problems:
        raise ConfigError(problems=list(problems.values()))


def _instead_of_a_global(trial: Config, function: FunctionType, name: str) -> str:
    """Return how a function that reads a setting as a global gets each trial's value."""
    if function is trial.train_transform or function is trial.val_transform:
        return _("a transform is given nothing but the image: search whole transforms, each with its own value")
    if not any(getattr(trial, part) is function for part in (*PARTS, "adapter")):
        return _("take it as a parameter of the model, loss, optimizer … that uses it, and pass it on")
    taken, called = ", ".join([*parameters(function), name]), function.__qualname__
    example = f"lambda {taken}: …" if called == "<lambda>" else f"def {called}({taken})"
    mend = _("take it as a parameter: {example}", example=example)
    if isinstance(value := getattr(trial, name), Settings) and function is not trial.adapter:
        member = f"{name}.{next(iter(type(value).model_fields))}"
        mend += "; " + _("it is given as an object: {example}", example=member)
    return mend


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
    unknown = _("{key} is no setting", key=dimension.name)
    for label in dimension.extremes():
        try:
            replace_settings(config, {dimension.name: dimension.value(label)})
        except InvalidConfig as error:
            for problem in error.problems:
                if setting in error.wrong or problem.what == unknown:  # not what only several settings show
                    problems.setdefault(problem.what, Problem(problem.what, key, problem.mend))
    return list(problems.values())


def _same_setting(keys: Sequence[str]) -> list[Problem]:
    """Return a problem for each key that another one takes the effect from: the later of two decides."""
    problems = []
    for earlier, later in itertools.combinations(keys, 2):
        (name, members), (whole, inner) = split_key(earlier), split_key(later)
        if name != whole or members[: len(inner)] != inner:
            continue
        named = {"earlier": earlier, "later": later}
        what, mend = _("{earlier} and {later} are the same setting", **named), _("leave one of them out")
        if members != inner:
            what = _("{later} replaces {earlier}, which stands before it", **named)
            mend = _("write {later} first, or leave one of them out", **named)
        problems.append(Problem(what, f"optuna.search_space.{later}", mend))
    return problems


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
        fixed = {**goal_settings(config), "epochs": config.optuna.optuna_epochs}
        made = replace_settings(config, {**fixed, **settings_of(dimensions, point)})
        canonical_settings(made)
        choose_device(made)
    except ConfigError as error:
        return list(error.problems)
    return _data_problems(made, point, classes) or check_parts(made) or made


def _data_problems(made: Config, point: Point, classes: Sequence[str]) -> list[Problem]:
    """Return what does not fit the data, as far as the classes of a trial are known to be the file's."""
    if made.dataset is None and made.val_data_root is None and validated(made):
        return [no_validation(made)]
    if {*point} & {*ROOTS, "dataset"}:
        return []
    if made.num_classes not in (None, len(classes)):
        what = _("The data has {found} classes", found=len(classes))
        return [Problem(what, "num_classes", _("set num_classes = {found}, or leave it out", found=len(classes)))]
    if isinstance(made.class_weights, list) and len(made.class_weights) != len(classes):
        return [class_weights_problem(len(made.class_weights), len(classes))]
    return []


def validated(config: Config) -> list[str]:
    """Return the metrics of a search that need validation data."""
    return [metric for metric in config.optuna.metrics if metric.startswith("val_")]


def no_validation(config: Config) -> Problem:
    return Problem(
        _("Without validation data there is no {metric}", metric=", ".join(validated(config))),
        "val_data_root",
        _('set val_data_root = "auto", or search for train_loss: optuna["metric"] and optuna["direction"]'),
    )


def _failing_transforms(config: Config, dimension: Dimension, data: Data) -> list[Problem]:
    """Return the transforms to choose from that fail on the most different images of the file's own data."""
    sides = {"train_transform": (data.train, "augment"), "val_transform": (data.val, "val")}
    split, purpose = sides.get(dimension.name, (None, ""))
    if split is None or {*ROOTS, "dataset"} & config.optuna.search_space.keys() or config.dataset is not None:
        return []  # of other images, or called by a data set of the user's, if by anybody
    problems = []
    for label in dimension.labels:
        uncached = {"cache": "off", "num_workers": 0, dimension.name: dimension.value(label)}
        try:
            build_loader(replace_settings(config, uncached), split, purpose, torch.device("cpu"), False).close()
        except ConfigError as error:
            problems += [_unfit(dimension, label, problem) for problem in error.problems[:1]]
    return problems


def _unfit(dimension: Dimension, label: Scalar, why: Problem) -> Problem:
    value = dimension.in_words(label)
    what = _("{name} = {value} cannot be: {reason}", name=dimension.name, value=value, reason=why.what)
    return Problem(what, f"optuna.search_space.{dimension.name}", why.mend)


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
        problem = _unfit(dimension, label, made[0])
        problems[problem.what] = problem
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
    stopping = False  # somewhere early stopping is on
    for point in fitting:
        attempts = [
            _attempt(config, config.optuna.dimensions(), {**point, name: label}, classes)
            for label in dimension.extremes()
        ]
        trials = [made for made in attempts if isinstance(made, Config)]
        forms = [(canonical_settings(made), _beside_identity(made, name)) for made in trials]
        if any(form != forms[0] for form in forms[1:]):
            return []
        alike = alike or len(forms) > 1
        stopping = stopping or any(made.early_stopping.enabled for made in trials)
    if not alike:
        return []
    what = _("Searching {name} would change nothing", name=name)
    mend = _("switch on what it belongs to (scheduler, enable_layer_wise_lr …), or leave it out")
    if name.startswith("early_stopping.") and stopping:
        mend = _("a patience must be below optuna_epochs = {epochs} to matter", epochs=config.optuna.optuna_epochs)
    return [Problem(what, f"optuna.search_space.{name}", mend)]


def _beside_identity(made: Config, name: str) -> str | None:
    """Return a setting outside the identity as a trial has it, whatever was suggested; None when it has no say."""
    return None if counts_for_identity(name) or _is_idle(made, name) else repr(getattr(made, split_key(name)[0]))


def _is_idle(made: Config, name: str) -> bool:
    """Return whether a setting outside the identity has no say in the best epoch."""
    if name in ("early_stopping.patience", "early_stopping.min_delta"):  # none waits longer than there are epochs
        return not made.early_stopping.enabled or made.early_stopping.patience >= made.epochs
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


def _of_another_epoch(trials: Sequence[Config], data: Data) -> list[str]:
    """Return a note when the weights of trials are those of another epoch than their values."""
    metric = trials[0].optuna.metrics[0]
    monitors = {trial.early_stopping.monitor if data.val is not None else "train_loss" for trial in trials}
    return [
        _(
            "The values of a trial are those of the epoch with the best {metric}, but its best.pt is that with the best"
            " {monitor} (early_stopping.monitor)",
            metric=metric,
            monitor=monitor,
        )
        for monitor in sorted(monitors - {metric})
    ]


def _notes(config: Config, dimension: Dimension) -> list[str]:
    timed = set(config.optuna.metrics) & set(TIMED)
    if timed or counts_for_identity(dimension.name) or dimension.name.startswith(DECISIVE):
        return []
    metrics = ", ".join(config.optuna.metrics)
    return [
        _("{name} leaves the weights as they are: it cannot change {metrics}", name=dimension.name, metrics=metrics)
    ]
