"""From a config file to an experiment that is known but not yet begun. Nothing is written here."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochitrain.config.identity import Identity, canonical_settings, settings_difference
from pochitrain.config.loader import InvalidConfig, load_config, remembered_imports
from pochitrain.config.mistakes import located
from pochitrain.config.schema import Config, ConfusionMatrix
from pochitrain.data import decode
from pochitrain.data.folder import manifest_difference
from pochitrain.data.source import Data
from pochitrain.engine.run import choose_device
from pochitrain.errors import ConfigError, DataError, Problem
from pochitrain.experiment import Experiment, find_experiments, read_manifest, same_id
from pochitrain.locale import _
from pochitrain.parts.models import check_model, display_name
from pochitrain.parts.optim import check_optimization


@dataclass(frozen=True)
class Plan:
    """An experiment with all that its id is made of."""

    config: Config
    data: Data
    experiment: Experiment
    identity: Identity


def checked_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None, *, device: bool = True
) -> Config:
    """Load a config file and check it against what torch and torchvision know.

    The file is executed twice: a value that differs between two executions (the time, a random number) would make an
    experiment that nobody finds again.

    Args:
        device: False when nothing is computed on it, so that it may be one of another machine.

    Raises:
        ConfigError: with every mistake at once.
    """
    here = os.getcwd()
    try:
        with warnings.catch_warnings(record=True) as caught:
            config = load_config(path, overrides)
    except InvalidConfig as error:
        problems = [p for p in check_parts(error.partial, device=device) if p.where.split(".")[0] not in error.wrong]
        raise ConfigError(problems=[*error.problems, *_located(problems, error.partial)]) from None
    for warning in [] if config.ignore_warnings else caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if problems := check_parts(config, device=device):
        raise ConfigError(problems=_located(problems, config))
    first, settings = config, _settings_of(config)
    os.chdir(here)  # the file may have left it
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by the first time
        config = load_config(path, overrides)
    unstable = [
        f"{name} {before} → {after}"
        for name in ("work_dir", "task")
        if (before := getattr(first, name)) != (after := getattr(config, name))
    ]
    if unstable := unstable + settings_difference(settings, _settings_of(config)):
        raise ConfigError(
            _("The config gives other values each time it is executed"), "\n    ".join(unstable[:10]), _stable(unstable)
        )
    return config


def _stable(unstable: list[str]) -> str:
    """Return how to make settings the same each time."""
    for name, example in (("model", "def model(num_classes): return …"), ("loss", "loss = MyLoss")):
        if all(line.startswith((f"{name}.", f"{name}[")) for line in unstable):  # what is in an object
            return _("give the function or class that makes it, not what it made: {example}", example=example)
    return _("write fixed values: the time, random numbers and new ids do not belong into settings")


def begun_in(config: Config, experiment: Experiment) -> str | None:
    """Return the precision that "auto" meant when an experiment began; None when it has not, or the file says which."""
    try:
        resolved = read_manifest(experiment).get("resolved", {}) if config.precision == "auto" else {}
    except DataError:  # killed before it was written, or not begun
        return None
    precision: str | None = resolved.get("precision")
    return precision


def as_config(given: Config | str | os.PathLike[str]) -> Config:
    """Return a Config as it is, and that of a file.

    Raises:
        ConfigError: with every mistake in the file; it is neither of the two.
    """
    if isinstance(given, Config):
        return given
    if isinstance(given, str | os.PathLike):
        return checked_config(given)
    what = _("A config is a file, or what load_config returns, and not {kind}", kind=type(given).__name__)
    raise ConfigError(what, "train", 'train("my_config.py")')


def _located(problems: list[Problem], config: Config) -> tuple[Problem, ...]:
    return located(ConfigError(problems=problems), config).problems if problems else ()


def _settings_of(config: Config) -> dict[str, str]:
    with remembered_imports():  # a function that imports when it is called is followed there
        return canonical_settings(config)


def check_parts(config: Config, *, device: bool = False) -> list[Problem]:
    """Return the mistakes in a config that only torch, torchvision and matplotlib can see."""
    problems = check_model(config) + check_optimization(config) + _check_colors(config.confusion_matrix_config)
    return problems + (_check_device(config) if device else [])


def _check_colors(look: ConfusionMatrix) -> list[Problem]:
    if look.cmap == ConfusionMatrix().cmap:
        return []
    from pochitrain.reports.confusion import colormap  # matplotlib: a second that only its users pay

    try:
        colormap(look.cmap)
    except ConfigError as error:
        return list(error.problems)
    return []


def _check_device(config: Config) -> list[Problem]:
    try:
        choose_device(config)
    except ConfigError as error:
        return list(error.problems)
    return []


def plan(config: Config, data: Data) -> Plan:
    """Return the experiment of a config on its data."""
    identity = Identity(canonical_settings(config), data.digests)
    work_dir = Path(config.work_dir)
    experiment = Experiment.at(work_dir, task_name(config), display_name(config), identity.id)
    if not experiment.dir.exists() and config.task is None:
        # A config under another name is the same experiment, which may be there already.
        experiment = next(iter(same_id(work_dir, identity.id)), experiment)
    return Plan(config, data, experiment, identity)


def task_name(config: Config) -> str:
    """Return the setting `task`, or the config file's name without suffix."""
    if config.task:
        return config.task
    return config.origin.path.stem if config.origin.path else "task"


