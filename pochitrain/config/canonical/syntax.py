"""What a piece of Python says, without its layout: its normal form, and the names that it reads from outside.

Both are the same on every Python from 3.11 on, so nothing here looks at bytecode.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Chain = tuple[str, ...]

_NO_NAMES: Mapping[str, str] = {}
_LAYOUT = frozenset({"ctx", "type_comment", "kind", "type_ignores", "type_params", "returns", "simple"})
# What bases and decorators make of annotations: nothing, fields; others (pydantic, attrs) may do anything with them.
_MAKE_NOTHING = frozenset({"object", "Module", "Dataset", "Enum", "ABC"})
_MAKE_FIELDS = frozenset({"dataclass", "NamedTuple"})
_SPECIAL_FIELDS = frozenset({"ClassVar", "InitVar", "KW_ONLY"})


def function_digest(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, modules: Mapping[str, str]) -> str:
    """Return a digest of what a function does with its arguments.

    The name, the decorators and the default values are left out: who holds the function knows them by value.

    Args:
        modules: names that stand for the user's own modules → what to write instead, so that a module may be renamed.
    """
    parameters = [
        [kind, [argument.arg for argument in arguments if argument is not None]]
        for kind, arguments in (
            ("posonly", node.args.posonlyargs),
            ("args", node.args.args),
            ("vararg", [node.args.vararg]),
            ("kwonly", node.args.kwonlyargs),
            ("kwarg", [node.args.kwarg]),
        )
    ]
    form = [type(node).__name__, parameters, normal_form(node.body, modules)]
    return hashlib.sha256(json.dumps(form, separators=(",", ":")).encode()).hexdigest()


def normal_form(node: Any, modules: Mapping[str, str] = _NO_NAMES) -> Any:
    """Return a syntax tree as nested lists and texts, without layout, comments, docstrings and annotations."""
    match node:
        case list():
            return [normal_form(item, modules) for item in node if not _is_idle(item)]
        case ast.Name():
            return ["Name", modules.get(node.id, node.id)]
        case ast.Attribute() if (dotted := ".".join(_chain(node))) in modules:
            return ["Name", modules[dotted]]
        case ast.Constant():
            return _constant(node.value)
        case ast.arg():
            return ["arg", node.arg]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return _fields(ast.Assign(targets=[target], value=value), modules)
        case ast.ClassDef():
            return [*_fields(node, modules, leave_out={"body"}), ["body", _class_body(node, modules)]]
        case ast.Import() | ast.ImportFrom():  # what is imported counts by value, as `reads` finds it
            return ["Import", [modules.get(bound, bound) for bound in map(_bound_name, node.names)]]
        case ast.JoinedStr():
            return ["JoinedStr", normal_form(_joined(node.values), modules)]
        case ast.AST():
            return _fields(node, modules)
    return node  # an identifier, an operator's name, None


def _fields(node: ast.AST, modules: Mapping[str, str], leave_out: Iterable[str] = ()) -> list[Any]:
    names = sorted(name for name in node._fields if name not in _LAYOUT and name not in leave_out)
    values = [(name, getattr(node, name, None)) for name in names]
    said = [[name, normal_form(value, modules)] for name, value in values if value is not None and value != []]
    return [type(node).__name__, *said]


def _is_idle(node: Any) -> bool:
    """Tell the statements that do nothing: docstrings, `pass`, `...`, and annotations without a value."""
    match node:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign():
            return node.value is None
    return False


def _class_body(node: ast.ClassDef, modules: Mapping[str, str]) -> list[Any]:
    """Return the body of a class inside a function, with its annotations as far as its makers read them."""
    makers = [*node.bases, *node.decorator_list, *(keyword.value for keyword in node.keywords)]
    readers = [maker for maker in makers if not _MAKE_NOTHING & _names_in(maker)]
    if not readers:
        return list(normal_form(node.body, modules))
    types_matter = not all(_MAKE_FIELDS & _names_in(maker) for maker in readers)
    body: list[Any] = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            annotation = statement.annotation
            said = normal_form(annotation, modules) if types_matter else sorted(_SPECIAL_FIELDS & _names_in(annotation))
            value = normal_form(statement.value, modules)
            body.append(["Field", normal_form(statement.target, modules), said, value])
        elif not _is_idle(statement):
            body.append(normal_form(statement, modules))
    return body


def _names_in(node: ast.AST) -> set[str]:
    names = {getattr(n, "id", None) or getattr(n, "attr", None) for n in ast.walk(node)}
    texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {name for name in names if name} | {word for text in texts for word in _SPECIAL_FIELDS if word in text}


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Join neighbouring texts of an f-string, which Python versions split differently."""
    joined: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(str(joined[-1].value) + str(part.value))
        elif not (isinstance(part, ast.Constant) and part.value == ""):
            joined.append(part)
    return joined


def _constant(value: Any) -> list[Any]:
    match value:
        case bool() | None:
            text = str(value)
        case int():
            text = hex(value)  # str() of a very long integer is an error
        case float():
            text = value.hex()
        case complex():
            text = f"{value.real.hex()},{value.imag.hex()}"
        case bytes():
            text = value.hex()
        case _:
            text = str(value)
    return ["Constant", type(value).__name__, text]


