"""A transform made of torchvision's parts as plain values, and back: a model file then needs no config file."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import torch
from torchvision import transforms
from torchvision.transforms import v2

from pochitrain.config.canonical import canonical
from pochitrain.errors import ConfigError

_MODULES = {"v1": transforms, "v2": v2}


def describe_transform(transform: Any) -> dict[str, Any] | None:
    """Return a transform as {"name": "v1.Resize", "arguments": {…}}, nested; None when it is more than known parts.

    The description is tried out: what it builds must be equal to the original in every attribute.
    """
    try:
        description = _describe(transform)
        same = canonical({"transform": rebuild_transform(description)}) == canonical({"transform": transform})
    except (_Unknown, ConfigError):
        return None
    return description if same else None


def rebuild_transform(description: dict[str, Any]) -> Any:
    """Return the transform that `describe_transform` described. Only classes of torchvision.transforms are called."""
    value = _rebuild(description)
    if not callable(value):
        raise _Unknown(str(description))
    return value


class _Unknown(TypeError):
    """Something that has no plain description."""


def _describe(value: Any) -> Any:
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_describe(item) for item in value]}
    if isinstance(value, list | torch.nn.ModuleList):
        return [_describe(item) for item in value]
    if isinstance(value, transforms.InterpolationMode):
        return {"interpolation": value.value}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    for version, module in _MODULES.items():
        cls = type(value)
        if getattr(module, cls.__name__, None) is cls:
            names = [name for name in inspect.signature(cls).parameters if name not in ("args", "kwargs")]
            missing = [name for name in names if not hasattr(value, name)]
            if missing:
                raise _Unknown(f"{cls.__name__}.{missing[0]}")
            arguments = {name: _describe(getattr(value, name)) for name in names}
            return {"name": f"{version}.{cls.__name__}", "arguments": arguments}
    raise _Unknown(type(value).__name__)


def _rebuild(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuild(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_rebuild(value["tuple"]))
    if "interpolation" in value:
        return transforms.InterpolationMode(value["interpolation"])
    if "dtype" in value:
        dtype = getattr(torch, value["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise _Unknown(value["dtype"])
        return dtype
    version, _dot, name = str(value.get("name")).partition(".")
    cls = getattr(_MODULES.get(version), name, None)
    if not inspect.isclass(cls):
        raise _Unknown(str(value.get("name")))
    return cls(**{key: _rebuild(item) for key, item in value.get("arguments", {}).items()})
