"""What all trials of a study have in common: a storage continues a study with nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pochitrain.config.canonical import canonical, digest
from pochitrain.config.canonical.leaves import key_text
from pochitrain.config.describe import plain_value
from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import InvalidConfig, replace_settings
from pochitrain.config.schema import Config
from pochitrain.config.search import Dimension
from pochitrain.config.words import split_key
from pochitrain.data.folder import manifest_digest
from pochitrain.data.source import AUTO, Data, data_manifest
from pochitrain.data.table import list_images
from pochitrain.tasks.search_space import ROOTS


def made_of(config: Config, data: Data) -> dict[str, str]:
    """Return the settings that are not searched, what is searched and what each choice means, the data, the goal.

    Said of ranges is their kind only: their ends may change, and Optuna cannot compare trials of another kind.
    """
    optuna, dimensions = config.optuna, config.optuna.dimensions()
    corner = {"epochs": optuna.optuna_epochs, **{d.name: d.value(d.extremes()[0]) for d in dimensions}}
    first = _form(config, corner)
    common = dict(first)
    for dimension in dimensions:
        key = f"optuna.search_space.{dimension.name}"
        if dimension.kind == "categorical":
            common[key] = f"categorical {dimension.labels!r}"
            for n, choice in enumerate(dimension.choices):
                form = _changed(first, _form(config, {**corner, dimension.name: choice}))
                told = digest(form | _data(config, dimension, choice))[:12]
                common[f"{key}.choices[{n}]"] = f"choice:{dimension.labels[n]} {told}"
        else:
            common[key] = f"{dimension.kind} {'(log)' if dimension.log else '(linear)'}"
            name, members = split_key(dimension.name)
            common.pop(name + "".join(map(key_text, members)), None)
    goal = {"optuna_epochs": optuna.optuna_epochs, "metric": optuna.metrics, "direction": optuna.directions}
    return {**common, **data.digests, **{f"optuna.{name}": repr(value) for name, value in goal.items()}}


def _form(config: Config, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what a training with these values is, and what decides about its best epoch."""
    try:
        made = replace_settings(config, values)
    except InvalidConfig as error:  # they fit with other choices only
        made = error.partial
    decisive = {"early_stopping": plain_value(made.early_stopping)}
    if {*ROOTS} & config.optuna.search_space.keys():  # otherwise the digests of the data say it
        decisive |= {"val_fraction": made.val_fraction, "group_by": made.group_by}
    return canonical_settings(made) | canonical(decisive)


def _changed(first: Mapping[str, str], form: Mapping[str, str]) -> dict[str, str]:
    return {path: form.get(path, "") for path in first.keys() | form.keys() if form.get(path) != first.get(path)}


def _data(config: Config, dimension: Dimension, root: Any) -> dict[str, str]:
    """Return what lies in a folder or table that is searched; what a data set of the user's reads nobody can tell."""
    if dimension.name not in ROOTS or config.dataset is not None or root in (None, AUTO):
        return {}
    root = os.fspath(root)
    return {"data": manifest_digest(data_manifest(list_images(root), root))}
