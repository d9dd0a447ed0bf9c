"""Whose code it is, and what a function reads from outside itself."""

from __future__ import annotations

import ast
import dis
import importlib
import inspect
import linecache
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pochitrain.config.canonical import canonical, digest
from pochitrain.config.canonical.syntax import reads
from pochitrain.config.source import NoSource, find_function, is_user_code


def module_from(text: str, file: Path | None = None, name: str = "module_under_test") -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__pochi_source__"] = textwrap.dedent(text)
    module.__file__ = str(file or f"{name}.py")
    exec(compile(module.__dict__["__pochi_source__"], module.__file__, "exec", dont_inherit=True), vars(module))
    return module


def of(value: Any) -> str:
    return digest(canonical({"value": value}))


@pytest.mark.parametrize(
    "name",
    [
        *("json", "sys", "importlib", "collections.abc", "pytest", "pochitrain.config.source"),
        *("numpy", "numpy.random", "torch", "torchvision.transforms.v2"),
    ],
)
def test_libraries_are_not_the_users(name: str) -> None:
    assert not is_user_code(importlib.import_module(name))


def test_module_without_a_file_belongs_to_its_package() -> None:
    torch = importlib.import_module("torch")
    assert not is_user_code(torch.ops)


def test_the_users_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("def put(): return 1\n")  # named like one of the standard library
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "queue", raising=False)
    for name in ("queue", "package", "package.inner"):
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        assert is_user_code(module)
    assert is_user_code(sys.modules[__name__])
    assert is_user_code(types.ModuleType("__main__"))  # a notebook's has no file
    assert is_user_code(module_from("x = 1"))


def test_editable_install_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "edited_package.py").write_text("RATE = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "src")  # what a .pth file of an editable install does
    assert is_user_code(importlib.import_module("edited_package"))
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "installed_package.py").write_text("RATE = 1\n")
    monkeypatch.syspath_prepend(installed)
    assert not is_user_code(importlib.import_module("installed_package"))


def test_the_executed_text_counts_not_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text("def net():\n    return 2\n")
    first, again = (module_from("def net():\n    return 1\n", file) for _round in range(2))
    other = module_from("def net():\n    return 2\n", file)
    assert of(first.net) == of(again.net) != of(other.net)


def test_an_edited_module_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    ids = []
    for number in ("1", "23", "1"):
        (tmp_path / "edited_helper.py").write_text(f"def net():\n    return {number}\n")
        monkeypatch.delitem(sys.modules, "edited_helper", raising=False)
        importlib.invalidate_caches()
        ids.append(of(importlib.import_module("edited_helper").net))
    assert ids[0] == ids[2] != ids[1]


def test_cell_of_a_notebook() -> None:
    text, cell = "def net(x):\n    return x + 1\n", "<ipython-input-1-abc>"
    linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, cell, "exec"), notebook)
    assert "return x + 1" in inspect.getsource(notebook["net"])
    assert canonical({"model": notebook["net"]})["model"] == "ref:def net"


def test_function_without_text_is_not_found() -> None:
    namespace: dict[str, Any] = {}
    exec("def lost(): return 1", namespace)
    with pytest.raises(NoSource):
        find_function(namespace["lost"])


def test_lambdas_on_one_line_are_told_apart() -> None:
    module = module_from(
        """
        def make(a, b): return lambda x: x + a, lambda x: x + b, lambda x: (lambda y: y + a)
        one = [lambda: 0, lambda: 1, lambda x: (lambda y: y + 1)(x), lambda: (lambda: 5), lambda x=lambda: 7: x]
        two = [lambda *a, **k: [q for q in a if (lambda: q)()], *make(1, 2), make(1, 2)[2](0), (lambda: (lambda: 5))()]
        """
    )
    texts = [ast.unparse(find_function(function)) for function in module.one + module.two]
    assert texts == [
        "lambda: 0",
        "lambda: 1",
        "lambda x: (lambda y: y + 1)(x)",
        "lambda: lambda: 5",
        "lambda x=lambda: 7: x",
        "lambda *a, **k: [q for q in a if (lambda: q)()]",
        "lambda x: x + a",
        "lambda x: x + b",
        "lambda x: lambda y: y + a",
        "lambda y: y + a",
        "lambda: 5",
    ]


