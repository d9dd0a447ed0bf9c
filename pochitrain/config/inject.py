"""Call a part of the user's with the settings that it names in its signature.

A part is any callable that a setting holds: a model, a data set, a loss. It receives by name what it asks for, out of
one merged dictionary: defaults in the signature of the data set < adapter < model < what the file says. So a model can
know a value of the data set, and the other way round, without either importing the other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pochitrain.config.fields import is_identity
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError
from pochitrain.locale import _

# What the command does, which no part is told: `train` is what data sets call their split.
OF_THE_COMMAND = ("train", "test")
_TORCH_MODULE = "torch.nn.modules.module"  # its __init__ takes **settings and refuses each
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by name; empty for a builtin without a signature."""
    if isinstance(part, type):
        maker = next(base for base in part.__mro__ if "__init__" in vars(base))
        if maker.__module__ == _TORCH_MODULE:  # a class without an __init__ of its own
            return {}
    try:
        return dict(inspect.signature(part).parameters)
    except (TypeError, ValueError):
        return {}


def name_of(part: object) -> str:
    """Return the name under which a reader knows a part."""
    if isinstance(part, functools.partial):
        return name_of(part.func)
    return getattr(part, "__name__", type(part).__name__)


def named_values(part: Callable[..., Any], values: Mapping[str, Any], positional: int = 0) -> dict[str, Any]:
    """Return those of `values` that `part` names, all of them when it takes `**settings`.

    Only by name, never by `**settings`, come settings that promise to leave the weights alone.

    Args:
        positional: so many leading parameters are given by position and are left out.
    """
    chosen: dict[str, Any] = {}
    for index, (name, parameter) in enumerate(parameters(part).items()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            first = list(parameters(part))[:positional]
            rest = {key: value for key, value in values.items() if key not in first and not _is_operational(key)}
            chosen = {**rest, **chosen}
        elif index >= positional and name in values and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            chosen[name] = values[name]
    bound = part.keywords if isinstance(part, functools.partial) else {}  # what the user bound stays bound
    return {name: value for name, value in chosen.items() if name not in bound}


def _is_operational(name: str) -> bool:
    info = Config.model_fields.get(name)
    return info is not None and not is_identity(info)


def call_part(setting: str, part: Callable[..., Any], values: Mapping[str, Any], *arguments: Any) -> Any:
    """Call `part` with `arguments` by position and the settings that it names.

    Raises:
        ConfigError: a parameter without default is named neither by a setting nor by a value in the file.
    """
    given = named_values(part, values, len(arguments))
    missing = [
        name
        for index, (name, parameter) in enumerate(parameters(part).items())
        if index >= len(arguments)
        and parameter.default is inspect.Parameter.empty
        and parameter.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        and name not in given
    ]
    if missing:
        raise ConfigError(
            _("{part} needs {names}, which no setting gives", part=name_of(part), names=", ".join(missing)),
            setting,
            _("define {name} in the config file, or give the parameter a default", name=missing[0]),
        )
    try:
        return part(*arguments, **given)
    except SystemExit as error:
        what = _("{part} ended the program: sys.exit({code})", part=name_of(part), code=repr(error.code))
        raise ConfigError(what, setting, _("raise an error that says why")) from error


def signature_defaults(part: object) -> dict[str, Any]:
    """Return the defaults in a part's signature, which other parts may name too."""
    if not callable(part):
        return {}
    return {
        name: parameter.default
        for name, parameter in parameters(part).items()
        if parameter.default is not inspect.Parameter.empty
    }


def tells_splits(dataset: Callable[..., Any]) -> bool:
    """Tell whether a data set of the user's can have a validation part: it names what tells the two apart."""
    return not {"split", "train", "root"}.isdisjoint(parameters(dataset))


def part_values(config: Config, **resolved: Any) -> dict[str, Any]:
    """Return every value that a part may name.

    Args:
        resolved: what only the run knows (`num_classes`, `classes`, `split` …); stands above all others.
    """
    settings = {name: getattr(config, name) for name in Config.model_fields if name not in OF_THE_COMMAND}
    return {
        **settings,
        **signature_defaults(config.dataset),
        **signature_defaults(config.model),
        **config.origin.helpers,
        **{name: value for name, value in settings.items() if name in config.model_fields_set},
        **resolved,
    }
