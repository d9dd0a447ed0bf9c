"""The id of an experiment: a digest of everything that determines the weights at epoch k.

That is: every setting that is declared so in the schema, the user's own code which those values reach, the values in
the file that a part of the user's asks for by name, and the data. What only says when to stop, where to run, where to
write or what to watch is left out. A setting that equals its default is left out too, so that a setting added by a
later version leaves every old id alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from pochitrain.config.canonical import canonical, difference, digest, readers
from pochitrain.config.fields import Settings, is_identity
from pochitrain.config.inject import OF_THE_COMMAND, named_values, parameters
from pochitrain.config.schema import Config

VERSION = "1"
ORDERED = ("layer_wise_lr_config.layer_rates",)  # the first match wins, so the order means something

# What these mean for the weights, the data's digests say; a device changes rounding only.
_SAID_OTHERWISE = ("train_data_root", "val_data_root", "val_fraction", "group_by", "num_classes", "device")
PARTS = ("model", "loss", "dataset", "train_epoch", "optimizer", "scheduler")


@dataclass(frozen=True)
class Identity:
    """What an id is made of."""

    settings: dict[str, str]  # what `canonical_settings` returned
    data: dict[str, str]  # `data.train` and `data.val` → digest of what is read

    @property
    def id(self) -> str:
        """The full id, 64 hex digits."""
        return digest({"version": VERSION, "settings": digest(self.settings), "data": digest(self.data)})


def canonical_settings(config: Config) -> dict[str, str]:
    """Return the flat map path → leaf of all settings in the identity; equal maps train equal weights on equal data.

    Raises:
        ConfigError: with every value that has no stable identity (an open file, a lock, a generator).
    """
    values, helpers = _values(config)
    # The user's part may iterate over a dict that it asks for, so the order of its keys may mean something.
    return canonical({**values, **helpers}, ordered=(*ORDERED, *helpers))


def setting_readers(config: Config, names: Collection[str]) -> list[tuple[FunctionType, str]]:
    """Return (function, name) for each function in the identity that reads a setting as a global of its module.

    Such a function knows what its file says, not what `replace_settings` put over it.
    """
    values, helpers = _values(config)
    return readers({**values, **helpers}, names)


def _values(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings in the identity, and what the parts ask for besides."""
    values = dict(_identity_values(config))
    if not config.enable_layer_wise_lr:
        values.pop("layer_wise_lr_config", None)
    if config.scheduler is None:
        values.pop("scheduler_params", None)
    if config.model is not None:
        values.pop("model_name", None)
        values.pop("pretrained", None)
    return values, _asked_for(config)


def settings_difference(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return a line for each setting in which two canonical maps differ: "optimizer Adam → SGD", defaults included."""
    filled = [dict(old), dict(new)]
    for name, info in Config.model_fields.items():
        there = [any(path.partition(".")[0].partition("[")[0] == name for path in flat) for flat in filled]
        if there[0] != there[1] and not info.is_required() and not isinstance(info.default, Settings):
            filled[0 if there[1] else 1].update(canonical({name: info.default}))
    return difference(*filled)


def _identity_values(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not is_identity(info):
            continue
        if isinstance(value, Settings):
            value = dict(_identity_values(value))
            if value:
                yield name, value
        elif info.is_required() or type(value) is not type(info.default) or value != info.default:
            yield name, value


def _asked_for(config: Config) -> dict[str, Any]:
    """Return the values that the parts ask for by name and that are not in the identity by themselves.

    Those are values of the file that are no settings, and settings such as `epochs`: what a schedule makes of them
    reaches the weights.
    """
    values: dict[str, Any] = {
        name: getattr(config, name)
        for name, info in Config.model_fields.items()
        if not is_identity(info) and name not in (*_SAID_OTHERWISE, *OF_THE_COMMAND)
    }
    for name, value in config.origin.helpers.items():
        if not isinstance(value, ModuleType | type):
            values[name] = value
    found: dict[str, Any] = {}
    for part in PARTS:
        own = getattr(config, part)
        # An object with weights is called with tensors alone, whatever its signature.
        if callable(own) and (isinstance(own, type) or not hasattr(own, "state_dict")):
            found |= named_values(own, values)
    if config.dataset is not None and {"root", "train_data_root", "val_data_root"} & parameters(config.dataset).keys():
        # What a data set of the user's reads there nobody else can tell, so the place stands for it.
        found |= {name: getattr(config, name) for name in ("train_data_root", "val_data_root")}
    return found
