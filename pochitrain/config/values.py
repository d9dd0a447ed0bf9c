"""What a value is made of: its leaf, a short text that says everything about it, and the values inside it.

Nothing here uses `repr`, `pickle`, `id` or a file path. Libraries are known by the public name of what they provide
and by its state. NumPy and torch are looked up in `sys.modules`: this room never imports them.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import io
import json
import logging
import pickle
import random
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pochitrain.config.source import is_user_code
from pochitrain.locale import _

Parts = list[tuple[str, Any]]
"""What is inside a value: what to append to its path, and the inner value"""

_TEXT_TYPES = {
    *(("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
}
_NOT_REDUCIBLE = (TypeError, AttributeError, NotImplementedError, ValueError, RuntimeError, pickle.PickleError)
_MODULE_TYPES = ("torch.nn.modules.module", "Module")


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


def describe(value: Any) -> Made:
    """Return what any value is made of, dicts, sets, and the user's own functions, classes and modules excepted.

    Raises:
        Refused: two runs, or two workers of one run, would not see the same value.
    """
    leaf = _plain(value)
    if leaf is not None:
        return Made(leaf, [])
    return _container(value) or _callable(value) or _numpy(value) or _torch(value) or _object(value)


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
    return public(f"{module.__name__}.{name}") if found is value else None


def public(name: str) -> str:
    """Leave out the private parts of a dotted name, which move from version to version."""
    top, *rest = name.split(".")
    return ".".join([top.lstrip("_"), *(part for part in rest if not part.startswith("_"))])


def class_name(cls: type) -> str:
    """Return the name of a class for a leaf; the module of the user's own does not count, it may be renamed."""
    return cls.__qualname__ if is_users_class(cls) else public(f"{cls.__module__}.{cls.__qualname__}")


def key_text(key: str) -> str:
    """Return how a path goes on to a member or attribute of this name."""
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


def _plain(value: Any) -> str | None:
    """Return the leaf of a value that holds no other value."""
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


def _container(value: Any) -> Made | None:
    kind = type(value)
    if kind in (list, tuple):
        return Made(f"{kind.__name__}:{len(value)}", [(f"[{index}]", item) for index, item in enumerate(value)])
    if isinstance(value, enum.Enum):
        own: Parts = [(".<class>", kind)] if is_users_class(kind) else []
        return Made(f"enum:{class_name(kind)}.{value.name}", [*own, *([(".value", value.value)] if not value.name else [])])
    if isinstance(value, re.Pattern):
        return Made(f"pattern:{value.flags}", [(".pattern", value.pattern)])
    return None


def _callable(value: Any) -> Made | None:
    name = public_name(value) if callable(value) else None
    if name is not None:
        return Made(f"library:{name}", [])
    match value:
        case type():
            return Made(f"library:{class_name(value)}", [])
        case types.ModuleType():
            return Made(f"library:{public(value.__name__)}", [])
        case types.FunctionType():
            return _inner_function(value)
        case types.MethodType() | types.BuiltinMethodType() | types.MethodWrapperType():
            return _method(value)
        case types.WrapperDescriptorType() | types.MethodDescriptorType() | types.ClassMethodDescriptorType():
            return Made(f"library:{class_name(value.__objclass__)}.{value.__name__}", [])
        case types.GetSetDescriptorType() | types.MemberDescriptorType():
            return Made(f"library:{class_name(value.__objclass__)}.{value.__name__}", [])
        case staticmethod() | classmethod():
            return Made(type(value).__name__, [(".<function>", value.__func__)])
        case property():
            return Made("property", [(".<get>", value.fget), (".<set>", value.fset), (".<delete>", value.fdel)])
        case functools.cached_property():
            return Made("cached_property", [(".<get>", value.func)])
        case functools.partial():
            bound = [(".<function>", value.func), (".<arguments>", value.args), (".<keywords>", value.keywords)]
            return Made("partial", [*bound, *_attributes(vars(value))])
    if hasattr(type(value), "cache_parameters"):  # functools.lru_cache
        return Made("cached", [(".<function>", value.__wrapped__), (".<cache>", value.cache_parameters())])
    return None


