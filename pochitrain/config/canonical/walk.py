"""The walk through values and the code that they reach."""

from __future__ import annotations

import enum
import hashlib
import json
import types
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pochitrain.config.canonical.definitions import Namespace, define, global_reads, is_definition, title
from pochitrain.config.canonical.leaves import Held, Leaf, Made, Refused, is_users_class, key_text, plain_leaf
from pochitrain.config.canonical.values import describe
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _


def canonical(values: Mapping[str, Any], *, ordered: Collection[str] = ()) -> dict[str, str]:
    """Return the flat map of `values`, sorted by path.

    The same on every Python from 3.11 on, in every process, wherever the files lie. Costs a parse per module of the
    user's that is reached, once per text, and a hash over all arrays and tensors.

    Args:
        ordered: paths of dicts in which, and in whose dicts, the order means something:
            `layer_wise_lr_config.layer_rates`.

    Raises:
        ConfigError: with every value that has no stable identity: locks, files, iterators, random generators.
    """
    return dict(sorted(_walked(values, ordered).flat.items()))


def readers(values: Mapping[str, Any], names: Collection[str]) -> list[tuple[types.FunctionType, str]]:
    """Return (function, name) for each function of the user's that `values` reach and that reads such a global.

    Raises:
        ConfigError: as `canonical` does.
    """
    functions = [reached for reached in _walked(values).kept if isinstance(reached, types.FunctionType)]
    return [(function, name) for function in functions for name in sorted(global_reads(function) & {*names})]


def _walked(values: Mapping[str, Any], ordered: Collection[str] = ()) -> _Walker:
    walker = _Walker(ordered)
    for name in sorted(values):
        try:
            walker.walk(name, values[name])
            walker.walk_definitions()
        except RecursionError:
            raise ConfigError(
                _("The value is nested too deeply"), name, _("keep it flat, or let a function make it")
            ) from None
    if walker.problems:
        raise ConfigError(problems=walker.problems)
    return walker


def digest(flat: Mapping[str, str]) -> str:
    """Return the SHA-256 of a flat map, 64 hex digits; the order of its items does not matter."""
    return hashlib.sha256(json.dumps(dict(flat), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Walker:
    """Goes through values depth first, and through the definitions that they reach afterwards, each once."""

    def __init__(self, ordered: Collection[str] = ()) -> None:
        self.flat: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.ordered = ordered
        self.code_sees = False  # the user's code can see the value: the order of its dicts counts
        self.places: dict[int, str] = {}  # what counts once: id → where it stands
        self.open: dict[int, str] = {}  # what is being walked, to notice a circle
        self.kept: list[Any] = []  # keeps the ids in `places` from being given again
        self.waiting: deque[tuple[str, Any]] = deque()
        self.titles: Counter[str] = Counter()
        self.reached_from: dict[str, str] = {}

    def walk(self, path: str, value: Any) -> None:
        if isinstance(value, Leaf):
            self.flat[path] = str(value)
        elif is_definition(value):
            self.flat[path] = f"ref:{self._root(path, value)}"
        elif isinstance(value, Held):
            self._walk_once(path, value.tensor)
        elif is_users_class(type(value)) and not isinstance(value, enum.Enum):
            self._walk_once(path, value)
        else:
            self._walk_parts(path, value)

    def walk_definitions(self) -> None:
        before, self.code_sees = self.code_sees, True
        while self.waiting:
            root, definition = self.waiting.popleft()
            self._take(root, define, definition)
        self.code_sees = before

    def _root(self, path: str, definition: Any) -> str:
        """Return the name under which a definition stands; it is walked later, so calls may go in circles."""
        identity = definition.names if isinstance(definition, Namespace) else definition
        identity = vars(identity) if isinstance(identity, types.ModuleType) else identity
        if id(identity) not in self.places:
            name = title(definition)
            self.titles[name] += 1
            root = name if self.titles[name] == 1 else f"{name}#{self.titles[name]}"
            self.places[id(identity)] = root
            self.reached_from[root] = path
            self.kept.append(identity)
            self.waiting.append((root, definition))
        return self.places[id(identity)]

    def _walk_once(self, path: str, value: Any) -> None:
        """Walk what code may change in one place and see in another: sharing it is not the same as two copies."""
        if id(value) in self.places:
            self.flat[path] = f"same:{self.places[id(value)]}"
            return
        self.places[id(value)] = path
        self.kept.append(value)
        before, self.code_sees = self.code_sees, True
        self._walk_parts(path, value)
        self.code_sees = before

    def _walk_parts(self, path: str, value: Any) -> None:
        if id(value) in self.open:
            self.flat[path] = f"same:{self.open[id(value)]}"
            return
        self.open[id(value)] = path
        self._take(path, self._describe, value)
        del self.open[id(value)]

    def _take(self, path: str, take_apart: Callable[[Any], Made], value: Any) -> None:
        try:
            made = take_apart(value)
        except Refused as refused:
            self.problems.append(Problem(refused.what, self._where(path), refused.mend))
            return
        self.flat[path] = made.leaf
        for suffix, part in made.parts:
            self.walk(path + suffix, part)

    def _describe(self, value: Any) -> Made:
        if type(value) in (dict, types.MappingProxyType):
            return self._dict(value)
        if type(value) in (set, frozenset):
            return Made(f"{type(value).__name__}:{json.dumps(sorted(map(self._text, value)))}", [])
        return describe(value)

    def _dict(self, value: Mapping[Any, Any]) -> Made:
        items = [(key_text(key) if type(key) is str else f"[{self._text(key)}]", item) for key, item in value.items()]
        parts = sorted(items, key=lambda item: item[0])
        if self.code_sees or self._is_ordered(self.open[id(value)]):
            parts.append((".<order>", Leaf("order:" + json.dumps([text for text, _item in items]))))
        return Made(f"dict:{len(items)}", parts)

    def _is_ordered(self, path: str) -> bool:
        return any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in self.ordered)

    def _text(self, value: Any) -> str:
        """Return one text for a value without a place of its own: a key, a member of a set."""
        leaf = plain_leaf(value)
        if leaf is not None:
            return leaf
        inner = _Walker()
        inner.open, inner.code_sees = dict(self.open), self.code_sees
        inner.walk("", value)
        inner.walk_definitions()
        for problem in inner.problems:
            raise Refused(problem.what, problem.mend)
        return inner.flat[""] if len(inner.flat) == 1 else f"digest:{digest(inner.flat)}"

    def _where(self, path: str) -> str:
        """Return a path for a reader, with the setting through which a definition was reached."""
        root, _colon, inner = path.partition(": ")
        setting = path
        while (around := setting.partition(": ")[0].partition("(")[0]) in self.reached_from:
            setting = self.reached_from[around]
        if setting == path:
            return path
        owner = root.removeprefix("def ").removeprefix("class ")
        place = _("{name} in {owner}", name=inner, owner=owner) if inner else owner
        return _("{place}, reached from {setting}", place=place, setting=setting)