def why_new(plan: Plan, limit: int = 6) -> list[str]:
    """Return what distinguishes a new experiment from the nearest one in its work_dir, a line each; [] without any.

    "learning_rate 0.001 → 0.002", "data.train +3 −1 ~2 files". The first line names the nearest experiment. Those of
    another task count when they share the settings or the data; of equally near ones it is one of the same task, the
    last that was at work.
    """
    task, new = task_name(plan.config), plan.identity
    infos = [info for info in find_experiments(Path(plan.config.work_dir)) if info.manifest.get("epochs_finished")]
    infos.sort(key=lambda info: str(info.manifest.get("updated")), reverse=True)
    infos.sort(key=lambda info: info.task != task)
    others = [
        (info.experiment, old)
        for info in infos
        if info.experiment != plan.experiment
        and (old := read_identity(info.experiment))
        and (info.task == task or old.settings == new.settings or old.data == new.data)
    ]
    if not others:
        return []
    nearest, identity = min(others, key=lambda pair: _distance(pair[1], plan.identity))
    lines = settings_difference(identity.settings, plan.identity.settings)
    if identity == plan.identity:  # `task` puts the same experiment into another folder
        lines.append(f"task {nearest.dir.parent.parent.name} → {task_name(plan.config)}")
    for name in ("data.train", "data.val"):
        if identity.data.get(name) != plan.identity.data.get(name):
            lines.append(_data_line(name, plan, nearest))
    if len(lines) > limit:
        lines = [*lines[:limit], _("and {count} more", count=len(lines) - limit)]
    return [nearest.dir.name, *lines]


def _distance(a: Identity, b: Identity) -> int:
    pairs = [(a.settings, b.settings), (a.data, b.data)]
    return sum(x.get(key) != y.get(key) for x, y in pairs for key in x.keys() | y.keys())


def _data_line(name: str, plan: Plan, other: Experiment) -> str:
    split = plan.data.train if name == "data.train" else plan.data.val
    old = read_data_manifest(other).get(name)
    if old is None or split is None or "labels" in split.manifest or "labels" in old:
        return _("{name} changed", name=name)
    added, removed, changed = manifest_difference(old, split.manifest)
    return _("{name} +{added} −{removed} ~{changed} files", name=name, added=added, removed=removed, changed=changed)


def read_identity(experiment: Experiment) -> Identity | None:
    """Return what an experiment was made of, None when it cannot be read."""
    try:
        stored = json.loads(experiment.identity_json.read_text(encoding="utf-8"))
        return Identity(dict(stored["settings"]), dict(stored["data"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def data_manifest_bytes(data: Data) -> bytes:
    """Return the file lists of the data, compressed; the same bytes for the same data."""
    splits = {"data.train": data.train, "data.val": data.val}
    manifests = {name: split.manifest for name, split in splits.items() if split is not None}
    return gzip.compress(json.dumps(manifests, ensure_ascii=True).encode(), mtime=0)


def split_table(data: Data) -> str:
    """Return the images of both sides of a split as CSV: path,label,split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    for name, split in (("train", data.train), ("val", data.val)):
        for path, label in zip(split.items, split.labels or (), strict=True) if split else ():
            writer.writerow((decode.display_name(path), data.classes[label], name))
    return text.getvalue()


def read_data_manifest(experiment: Experiment) -> dict[str, Any]:
    """Return split → manifest of the data that an experiment was trained on; {} when it cannot be read."""
    try:
        manifests = json.loads(gzip.decompress(experiment.data_manifest.read_bytes()))
    except (OSError, ValueError, EOFError):
        return {}
    return manifests if isinstance(manifests, dict) else {}