def _inner_function(function: types.FunctionType) -> Made:
    """Describe a function that a library made for the user, as a decorator does: its place, and what it closes over."""
    code = function.__code__
    leaf = f"library:{public(function.__globals__.get('__name__', ''))}.{code.co_qualname}"
    if code.co_qualname.startswith("singledispatch."):
        return Made(leaf, [(".<registry>", dict(function.registry))])  # type: ignore[attr-defined]
    return Made(leaf, [*closure(function), (".<defaults>", function.__defaults__), (".<keywords>", function.__kwdefaults__)])


def closure(function: types.FunctionType) -> Parts:
    """Return the variables around a function that it uses."""
    found: Parts = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((f".{name}", cell.cell_contents))
        except ValueError:
            found.append((f".{name}", Leaf("unbound:")))
    return found


def _method(value: Any) -> Made:
    owner = value.__self__
    if any(owner is generator for generator in _global_generators()):
        return Made(f"library:{public(type(owner).__module__)}.{value.__name__}", [])  # from random import uniform
    if isinstance(value, types.MethodType):
        return Made("method", [(".<function>", value.__func__), (".<object>", owner)])
    if owner is None or isinstance(owner, types.ModuleType | type):
        return Made(f"library:{public(value.__module__ or 'builtins')}.{value.__qualname__}", [])
    return Made(f"method:{value.__name__}", [(".<object>", owner)])


def _numpy(value: Any) -> Made | None:
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if isinstance(value, np.ndarray):
        head = f"array:{_dtype(value.dtype)}{list(value.shape)}"
        inner = [] if type(value) in (np.ndarray, np.memmap) else [(".<class>", type(value)), *_attributes(vars(value))]
        if value.dtype.hasobject:
            return Made(head, [(".<items>", value.tolist()), *inner])
        plain = np.ascontiguousarray(value).view(np.ndarray)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        return Made(f"{head}:{hashlib.sha256(plain.tobytes()).hexdigest()}", inner)
    if isinstance(value, np.generic):
        item = _plain(value.item())
        return Made(f"numpy.{_dtype(value.dtype)}:{item or 'bytes:' + value.tobytes().hex()}", [])
    if isinstance(value, np.dtype):
        return Made(f"numpy.dtype:{_dtype(value)}", [])
    return None


def _dtype(dtype: Any) -> str:
    little = dtype.newbyteorder("<")
    return json.dumps(little.descr) if dtype.names else str(little.str)


def _torch(value: Any) -> Made | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        return _tensor(value, torch)
    if isinstance(value, torch.nn.Module):
        return _module(value, torch)
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return Made(f"torch:{value}", [])
    return None


def _tensor(value: Any, torch: Any) -> Made:
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise Refused(
            _("a sparse, quantized or meta tensor has no stable identity"),
            _("keep a dense tensor, and convert it where it is used"),
        )
    flat = value.detach().cpu().contiguous().resolve_conj().resolve_neg().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    trained = ":trained" if value.requires_grad else ""
    leaf = f"tensor:{str(value.dtype).removeprefix('torch.')}{list(value.shape)}:{hashlib.sha256(raw).hexdigest()}{trained}"
    own = [] if type(value) in (torch.Tensor, torch.nn.Parameter) else [(".<class>", type(value)), *_attributes(vars(value))]
    return Made(leaf, own)


def _module(value: Any, torch: Any) -> Made:
    """Describe a torch module by what it holds beyond an empty one: attributes, tensors, children, hooks."""
    state, empty = dict(vars(value)), vars(torch.nn.Module())
    children = state.pop("_modules")
    tensors = {**state.pop("_parameters"), **state.pop("_buffers")}
    parts: Parts = []
    for name, item in sorted(state.items()):
        if name not in empty:
            parts.append((key_text(name), item))
        elif item != empty[name]:  # hooks are numbered by a counter of the process
            parts.append((f".{name}", list(item.values()) if isinstance(item, dict) else item))
    parts += [(key_text(name), tensor if tensor is None else Held(tensor)) for name, tensor in tensors.items()]
    parts += [(key_text(name), child) for name, child in children.items()]
    order = Leaf("order:" + json.dumps([*tensors, *children]))
    return Made(f"object:{class_name(type(value))}", [*_own_class(value), *parts, (".<order>", order)])


