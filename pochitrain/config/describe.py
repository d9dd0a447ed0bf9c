"""Settings as people and files see them: plain values, with a short text for what is code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pochitrain.config.fields import Settings
from pochitrain.config.inject import name_of
from pochitrain.config.schema import Config

_PASSWORD = re.compile(r"(://[^/:@\s]+):[^/@\s]+@")


def plain_settings(config: Config) -> dict[str, Any]:
    """Return every setting with its resolved value, ready for JSON."""
    return {name: plain_value(getattr(config, name)) for name in Config.model_fields}


def plain_value(value: Any) -> Any:
    """Return numbers, texts, lists and dicts as they are, and for anything else a text without memory addresses.

    The password in a URL (of the database of a search) becomes `***`: what comes out is shown and stored.
    """
    if isinstance(value, str):
        return _PASSWORD.sub(r"\1:***@", value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Settings):
        return {name: plain_value(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(item) for item in value]
    if hasattr(value, "__name__") or " object at 0x" in repr(value)[:200]:
        return name_of(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
