"""A config file becomes a Config: executed once from one read of its text, checked whole, every mistake at once."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pochitrain.config.fields import Settings
from pochitrain.config.imports import execute, execute_part
from pochitrain.config.imports import remembered_imports as remembered_imports
from pochitrain.config.inject import call_part, signature_defaults
from pochitrain.config.mistakes import (
    Where,
    cross_problems,
    misspelled,
    near_name,
    shown,
    value_problems,
    valueless,
)
from pochitrain.config.schema import Config, Origin
from pochitrain.config.words import (
    accepted,
    full_name,
    inner_model,
    settings_meant,
    split_key,
    takes_text,
    walk_settings,
)
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _

_LITERALS = {"true": "True", "false": "False", "none": "None"}


class InvalidConfig(ConfigError):
    """A config with mistakes; `partial` is the Config of the settings that are right, `wrong` names the others."""

    def __init__(self, problems: list[Problem], partial: Config, wrong: frozenset[str]) -> None:
        super().__init__(problems=problems)
        self.partial, self.wrong = partial, wrong


def load_config(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None, *, text: str | None = None
) -> Config:
    """Execute a config file and return its settings.

    A value put over the file's is what it would be at the end of the file: functions that read its name see it.

    Call it again after editing the file or a module beside it: modules that an earlier load imported from the user's
    own folders are imported anew.

    Args:
        overrides: setting (dotted for a member of a dict, `early_stopping.patience`) → value, put over the file's.
        text: executed in the place of what the file holds by now.

    Raises:
        InvalidConfig: with every mistake in the file.
        ConfigError: the file is missing, or it does not run.
    """
    if overrides is not None and not isinstance(overrides, Mapping):
        what = _("What is put over the file is no dict, but {kind}", kind=type(overrides).__name__)
        raise ConfigError(what, "load_config", 'load_config("my_config.py", {"epochs": 3})')
    path = Path(path).absolute()  # the file may change the working directory
    text = _read(path) if text is None else text
    module = execute(path, text)
    namespace = dict(vars(module))
    _apply(vars(module), overrides or {})
    return build_config(namespace, path=path, text=text, overrides=overrides)


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
    where = Where(path, text, overrides)
    problems = misspelled(helpers, where)
    problems += _apply(settings, overrides) + valueless(where)
    # A copy of a config elsewhere may set `__file__` to say whose folder it means.
    at = Path(namespace["__file__"]) if "__file__" in namespace else path
    settings = _resolve_registry(settings, (at.parent if at else Path("configs")) / "registry.json", where, problems)
    added = _ask_adapter(settings, helpers)
    more = {name: value for name, value in added.items() if name not in Config.model_fields}
    problems += misspelled(more, where, "adapter")
    settings = {**{name: value for name, value in added.items() if name in Config.model_fields}, **settings}
    helpers = {**more, **helpers}
    try:
        config, wrong = Config.model_validate(settings), frozenset[str]()
    except ValidationError as error:
        problems += value_problems(error.errors(), where)
        wrong = frozenset(str(line["loc"][0]) for line in error.errors())
        kept = {name: value for name, value in settings.items() if name not in wrong}
        config = Config.model_validate({**dict.fromkeys(("train_transform", "val_transform"), _placeholder), **kept})
    problems += [where.fill(problem) for problem in cross_problems(config) if problem.where.split(".")[0] not in wrong]
    config._origin = Origin(path, text, dict(namespace), helpers, dict(overrides))
    if problems:
        raise InvalidConfig(problems, config, wrong)
    return config


def replace_settings(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return a Config in which dotted settings have other values, checked like a file's.

    Functions of the file that read a setting as a global still see the file's value (see `identity.setting_readers`).

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
    """Parse `key=value` of the command line; the value is a Python literal, another bare word is a text.

    Literals are also `true`, `false` and `none`, as other programs write them. Where a setting takes a text, the value
    is one as it stands: a path, a number, a sentence.

    Raises:
        ConfigError: there is no `=`, or the value is no literal.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(_("--set needs key=value, not {text}", text=repr(text)), "--set", "--set learning_rate=0.01")
    if not value:
        mend = _("an empty text is written with quotes: --set {example}", example=f"\"{key}=''\"")
        raise ConfigError(_("{key} has no value", key=key), "--set", mend)
    info = dict(walk_settings()).get(key)
    as_text = info is not None and takes_text(info)
    try:
        literal = ast.literal_eval(value if as_text else _LITERALS.get(value.lower(), value))
    except (ValueError, SyntaxError, TypeError):
        if as_text or value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum():
            return key, value
        example = re.findall(r"[^\[\],\s]+", value) if value.startswith("[") else value
        quoted = _("write numbers, True, None, lists, or quoted text: --set {example}", example=f'"{key}={example!r}"')
        mend = quoted if info is None or value.startswith("[") else _("it takes {accepted}", accepted=accepted(info))
        what = _("the value of {key} is no Python literal: {value}", key=key, value=value)
        raise ConfigError(what, "--set", mend) from None
    return key, value if as_text and not isinstance(literal, str | list | None) else literal