def _object(value: Any) -> Made:
    """Describe any other object as `copy` would take it apart: class, arguments, attributes, items."""
    _refuse_what_runs_out(value)
    kind = type(value)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced = reducer(value) if reducer else value.__reduce_ex__(4)
    except _NOT_REDUCIBLE:
        raise _unstable(value) from None
    if isinstance(reduced, str):  # a name in its module
        return Made(f"object:{class_name(kind)}.{reduced}", [])
    make, arguments, state, items, pairs, *_setter = (*reduced, None, None, None)
    parts = _own_class(value)
    if make in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        arguments = arguments[1:]
    elif make is not kind:
        parts.append((".<maker>", make))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        parts += [(f".{name}", item) for name, item in zip(kind._fields, value, strict=True)]
    elif arguments:
        parts.append((".<arguments>", tuple(arguments)))
    parts += _state(value, state)
    if items is not None:
        parts.append((".<items>", list(items)))
    if pairs is not None:
        found = list(pairs)
        parts.append((".<items>", found if isinstance(value, OrderedDict) else dict(found)))
    return Made(f"object:{class_name(kind)}", parts)


def _own_class(value: Any) -> Parts:
    return [(".<class>", type(value))] if is_users_class(type(value)) else []


def _state(value: Any, state: Any) -> Parts:
    match state:
        case None:
            return []
        case dict():
            return _attributes(_uncached(value, state))
        case (dict() | None as attributes, dict() as slots):
            return _attributes({**_uncached(value, attributes or {}), **slots})
    return [(".<state>", state)]


def _uncached(value: Any, attributes: dict[Any, Any]) -> dict[Any, Any]:
    """Leave out what a cached property keeps: it follows from the rest, and appears with its first use."""
    return {
        name: item
        for name, item in attributes.items()
        if not isinstance(getattr(type(value), str(name), None), functools.cached_property)
    }


def _attributes(attributes: dict[Any, Any]) -> Parts:
    return [(key_text(str(name)), item) for name, item in sorted(attributes.items(), key=lambda pair: str(pair[0]))]


def _global_generators() -> Iterable[Any]:
    """Return the generators behind `random.random`, `numpy.random.rand` and `torch.rand`, which training seeds."""
    yield random._inst  # type: ignore[attr-defined]
    if numpy_random := sys.modules.get("numpy.random.mtrand"):
        yield numpy_random._rand
    if torch := sys.modules.get("torch"):
        yield torch.default_generator


def _refuse_what_runs_out(value: Any) -> None:
    """Refuse what changes by being used: generators of numbers or values, files."""
    kind, name = type(value), f"{type(value).__module__}.{type(value).__qualname__}"
    if kind.__module__.startswith("numpy.random") or name == "torch.Generator" or isinstance(value, random.Random):
        raise Refused(
            _("a random generator ({name}) goes on from draw to draw, so a resumed run or another worker differs", name=name),
            _("call random, numpy.random or torch.rand, which are seeded for every image, or create it inside a function"),
        )
    if isinstance(value, io.IOBase):
        raise Refused(_("an open file has no stable identity"), _("keep its path, and open it where it is read"))
    if hasattr(kind, "__next__") and not is_users_class(kind) or isinstance(value, types.CoroutineType):
        raise Refused(
            _("an iterator ({name}) is used up by being read", name=name),
            _("make it a list, or a function that returns it"),
        )


def _unstable(value: Any) -> Refused:
    return Refused(
        _("a {name} has no stable identity", name=f"{type(value).__module__}.{type(value).__qualname__}"),
        _("create it inside the function that uses it, or leave it out in __getstate__ of its class"),
    )
