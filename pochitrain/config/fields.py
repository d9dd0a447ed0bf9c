"""How a setting is declared, and the types that settings have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pochitrain.locale import _

OPTIMIZERS = ("Adam", "AdamW", "SGD")
NAME_BYTES = 255  # of a file or folder, on every common file system
SCHEDULERS = ("StepLR", "MultiStepLR", "CosineAnnealingLR", "ExponentialLR", "LinearLR", "ReduceLROnPlateau")


def setting(default: Any = ..., *, en: str, ja: str, identity: bool = True, **constraints: Any) -> Any:
    """Declare one setting. `identity=False` promises that it leaves the weights of an epoch bit-identical."""
    return Field(default, description=en, json_schema_extra={"description_ja": ja, "identity": identity}, **constraints)


def is_identity(info: FieldInfo) -> bool:
    """Return what `setting` was told."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    return bool(extra["identity"])


def plain(value: Any) -> Any:
    """Turn NumPy and torch values into the Python values that they stand for."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _path(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) or hasattr(value, "__fspath__") else value


def _folder_name(value: Any) -> Any:
    """Refuse what is no path's one part: a separator in it, only dots and spaces, more bytes than a name may have."""
    if isinstance(value, str) and (
        not value.strip(" .\t\n")
        or not {"/", "\\", "\0"}.isdisjoint(value)
        or len(value.encode(errors="replace")) > NAME_BYTES
    ):
        raise PydanticCustomError("no_folder_name", "folder name")
    return value


def _device(value: Any) -> Any:
    """Return the name that torch gives a device: `torch.device("cpu")` and "CPU" are "cpu"."""
    of_torch = hasattr(value, "type") and hasattr(value, "index")
    return str(value).lower() if isinstance(value, str) or of_torch else value


def _callable(value: Any) -> Any:
    if not callable(value):
        raise PydanticCustomError("not_callable", "callable")
    return value


def _callable_or_name(value: Any) -> Any:
    if not (callable(value) or (isinstance(value, str) and value)):
        raise PydanticCustomError("not_callable", "callable or registry name")
    return value


def _choice_or_callable(names: tuple[str, ...], unsupported: Callable[[str], str]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if callable(value) or value in names:
            return value
        raise PydanticCustomError("unsupported_name", "{what}", {"what": unsupported(str(value)), "names": list(names)})

    return check


def _pattern(value: Any) -> Any:
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise PydanticCustomError("bad_pattern", "{reason}", {"reason": str(error)}) from error
    return value


def _unsupported_optimizer(name: str) -> str:
    return _("Unsupported optimizer: {name}", name=name)


def _unsupported_scheduler(name: str) -> str:
    return _("Unsupported scheduler: {name}", name=name)


def _words(kind: str, names: tuple[str, ...] = ()) -> WithJsonSchema:
    """What the JSON schema and `accepted` say of a value that is code."""
    return WithJsonSchema({"description": kind, **({"examples": list(names)} if names else {})})


PathText = Annotated[str, BeforeValidator(_path), Field(min_length=1)]
FolderName = Annotated[str, BeforeValidator(_folder_name)]
Device = Annotated[str, BeforeValidator(_device)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Transform = Annotated[Any, BeforeValidator(_callable), _words("transform")]
Part = Annotated[Any, BeforeValidator(_callable_or_name), _words("part")]
Function = Annotated[Any, BeforeValidator(_callable), _words("callable")]
Optimizer = Annotated[
    Any,
    BeforeValidator(_choice_or_callable(OPTIMIZERS, _unsupported_optimizer)),
    _words("callable", OPTIMIZERS),
]
Scheduler = Annotated[
    Any,
    BeforeValidator(_choice_or_callable(SCHEDULERS, _unsupported_scheduler)),
    _words("callable", SCHEDULERS),
]
Weights = Annotated[list[Annotated[float, Field(ge=0)]] | Literal["uniform"] | None, BeforeValidator(plain)]
Scalar = BeforeValidator(plain)
Int = Annotated[int, Scalar]
Float = Annotated[float, Scalar]


class Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