def _placeholder(image: Any) -> Any:
    raise AssertionError("stands for a setting that is wrong; never called")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path().glob("configs/*.py"))
        mend = _("existing files: {files}", files=", ".join(near)) if near else _("give the path of a config file")
        raise ConfigError(_("There is no config file {path}", path=shown(path)), shown(path), mend) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            _("The config file cannot be read: {reason}", reason=error),
            shown(path),
            _("a config is a Python file in UTF-8"),
        ) from None


def _is_future_import(value: Any) -> bool:
    return type(value).__module__ == "__future__"


def _apply(settings: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """Put dotted overrides over raw settings, in place; return what is wrong with their keys."""
    problems = []
    known = dict(walk_settings())
    open_dicts = [name for name, info in known.items() if not inner_model(info) and "dict" in str(info.annotation)]
    for key, value in overrides.items():
        full = full_name(key)
        if full not in known and not full.startswith(tuple(f"{name}." for name in open_dicts)):
            near = settings_meant().get(key) or near_name(key, known)
            mend = _("did you mean {near}?", near=near) if near else _("pochi config schema lists all settings")
            place = _("{name}, given beside the file", name=key)
            problems.append(Problem(_("{key} is no setting", key=key), place, mend))
            continue
        name, inner = split_key(key)
        settings[name] = _with_member(settings.get(name), inner, value)
    return problems


def _with_member(old: Any, keys: list[str], value: Any) -> Any:
    if not keys:
        return value
    old = dict(raw(old)) if isinstance(old, Mapping | Settings) else {}
    return {**old, keys[0]: _with_member(old.get(keys[0]), keys[1:], value)}


def _resolve_registry(
    settings: dict[str, Any], registry: Path, where: Where, problems: list[Problem]
) -> dict[str, Any]:
    """Replace names of parts by the objects that `registry.json` beside the config gives them."""
    resolved = dict(settings)
    for name in ("model", "dataset", "adapter"):
        if not isinstance(settings.get(name), str):
            continue
        del resolved[name]
        if not registry.exists():
            problems.append(_no_registry(name, settings[name], registry, where))
            continue
        try:
            resolved[name] = load_registered(settings[name], registry)
        except ConfigError as error:
            problems += error.problems
    return resolved


def _no_registry(name: str, value: str, registry: Path, where: Where) -> Problem:
    mend = _(
        'give a function, not its name; or name it in {registry} as "{value}": "path.py:object"',
        registry=registry,
        value=value,
    )
    if name == "model":
        mend = _("for a model of torchvision set model_name instead") + "; " + mend
    what = _("{name} is the name {value}, but nothing is registered", name=name, value=repr(value))
    return Problem(what, where.of(name), mend)


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
    module = execute_part(path, text)
    if not hasattr(module, attribute):
        raise ConfigError(_("{path} has no {name}", path=path, name=attribute), str(registry), _("correct the entry"))
    return getattr(module, attribute)


def _ask_adapter(settings: dict[str, Any], helpers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and values that the adapter contributes; they stand below the file's own."""
    adapter = settings.get("adapter")
    if not callable(adapter):
        return {}
    added = call_part("adapter", adapter, {**signature_defaults(settings.get("dataset")), **helpers, **settings})
    if not isinstance(added, dict) or not all(isinstance(name, str) for name in added):
        raise ConfigError(
            _("The adapter returned {kind}", kind=type(added).__name__),
            "adapter",
            _("return a dict of settings and values"),
        )
    return added
