"""What can be said of a setting: its documentation, whether it is part of the identity, which values it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from annotated_types import Unit
from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from pochitrain.config.fields import Settings
from pochitrain.config.schema import Config
from pochitrain.locale import _

# What settings are called elsewhere.
_SYNONYMS = {
    **dict.fromkeys(("lr", "base_lr", "initial_lr"), "learning_rate"),
    **dict.fromkeys(("num_epochs", "n_epochs", "max_epochs", "total_epochs"), "epochs"),
    **dict.fromkeys(("bs", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("workers", "n_workers"), "num_workers"),
    **dict.fromkeys(("train_dir", "train_root", "train_path", "data_dir", "data_root", "data_path"), "train_data_root"),
    **dict.fromkeys(("val_dir", "val_root", "val_path", "valid_dir", "test_dir"), "val_data_root"),
    **dict.fromkeys(("random_seed", "random_state", "manual_seed"), "seed"),
    **dict.fromkeys(("amp", "use_amp", "fp16", "bf16", "mixed_precision"), "precision"),
    **dict.fromkeys(("arch", "backbone", "architecture"), "model_name"),
    **dict.fromkeys(("net", "network"), "model"),
    **dict.fromkeys(("criterion", "loss_fn"), "loss"),
    **dict.fromkeys(("output_dir", "save_dir", "log_dir"), "work_dir"),
    **{name: f"optimizer_params.{name}" for name in ("weight_decay", "momentum", "nesterov", "betas")},
    **{name: f"scheduler_params.{name}" for name in ("gamma", "step_size", "milestones", "T_max", "eta_min")},
}


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


def split_key(key: str) -> tuple[str, list[str]]:
    """Return (setting, members) of a key beside the file: `scheduler_gamma` is the member gamma of its params."""
    name, *members = full_name(key).split(".")
    if members[:1] == ["layer_rates"] and members[1:]:  # a pattern may hold dots itself
        members = ["layer_rates", ".".join(members[1:])]
    return name, members


def settings_meant() -> dict[str, str]:
    """Return which setting (dotted) is meant by a member without its dict, or by a name that other programs use."""
    members = [name for name, _info in walk_settings() if "." in name]
    return {name.rpartition(".")[2]: name for name in members} | _SYNONYMS


def as_written(name: str) -> str:
    """Return a dotted setting as a file writes it: `early_stopping["patience"]`."""
    top, _dot, member = name.rpartition(".")
    return f'{top}["{member}"]' if top else name


def documentation(info: FieldInfo, japanese: bool) -> str:
    """Return the one line that documents a setting."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    assert info.description
    return str(extra["description_ja"]) if japanese else info.description


def accepted(info: FieldInfo, location: Sequence[int | str] = ()) -> str:
    """Return in words which values a setting takes, for tables and messages.

    Args:
        location: where in a list or dict, as pydantic says it: an index, a key, or a key and "[key]".
    """
    item = _item(info.annotation, location)
    return _one_of(_type_words(info.annotation, info.metadata) if item is None else _type_words(item, ()))


def item_name(name: str, info: FieldInfo, location: Sequence[int | str]) -> str:
    """Return the name of what such a location of a setting means."""
    if _item(info.annotation, location) is None:
        return name
    return _("a key of {name}", name=name) if "[key]" in location else f"{name}[{location[-1]!r}]"


def _item(annotation: Any, location: Sequence[int | str]) -> Any | None:
    """Return the annotation of what a list or dict holds at a location; None: the location names no item."""
    if hasattr(annotation, "__metadata__"):
        return _item(annotation.__origin__, location)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return arguments["[key]" not in location] if location else None
    if origin is list:
        return arguments[0] if any(isinstance(part, int) for part in location) else None
    return next((item for a in arguments if (item := _item(a, location)) is not None), None)


def takes_text(info: FieldInfo) -> bool:
    """Tell whether a text is among the values of a setting, other than one of a few names."""
    return _("a text") in _type_words(info.annotation, info.metadata)


def takes_code(annotation: Any, metadata: Sequence[Any] = ()) -> bool:
    """Tell whether a function or an object of the user's is among the values of a setting, or in a list of it."""
    marks = [*metadata, *getattr(annotation, "__metadata__", ())]
    return any(isinstance(mark, WithJsonSchema) for mark in marks) or any(map(takes_code, get_args(annotation)))


def _one_of(words: list[str]) -> str:
    return _(" or ").join(dict.fromkeys(words))


_LENGTHS = ("min_length", "max_length")
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
    units = {"points": _("points"), "inches": _("inches")}
    limit += "".join(f" {units[m.unit]}" for m in metadata if isinstance(m, Unit))
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
        item = _one_of(_type_words(arguments[0], ()))
        shortest, longest = (next((getattr(m, k) for m in metadata if hasattr(m, k)), None) for k in _LENGTHS)
        if shortest in (None, 1):
            return [_("a list (each {item})", item=item)]
        if shortest == longest:
            return [_("a list of {count} (each {item})", count=shortest, item=item)]
        return [_("a list of at least {count} (each {item})", count=shortest, item=item)]
    if origin is dict:
        return [_("a dict")]
    return [word for a in arguments for word in _type_words(a, metadata)]
