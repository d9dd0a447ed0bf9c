"""What can be said of a setting: its documentation, whether it is part of the identity, which values it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from pochitrain.config.fields import Settings
from pochitrain.config.schema import Config
from pochitrain.locale import _


def walk_settings(model: type[Settings] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted name, field) of every setting, a dict-valued one before its members."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        if (inner := inner_model(info)) is not None:
            yield from walk_settings(inner, f"{prefix}{name}.")


def inner_model(info: FieldInfo) -> type[Settings] | None:
    """Return the model of a dict-valued setting, None for any other."""
    return info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, Settings) else None


def full_name(key: str) -> str:
    """Return the dotted setting that a key beside the file means: `scheduler_gamma` is `scheduler_params.gamma`."""
    if key.startswith("scheduler_") and "." not in key and key not in Config.model_fields:
        return "scheduler_params." + key.removeprefix("scheduler_")
    return key


def documentation(info: FieldInfo, japanese: bool) -> str:
    """Return the one line that documents a setting."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    assert info.description
    return str(extra["description_ja"]) if japanese else info.description


def accepted(info: FieldInfo) -> str:
    """Return in words which values a setting takes, for tables and messages."""
    return _one_of(_type_words(info.annotation, info.metadata))


def _one_of(words: list[str]) -> str:
    return _(" or ").join(dict.fromkeys(words))


_LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}


def _type_words(annotation: Any, metadata: Any) -> list[str]:
    metadata = [part for m in metadata for part in (m.metadata if isinstance(m, FieldInfo) else [m])]
    if hasattr(annotation, "__metadata__"):
        return _type_words(annotation.__origin__, metadata + list(annotation.__metadata__))
    code = next((m.json_schema for m in metadata if isinstance(m, WithJsonSchema)), None)
    if code:
        kinds = {
            "transform": _("a callable: PIL image → float tensor (3, H, W)"),
            "part": _("a callable, or a name in registry.json"),
            "callable": _("a callable"),
        }
        return [*(repr(name) for name in code.get("examples", ())), kinds[code["description"]]]
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [_("a dict")]
    limits = [_LIMITS[k].format(getattr(m, k)) for m in metadata for k in _LIMITS if getattr(m, k, None) is not None]
    limit = " " + ", ".join(limits) if limits else ""
    names: dict[Any, str] = {
        bool: "True / False",
        int: _("an integer"),
        float: _("a number"),
        str: _("a text"),
        type(None): "None",
    }
    if annotation in names:
        return [names[annotation] + (limit if annotation in (int, float) else "")]
    origin, arguments = getattr(annotation, "__origin__", None), get_args(annotation)
    if origin is Literal:
        return [repr(a) for a in arguments]
    if origin is list:
        return [_("a list, each {item}", item=_one_of(_type_words(arguments[0], ())))]
    if origin is dict:
        return [_("a dict")]
    return [word for a in arguments for word in _type_words(a, metadata)]
