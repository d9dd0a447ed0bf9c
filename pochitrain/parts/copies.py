"""Copies of the objects that a config holds: a training changes them, and the config is what was written."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from pochitrain.config.inject import name_of
from pochitrain.errors import ConfigError
from pochitrain.locale import _

# What copying raises: for open files, locks, generators, tensors that follow from others, and what classes refuse.
NOT_COPYABLE = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    RuntimeError,
    OSError,
    copy.Error,
    pickle.PickleError,
)


def own_copy(setting: str, part: Any) -> Any:
    """Return a copy of an object of the user's; functions and classes are returned as they are.

    Raises:
        ConfigError: it cannot be copied.
    """
    try:
        return copy.deepcopy(part)
    except NOT_COPYABLE as error:
        raise ConfigError(
            _("{name} cannot be copied: {reason}", name=name_of(part), reason=error),
            setting,
            _("give the function or class that makes it, and each training makes its own"),
        ) from error
