"""Two canonical maps as the lines that a reader wants: what made this experiment a new one."""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from pochitrain.locale import _

_LONGEST = 60  # characters on each side of an arrow
_QUOTED = r'"(?:\\.|[^"\\])*"'
_DEFINITION = re.compile(r"(?:def |class |the module)[^:(]*")
_STEP = re.compile(rf": |: (?=\.)|\((?=\w)|\.(?:<[^>]*>|[^.\[(:<]+)|\[(?:{_QUOTED}|[^\]\"]*(?:{_QUOTED})?)\]")


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return a line for each change, none when the maps are equal: `learning_rate 0.001 → 0.002`.

    What became another kind of thing is one line, whatever is inside it, and so is an edited function. Code that is
    reached for the first time, or no longer, gets no line: the change that reaches it has one.
    """
    new = _aligned(old, new)
    before, after = _Map(old), _Map(new)
    lines: list[str] = []
    users: dict[str, list[str]] = defaultdict(list)
    for path in sorted({*old, *new}):
        if old.get(path) == new.get(path) or any(_says_all(around, old, new) for around in _around(path)):
            continue
        definition = _definition(path)
        if definition is None:
            lines += _changes(path, before, after)
        elif definition in old and definition in new:
            if path == definition:
                lines.append(_("code of {name} changed", name=after.name(path)))
            else:
                for change in _changes(path, before, after):
                    users[change].append(after.name(definition))
    lines += [_("{change} (in {names})", change=change, names=", ".join(names)) for change, names in users.items()]
    return list(dict.fromkeys(lines))


def _aligned(old: Mapping[str, str], new: Mapping[str, str]) -> Mapping[str, str]:
    """Return `new` with functions of one name numbered as in `old`, by their code: a new lambda shifts the others."""
    names: dict[str, str] = {}
    free = {path: old[path] for path in old if path == _definition(path)}
    here = [path for path in new if path == _definition(path)]
    for path in [*(path for path in here if new[path] in free.values()), *here]:
        if path not in names:
            base = path.partition("#")[0]
            fitting = [name for name in free if name.partition("#")[0] == base]
            fitting.sort(key=lambda name: (free[name] != new[path], name != path))
            names[path] = fitting[0] if fitting else f"{path}+" if path in old else path
            free.pop(names[path], None)
    return {
        _renamed(path, names): f"ref:{names[leaf.removeprefix('ref:')]}" if leaf.startswith("ref:") else leaf
        for path, leaf in new.items()
    }


def _renamed(path: str, names: Mapping[str, str]) -> str:
    definition = _definition(path)
    return names[definition] + path.removeprefix(definition) if definition else path


class _Map:
    """A canonical map that knows what is inside what."""

    def __init__(self, flat: Mapping[str, str]) -> None:
        self.flat = flat
        self.inner: dict[str, list[str]] = defaultdict(list)
        self.referrers: dict[str, str] = {}
        for path, leaf in flat.items():
            for around in list(_around(path))[-1:]:
                self.inner[around].append(path)
            if leaf.startswith("ref:"):
                self.referrers.setdefault(leaf.removeprefix("ref:"), path)

    def name(self, definition: str) -> str:
        """Return what a reader calls a function or class; a lambda is known by where it stands."""
        if "<lambda>" in definition and definition in self.referrers:
            where = self.referrers[definition]
            around = _definition(where)
            return f"lambda in {self.name(around) + ', ' if around else ''}{_readable(where)}"
        return re.sub(r"^(def|class) |<locals>\.|#\d+$|\+$", "", definition)

    def text(self, path: str) -> str:
        """Return what stands at a path, much as the user wrote it."""
        kind, _colon, rest = self.flat[path].partition(":")
        match kind:
            case "list" | "tuple":
                told = ", ".join(self.items(path))
                return f"[{told}]" if kind == "list" else f"({told})"
            case "dict":
                told = ", ".join(f"{_member(path, inner)}: {self.text(inner)}" for inner in self._told(path))
                return f"{{{told}}}"
            case "ref":
                return f"lambda {self.flat[rest][5:9]}" if "<lambda>" in rest else self.name(rest)
        if kind == "object" or (self._told(path) and kind != "enum"):
            told = ", ".join(self._argument(path, inner) for inner in self._told(path))
            return f"{(rest or kind).rpartition('.')[2]}({told})"
        return _leaf_text(kind, rest)

    def items(self, path: str) -> list[str]:
        return [self.text(f"{path}[{index}]") for index in range(len(self.inner[path]))]

    def _told(self, path: str) -> list[str]:
        return [inner for inner in self.inner[path] if not inner.endswith((".<class>", ".<order>"))]

    def _argument(self, path: str, inner: str) -> str:
        name, text = _member(path, inner), self.text(inner)
        return text if name.startswith("<") or name == "transforms" else f"{name}={text}"


def _around(path: str) -> Iterator[str]:
    """Yield the paths around a path, the outermost first."""
    definition = _DEFINITION.match(path)
    start = definition.end() if definition else re.match(r"[^.\[]*", path).end()  # type: ignore[union-attr]
    ends = [step.start() for step in _STEP.finditer(path, start) if step.start() > 0]
    for end in ends:
        if not path[:end].endswith(": "):
            yield path[:end]


def _definition(path: str) -> str | None:
    match = _DEFINITION.match(path)
    return match.group() if match else None


def _says_all(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Tell whether the line of a changed `path` says enough about everything inside."""
    before, after = old.get(path), new.get(path)
    kept = path == _definition(path) or (str(before).startswith("dict:") and str(after).startswith("dict:"))
    return before != after and not kept