@dataclass(frozen=True)
class Import:
    """A name bound by an import inside a function: `from module import attribute as bound`."""

    bound: str
    module: str
    attribute: str | None = None
    level: int = 0  # of a relative import, its number of dots
    binds_top: bool = False  # `import a.b` binds a, `import a.b as c` binds a.b


@dataclass
class Reads:
    """The names that a function reads from outside itself."""

    outer: set[str] = field(default_factory=set)  # closure, module or builtin
    globals: set[str] = field(default_factory=set)  # declared `global`, so never the closure
    imports: list[Import] = field(default_factory=list)
    chains: dict[str, dict[Chain, None]] = field(default_factory=dict)
    """name → the attributes read from it, `a.b.c` as ("b", "c"), the bare name as (); in the order of the text"""


def reads(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Reads:
    """Return what a function reads when it runs: not its decorators, defaults and annotations."""
    found = Reads()
    scope = _Scope(found)
    scope.read_function(node)
    found.outer, found.globals = scope.outer(), scope.declared_global | scope.global_inside
    return found


class _Scope(ast.NodeVisitor):
    """One scope of Python's: what it binds, what it reads, and what the scopes inside it read from outside them."""

    def __init__(self, found: Reads, *, is_class: bool = False, is_comprehension: bool = False) -> None:
        self.found = found
        self.is_class, self.is_comprehension = is_class, is_comprehension
        self.bound: set[str] = set()
        self.read: set[str] = set()
        self.passed_on: set[str] = set()  # read by a function inside a class, which does not see the class's names
        self.declared_global: set[str] = set()
        self.global_inside: set[str] = set()  # declared so by an inner scope
        self.declared_nonlocal: set[str] = set()
        self.walrus: set[str] = set()

    def outer(self) -> set[str]:
        if self.is_class:
            return self.read | self.passed_on
        return ((self.read - self.bound) | self.declared_nonlocal) - self.declared_global

    def read_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        self.bound |= {argument.arg for argument in arguments if argument is not None}
        self.bound |= {parameter.name for parameter in getattr(node, "type_params", ())}
        self.visit_all(node.body if isinstance(node.body, list) else [node.body])

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _fold(self, inner: _Scope) -> None:
        self.global_inside |= inner.declared_global | inner.global_inside
        if self.is_class:
            self.passed_on |= inner.outer()
        else:
            self.read |= inner.outer()

    def _read(self, name: str, chain: Chain) -> None:
        self.found.chains.setdefault(name, {})[chain] = None
        if not (self.is_class and name in self.bound):
            self.read.add(name)

    def _bind(self, name: str | None) -> None:
        if name and name not in self.declared_global | self.declared_nonlocal:
            self.bound.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node.id, ())
        else:
            self._bind(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name, *chain = _chain(node) or [""]
        if name:
            self._read(name, tuple(chain))
        else:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit_all([node.value, *node.targets])  # in a class, `size = size` reads the outer one

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit_all([node.value, node.target])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id, ())
        self.visit_all([node.value, node.target])

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        if self.is_comprehension:
            self.walrus.add(node.target.id)  # binds in the function around
        else:
            self._bind(node.target.id)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.visit_all([*node.args.defaults, *node.args.kw_defaults])
        inner = _Scope(self.found)
        inner.read_function(node)
        self._fold(inner)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit_all(node.decorator_list)
        self._bind(node.name)
        self._visit_function(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_all([*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)])
        inner = _Scope(self.found, is_class=True)
        inner.visit_all(node.body)
        self._fold(inner)
        self._bind(node.name)

    def _visit_comprehension(self, node: Any) -> None:
        first, *_others = node.generators
        self.visit(first.iter)  # evaluated outside
        inner = _Scope(self.found, is_comprehension=True)
        for generator in node.generators:
            inner.visit_all([generator.target, *generator.ifs, None if generator is first else generator.iter])
        inner.visit_all([getattr(node, name, None) for name in ("elt", "key", "value")])
        self._fold(inner)
        if self.is_comprehension:
            self.walrus |= inner.walrus
        for name in inner.walrus:
            self._bind(name)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def visit_Global(self, node: ast.Global) -> None:
        self.declared_global |= set(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.declared_nonlocal |= set(node.names)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._bind(_bound_name(name))
            self.found.imports.append(Import(_bound_name(name), name.name, binds_top=not name.asname))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            self._bind(_bound_name(name))
            self.found.imports.append(Import(_bound_name(name), node.module or "", name.name, node.level))

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._bind(node.name)
        self.visit_all([node.type, *node.body])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self._bind(node.name)
        self.visit_all([node.pattern])

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        self._bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._bind(node.rest)
        self.visit_all([*node.keys, *node.patterns])

    def visit_TypeAlias(self, node: Any) -> None:  # `type X = …` of Python 3.12; its value is an annotation
        self._bind(node.name.id)


def _bound_name(name: ast.alias) -> str:
    return name.asname or name.name.partition(".")[0]


def _chain(node: ast.expr) -> list[str]:
    """Return `a.b.c` as its names, anything that does not begin with a name as an empty list."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return [node.id, *attributes] if isinstance(node, ast.Name) else []
