"""What is wrong with a config file, and in which line of it."""

from __future__ import annotations

import builtins
import contextlib
import difflib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic.fields import FieldInfo

from pochitrain.config.fields import NAME_BYTES, Settings
from pochitrain.config.inject import tells_splits
from pochitrain.config.names import Assigned, names_read, names_taken
from pochitrain.config.schema import Config
from pochitrain.config.search import search_problems
from pochitrain.config.source import is_user_code
from pochitrain.config.words import accepted, full_name, inner_model, item_name, takes_code
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _


def cross_problems(config: Config) -> list[Problem]:
    """Return the mistakes that only several settings together show."""
    problems = []
    if config.train_data_root is None and config.dataset is None:
        problems.append(
            Problem(
                _("train_data_root is missing"),
                "train_data_root",
                _("set it to the folder that holds one folder of images per class"),
            )
        )
    if config.enable_layer_wise_lr and not config.layer_wise_lr_config.layer_rates:
        problems.append(
            Problem(
                _("Layer-wise learning rates are enabled, but layer_rates is not defined"),
                "layer_wise_lr_config",
                _('give layer_wise_lr_config["layer_rates"] patterns and rates, or set enable_layer_wise_lr = False'),
            )
        )
    if (
        config.num_classes is not None
        and isinstance(config.class_weights, list)
        and len(config.class_weights) != config.num_classes
    ):
        problems.append(class_weights_problem(len(config.class_weights), config.num_classes))
    if isinstance(config.class_weights, list) and not any(config.class_weights):
        mend = _("give the classes that count a weight above 0")
        problems.append(Problem(_("class_weights holds no weight above 0"), "class_weights", mend))
    if isinstance(config.optimizer, str) and "lr" in (config.optimizer_params or {}):
        what, where = _("The learning rate has a setting of its own"), "optimizer_params.lr"
        problems.append(Problem(what, where, _("write it as learning_rate, and leave lr out")))
    problems += _switch_problems(config)
    return problems + search_problems(config.optuna)


def _switch_problems(config: Config) -> list[Problem]:
    """Return what `train` and `test` cannot mean."""
    if not config.train and not config.test:
        mend = _("set test = True to judge the model that is there, or train = True")
        return [Problem(_("train and test are both False: nothing is left to do"), "train", mend)]
    without = config.val_data_root is None if config.dataset is None else not tells_splits(config.dataset)
    if config.test and without:
        what = _("test = True needs validation data")
        return [Problem(what, "test", _("set val_data_root, or judge other images: pochi infer --data FOLDER"))]
    return []


def class_weights_problem(given: int, classes: int) -> Problem:
    return Problem(
        _(
            "The length of class_weights ({given}) does not match the number of classes ({classes})",
            given=given,
            classes=classes,
        ),
        "class_weights",
        _("give class_weights {classes} numbers, or remove it to have them balanced automatically", classes=classes),
    )


class Where:
    """Finds the line of a setting in the text of the file, and what code reads."""

    def __init__(self, path: Path | None, text: str, overrides: Collection[str] = ()) -> None:
        self.path, self.text = path, text
        self.overrides = [full_name(key) for key in overrides]
        self.assigned = Assigned(text)
        self.lines = self.assigned.lines

    @cached_property
    def read(self) -> set[str]:
        """The names that code looks up or asks for: in the file, and in those around it that import from it."""
        found = names_read(self.text)
        for text in self._around():
            taken = names_taken(text, self.path.stem if self.path else "")
            found |= set(self.lines) if taken is None else taken
        return found

    def _around(self) -> Iterator[str]:
        """Yield the texts of the files beside the file; when they are a package, also of those beside the package."""
        folder = self.path.parent if self.path else None
        folders = [folder, folder.parent] if folder and (folder / "__init__.py").exists() else [folder]
        for path in [path for folder in folders if folder for path in folder.glob("*.py") if path != self.path]:
            with contextlib.suppress(OSError):
                yield path.read_text(encoding="utf-8", errors="replace")

    @cached_property
    def _bases(self) -> list[tuple[Path | None, Assigned]]:
        """The file, and those beside it from which it imports all names."""
        found = {self.path: self.assigned}
        for path, assigned in (bases := list(found.items())):  # grows while it is walked
            for base in [
                path.parent.joinpath(*name.split(".")).with_suffix(".py") for name in assigned.starred if path
            ]:
                if base not in found and base.is_file():
                    found[base] = Assigned(base.read_text(encoding="utf-8", errors="replace"))
                    bases.append((base, found[base]))
        return bases

    def of(self, name: str) -> str:
        """Return "file:line, name", with the line of the innermost part of a dotted name that the files show."""
        if any(name == key or name.startswith(f"{key}.") for key in self.overrides):
            return _("{name}, given beside the file", name=name)
        if _line(self.lines, name) is None and (
            key := next((key for key in self.overrides if key.startswith(f"{name}.")), None)
        ):
            return _("{name}, given beside the file", name=key)
        part, params, _member = name.partition("_params")  # that are missing are looked for at what lacks them
        for path, assigned in self._bases:
            line = _line(assigned.lines, name) or (_line(assigned.lines, part) if params else None)
            if line:
                return f"{shown(path)}:{line}, {name}" if path else name
        return f"{shown(self.path)}, {name}" if self.path else name

    def nearness(self, name: str) -> int:
        """Return how near to the reader a setting was given: 2 beside the file, 1 in it, 0 in a file it imports."""
        if any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for key in self.overrides):
            return 2
        return 0 if _line(self.lines, name) is None else 1

    def fill(self, problem: Problem) -> Problem:
        return Problem(problem.what, self.of(problem.where), problem.mend)


