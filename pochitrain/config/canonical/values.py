"""What a value is made of: its leaf, a short text that says everything about it, and the values inside it.

Nothing here uses `repr`, `pickle`, `id` or a file path. Libraries are known by the public name of what they provide
and by its state. NumPy and torch are looked up in `sys.modules`: this room never imports them.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import io
import pickle
import random
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from pochitrain.config.canonical.leaves import (
    Leaf,
    Made,
    Parts,
    Refused,
    attributes,
    class_name,
    is_users_class,
    own_class,
    plain_leaf,
    public,
    public_name,
)
from pochitrain.config.canonical.tensors import describe_array, describe_tensor
from pochitrain.locale import _

_NOT_REDUCIBLE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OSError, pickle.PickleError)


def describe(value: Any) -> Made:
    """Return what any value is made of, dicts, sets, and the user's own functions, classes and modules excepted.

    Raises:
        Refused: two runs, or two workers of one run, would not see the same value.
    """
    leaf = plain_leaf(value)
    if leaf is not None:
        return Made(leaf, [])
    return _container(value) or _callable(value) or describe_array(value) or describe_tensor(value) or _object(value)


def _container(value: Any) -> Made | None:
    kind = type(value)
    if kind in (list, tuple):
        return Made(f"{kind.__name__}:{len(value)}", [(f"[{index}]", item) for index, item in enumerate(value)])
    if isinstance(value, enum.Enum):
        unnamed = [] if value.name else [(".value", value.value)]  # a combination of flags
        return Made(f"enum:{class_name(kind)}.{value.name}", [*own_class(value), *unnamed])
    if isinstance(value, re.Pattern):
        return Made("pattern:", [(".pattern", value.pattern), (".flags", value.flags)])
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
        case (
            types.WrapperDescriptorType()
            | types.MethodDescriptorType()
            | types.ClassMethodDescriptorType()
            | types.GetSetDescriptorType()
            | types.MemberDescriptorType()
        ):
            return Made(f"library:{class_name(value.__objclass__)}.{value.__name__}", [])
        case staticmethod() | classmethod():
            wrapped: Parts = [(".<function>", value.__func__)]
        case property():
            wrapped = [(".<get>", value.fget), (".<set>", value.fset), (".<delete>", value.fdel)]
        case functools.cached_property():
            wrapped = [(".<get>", value.func)]
        case functools.partial():
            wrapped = [(".<function>", value.func), (".<arguments>", value.args), (".<keywords>", value.keywords)]
            wrapped += attributes(vars(value))
        case functools._lru_cache_wrapper():
            wrapped = [(".<function>", value.__wrapped__), (".<cache>", value.cache_parameters())]
        case _:
            return None
    return Made(f"{class_name(type(value))}:", [*own_class(value), *wrapped])


def _inner_function(function: types.FunctionType) -> Made:
    """Describe a function that a library made for the user, as a decorator does: its place, and what it closes over."""
    code = function.__code__
    leaf = f"library:{public(function.__globals__.get('__name__', ''))}.{code.co_qualname}"
    if "_torchdynamo_orig_callable" in vars(function):  # torch.compile changes the rounding only
        return Made("compiled:", [(".<function>", vars(function)["_torchdynamo_orig_callable"])])
    if code.co_qualname.startswith("singledispatch."):
        return Made(leaf, [(".<registry>", dict(function.registry))])  # type: ignore[attr-defined]
    defaults = [(".<defaults>", function.__defaults__), (".<keywords>", function.__kwdefaults__)]
    return Made(leaf, [*closure(function), *defaults])


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
    if owner is None or isinstance(owner, types.ModuleType) or (isinstance(owner, type) and not is_users_class(owner)):
        return Made(f"library:{public(getattr(value, '__module__', None) or 'builtins')}.{value.__qualname__}", [])
    return Made(f"method:{value.__name__}", [(".<object>", owner)])


def _object(value: Any) -> Made:
    """Describe any other object as `copy` would take it apart: class, arguments, attributes, items."""
    kind = type(value)
    if any(value is generator for generator in _global_generators()):
        return Made(f"library:{public(kind.__module__)}.{kind.__name__}", [])
    _refuse_what_runs_out(value)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced: Any = reducer(value) if reducer else value.__reduce_ex__(4)
    except _NOT_REDUCIBLE:
        raise _unstable(value) from None
    if isinstance(reduced, str):  # a name in its module
        return Made(f"object:{class_name(kind)}.{reduced}", [])
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    parts = own_class(value)
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


def _state(value: Any, state: Any) -> Parts:
    match state:
        case None:
            return []
        case dict():
            return attributes(_uncached(value, state))
        case (dict() | None as members, dict() as slots):
            return attributes({**_uncached(value, members or {}), **slots})
    return [(".<state>", state)]


def _uncached(value: Any, members: dict[Any, Any]) -> dict[Any, Any]:
    """Leave out what says nothing about the object: the kept values of cached properties, and a library's version."""
    return {
        name: item
        for name, item in members.items()
        if not isinstance(getattr(type(value), str(name), None), functools.cached_property)
        and name != "_sklearn_version"
    }


def _global_generators() -> Iterable[Any]:
    """Return the generators behind `random.random`, `numpy.random.rand` and `torch.rand`, which training seeds."""
    yield random._inst
    if numpy_random := sys.modules.get("numpy.random.mtrand"):
        yield numpy_random._rand
    if torch := sys.modules.get("torch"):
        yield torch.default_generator


def _refuse_what_runs_out(value: Any) -> None:
    """Refuse what changes by being used: generators of numbers or values, files."""
    kind, name = type(value), f"{type(value).__module__}.{type(value).__qualname__}"
    if kind.__module__.startswith("numpy.random") or name == "torch._C.Generator" or isinstance(value, random.Random):
        raise Refused(
            _("A random generator ({name}) goes on from draw to draw: a resumed run would differ", name=name),
            _("call random, numpy.random or torch.rand, which are seeded per image, or create it inside a function"),
        )
    if isinstance(value, io.IOBase):
        raise Refused(_("An open file has no stable identity"), _("keep its path, and open it where it is read"))
    if (hasattr(kind, "__next__") and not is_users_class(kind)) or isinstance(value, types.CoroutineType):
        raise Refused(
            _("An iterator ({name}) is used up by being read", name=name),
            _("make it a list, or a function that returns it"),
        )


def _unstable(value: Any) -> Refused:
    return Refused(
        _("A {name} has no stable identity", name=f"{type(value).__module__}.{type(value).__qualname__}"),
        _("create it inside the function that uses it, or leave it out in __getstate__ of its class"),
    )
