"""What counts of the user's own functions, classes and modules: code by its syntax, everything it reaches by value."""

from __future__ import annotations

import builtins
import dataclasses
import enum
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

from pochitrain.config.canonical.leaves import Leaf, Made, Parts, Refused, is_users_class, key_text, public
from pochitrain.config.canonical.syntax import Chain, Import, Reads, function_digest, reads
from pochitrain.config.canonical.values import closure
from pochitrain.config.source import FunctionNode, NoSource, find_function, is_user_code, is_user_namespace
from pochitrain.locale import _

# Names of a module that say where it stands, not what it does.
_PLACE = frozenset(
    "__name__ __file__ __path__ __package__ __spec__ __loader__ __cached__ __doc__ __builtins__".split()  # noqa: SIM905
)
_WHOLE_MODULE = frozenset({"globals", "eval", "exec"})  # builtins that reach any name of their module

# What Python and `typing` write into a class; docstrings and annotations do not count, fields do, elsewhere.
_WRITTEN_BY_PYTHON = frozenset(
    """
    __module__ __qualname__ __doc__ __dict__ __weakref__ __slots__ __slotnames__ __firstlineno__ __static_attributes__
    __classdictcell__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __conditional_annotations__
    __parameters__ __orig_bases__ __type_params__ __abstractmethods__ _abc_impl
    _is_protocol _is_runtime_protocol __protocol_attrs__ __non_callable_proto_members__ __callable_proto_members_only__
    __dataclass_fields__ __dataclass_params__ _fields _field_defaults
    __class_vars__ __private_attributes__ __signature__
    """.split()  # noqa: SIM905
)
_MAKERS = frozenset({"dataclasses", "enum", "collections", "typing", "abc", "reprlib"})


@dataclasses.dataclass(frozen=True)
class Namespace:
    """All names of a module of the user's, for code that can reach any of them."""

    names: dict[str, Any]


def is_definition(value: Any) -> bool:
    """Tell the user's own functions, classes and modules, which `define` takes apart."""
    match value:
        case types.FunctionType():
            return is_user_namespace(value.__globals__)
        case type():
            return is_users_class(value)
        case types.ModuleType():
            return is_user_code(value)
    return isinstance(value, Namespace)


def title(definition: Any) -> str:
    """Return what a path calls a definition; a module has no name here, because it may be renamed."""
    match definition:
        case types.FunctionType():
            return f"def {definition.__code__.co_qualname}"
        case type():
            return f"class {definition.__qualname__}"
    return "the module"


def define(definition: Any) -> Made:
    """Return what a definition is made of.

    Raises:
        Refused: the source of a function cannot be found.
    """
    match definition:
        case types.FunctionType():
            return _function(definition)
        case type():
            return _class(definition)
        case types.ModuleType():
            return _namespace(vars(definition))
    return _namespace(definition.names)


def _namespace(names: dict[str, Any]) -> Made:
    return Made(
        "module",
        [
            (f": {name}", value)
            for name, value in sorted(names.items())
            if not (name.startswith("__") and name.endswith("__")) and type(value).__module__ != "__future__"
        ],
    )


def _node(function: types.FunctionType) -> FunctionNode:
    try:
        return find_function(function)
    except NoSource:
        raise Refused(
            _("The source of {name} cannot be read", name=function.__qualname__),
            _("define it in a file rather than by exec, and put lambdas on lines of their own"),
        ) from None


def _function(function: types.FunctionType) -> Made:
    node = _node(function)
    found = reads(node)
    modules: dict[str, str] = {}
    parts: Parts = []
    for name, value in [*_outer_values(function, found), *_imported_values(function, found)]:
        if isinstance(value, types.ModuleType) and is_user_code(value):
            parts += _follow(name, value, found.chains.get(name, {}), modules)
        else:
            parts.append((f": {name}", value))
    if any(name in found.outer and name not in function.__globals__ for name in _WHOLE_MODULE):
        parts.append((": <module>", Namespace(function.__globals__)))
    parts += _defaults(function)
    parts += [(f": .{name}", value) for name, value in sorted(vars(function).items())]
    return Made(f"code:{function_digest(node, modules)}", _distinct(parts))


