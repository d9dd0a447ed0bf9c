"""Whose code is it, and what is its text: the user's own modules, and their functions as syntax trees."""

from __future__ import annotations

import ast
import linecache
import os
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Mapping
from functools import cache, lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_OWN_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_LIBRARY_FOLDERS = tuple(
    os.path.realpath(folder) + os.sep
    for folder in {_OWN_PACKAGE, *(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))}
)


class NoSource(LookupError):
    """The text of a function cannot be read, or does not say which of its functions is meant."""


def is_user_code(module: ModuleType) -> bool:
    """Tell the user's modules from libraries, which are the standard library, what is installed, and pochitrain.

    The place of the file decides, not the name: a `queue.py` beside the config is the user's, and so is a package that
    is installed in editable form, because its code changes without a new version.
    """
    return is_user_namespace(vars(module))


def is_user_namespace(namespace: Mapping[str, Any]) -> bool:
    """Tell the same of a module's dictionary, which is what a function knows of its module (`__globals__`)."""
    if "__pochi_source__" in namespace:
        return True
    for file in (namespace.get("__file__"), *namespace.get("__path__", ())):
        if file and (in_library := _in_library(file)) is not None:
            return not in_library
    name = namespace.get("__name__") or ""
    if name in sys.builtin_module_names or getattr(namespace.get("__spec__"), "origin", None) in ("built-in", "frozen"):
        return False
    # A module without a file is as much the user's as the package that it is in (`torch.ops`); a notebook has neither.
    package = sys.modules.get(name.partition(".")[0])
    if package is not None and "." in name:
        return is_user_namespace(vars(package))
    return True


@cache
def _in_library(file: str) -> bool | None:
    """Tell where a file lies, None when there is none."""
    if not os.path.exists(file):
        return None
    path = os.path.realpath(file)
    parts = path.split(os.sep)
    return path.startswith(_LIBRARY_FOLDERS) or "site-packages" in parts or "dist-packages" in parts


def find_function(function: FunctionType) -> FunctionNode:
    """Return the syntax tree of a function or lambda, out of the text that was executed.

    Raises:
        NoSource: it was made by `exec`, or it shares a line with other lambdas and Python kept no columns.
    """
    code = function.__code__
    tree = parse(source_text(code.co_filename, function.__globals__))
    found = tree.functions.get((code.co_name, code.co_firstlineno), [])
    if len(found) > 1:
        found = _meant(found, code)
    if len(found) != 1:
        raise NoSource(code.co_name)
    return found[0]


def source_text(filename: str, namespace: dict[str, Any]) -> str:
    """Return the text of a file or notebook cell, as `linecache` knows it.

    A config and what it imports keep the very text that was executed in `__pochi_source__`: the file may have changed.
    """
    kept = namespace.get("__pochi_source__")
    if kept is not None and filename == namespace.get("__file__"):
        return str(kept)
    linecache.checkcache(filename)
    return "".join(linecache.getlines(filename, namespace))


class Tree:
    """The functions in one text, to be found by what their code objects know: name and first line."""

    def __init__(self, text: str) -> None:
        self.functions: dict[tuple[str, int], list[FunctionNode]] = defaultdict(list)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                self.functions[node.name, first_line].append(node)
            elif isinstance(node, ast.Lambda):
                self.functions["<lambda>", node.lineno].append(node)


@lru_cache(maxsize=256)
def parse(text: str) -> Tree:
    """Return the tree of a text; one text is parsed once.

    Raises:
        NoSource: it is no longer the Python that was imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user has seen them when the text was executed
            return Tree(text)
    except SyntaxError as error:
        raise NoSource(str(error)) from error


def _meant(nodes: list[FunctionNode], code: CodeType) -> list[FunctionNode]:
    """Return the one of several lambdas on a line that compiles to `code`."""
    places = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line and end_line and column is not None and end_column  # start-up instructions stand in columns 0 to 0
    ]
    if not places:  # Python 3.12 keeps no columns for a lambda that returns a constant
        return [node for node in nodes if _compiled(node) == _constants(code)][:1]
    holding = [node for node in nodes if _holds(node.body, places)]
    return sorted(holding, key=_size)[:1]  # the innermost


def _holds(body: Any, places: list[tuple[tuple[int, int], tuple[int, int]]]) -> bool:
    start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    return all(start <= first and last <= end for first, last in places)


def _size(node: FunctionNode) -> tuple[int, int]:
    return (node.end_lineno or 0) - node.lineno, (node.end_col_offset or 0) - node.col_offset


def _compiled(node: FunctionNode) -> tuple[object, ...]:
    assert isinstance(node, ast.Lambda)
    made = compile(ast.Expression(node), "", "eval", dont_inherit=True)
    return _constants(next(constant for constant in made.co_consts if isinstance(constant, CodeType)))


def _constants(code: CodeType) -> tuple[object, ...]:
    return code.co_code, [(type(constant), constant) for constant in code.co_consts], code.co_varnames
