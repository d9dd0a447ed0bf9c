"""Which names a file gives values to, in which lines, and which names code reads."""

from __future__ import annotations

import ast
import contextlib
import re
import symtable
import warnings

# What reaches the names of its own module by their texts; `getattr` does with what finds the module.
_REACHES_ANY = ("globals", "locals", "vars", "eval", "exec")
_FINDS_MODULE = ("modules", "__name__", "import_module", "__import__")


class Assigned(ast.NodeVisitor):
    """The names that the statements of a file give values to, also those inside `if`, `try`, `with` and loops."""

    def __init__(self, text: str) -> None:
        self.lines: dict[
            str, int
        ] = {}  # of names, imported ones too, and of the keys of dicts: `early_stopping.patience`
        self.own: set[str] = set()  # the names that the file itself defines
        self.unpacked: set[str] = set()  # of these, what came along: `_a, b = f()`
        self.valueless: list[str] = []  # `epochs: 3` says of what type the value will be, and gives none
        self.starred: list[str] = []  # the modules of which all names are imported
        self.definitions: dict[str, bool] = {}  # of these, functions and classes → whether a decorator has seen them
        with contextlib.suppress(SyntaxError, ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.visit(ast.parse(text))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._give(node.name, node)
        self.definitions[node.name] = bool(node.decorator_list)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Leave out what is local."""

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.lines |= {alias.asname or alias.name: node.lineno for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.visit_Import(node)
        if node.module and node.names[0].name == "*":
            self.starred.append(node.module)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)
        elif isinstance(node.target, ast.Name) and _is_value(node.annotation):
            self.lines[node.target.id] = node.lineno
            self.valueless.append(node.target.id)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, node.value)
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):  # of a loop, a `with` or a `+=`
            self.lines[node.id] = node.lineno

    def _give(self, name: str, node: ast.expr | ast.stmt) -> None:
        self.lines[name] = node.lineno
        self.own.add(name)
        self.unpacked.discard(name)
        self.definitions.pop(name, None)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Name(id=name), _:
                self._give(name, target)
                if isinstance(value, ast.Dict):
                    self._keys(name, value)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)), _:
                self.lines[f"{name}.{key!s}"] = target.lineno
            case ast.Tuple(elts=names) | ast.List(elts=names), ast.Tuple(elts=values) | ast.List(elts=values) if len(
                names
            ) == len(values):
                for one, its in zip(names, values, strict=True):
                    self._assign(one, its)
            case ast.Tuple() | ast.List() | ast.Starred(), _:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        self._give(node.id, node)
                        self.unpacked.add(node.id)

    def _keys(self, prefix: str, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                self.lines[f"{prefix}.{key.value!s}"] = key.lineno
                if isinstance(value, ast.Dict):
                    self._keys(f"{prefix}.{key.value!s}", value)


def _is_value(node: ast.expr) -> bool:
    """Tell a value from what says a type, which is a name, an expression of names, or a text."""
    with contextlib.suppress(ValueError, TypeError):
        return not isinstance(ast.literal_eval(node), str | None)
    return False


def names_read(text: str) -> set[str]:
    """Return the names that code looks up in its module, and those of its parameters, by which parts ask for values.

    All words of the text are read where names may be put together.
    """
    found, words = _looked_up(text), set(re.findall(r"\w+", text))
    by_text = not found.isdisjoint(_REACHES_ANY) or "__dict__" in words
    return words if by_text or ("getattr" in found and not words.isdisjoint(_FINDS_MODULE)) else found


def names_taken(text: str, module: str) -> set[str] | None:
    """Return the names that code takes from a module by importing it; None: it may take any.

    What the code reads is among them, because it may import all names. The empty set: it does not import the module.
    """
    if not re.search(rf"^\s*(from|import)\b.*\b{re.escape(module)}\b", text, re.MULTILINE):
        return set()
    found = _looked_up(text)
    if not found.isdisjoint((*_REACHES_ANY, "getattr", "dir")) or "__dict__" in text:
        return None
    with contextlib.suppress(SyntaxError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.name for alias in node.names}
    return found


def _looked_up(text: str) -> set[str]:
    found, tables = set[str](), []
    with contextlib.suppress(SyntaxError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables.append(symtable.symtable(text, "", "exec"))
    for table in tables:  # grows while it is walked
        tables += table.get_children()
        for symbol in table.get_symbols():
            looked_up = symbol.is_referenced() and (symbol.is_global() or table is tables[0])
            if looked_up or symbol.is_parameter():
                found.add(symbol.get_name())
    return found
