"""A config file becomes a Config: executed once from one read of its text, checked whole, every mistake at once."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.machinery
import importlib.util
import itertools
import json
import linecache
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pochitrain.config.inject import call_part, signature_defaults
from pochitrain.config.schema import Config, Origin, Settings, accepted, cross_problems, inner_model
from pochitrain.config.source import is_user_code
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _

_numbers = itertools.count(1)
_modules_of_last_load: list[str] = []


class InvalidConfig(ConfigError):
    """A config with mistakes; `partial` is the Config of the settings that are right, for further checks."""

    partial: Config | None = None
    wrong: frozenset[str] = frozenset()


def load_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Execute a config file and return its settings.

    Call it again after editing the file or a module beside it: modules that an earlier load imported from the user's
    own folders are imported anew.

    Args:
        overrides: setting (dotted for a member of a dict, `early_stopping.patience`) → value, put over the file's.

    Raises:
        InvalidConfig: with every mistake in the file.
        ConfigError: the file is missing, or it does not run.
    """
    path = Path(path)
    text = _read(path)
    namespace = vars(_execute(path, text))
    return build_config(namespace, path=path, text=text, overrides=overrides or {})


def build_config(
    namespace: Mapping[str, Any],
    *,
    path: Path | None = None,
    text: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the Config of a namespace: names that are settings are settings, all others are helpers."""
    overrides = overrides or {}
    public = {name: value for name, value in namespace.items() if not name.startswith("_")}
    settings = {name: value for name, value in public.items() if name in Config.model_fields}
    helpers = {
        name: value
        for name, value in public.items()
        if name not in settings and not isinstance(value, ModuleType) and not _is_future_import(value)
    }
    where = _Where(path, text)
    problems = _misspelled(helpers, where)
    problems += _apply(settings, overrides)
    settings = _resolve_registry(settings, path, problems)
    added = _ask_adapter(settings, helpers)
    settings = {**{name: value for name, value in added.items() if name in Config.model_fields}, **settings}
    helpers = {**{name: value for name, value in added.items() if name not in Config.model_fields}, **helpers}
    try:
        config, wrong = Config.model_validate(settings), frozenset[str]()
    except ValidationError as error:
        problems += [_problem(line, where) for line in error.errors()]
        wrong = frozenset(str(line["loc"][0]) for line in error.errors())
        kept = {name: value for name, value in settings.items() if name not in wrong}
        config = Config.model_validate({**dict.fromkeys(("train_transform", "val_transform"), _placeholder), **kept})
    problems += [where.fill(problem) for problem in cross_problems(config) if problem.where.split(".")[0] not in wrong]
    config._origin = Origin(path, text, dict(namespace), helpers, dict(overrides))
    if problems:
        invalid = InvalidConfig(problems=problems)
        invalid.partial, invalid.wrong = config, wrong
        raise invalid
    return config


def replace_settings(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return a Config in which dotted settings have other values, checked like a file's.

    Raises:
        InvalidConfig: a key is no setting, or a value does not fit.
    """
    origin = config.origin
    together = {**origin.overrides, **overrides}
    return build_config(origin.namespace, path=origin.path, text=origin.text, overrides=together)


def raw(value: Any) -> Any:
    """Return a dict-valued setting as the dict that the user wrote, any other value as it is."""
    return value.model_dump(exclude_unset=True) if isinstance(value, Settings) else value


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse `key=value` of the command line; the value is a Python literal, a bare word is a text.

    Raises:
        ConfigError: there is no `=`, or the value is no literal.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(_("--set needs key=value, not {text}", text=repr(text)), "--set", "--set learning_rate=0.01")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        if value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum():
            return key.strip(), value.strip()
        raise ConfigError(
            _("the value of {key} is no Python literal: {value}", key=key, value=value),
            "--set",
            _("write numbers, True, None, lists, or quoted text: --set {example}", example="\"scheduler='StepLR'\""),
        ) from None


def _placeholder(image: Any) -> Any:
    raise AssertionError("stands for a setting that is wrong; never called")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path().glob("configs/*.py"))
        mend = _("existing files: {files}", files=", ".join(near)) if near else _("give the path of a config file")
        raise ConfigError(_("There is no config file {path}", path=path), str(path), mend) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            _("The config file cannot be read: {reason}", reason=error),
            str(path),
            _("a config is a Python file in UTF-8"),
        ) from None


