"""Two canonical maps as the lines that a reader wants: what made this experiment a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pochitrain.locale import _

_LONGEST = 60  # characters of one side of a line
_NOTHING_INSIDE = frozenset({".<class>", ".<order>"})


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return one line per change, empty when the maps are equal: `learning_rate 0.001 → 0.002`.

    A value that became another kind of thing is one line, whatever is inside it; so is an edited function. Code that is
    reached for the first time, or no longer, is not told of: the change that reaches it is.
    """
    changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    whole = {path for path in changed if path in old or path in new if _tells_all(path, old, new)}
    lines = [line for path in changed if not _is_inside(path, whole) for line in _lines(path, old, new)]
    return list(dict.fromkeys(lines))


def _tells_all(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Tell whether a change at `path` makes what is inside it not worth a line of its own."""
    return not (path in old and path in new and _is_code(path))


def _is_inside(path: str, whole: set[str]) -> bool:
    return any(path[:end] in whole for end in _ends(path))


def _ends(path: str) -> list[int]:
    """Return where the paths around `path` end."""
    return [match.start() for match in re.finditer(r": |[.(\[]", path) if match.start()]


def _is_code(path: str) -> bool:
    return path.startswith(("def ", "class ", "module")) and ": " not in path and "(" not in path


def _lines(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    if _is_code(path):
        if path in old and path in new:
            return [_("code of {name} changed", name=_name(path))]
        return []
    before, after = (render(flat, path) if path in flat else _("(not set)") for flat in (old, new))
    if before == after:
        return [_("{path} changed", path=_readable(path))]
    return [f"{_readable(path)} {before} → {after}"]


def _readable(path: str) -> str:
    """Return a path as the reader would write it in the config."""
    path = re.sub(r"\.<order>$", _(" (order)"), path)
    path = re.sub(r"\.transforms(?=\[)|\.<\w+>", "", path)
    path = re.sub(r"\[\w+:([^\]]*)\]", r"[\1]", path)
    if match := re.fullmatch(r"(?:def|class|module)(.*?)(?:: |\()(.*?)\)?", path):
        owner, inner = match.groups()
        return _("{name} of {owner}", name=inner.lstrip("."), owner=_name(owner)) if owner.strip() else inner
    return path


def _name(path: str) -> str:
    return re.sub(r"^(def|class) |#\d+$", "", path).strip().replace("<locals>.", "")


def render(flat: Mapping[str, str], path: str) -> str:
    """Return what stands at `path` of a canonical map as short Python-like text."""
    text = _text(flat, path)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _text(flat: Mapping[str, str], path: str) -> str:
    kind, _colon, rest = flat[path].partition(":")
    inner = [(p, p.removeprefix(path)) for p in flat if p.startswith(path) and _is_child(path, p)]
    match kind:
        case "list" | "tuple":
            opening, closing = "[]" if kind == "list" else "()"
            items = sorted(inner, key=lambda item: int(item[1].strip("[]")))
            return opening + ", ".join(_text(flat, p) for p, _suffix in items) + closing
        case "dict":
            told = ", ".join(f"{_member(suffix)}: {_text(flat, p)}" for p, suffix in inner if suffix not in _NOTHING_INSIDE)
            return "{" + told + "}"
        case "object":
            name = rest.rpartition(".")[2]
            told = ", ".join(_argument(flat, p, suffix) for p, suffix in inner if suffix not in _NOTHING_INSIDE)
            return f"{name}({told})"
        case "ref":
            return _name(rest)
    return _leaf(kind, rest)


def _is_child(path: str, other: str) -> bool:
    suffix = other.removeprefix(path)
    return re.fullmatch(r"\.[^.\[\]:(]+|\[(\d+|\"(\\.|[^\"\\])*\"|\w+:[^\[\]]*)\]", suffix) is not None


def _member(suffix: str) -> str:
    return suffix.strip("[]").lstrip(".")


def _argument(flat: Mapping[str, str], path: str, suffix: str) -> str:
    text = _text(flat, path)
    return text if suffix == ".transforms" or suffix.startswith(".<") else f"{_member(suffix)}={text}"


def _leaf(kind: str, rest: str) -> str:
    """Return a leaf without inner parts as a reader knows it."""
    match kind:
        case "float":
            return repr(float.fromhex(rest))
        case "complex":
            real, imaginary = rest.split(",")
            return repr(complex(float.fromhex(real), float.fromhex(imaginary)))
        case "str" | "path":
            text = json.loads(rest)
            return text if re.fullmatch(r"[\w./+-]+", text) else repr(text)
        case "library" | "enum" | "torch":
            return rest.rpartition(".")[2]
        case "array" | "tensor":
            return f"{kind} {rest.partition(':')[0]}"
        case "set" | "frozenset":
            return "{" + ", ".join(_leaf(*item.partition(":")[::2]) for item in json.loads(rest)) + "}"
        case "order":
            return ", ".join(_member(item) for item in json.loads(rest))
        case "bytes" | "bytearray":
            return f"{kind} of length {rest.partition(':')[0]}"
    if kind.startswith("numpy."):
        inner, _colon, value = rest.partition(":")
        return _leaf(inner, value)
    return rest or kind