def _line(lines: Mapping[str, int], name: str) -> int | None:
    parts = name.split(".")
    candidates = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((lines[c] for c in candidates if c in lines), None)


def valueless(where: Where) -> list[Problem]:
    """Return the settings that the file writes as `epochs: 3`, which is no assignment."""
    return [
        Problem(_("{name} is given no value: a colon only says its type", name=name), where.of(name), f"{name} = …")
        for name in where.assigned.valueless
        if name in Config.model_fields
    ]


def misspelled(helpers: Mapping[str, Any], where: Where, place: str | None = None) -> list[Problem]:
    """Return the names that are nearly settings, and are not helpers of the file.

    Args:
        place: the setting that the names come from.
    """
    problems = []
    for name, value in helpers.items():
        near = near_name(name, Config.model_fields)
        if near and not _is_helper(name, value, near, where):
            problems.append(
                Problem(
                    _("Unknown setting {name}: did you mean {near}?", name=name, near=near),
                    where.of(place or name),
                    _("write {near}, or begin the name of a helper value with _", near=near),
                )
            )
    return problems


def _is_helper(name: str, value: Any, near: str, where: Where) -> bool:
    """Tell whether a value may well have a name that is nearly a setting.

    Functions and objects often do; one is no helper when it comes from the file itself, the setting takes code, and
    nothing reads it. A list of values may have the plural (`batch_sizes`) when something reads it.
    """
    assigned, other_number = where.assigned, name.lower() == _other_number(near)
    if not callable(value):
        return other_number and isinstance(value, list | tuple | dict) and name in where.read
    if name.lower() == near or name not in assigned.own or name in where.read:  # `class Model`
        return True
    if name in assigned.definitions and (other_number or assigned.definitions[name]):
        return True  # `def observer`; what a decorator may have kept
    info = Config.model_fields[near]
    return not takes_code(info.annotation, info.metadata)


def _other_number(name: str) -> str:
    """Return the plural of a singular, the singular of a plural."""
    if name.endswith("ss"):
        return f"{name}es"
    return name[:-1] if name.endswith("s") else f"{name}s"


def shown(path: str | Path) -> str:
    """Return a path as its reader would write it: relative when it lies below the working directory."""
    there = os.path.relpath(path)
    return str(path) if there.startswith(os.pardir) else there