def _changes(path: str, before: _Map, after: _Map) -> list[str]:
    """Return the lines for one path that is not a definition itself."""
    kinds = {flat.get(path, "").partition(":")[0] for flat in (before.flat, after.flat)}
    where = _readable(path)
    if kinds == {"dict"}:  # members came or went, and have lines of their own
        return []
    if path.endswith(".<order>") and before.flat.get(around := path.removesuffix(".<order>")) != after.flat.get(around):
        return []
    if kinds <= {"list", "tuple"} and len(kinds) == 1:
        return _item_changes(where, before.items(path), after.items(path))
    was, becomes = (_short(each.text(path)) if path in each.flat else _("(not set)") for each in (before, after))
    return [_("{path} changed", path=where) if was == becomes else f"{where} {was} → {becomes}"]


def _item_changes(where: str, old: list[str], new: list[str]) -> list[str]:
    lines = []
    for kind, start, end, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            lines += [f"{where}[{start + index}] − {_short(item)}" for index, item in enumerate(old[start:end])]
            lines += [f"{where}[{first + index}] + {_short(item)}" for index, item in enumerate(new[first:last])]
    return lines


def _readable(path: str) -> str:
    """Return a path as a user would write it in a config; of a path in a definition, what follows its name."""
    path = path.removeprefix(_definition(path) or "")
    order = " " + _("(order)") if path.endswith(".<order>") else ""
    path = re.sub(r"^: \.?|^\((\w+)\)|\.<(?:order|items|function|keywords|object|get)>", r"\1", path)
    path = re.sub(r"\.<arguments>\[(\d+)\]", r"(\1)", path)
    path = re.sub(r"<module \d+>\.?|\.transforms(?=\[|$)", "", path)
    path = re.sub(r'\["(\d+)"\]|\[(?:int|float|bool|constant|library):([^\]]*)\]', r"[\1\2]", path)
    return re.sub(r"<([\w ]+)>", r"\1", path) + order


def _member(path: str, inner: str) -> str:
    suffix = inner.removeprefix(path)
    return (suffix if suffix.endswith(">") else _readable(suffix)).lstrip(".")


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    name = re.match(r"[\w.]+\(", text)
    return f"{name.group()}…)" if name else text[: _LONGEST - 1] + "…"


def _leaf_text(kind: str, rest: str) -> str:
    """Return a leaf as a reader knows the value."""
    match kind:
        case "float":
            return repr(float.fromhex(rest))
        case "complex":
            real, imaginary = map(float.fromhex, rest.split(","))
            return repr(complex(real, imaginary))
        case "str" | "path":
            text = json.loads(rest)
            return str(text) if re.fullmatch(r"[\w./+-]+", text) else repr(text)
        case "library" | "enum" | "torch":
            return rest.rpartition(".")[2]
        case "array" | "tensor" | "bytes" | "bytearray":
            return f"{kind} {rest.partition(':')[0]}"
        case "set" | "frozenset":
            return "{" + ", ".join(_leaf_text(*item.partition(":")[::2]) for item in json.loads(rest)) + "}"
        case "order":
            return ", ".join(item.strip(".[]") for item in json.loads(rest))
    if kind.startswith("numpy."):
        inner, _colon, value = rest.partition(":")
        return _leaf_text(inner, value)
    return rest or kind