class _TextLoader(importlib.machinery.SourceFileLoader):
    """Executes the text that was read, never what the file holds by now, and leaves no byte code behind."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self.text = text

    def get_code(self, fullname: str) -> Any:
        return compile(self.text, self.path, "exec", dont_inherit=True)


def _execute(path: Path, text: str) -> ModuleType:
    name = f"pochi_config_{next(_numbers)}"
    spec = importlib.util.spec_from_loader(name, _TextLoader(name, path, text), origin=str(path))
    assert spec is not None
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__pochi_source__"] = text
    # Tracebacks and inspect show the text that runs, also after the file has changed.
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    _forget_modules_of_last_load()
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    before, process = set(sys.modules), os.getpid()
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except SyntaxError as error:
        raise _syntax_problem(error, path) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything at all
        raise _execution_problem(error, path) from error
    finally:
        if os.getpid() != process:  # the file forked: only the first process goes on
            os._exit(0)
        new = [key for key in sys.modules if key not in before]
        _modules_of_last_load[:] = [key for key in new if is_user_code(sys.modules[key])]
    return module


def _forget_modules_of_last_load() -> None:
    for name in _modules_of_last_load:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def _syntax_problem(error: SyntaxError, path: Path) -> ConfigError:
    line = (error.text or "").rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    return ConfigError(
        _("The config file is not valid Python: {reason}", reason=error.msg) + f"\n    {line}\n    {caret}",
        f"{error.filename or path}:{error.lineno}",
        _("correct the line"),
    )


def _execution_problem(error: BaseException, path: Path) -> ConfigError:
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


def _is_future_import(value: Any) -> bool:
    return type(value).__module__ == "__future__"


class _Where:
    """Finds the line of a setting in the text of the file."""

    def __init__(self, path: Path | None, text: str) -> None:
        self.path = path
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
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                if isinstance(target.slice, ast.Constant):
                    self.lines[f"{target.value.id}.{target.slice.value}"] = node.lineno

    def _note_keys(self, prefix: str, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                self.lines[f"{prefix}.{key.value}"] = key.lineno
                if isinstance(value, ast.Dict):
                    self._note_keys(f"{prefix}.{key.value}", value)

    def of(self, name: str) -> str:
        """Return "file:line, name", with the line of the innermost part of a dotted name that the file shows."""
        parts = name.split(".")
        candidates = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        line = next((self.lines[c] for c in candidates if c in self.lines), None)
        if self.path is None:
            return name
        return f"{self.path}:{line}, {name}" if line else f"{self.path}, {name}"

    def fill(self, problem: Problem) -> Problem:
        return Problem(problem.what, self.of(problem.where), problem.mend)


def _misspelled(helpers: Mapping[str, Any], where: _Where) -> list[Problem]:
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


def near_name(name: str, names: Any) -> str | None:
    """Return the one of `names` that `name` is probably a misspelling of."""
    found = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.84)
    return found[0] if found else None


def _apply(settings: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """Put dotted overrides over raw settings, in place; return what is wrong with their keys."""
    problems = []
    for key, value in overrides.items():
        name, *inner = key.split(".")
        if name.startswith("scheduler_") and name not in Config.model_fields and not inner:
            name, inner = "scheduler_params", [name.removeprefix("scheduler_")]
        if name not in Config.model_fields or (inner and not _takes_members(name)):
            near = near_name(key, Config.model_fields)
            mend = _("did you mean {near}?", near=near) if near else _("pochi config schema lists all settings")
            problems.append(Problem(_("{key} is no setting", key=key), key, mend))
            continue
        settings[name] = _with_member(settings.get(name), inner, value)
    return problems


def _takes_members(name: str) -> bool:
    info = Config.model_fields[name]
    return inner_model(info) is not None or "dict" in str(info.annotation)


def _with_member(old: Any, keys: list[str], value: Any) -> Any:
    if not keys:
        return value
    old = dict(raw(old)) if isinstance(old, Mapping | Settings) else {}
    if ".".join(keys) in old:  # a key may hold dots itself: layer_rates."layer4.1"
        keys = [".".join(keys)]
    return {**old, keys[0]: _with_member(old.get(keys[0]), keys[1:], value)}


def _resolve_registry(settings: dict[str, Any], path: Path | None, problems: list[Problem]) -> dict[str, Any]:
    """Replace names of parts by the objects that `registry.json` beside the config gives them."""
    resolved = dict(settings)
    for name in ("model", "dataset", "adapter"):
        if not isinstance(settings.get(name), str):
            continue
        try:
            resolved[name] = load_registered(
                settings[name], (path.parent if path else Path("configs")) / "registry.json"
            )
        except ConfigError as error:
            problems += error.problems
            resolved.pop(name)
    return resolved


def load_registered(name: str, registry: Path) -> Any:
    """Return the object that `registry.json` names: {"name": "path.py:object"}, paths relative to the registry.

    Raises:
        ConfigError: no registry, no such name, no such file or object.
    """
    try:
        entries = json.loads(registry.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            _("The registry of parts cannot be read: {reason}", reason=error),
            str(registry),
            _("see the documentation of registry.json"),
        ) from None
    target = entries.get(name) if isinstance(entries, dict) else None
    if not isinstance(target, str) or ":" not in target:
        raise ConfigError(
            _("{name} is not in the registry of parts", name=name),
            str(registry),
            _('registered: {names}; an entry is "name": "path.py:object"', names=", ".join(entries) or "-"),
        )
    file, _colon, attribute = target.rpartition(":")
    path = registry.parent / file
    text = _read(path)
    module = _execute_part(path, text)
    if not hasattr(module, attribute):
        raise ConfigError(_("{path} has no {name}", path=path, name=attribute), str(registry), _("correct the entry"))
    return getattr(module, attribute)


def _execute_part(path: Path, text: str) -> ModuleType:
    kept = list(_modules_of_last_load)
    _modules_of_last_load.clear()
    module = _execute(path, text)
    _modules_of_last_load.extend(kept)
    return module


def _ask_adapter(settings: dict[str, Any], helpers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and values that the adapter contributes; they stand below the file's own."""
    adapter = settings.get("adapter")
    if not callable(adapter):
        return {}
    added = call_part("adapter", adapter, {**signature_defaults(settings.get("dataset")), **helpers, **settings})
    if not isinstance(added, dict):
        raise ConfigError(
            _("The adapter returned {kind}", kind=type(added).__name__),
            "adapter",
            _("return a dict of settings and values"),
        )
    return added


def _problem(line: Any, where: _Where) -> Problem:
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
