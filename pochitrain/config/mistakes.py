"""What is wrong with a config file, and in which line of it."""

from __future__ import annotations

import ast
import contextlib
import difflib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pochitrain.config.schema import Config
from pochitrain.config.source import is_user_code
from pochitrain.config.words import accepted, inner_model
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _


class Where:
    """Finds the line of a setting in the text of the file."""

    def __init__(self, path: Path | None, text: str, overrides: Collection[str] = ()) -> None:
        self.path = path
        self.overrides = overrides
        self.lines: dict[str, int] = {}
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(text).body:
                self._note(node)

    def _note(self, node: ast.stmt) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                self.lines[target.id] = node.lineno
                value = getattr(node, "value", None)
                if isinstance(value, ast.Dict):
                    self._note_keys(target.id, value)
            elif (
                isinstance(target, ast.Subscript)
                and isinstance(target.value, ast.Name)
                and isinstance(target.slice, ast.Constant)
            ):
                self.lines[f"{target.value.id}.{target.slice.value!s}"] = node.lineno

    def _note_keys(self, prefix: str, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                self.lines[f"{prefix}.{key.value!s}"] = key.lineno
                if isinstance(value, ast.Dict):
                    self._note_keys(f"{prefix}.{key.value!s}", value)

    def of(self, name: str) -> str:
        """Return "file:line, name", with the line of the innermost part of a dotted name that the file shows."""
        if any(name == key or name.startswith(f"{key}.") for key in self.overrides):
            return _("{name}, given beside the file", name=name)
        parts = name.split(".")
        candidates = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        line = next((self.lines[c] for c in candidates if c in self.lines), None)
        if self.path is None:
            return name
        return f"{self.path}:{line}, {name}" if line else f"{self.path}, {name}"

    def fill(self, problem: Problem) -> Problem:
        return Problem(problem.what, self.of(problem.where), problem.mend)


def misspelled(helpers: Mapping[str, Any], where: Where) -> list[Problem]:
    problems = []
    for name, value in helpers.items():
        near = near_name(name, Config.model_fields)
        if near and not callable(value):
            problems.append(
                Problem(
                    _("Unknown setting {name}: did you mean {near}?", name=name, near=near),
                    where.of(name),
                    _("write {near}, or begin the name of a helper value with _", near=near),
                )
            )
    return problems


def near_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` is probably a misspelling of."""
    found = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.84)
    return found[0] if found else None


def value_problem(line: Any, where: Where) -> Problem:
    """Return one pydantic error in the reader's words."""
    location = [str(part) for part in line["loc"]]
    name, info, model = location[0], Config.model_fields.get(location[0]), Config
    for part in location[1:]:
        inner = inner_model(info) if info is not None else None
        if inner is None:
            break
        model, info, name = inner, inner.model_fields.get(part), f"{name}.{part}"  # type: ignore[assignment]
    if line["type"] == "missing":
        if name.endswith("_transform"):
            return Problem(
                _("{name} is required", name=name),
                where.of(name),
                _("set it to transforms.Compose([..., transforms.ToTensor()])"),
            )
        return Problem(_("{name} is missing", name=name), where.of(name), _("set it"))
    if line["type"] == "extra_forbidden":
        near = near_name(location[-1], model.model_fields)
        mend = (
            _("did you mean {near}?", near=near)
            if near
            else _("known keys: {names}", names=", ".join(model.model_fields))
        )
        return Problem(_("Unknown key {name}", name=name), where.of(name), mend)
    if name.endswith("_transform") and line["input"] is None:
        return Problem(
            _("{name} is required", name=name),
            where.of(name),
            _("set it to transforms.Compose([..., transforms.ToTensor()])"),
        )
    if line["type"] == "unsupported_name":
        mend = _("supported: {names}, or a callable of your own", names=", ".join(line["ctx"]["names"]))
        return Problem(line["ctx"]["what"], where.of(name), mend)
    if line["type"] == "bad_pattern":
        what = _(
            "{name} holds a regular expression that does not compile: {reason}", name=name, reason=line["ctx"]["reason"]
        )
        return Problem(what, where.of(name), _("correct the expression {text}", text=repr(line["input"])))
    assert info is not None
    return Problem(
        _("{name} cannot be {value}", name=name, value=_short(line["input"])),
        where.of(name),
        _("it takes {accepted}", accepted=accepted(info)),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def located(error: ConfigError, config: Config) -> ConfigError:
    """Return an error that names settings with the file and line of each."""
    origin = config.origin
    where = Where(origin.path, origin.text, origin.overrides)
    problems = []
    for problem in error.problems:
        name = re.match(r"[a-z_]+(\.[a-z_]+)*", problem.where)
        if name and name[0].partition(".")[0] in Config.model_fields:
            place = where.of(name[0]) + problem.where[name.end() :]
            problem = Problem(problem.what, place, problem.mend)
        problems.append(problem)
    return ConfigError(problems=problems)


def syntax_problem(error: SyntaxError, path: Path) -> ConfigError:
    line = (error.text or "").rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    return ConfigError(
        _("The config file is not valid Python: {reason}", reason=error.msg) + f"\n    {line}\n    {caret}",
        f"{error.filename or path}:{error.lineno}",
        _("correct the line"),
    )


def execution_problem(error: BaseException, path: Path) -> ConfigError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    folder = str(path.parent.resolve())
    own = [f for f in frames if f.filename == str(path) or os.path.abspath(f.filename).startswith(folder + os.sep)]
    frame = own[-1] if own else frames[-1]
    if isinstance(error, SystemExit):
        what = _("The config file ended the program: sys.exit({code})", code=repr(error.code))
    else:
        what = _("The config file raised {kind}: {reason}", kind=type(error).__name__, reason=error)
    return ConfigError(what + f"\n    {frame.line}", f"{frame.filename}:{frame.lineno}", _("correct the line"))


def raised_by_user(error: BaseException) -> ConfigError | None:
    """Return an exception as a problem of the user's own code when the innermost line of ours called that code.

    An exception that torch raises inside the user's model is the user's; one from a call of ours is not.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    names = [str(frame.f_globals.get("__name__", "")) for frame, _line in frames]
    own = [n for n, (frame, _line) in enumerate(frames) if "__pochi_source__" in frame.f_globals or _is_users(names[n])]
    ours = [n for n, name in enumerate(names) if name.partition(".")[0] == "pochitrain"]
    if not own or (ours and max(ours) > max(own)):
        return None
    frame, line = frames[max(own)]
    file = frame.f_code.co_filename
    return ConfigError(
        _("Your code raised {kind}: {reason}", kind=type(error).__name__, reason=error)
        + f"\n    {linecache.getline(file, line).strip()}",
        f"{file}:{line}, {frame.f_code.co_name}",
        _("correct it; --debug shows the traceback"),
    )


def _is_users(name: str) -> bool:
    return name in sys.modules and name != "__main__" and is_user_code(sys.modules[name])