def reads_of(text: str) -> set[str]:
    module = module_from(text)
    found = reads(find_function(module.f))
    return found.outer | found.globals


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(a, *b, c=D, **e): return a, b, c, e, g", {"g"}),
        ("def f(): x = 1; return [x * y for y in Z if y]", {"Z"}),
        ("def f(): return [y for y in y]", {"y"}),
        ("def f(): return [(z := y) for y in A], z", {"A"}),
        ("def f(): return {k: v for k, v in A for w in B[k]}", {"A", "B"}),
        ("def f():\n    for i in A: pass\n    else: return i", {"A"}),
        ("def f():\n    global x\n    x += 1\n    def g():\n        x = 2", {"x"}),
        ("def f():\n    x = 1\n    def g():\n        global x\n        return x", {"x"}),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x += y", {"y"}),
        ("def f():\n    with A as b, C as (d, e): return b, d, e", {"A", "C"}),
        ("def f():\n    try: pass\n    except E as e: return e", {"E"}),
        (
            "def f(x):\n match x:\n  case {'a': A.b, **rest}: return rest\n  case C(d, [*e]) as h: return d, e, h",
            {"A", "C"},
        ),
        (
            "def f():\n    class B(Base, k=K):\n        size = size\n        def m(self): return size, self.size, B",
            {"Base", "K", "size"},
        ),
        ("def f():\n    class B:\n        n = 1\n        twice = n * 2", set()),
        ("def f():\n    import os.path\n    from a import b as c\n    return os, c", set()),
        ("def f(x: A) -> B:\n    y: C = 1\n    def g(z: D) -> E: return z\n    return g", set()),
        ("def f(x): return lambda y=A, *z: (x, y, z, W)", {"A", "W"}),
        ("def f():\n    @deco(A)\n    def g(x=B): return C\n    return g", {"deco", "A", "B", "C"}),
        ("def f(): return f'{A:{B}}' + a.b.c", {"A", "B", "a"}),
        ("async def f():\n    async for x in A:\n        async with B as y: yield x, y, await C", {"A", "B", "C"}),
        ("def f(): A.b = 1; del C[D]; E[0] += 1", {"A", "C", "D", "E"}),
    ],
)
def test_names_that_a_function_reads(text: str, names: set[str]) -> None:
    helpers = "A = B = C = D = E = deco = None\n"
    assert reads_of(helpers + text) == names


def library_functions(*modules: str) -> Iterator[types.FunctionType]:
    for name in modules:
        for value in vars(importlib.import_module(name)).values():
            for function in [value, *(vars(value).values() if isinstance(value, type) else ())]:
                function = getattr(function, "__func__", function)
                if isinstance(function, types.FunctionType) and function.__module__ == name:
                    yield function


def names_in_bytecode(code: types.CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(names_in_bytecode(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def test_reads_agree_with_the_compiler() -> None:
    """On functions of the standard library, which has no annotations: bytecode loads what the syntax reads."""
    counted = 0
    for function in library_functions(
        "argparse", "tarfile", "inspect", "tokenize", "subprocess", "unittest.mock", "_pydecimal"
    ):
        try:
            found = reads(find_function(function))
        except NoSource:  # generated
            continue
        closure = set(function.__code__.co_freevars)
        loaded = names_in_bytecode(function.__code__) - {"__name__", "__module__", "__qualname__"}
        assert ((found.outer - closure) | found.globals) - {"__name__", "__debug__"} == loaded, function.__qualname__
        counted += 1
    assert counted > 500


def test_only_the_attributes_that_code_names_are_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_tried.py").write_text("A = 1\nB = 2\nC = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = module_from("import nets_tried as n\ndef f(): return n.A, n.B.real, n.missing")
    flat = canonical({"model": named.f})
    assert {path: leaf for path, leaf in flat.items() if "<module" in path} == {
        "def f: <module 1>.A": "int:1",
        "def f: <module 1>.B": "int:2",
        "def f: <module 1>.missing": "unbound:",
    }
    whole = module_from("import nets_tried as n\ndef f(name): return getattr(n, name)")
    assert {p: v for p, v in canonical({"model": whole.f}).items() if p.startswith("the module")} == {
        "the module": "module",
        "the module: A": "int:1",
        "the module: B": "int:2",
        "the module: C": "int:3",
    }


@pytest.mark.parametrize("call", ["globals()['RATE']", "eval('RATE')"])
def test_code_that_can_reach_any_name_reaches_every_name(call: str) -> None:
    one, other = (module_from(f"RATE = {rate}\ndef f(): return {call}") for rate in (1, 2))
    assert of(one.f) != of(other.f)


def test_import_inside_a_function_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_tried.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    flat = canonical({"model": module_from("def f():\n    import not_installed\n    from json import dumps").f})
    assert flat["def f: not_installed"] == "library:not_installed"
    assert flat["def f: dumps"] == "library:json.dumps"
    with pytest.raises(ValueError, match="broken_tried cannot be imported: division by zero"):
        canonical({"model": module_from("def f():\n    import broken_tried").f})


def test_place_and_name_of_a_module_do_not_count(tmp_path: Path) -> None:
    text = "def f(): return __file__, __name__, __doc__"
    one, other = module_from(text, tmp_path / "a.py", "a"), module_from('"""Doc."""\n' + text, tmp_path / "b.py", "b")
    assert of(one.f) == of(other.f)


def test_calls_that_fan_out_are_walked_once() -> None:
    lines = ["def a0(x): return x", "def b0(x): return -x"]
    for n in range(1, 300):
        lines += [f"def {name}{n}(x): return a{n - 1}(b{n - 1}(x))" for name in "ab"]
    flat = canonical({"model": module_from("\n".join(lines)).a299})
    assert sum(leaf.startswith("code:") for leaf in flat.values()) == 599