def near_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` is probably a misspelling of."""
    found = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.84)
    return found[0] if found else None


def value_problems(lines: Sequence[Any], where: Where) -> list[Problem]:
    """Return pydantic's errors in the reader's words, each once.

    A value that may be a list or a name has an error as either; when one looked inside, it alone speaks.
    """
    inside = {line["loc"][: len(line["loc"]) - 2] for line in lines}
    told = [line for line in lines if not (_as_name(line) and line["loc"][:-1] in inside)]
    return list(dict.fromkeys(_value_problem(line, where) for line in told))


def _as_name(line: Any) -> bool:
    return str(line["loc"][-1]).startswith(("literal[", "str"))


def _value_problem(line: Any, where: Where) -> Problem:
    kind, value = line["type"], line["input"]
    name, info, model, rest = _named(line["loc"])
    if name.endswith("_transform") and (kind == "missing" or value is None):
        what, mend = _("{name} is required", name=name), _("set it to transforms.Compose([..., transforms.ToTensor()])")
    elif kind == "extra_forbidden":
        near = near_name(str(line["loc"][-1]), model.model_fields)
        known = _("known keys: {names}", names=", ".join(model.model_fields))
        what, mend = _("Unknown key {name}", name=name), _("did you mean {near}?", near=near) if near else known
    elif kind == "unsupported_name":
        what = line["ctx"]["what"]
        mend = _("supported: {names}, or a callable of your own", names=", ".join(line["ctx"]["names"]))
    elif kind == "bad_pattern":
        reason = line["ctx"]["reason"]
        what = _("{name} holds a regular expression that does not compile: {reason}", name=name, reason=reason)
        mend = _("correct the expression {text}", text=repr(value))
    else:
        assert info is not None
        takes = accepted(info, rest)
        if kind == "no_folder_name":
            takes = _("the name of one folder, without / and \\, of at most {count} bytes", count=NAME_BYTES)
        elif kind == "too_short" and value == "" and name != "group_by":
            takes = _("a path")
        elif kind == "finite_number":
            takes = _("a finite number")
        elif name == "device":
            takes = _("a text such as 'cpu' or 'cuda:1', or None")
        elif not rest and (inner := inner_model(info)):
            takes = _("a dict with any of the keys {names}", names=", ".join(inner.model_fields))
        item, mend = item_name(name, info, rest), _("it takes {accepted}", accepted=takes)
        what = _("{name} cannot be {value}", name=item, value=_short(value))
        if item != name and isinstance(rest[-1], str) and rest[-1] != "[key]":
            name += f".{rest[-1]}"  # the line of the key in the dict
    return Problem(what, where.of(name), mend)


def _named(location: Sequence[int | str]) -> tuple[str, FieldInfo | None, type[Settings], Sequence[int | str]]:
    """Return (dotted name, field, model that holds it, rest) of the innermost setting in the location of an error."""
    name, model = str(location[0]), cast(type[Settings], Config)
    info, rest = model.model_fields.get(name), location[1:]
    while rest and info is not None and (inner := inner_model(info)):
        name, model, info, rest = f"{name}.{rest[0]}", inner, inner.model_fields.get(str(rest[0])), rest[1:]
    return name, info, model, rest


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
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    line = "\n    {}\n    {}".format(error.text.rstrip("\n"), caret) if error.text else ""
    return ConfigError(
        _("The config file is not valid Python: {reason}", reason=error.msg) + line,
        shown(error.filename or path) + (f":{error.lineno}" if error.lineno else ""),
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
    where = f"{shown(frame.filename)}:{frame.lineno}"
    return ConfigError(f"{what.rstrip(': ')}\n    {frame.line}", where, _mend_of(error, frame, path))


def _mend_of(error: BaseException, frame: traceback.FrameSummary, path: Path) -> str:
    name, known = getattr(error, "name", None) or "", list[str]()
    package, _dot, module = name.rpartition(".")
    if isinstance(error, ModuleNotFoundError) and package in sys.modules:
        name, known = module, dir(sys.modules[package])
    elif isinstance(error, ModuleNotFoundError) and name:
        name = name.partition(".")[0]
        known = [file.stem for file in path.parent.glob("*.py")]
    elif isinstance(error, ImportError) and (missing := re.match(r"cannot import name '(\w+)'", str(error))):
        name, known = missing[1], dir(sys.modules.get(name))
    elif isinstance(error, AttributeError):
        known = dir(error.obj)
    elif isinstance(error, NameError):
        *_outer, (innermost, _number) = traceback.walk_tb(error.__traceback__)
        known = [*innermost.f_locals, *innermost.f_globals, *dir(builtins)]
        if name in Config.model_fields:
            return _("give it a value in a line above: {name} = …", name=name)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
        return _("did you mean {near}?", near=near[0])
    if isinstance(error, ModuleNotFoundError) and name and package not in sys.modules:
        return _("install the package, e.g. uv add {name}, or put {name}.py beside the config", name=name)
    if isinstance(error, ImportError) and frame.filename == str(path) and re.match(r"from\s+\.", frame.line or ""):
        return _("a config is no part of a package; its folder is searched first: from base_config import *")
    return _("correct the line")


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
        f"{shown(file)}:{line}, {frame.f_code.co_name}",
        _("correct it; --debug shows the traceback"),
    )


def _is_users(name: str) -> bool:
    return name in sys.modules and name != "__main__" and is_user_code(sys.modules[name])