def _outer_values(function: types.FunctionType, found: Reads) -> Iterator[tuple[str, Any]]:
    """Yield the names that a function reads and their values, in the order of the text."""
    around = {suffix.removeprefix("."): value for suffix, value in closure(function)}
    for name in ("__class__", *found.chains):
        if name in around and (name in found.outer or name == "__class__"):
            yield name, around[name]
        if (name in found.outer and name not in around) or name in found.globals:
            if name in function.__globals__ and name not in _PLACE:
                yield name, function.__globals__[name]
            elif name not in function.__globals__ and not hasattr(builtins, name):
                yield name, Leaf("unbound:")


def global_reads(function: types.FunctionType) -> set[str]:
    """Return the names of its module that a function reads.

    Raises:
        Refused: its source cannot be found.
    """
    found, around = reads(_node(function)), function.__code__.co_freevars
    return {name for name in (found.outer - {*around}) | found.globals if name in function.__globals__}


def _imported_values(function: types.FunctionType, found: Reads) -> Iterator[tuple[str, Any]]:
    for entry in found.imports:
        yield entry.bound, _imported(entry, function.__globals__)


def _imported(entry: Import, namespace: dict[str, Any]) -> Any:
    """Return what an import inside a function will bind: the user's own by value, a library's by name."""
    name = entry.module
    try:
        if entry.level:
            name = importlib.util.resolve_name("." * entry.level + name, namespace.get("__package__"))
        if not _is_users_module(name.partition(".")[0]):
            return Leaf("library:" + ".".join([public(name), *([entry.attribute] if entry.attribute else [])]))
        module = importlib.import_module(name)
        if entry.attribute and not hasattr(module, entry.attribute):
            return importlib.import_module(f"{name}.{entry.attribute}")
    except ImportError:
        return Leaf("missing:")
    except (Exception, SystemExit) as error:  # the user's code may raise anything at all
        raise Refused(
            _("{module} cannot be imported: {reason}", module=name, reason=error), _("correct the module")
        ) from error
    if entry.binds_top:
        return sys.modules[name.partition(".")[0]]
    return getattr(module, entry.attribute) if entry.attribute else module


def _is_users_module(top: str) -> bool:
    """Tell whose a top-level module is without importing it."""
    if top in sys.modules:
        return is_user_code(sys.modules[top])
    spec = importlib.util.find_spec(top)
    if spec is None:
        return False
    place = {"__file__": spec.origin, "__path__": spec.submodule_search_locations or ()}
    return is_user_namespace({"__name__": top, "__spec__": spec, **place})


def _follow(name: str, module: types.ModuleType, chains: dict[Chain, None], modules: dict[str, str]) -> Parts:
    """Return what a function reads of a module of the user's: only what it names, all of it when it names nothing."""
    parts: Parts = []
    for chain in chains or {(): None}:
        value: Any = module
        dotted, rest = name, list(chain)
        while rest and isinstance(value, types.ModuleType) and is_user_code(value):
            names, owner = vars(value), dotted
            attribute = rest.pop(0)
            value = names.get(attribute, names.get("__getattr__", Leaf("unbound:")))
            dotted = f"{owner}.{attribute}"
        if isinstance(value, types.ModuleType) and is_user_code(value):
            modules.setdefault(dotted, f"<module {len(modules) + 1}>")
            parts.append((f": {modules[dotted]}", value))
        else:
            modules.setdefault(owner, f"<module {len(modules) + 1}>")
            parts.append((f": {modules[owner]}.{attribute}", value))
    return parts


def _defaults(function: types.FunctionType) -> Parts:
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    values = function.__defaults__ or ()
    last = positional[len(positional) - len(values) :]
    by_name = [*zip(last, values, strict=True), *(function.__kwdefaults__ or {}).items()]
    return [(f"({name})", value) for name, value in by_name]


def _distinct(parts: Parts) -> Parts:
    """Give a second value for one path (a name imported in two branches) a path of its own."""
    seen: dict[str, Any] = {}
    for suffix, value in parts:
        number = 1
        path = suffix
        while path in seen and seen[path] is not value:
            number += 1
            path = f"{suffix}#{number}"
        seen[path] = value
    return list(seen.items())


