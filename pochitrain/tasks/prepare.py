"""From a config file to an experiment that is known but not yet begun. Nothing is written here."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochitrain.config.identity import canonical_settings, difference, experiment_id
from pochitrain.config.loader import InvalidConfig, load_config
from pochitrain.config.schema import Config
from pochitrain.data.decode import display_name
from pochitrain.data.folder import manifest_difference
from pochitrain.data.source import Data
from pochitrain.errors import ConfigError, Problem
from pochitrain.experiment import Experiment, find_experiments
from pochitrain.locale import _
from pochitrain.parts.models import check_model, display_name
from pochitrain.parts.optim import check_optimization


@dataclass(frozen=True)
class Plan:
    """An experiment with all that its id is made of."""

    config: Config
    data: Data
    experiment: Experiment
    canonical: dict[str, str]  # path → leaf: settings, code and digests of the data


def checked_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Load a config file and check it against what torch and torchvision know.

    The file is executed twice: a value that differs between two executions (the time, a random number) would make an
    experiment that nobody finds again.

    Raises:
        ConfigError: with every mistake at once.
    """
    try:
        config = load_config(path, overrides)
    except InvalidConfig as error:
        assert error.partial is not None
        problems = [p for p in check_parts(error.partial) if p.where.split(".")[0] not in error.wrong]
        raise ConfigError(problems=[*error.problems, *problems]) from None
    if problems := check_parts(config):
        raise ConfigError(problems=problems)
    first = canonical_settings(config)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        config = load_config(path, overrides)
    if unstable := difference(first, canonical_settings(config)):
        raise ConfigError(
            _("The config gives other values each time it is executed"),
            "\n    ".join(unstable[:10]),
            _("write fixed values: the time, random numbers and new ids do not belong into settings"),
        )
    return config


def check_parts(config: Config) -> list[Problem]:
    """Return the mistakes in a config that only torch and torchvision can see."""
    return check_model(config) + check_optimization(config)


def plan(config: Config, data: Data) -> Plan:
    """Return the experiment of a config on its data."""
    canonical = canonical_settings(config)
    full_id = experiment_id(canonical, data.digests)
    experiment = Experiment.at(Path(config.work_dir), task_name(config), display_name(config), full_id)
    return Plan(config, data, experiment, {**canonical, **data.digests})


def task_name(config: Config) -> str:
    """Return the setting `task`, or the config file's name without suffix."""
    if config.task:
        return config.task
    return config.origin.path.stem if config.origin.path else "task"


def why_new(plan: Plan, limit: int = 6) -> list[str]:
    """Return what distinguishes a new experiment from the nearest one of the same task, a line each; [] without any.

    "learning_rate 0.001 → 0.002", "data.train +3 −1 ~2 files". The first line names the nearest experiment.
    """
    root = Path(plan.config.work_dir)
    others = [info for info in find_experiments(root) if info.task == task_name(plan.config)]
    nearest: tuple[int, Experiment, dict[str, str]] | None = None
    for info in others:
        canonical = read_identity(info.experiment)
        if canonical is None or info.experiment.id == plan.experiment.id:
            continue
        keys = canonical.keys() | plan.canonical.keys()
        distance = sum(canonical.get(key) != plan.canonical.get(key) for key in keys)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, info.experiment, canonical)
    if nearest is None:
        return []
    _distance, other, canonical = nearest
    settings = [{k: v for k, v in flat.items() if not k.startswith("data.")} for flat in (canonical, plan.canonical)]
    lines = difference(*settings)
    lines += [_data_line(name, plan, other) for name in ("data.train", "data.val") if _differs(name, canonical, plan)]
    if len(lines) > limit:
        lines = [*lines[:limit], _("and {count} more", count=len(lines) - limit)]
    return [other.dir.name, *lines]


def _differs(name: str, canonical: Mapping[str, str], plan: Plan) -> bool:
    return canonical.get(name) != plan.canonical.get(name)


def _data_line(name: str, plan: Plan, other: Experiment) -> str:
    split = plan.data.train if name == "data.train" else plan.data.val
    old = read_data_manifest(other).get(name)
    if old is None or split is None or "labels" in split.manifest:
        return _("{name} changed", name=name)
    added, removed, changed = manifest_difference(old, split.manifest)
    return _("{name} +{added} −{removed} ~{changed} files", name=name, added=added, removed=removed, changed=changed)


def read_identity(experiment: Experiment) -> dict[str, str] | None:
    """Return the canonical settings that an experiment was made of, None when they cannot be read."""
    try:
        canonical = json.loads(experiment.identity_json.read_text(encoding="utf-8"))["canonical"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return canonical if isinstance(canonical, dict) else None


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
            writer.writerow((display_name(path), data.classes[label], name))
    return text.getvalue()


def read_data_manifest(experiment: Experiment) -> dict[str, Any]:
    """Return split → manifest of the data that an experiment was trained on; {} when it cannot be read."""
    try:
        manifests = json.loads(gzip.decompress(experiment.data_manifest.read_bytes()))
    except (OSError, ValueError, EOFError):
        return {}
    return manifests if isinstance(manifests, dict) else {}
