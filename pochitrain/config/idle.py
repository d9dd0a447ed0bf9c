"""What was given and cannot take effect: it belongs to what is switched off, nobody asks for it, it is no setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pochitrain.config.fields import Settings
from pochitrain.config.identity import PARTS
from pochitrain.config.inject import name_of, named_values
from pochitrain.config.mistakes import Where
from pochitrain.config.schema import Config
from pochitrain.config.source import source_text
from pochitrain.config.words import as_written, settings_meant
from pochitrain.locale import _

# Settings, and the switch without which they have no say.
_NEEDS = {
    "scheduler_params": "scheduler",
    "layer_wise_lr_config": "enable_layer_wise_lr",
    "early_stopping.patience": "early_stopping.enabled",
    "early_stopping.min_delta": "early_stopping.enabled",
    "gradient_tracking_config": "enable_gradient_tracking",
    "plots": "enable_metrics_export",
}
# Settings, and what takes their place.
_REPLACED = {"model_name": "model", "pretrained": "model"}


def idle_settings(config: Config) -> list[str]:
    """Return a line for each setting that was given and has no effect.

    A config may keep the settings of a feature that it switches off itself. What is told is a switch that nobody
    touched, and settings that were given nearer to the reader than the switch: beside the file, or in a file that
    imports the one in which it is off.
    """
    where = Where(config.origin.path, config.origin.text, config.origin.overrides)
    lines = []
    for setting, switch in {**_NEEDS, **_REPLACED}.items():
        value = _value(config, switch)
        if bool(value) == (setting in _NEEDS) or _asked_for(config, setting):
            continue
        for name in _given(config, setting):
            if not _written(config, switch) or where.nearness(name) > where.nearness(switch):
                lines.append(_off(name, switch, value))
    return [*lines, *_of_the_split(config), *_of_own_parts(config), *_of_tracing(config), *_no_settings(config, where)]


def _no_settings(config: Config, where: Where) -> Iterator[str]:
    """Yield the plain values of the file that are no settings and that nothing reads."""
    meant, assigned = settings_meant(), where.assigned
    for name, value in config.origin.helpers.items():
        plain = isinstance(value, bool | int | float | str | list | tuple | dict) or name in meant
        if not plain or name not in assigned.own or name in where.read or _asked_for(config, name):
            continue
        if name in meant:
            near = as_written(meant[name])
            yield _("{name} is no setting, and nothing reads it: did you mean {near}?", name=name, near=near)
        elif name not in assigned.unpacked:
            yield _("{name} is no setting, and nothing reads it", name=name)


def _of_the_split(config: Config) -> Iterator[str]:
    for name in ("val_fraction", "group_by"):
        if not _given(config, name) or _asked_for(config, name):
            continue
        if config.dataset is not None:
            yield _off(name, "dataset", config.dataset)
        elif config.val_data_root != "auto":
            yield _off(name, "val_data_root", config.val_data_root)


def _of_own_parts(config: Config) -> Iterator[str]:
    """Yield what the user's own parts are given and do not ask for."""
    if isinstance(config.class_weights, list) and config.loss is not None and not _takes_weights(config.loss):
        yield _unnamed("class_weights", config.loss)
    for part, setting in ((config.optimizer, "optimizer_params"), (config.scheduler, "scheduler_params")):
        if callable(part) and not isinstance(part, type) and not _asked_for(config, setting):
            given = getattr(config, setting) or {}
            taken = named_values(part, given, positional=1)
            yield from (_unnamed(f"{setting}.{name}", part) for name in given if name not in taken)
    if config.train_epoch is not None and _given(config, "checkpoint_every_minutes"):
        yield _off("checkpoint_every_minutes", "train_epoch", config.train_epoch)


def _of_tracing(config: Config) -> Iterator[str]:
    """Yield why the gradients that are to be traced are not."""
    if not config.enable_gradient_tracking:
        return
    if config.train_epoch is not None and not _traces(config.train_epoch):
        yield _off("enable_gradient_tracking", "train_epoch", config.train_epoch)
    elif any(re.search(pattern, "\0") for pattern in config.gradient_tracking_config.exclude_patterns):
        # What matches this matches any name.
        yield _("enable_gradient_tracking has no effect: exclude_patterns leaves every parameter out")


def _traces(train_epoch: Any) -> bool:
    """Tell whether an epoch of the user's may see to the gradients itself, or calls the one that does."""
    code = getattr(train_epoch, "__code__", None)
    text = source_text(code.co_filename, train_epoch.__globals__) if code else "gradients"
    return re.search(r"\bgradients\b|pochitrain\.engine", text) is not None


def _takes_weights(loss: Any) -> bool:
    made = loss.func if isinstance(loss, partial) else loss
    if hasattr(made, "state_dict") and not isinstance(made, type):
        return False  # a module is taken as it is
    return bool(named_values(loss, dict.fromkeys(("class_weights", "weight")), 0 if isinstance(made, type) else 2))


def _off(name: str, switch: str, value: Any) -> str:
    shown = name_of(value) if callable(value) else repr(value)
    return _("{name} has no effect: {switch} is {value}", name=name, switch=switch, value=shown)


def _unnamed(name: str, part: Any) -> str:
    return _("{name} has no effect: {part} does not name it", name=name, part=name_of(part))


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _given(config: Config, name: str) -> list[str]:
    """Return the setting if the config gives it a value; of one that is a dict, the members that it gives."""
    return [written for written in _written(config, name) if _value(config, written) not in (None, [], {})]


def _written(config: Config, name: str) -> list[str]:
    top, _dot, member = name.partition(".")
    if top not in config.model_fields_set:
        return []
    inner = getattr(config, top)
    if not isinstance(inner, Settings):
        return [name]
    return [f"{top}.{key}" for key in type(inner).model_fields if key in inner.model_fields_set and member in ("", key)]


def _asked_for(config: Config, name: str) -> bool:
    """Tell whether a part of the user's asks for the setting by name."""
    top = name.partition(".")[0]
    parts = [part for setting in (*PARTS, "adapter") if _is_asked(part := getattr(config, setting), setting)]
    parts += config.plots if config.enable_metrics_export else []
    return any(named_values(part, {top: None}) for part in parts)


def _is_asked(part: Any, setting: str) -> bool:
    """Tell whether a part is called with what it names: not an object with weights, nor one of torch's classes."""
    if isinstance(part, type):
        return setting not in ("optimizer", "scheduler")
    return callable(part) and not hasattr(part, "state_dict")