def _class(cls: type) -> Made:
    parts: Parts = [(f": <base {index}>", base) for index, base in enumerate(cls.__bases__) if base is not object]
    if is_users_class(type(cls)):
        parts.append((": <metaclass>", type(cls)))
    parts += _dataclass_fields(cls) + _tuple_fields(cls)
    known = {suffix for suffix, _value in parts}
    if issubclass(cls, enum.Enum):
        members = {name: member.value for name, member in cls.__members__.items()}
        parts += [(": <members>", Leaf("members:" + ",".join(members)))]
        parts += [(f": {name}", value) for name, value in members.items()]
        written = {name: value for name, value in vars(cls).items() if name not in members and not name.startswith("_")}
        functions = [function for value in vars(cls).values() if (function := _written_function(value))]
        written |= {function.__name__: function for function in functions}  # Python keeps __new__ under other names
    else:
        written = _without_hook(cls)
    for name, value in sorted(written.items()):
        if f": {name}" not in known and not _is_made(name, value):
            parts.append((f": {name}" if name.isidentifier() else f": {key_text(name)}", value))
    return Made("class", parts)


def _without_hook(cls: type) -> dict[str, Any]:
    """Return what is written in a class; torch replaces `step` in that of an optimizer when the first one is made."""
    written = dict(vars(cls))
    step: Any = written.get("step")
    if getattr(step, "hooked", False):
        inherited = [vars(base).get("step") for base in cls.__mro__[1:]]
        own = step.__wrapped__
        if any(own in (each, getattr(each, "__wrapped__", None)) for each in inherited):
            del written["step"]
        else:
            written["step"] = own
    return written


def _is_made(name: str, value: Any) -> bool:
    """Tell the attributes of a class that nobody wrote."""
    if name in _WRITTEN_BY_PYTHON or isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return True
    if name == "__hash__" and value is None:  # follows from __eq__
        return True
    if name.startswith("__pydantic_"):  # follows from the fields
        return name != "__pydantic_fields__"
    if type(value).__name__ == "_tuplegetter":
        return True
    function = getattr(value, "__func__", value)
    if not (name.startswith("_") and isinstance(function, types.FunctionType)):
        return False
    module = str(function.__globals__.get("__name__", ""))
    return function.__code__.co_filename == "<string>" or module in _MAKERS


def _written_function(value: Any) -> types.FunctionType | None:
    function = getattr(value, "__func__", value)
    return function if isinstance(function, types.FunctionType) and is_definition(function) else None


def _dataclass_fields(cls: type) -> Parts:
    """Return the fields of a dataclass in their order, which is that of its arguments."""
    if "__dataclass_fields__" not in vars(cls):
        return []
    fields: dict[str, dataclasses.Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    parameters = cls.__dataclass_params__  # type: ignore[attr-defined]
    told = ",".join(name for name in ("eq", "frozen", "order", "unsafe_hash") if getattr(parameters, name))
    parts: Parts = [(": <fields>", Leaf(f"fields:{','.join(fields)};{told}"))]
    for name, one in fields.items():
        kind = one._field_type.name  # type: ignore[attr-defined]
        told = ",".join(option for option in ("init", "compare", "hash", "kw_only") if getattr(one, option))
        parts.append((f": <field {name}>", Leaf(f"field:{kind};{told}")))
        if one.default_factory is not dataclasses.MISSING:
            parts.append((f": {name}()", one.default_factory))
        elif one.default is not dataclasses.MISSING:
            parts.append((f": {name}", one.default))
        if one.metadata:
            parts.append((f": <metadata {name}>", dict(one.metadata)))
    return parts


def _tuple_fields(cls: type) -> Parts:
    """Return the fields of a named tuple."""
    if not (issubclass(cls, tuple) and "_fields" in vars(cls)):
        return []
    fields, defaults = cls._fields, cls._field_defaults  # type: ignore[attr-defined]
    order = Leaf(f"fields:{','.join(fields)}")
    return [(": <fields>", order), *((f": {name}", value) for name, value in defaults.items())]
