"""The parts that canonical maps are made of: leaves, names, and what a description of a value consists of."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pochitrain.config.source import is_user_code

Parts = list[tuple[str, Any]]
"""What is inside a value: what to append to its path, and the inner value"""

_TEXT_TYPES = {
    *(("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
}


class Leaf(str):
    """A part that is a finished leaf rather than a value."""


@dataclass(frozen=True)
class Held:
    """A tensor that a module trains or updates: it matters whether two modules hold the same one."""

    tensor: Any


@dataclass(frozen=True)
class Made:
    """What `describe` says of a value."""

    leaf: str
    parts: Parts


class Refused(Exception):
    """A value that has no stable identity."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


def plain_leaf(value: Any) -> str | None:
    """Return the leaf of a value that holds no other value, None for any other."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented:
        return f"constant:{value}"
    if kind is bool:
        return f"bool:{value}"
    if kind is int:
        return f"int:{value}" if abs(value) < 1 << 64 else f"int:{hex(value)}"  # str() of a long integer is an error
    if kind is float:
        return f"float:{value.hex()}"
    if kind is complex:
        return f"complex:{value.real.hex()},{value.imag.hex()}"
    if kind is str:
        return f"str:{json.dumps(value)}"
    if kind in (bytes, bytearray):
        return f"{kind.__name__}:{len(value)}:{hashlib.sha256(value).hexdigest()}"
    if isinstance(value, PurePath):
        return f"path:{json.dumps(value.as_posix())}"
    if (kind.__module__, kind.__name__) in _TEXT_TYPES:
        return f"{kind.__name__}:{value}"
    if isinstance(value, logging.Logger | logging.LoggerAdapter):
        return "logger:"  # watches only; its name is often a module's
    return None


def is_users_class(cls: type) -> bool:
    """Tell a class of the user's from a library's; one that cannot be found in its library was made for the user."""
    module = sys.modules.get(cls.__module__)
    if module is None or is_user_code(module):
        return True
    return cls.__module__ == "types" and public_name(cls) is None  # dataclasses.make_dataclass


def public_name(value: Any) -> str | None:
    """Return the dotted name under which a library gives this very object, without its private parts, or None."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if module is None or is_user_code(module) or not isinstance(name, str):
        return None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{public(module.__name__)}.{name}" if found is value else None


def public(module: str) -> str:
    """Return the name of a library's module without its private parts, which move from version to version."""
    top, *rest = module.split(".")
    return ".".join([top.lstrip("_"), *(part for part in rest if not part.startswith("_"))])


def class_name(cls: type) -> str:
    """Return the name of a class for a leaf; the module of the user's own does not count, it may be renamed."""
    return cls.__qualname__ if is_users_class(cls) else f"{public(cls.__module__)}.{cls.__qualname__}"


def key_text(key: str) -> str:
    """Return how a path goes on to a member or attribute of this name."""
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


def own_class(value: Any) -> Parts:
    return [(".<class>", type(value))] if is_users_class(type(value)) else []


def attributes(members: dict[Any, Any]) -> Parts:
    return [(key_text(str(name)), item) for name, item in sorted(members.items(), key=lambda pair: str(pair[0]))]
