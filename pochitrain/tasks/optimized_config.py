"""`optimized_config.py`: the user's file with the best values set at its end."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pochitrain.config.schema import Config
from pochitrain.config.search import Dimension, Scalar
from pochitrain.config.words import split_key
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _
from pochitrain.tasks.search_space import goal_settings


def require_literals(config: Config) -> None:
    """Raise a ConfigError for overrides that no file could repeat and no worker process could be told."""
    wrong = [name for name, value in config.origin.overrides.items() if not is_literal(value)]
    if config.origin.path is None:
        raise ConfigError(_("A search needs a config file"), "config", _("use load_config(path)"))
    if wrong:
        mend = _("write the value into the config file")
        raise ConfigError(
            problems=[Problem(_("{name} was given as an object", name=name), "overrides", mend) for name in wrong]
        )


def optimized_text(config: Config, point: Mapping[str, Scalar], path: Path, remark: str, threads: int = 0) -> str:
    """Return the text of a config at `path` that trains as the trial of `point` did.

    The file's text is copied: what it computes it computes again, and then the values are put over that as
    `replace_settings` put them. A value without a literal (a transform, a model) is taken out of the file's own search
    space. The folder of the original stays the place for imports, `__file__` and `registry.json`.

    Args:
        threads: how many the file sets; 0: as many as there are. Another number adds up in another order, which rounds
            otherwise.
    """
    origin, current = config.origin, dict(config.origin.namespace)
    given = {**origin.overrides, **goal_settings(config)}
    values = {key: (repr(v), v) for key, v in given.items() if key.partition(".")[0] != "optuna"}
    for dimension in config.optuna.dimensions():
        if dimension.name in point:
            label = point[dimension.name]
            values[dimension.name] = _expression(dimension, label), dimension.value(label)
    lines = ["", f"# {remark}"]
    for key, (expression, value) in values.items():
        name, inner = split_key(key)
        expression, current[name] = _merged(name, current.get(name), inner, expression, value)
        lines.append(f"{name} = {expression}")
    if threads:
        remark = _(
            "The trial computed with so many threads. Delete this line for a long training: only rounding changes."
        )
        lines += [f"# {remark}", f"import torch as _torch; _torch.set_num_threads({threads})"]
    text = origin.text if origin.text.endswith("\n") else origin.text + "\n"
    assert origin.path is not None
    return _after_head(text, _place(origin.path, path)) + "".join(f"{line}\n" for line in lines)


def is_literal(value: Any) -> bool:
    """Return whether Python's `repr` of a value, in a file, is the value."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False


def _expression(dimension: Dimension, label: Scalar) -> str:
    value = dimension.value(label)
    if is_literal(value):
        return repr(value)
    return f'optuna["search_space"][{dimension.name!r}]["choices"][{dimension.index(label)}]'


def _merged(name: str, old: Any, keys: list[str], expression: str, value: Any) -> tuple[str, Any]:
    """Return the expression, and its value, of `name` with the member at `keys` replaced."""
    if not keys:
        return expression, value
    known = old if isinstance(old, Mapping) else {}
    if ".".join(keys) in known:  # a key may hold dots itself: layer_rates."layer4.1"
        keys = [".".join(keys)]
    inner, made = _merged(f"{name}[{keys[0]!r}]", known.get(keys[0]), keys[1:], expression, value)
    rest = f"**{name}, " if known else ""
    return f"{{{rest}{keys[0]!r}: {inner}}}", {**known, keys[0]: made}


def _place(original: Path, path: Path) -> str:
    """Return the lines that make a copy at `path` find what the original finds beside it."""
    folder = os.path.relpath(original.resolve().parent, path.resolve().parent)
    return (
        "# " + _("Imports, __file__ and registry.json are those of {file}.", file=original.name) + "\n"
        "import os as _os, sys as _sys\n"
        f"_folder = _os.path.abspath(_os.path.join(_os.path.dirname(__file__), {folder!r}))\n"
        f"_sys.path.insert(0, _folder); __file__ = _os.path.join(_folder, {original.name!r})\n"
    )


def _after_head(text: str, lines: str) -> str:
    """Return the text with `lines` after its docstring and its `from __future__` imports, which must come first."""
    position, source = 0, text.encode()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.parse(text).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and position == 0
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (docstring or future):
            break
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        position = starts[node.end_lineno - 1] + node.end_col_offset
    head, rest = source[:position].decode(), source[position:].decode()
    if not head:
        return lines + rest
    if rest.lstrip(" \t").startswith(";"):  # another statement on the same line
        rest = rest.lstrip(" \t")[1:].lstrip(" \t")
        return f"{head}\n{lines}{rest}"
    comment, newline, rest = rest.partition("\n")
    return head + comment + newline + lines + rest
