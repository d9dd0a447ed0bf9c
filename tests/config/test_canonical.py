"""Values as flat maps: goldens, what differs and what does not, what is refused, and how a difference reads."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import io
import itertools
import logging
import operator
import random
import re
import subprocess
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms, tv_tensors
from torchvision.transforms import v2

from pochitrain.config.canonical import canonical, difference, digest
from pochitrain.errors import ConfigError

SIGMA = 0.1
LOCK = threading.Lock()
log = logging.getLogger("tests")


class Noise:
    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, image: Any) -> Any:
        log.info("noise")
        return image + SIGMA * self.sigma


class Point(NamedTuple):
    x: int
    y: int = 2


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Box:
    side: int = 3


@dataclasses.dataclass(slots=True)
class SlottedBox:
    side: int = 3


class Locked:
    def __init__(self) -> None:
        self.lock, self.size = threading.Lock(), 3


class Unlocked(Locked):
    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size}


class Squares(dict[str, int]):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(2, 2), 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.gain


def uses_lock(x: Any) -> Any:
    with LOCK:
        return x


def reaches_lock(x: Any) -> Any:
    return uses_lock(x)


def twice(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def wrapper(x: Any) -> Any:
        return function(function(x))

    return wrapper


def linear(seed: int = 0, **changes: Any) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(2, 2)
    for name, value in changes.items():
        getattr(layer, name)(value)
    return layer


def of(value: Any) -> str:
    return digest(canonical({"value": value}))


def test_golden_map() -> None:
    values = {
        "learning_rate": 0.001,
        "scheduler_params": {"step_size": 30, "gamma": 0.1, "layer4.1": None},
        "class_weights": [1.0, 2],
        "size": (224, True),
        "train_transform": Noise(0.5),
        "colour": Colour.RED,
        "loss": functools.partial(operator.add, 2),
        "folder": Path("a") / "ü",
    }
    flat = canonical(values)
    codes = {path: leaf for path, leaf in flat.items() if leaf.startswith("code:")}
    assert codes.keys() == {"def Noise.__call__", "def Noise.__init__"}
    assert {path: leaf for path, leaf in flat.items() if path not in codes} == {
        "class Colour": "class",
        "class Colour: <base 0>": "library:enum.Enum",
        "class Colour: <members>": "members:RED,BLUE",
        "class Colour: BLUE": "int:2",
        "class Colour: RED": "int:1",
        "class Noise": "class",
        "class Noise: __call__": "ref:def Noise.__call__",
        "class Noise: __init__": "ref:def Noise.__init__",
        "class_weights": "list:2",
        "class_weights[0]": "float:0x1.0000000000000p+0",
        "class_weights[1]": "int:2",
        "colour": "enum:Colour.RED",
        "colour.<class>": "ref:class Colour",
        "def Noise.__call__: SIGMA": "float:0x1.999999999999ap-4",
        "def Noise.__call__: log": "logger:",
        "folder": r'path:"a/\u00fc"',
        "learning_rate": "float:0x1.0624dd2f1a9fcp-10",
        "loss": "functools.partial:",
        "loss.<arguments>": "tuple:1",
        "loss.<arguments>[0]": "int:2",
        "loss.<function>": "library:operator.add",
        "loss.<keywords>": "dict:0",
        "scheduler_params": "dict:3",
        "scheduler_params.gamma": "float:0x1.999999999999ap-4",
        "scheduler_params.step_size": "int:30",
        'scheduler_params["layer4.1"]': "constant:None",
        "size": "tuple:2",
        "size[0]": "int:224",
        "size[1]": "bool:True",
        "train_transform": "object:Noise",
        "train_transform.<class>": "ref:class Noise",
        "train_transform.sigma": "float:0x1.0000000000000p-1",
    }


@pytest.mark.parametrize(
    ("value", "golden"),
    [
        (0.001, "cd07432e2bb57c75"),
        ([1, 2.5, "x", None, True], "ced5e2d5046529a2"),
        ({"b": 1, "a": {1, 2, 3}}, "b61d760adce55687"),
        (np.arange(6, dtype="f4").reshape(2, 3), "4e568d21f909e8d3"),
        (torch.arange(6, dtype=torch.float32).reshape(2, 3), "0d64fd1a8d1ef173"),
        (transforms.Compose([transforms.Resize(224), transforms.ToTensor()]), "4320c52203dfae53"),
        (v2.Compose([v2.RandomErasing(), v2.ToDtype(torch.float32, scale=True)]), "9d823ae5b39bf100"),
    ],
)
def test_golden_digests(value: Any, golden: str) -> None:
    assert of(value)[:16] == golden


SAME = {
    "dict order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "set order": ({1, 2, 3}, {3, 2, 1}),
    "equal copies of a list": ([[1], [1]], [[1]] * 2),
    "equal copies of a library's transform": ([transforms.Resize(3)] * 2, [transforms.Resize(3), transforms.Resize(3)]),
    "byte order of an array": (np.arange(3, dtype="<i4"), np.arange(3, dtype=">i4")),
    "layout of an array": (np.eye(3), np.asfortranarray(np.eye(3))),
    "strides of an array": (np.arange(3), np.arange(6).repeat(2)[::2][:3]),
    "view of a tensor": (torch.arange(4)[1:], torch.arange(1, 4)),
    "functional name and its home": (torch.nn.functional.relu, nn.functional.relu),
    "seeded global function": (random.uniform, importlib.import_module("random").uniform),
    "loggers": (logging.getLogger("a"), logging.getLogger("b")),
    "compiled module": (torch.compile(linear()), torch.compile(linear())),
    "object with a lock that its state leaves out": (Unlocked(), Unlocked()),
}
DIFFERENT = {
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "zero and minus zero": (0.0, -0.0),
    "text and path": ("a", Path("a")),
    "text and bytes": ("a", b"a"),
    "list and tuple": ([1], (1,)),
    "empty list and None": ([], None),
    "nesting": ([[1], 2], [1, [2]]),
    "key 1 and key '1'": ({1: 0}, {"1": 0}),
    "dotted key and nested dict": ({"a.b": 1}, {"a": {"b": 1}}),
    "bytes": (b"ab", b"ac"),
    "huge integers": (10**5000, 10**5000 + 1),
    "deque": (collections.deque([1, 2]), collections.deque([1, 3])),
    "Counter": (collections.Counter("aab"), collections.Counter("abb")),
    "OrderedDict": (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    "factory of a defaultdict": (collections.defaultdict(int), collections.defaultdict(list)),
    "subclass of dict": (Squares(a=1), Squares(a=2)),
    "named tuple": (Point(1), Point(2)),
    "dataclass with slots": (SlottedBox(1), SlottedBox(2)),
    "dataclass made by a call": (
        dataclasses.make_dataclass("Made", [("a", int, 1)]),
        dataclasses.make_dataclass("Made", [("a", int, 2)]),
    ),
    "enum member": (Colour.RED, Colour.BLUE),
    "namespace": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    "range": (range(3), range(4)),
    "slice": (slice(1), slice(2)),
    "date": (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
    "time difference": (datetime.timedelta(1), datetime.timedelta(2)),
    "fraction": (fractions.Fraction(1, 3), fractions.Fraction(1, 4)),
    "decimal": (decimal.Decimal("0.1"), decimal.Decimal("0.10")),
    "uuid": (uuid.UUID(int=1), uuid.UUID(int=2)),
    "pattern": (re.compile("a"), re.compile("a", re.I)),
    "itemgetter": (operator.itemgetter(1), operator.itemgetter(2)),
    "bound method": (Noise(1).__call__, Noise(2).__call__),
    "method of a text": ("a".join, "b".join),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "keyword of a partial": (functools.partial(print, sep=""), functools.partial(print, sep=" ")),
    "wrapped function": (twice(abs), twice(max)),
    "library function": (np.mean, np.median),
    "ufunc": (np.add, np.subtract),
    "class": (Noise, Box),
    "class and object": (Noise, Noise(1)),
    "scalar type": (np.float32(1), np.float64(1)),
    "scalar": (np.float32(0.1), np.float32(0.2)),
    "dtype": (np.dtype("f4"), np.dtype("f8")),
    "array": (np.array([1, 2]), np.array([1, 3])),
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "dtype of an array": (np.zeros(2, "f4"), np.zeros(2, "i4")),
    "mask": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
    "names of fields": (np.zeros(2, [("a", "i4"), ("b", "i4")]), np.zeros(2, [("b", "i4"), ("a", "i4")])),
    "array of objects": (np.array([1, None], object), np.array([2, None], object)),
    "tensor": (torch.tensor([1, 2]), torch.tensor([1, 3])),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)),
    "complex tensor": (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
    "requires_grad": (torch.ones(1), torch.ones(1, requires_grad=True)),
    "torch dtype": (torch.float32, torch.float64),
    "format of boxes": (
        tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(9, 9)),
        tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(9, 9)),
    ),
    "v1 and v2": (transforms.Resize(3), v2.Resize(3)),
    "order of transforms": (
        transforms.Compose([transforms.Resize(3), transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), transforms.Resize(3)]),
    ),
    "weights of a module": (linear(0), linear(1)),
    "frozen weights": (linear(), linear(requires_grad_=False)),
    "evaluation mode": (nn.Dropout(), nn.Dropout().eval()),
    "hook": (linear(), linear(register_forward_hook=print)),
    "other hook": (linear(register_forward_hook=print), linear(register_forward_hook=max)),
    "tied weights": (nn.Sequential(*[linear()] * 2), nn.Sequential(linear(), linear())),
    "order of children": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "buffer": (nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)),
    "weights of a loss": (nn.CrossEntropyLoss(torch.ones(2)), nn.CrossEntropyLoss(torch.zeros(2))),
    "state that two objects share": ([Box()] * 2, [Box(), Box()]),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_values_have_one_id(name: str) -> None:
    first, second = SAME[name]
    assert difference(canonical({"value": first}), canonical({"value": second})) == []
    assert of(first) == of(second)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_values_have_two_ids(name: str) -> None:
    first, second = DIFFERENT[name]
    assert of(first) != of(second)
    assert of(first) == of(first)
    assert difference(canonical({"value": first}), canonical({"value": second})) != []


def generator() -> Any:
    yield 1


async def coroutine() -> None:
    return None


made_by_exec: dict[str, Any] = {}
exec("def function(x): return x", made_by_exec)

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "lock": (threading.Lock, "no stable identity"),
    "re-entrant lock": (threading.RLock, "no stable identity"),
    "lock in an object": (Locked, "no stable identity"),
    "event": (threading.Event, "no stable identity"),
    "thread-local data": (threading.local, "no stable identity"),
    "text file": (lambda: io.StringIO("a"), "An open file"),
    "binary file": (lambda: io.BytesIO(b"a"), "An open file"),
    "generator": (generator, "An iterator"),
    "generator expression": (lambda: (i for i in [1]), "An iterator"),
    "iterator": (lambda: iter([1]), "An iterator"),
    "zip": (lambda: zip([1], [2], strict=True), "An iterator"),
    "map": (lambda: map(str, [1]), "An iterator"),
    "count": (itertools.count, "An iterator"),
    "view of a dict": ({"a": 1}.keys, "no stable identity"),
    "random generator": (lambda: random.Random(0), "A random generator"),
    "NumPy generator": (lambda: np.random.default_rng(0), "A random generator"),
    "NumPy random state": (lambda: np.random.RandomState(0), "A random generator"),
    "torch generator": (lambda: torch.Generator().manual_seed(0), "A random generator"),
    "weak reference": (lambda: weakref.ref(Noise), "no stable identity"),
    "memory view": (lambda: memoryview(b"a"), "no stable identity"),
    "code object": (lambda: generator.__code__, "no stable identity"),
    "scripted module": (lambda: torch.jit.script(nn.ReLU()), "without torch.jit"),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), "dense tensor"),
    "meta tensor": (lambda: torch.ones(2, device="meta"), "dense tensor"),
    "lazy module": (lambda: nn.LazyLinear(2), "dense tensor"),
    "long double": (lambda: np.ones(2, np.longdouble), "float64"),
    "function made by exec": (lambda: made_by_exec["function"], "source of function cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*lazy", "ignore:.*torch.jit")
def test_value_without_stable_identity_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words) as caught:
        canonical({"train_transform": [make()]})
    assert all("train_transform[0]" in problem.where for problem in caught.value.problems)
    assert all(problem.mend for problem in caught.value.problems)


def test_all_refused_values_are_named_at_once_with_the_setting_that_reaches_them() -> None:
    with pytest.raises(ConfigError) as caught:
        canonical({"a": LOCK, "b": {"c": iter([])}, "model": reaches_lock, "fine": 1})
    assert [problem.where for problem in caught.value.problems] == [
        "a",
        "b.c",
        "LOCK in uses_lock, reached from model",
    ]


def test_coroutine_is_refused() -> None:
    waiting = coroutine()
    with pytest.raises(ConfigError, match="An iterator"):
        canonical({"value": waiting})
    waiting.close()


def test_order_counts_only_where_the_settings_say_so() -> None:
    one, other = {"rates": {"a": 1, "b": 2}}, {"rates": {"b": 2, "a": 1}}
    assert canonical(one) == canonical(other)
    assert canonical(one, ordered=["rates"]) != canonical(other, ordered=["rates"])
    assert canonical({"x": one}, ordered=["x.rates"]) != canonical({"x": other}, ordered=["x.rates"])


def test_circles_end() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    box = types.SimpleNamespace(side=3)
    box.inner = [box]
    flat = canonical({"circle": circle, "box": box})
    assert flat["circle[1]"] == "same:circle"
    assert flat["box.inner[0]"] == "same:box"


def test_a_registry_that_holds_its_own_readers_ends() -> None:
    assert of(registered) == of(registered)


REGISTRY: set[Any] = set()


def registered(x: Any) -> Any:
    return x in REGISTRY


REGISTRY.add(registered)


def test_used_object_keeps_its_id() -> None:
    """Caches that appear with use are no part of the value."""

    noise = Noise(0.5)
    before = of(noise)
    copy.copy(noise)  # leaves __slotnames__ on the class
    assert of(noise) == before


def test_torch_and_numpy_are_not_imported(tmp_path: Path) -> None:
    program = (
        "from pochitrain.config.canonical import canonical; canonical({'a': [1.5]}); import sys; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas"} & set(loaded.stdout.split())


COMPOSE = transforms.Compose([transforms.Resize(224), transforms.Lambda(lambda x: x), transforms.ToTensor()])


def compose(*parts: Any) -> transforms.Compose:
    return transforms.Compose([*parts, transforms.ToTensor()])


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"learning_rate": 0.001}, {"learning_rate": 0.002}, ["learning_rate 0.001 → 0.002"]),
        ({"optimizer": "SGD"}, {"optimizer": "Adam"}, ["optimizer SGD → Adam"]),
        ({}, {"scheduler": "StepLR"}, ["scheduler (not set) → StepLR"]),
        ({"p": {"a": 1}}, {"p": {"b": [1, 2]}}, ["p.a 1 → (not set)", "p.b (not set) → [1, 2]"]),
        ({"x": 1}, {"x": "a b"}, ["x 1 → 'a b'"]),
        ({"t": compose(transforms.Resize(224))}, {"t": compose(transforms.Resize(256))}, ["t[0].size 224 → 256"]),
        (
            {"t": compose(transforms.CenterCrop(8))},
            {"t": compose(transforms.RandomCrop(8))},
            ["t[0] CenterCrop(size=(8, 8)) → RandomCrop(…)"],
        ),
        (
            {"t": compose(transforms.CenterCrop(8))},
            {"t": compose(transforms.CenterCrop(8), transforms.RandomHorizontalFlip(0.3))},
            ["t[1] + RandomHorizontalFlip(p=0.3)"],
        ),
        ({"t": compose(transforms.CenterCrop(8))}, {"t": compose()}, ["t[0] − CenterCrop(size=(8, 8))"]),
        ({"t": Noise(0.5)}, {"t": Noise(0.25)}, ["t.sigma 0.5 → 0.25"]),
        ({"c": Colour.RED}, {"c": Colour.BLUE}, ["c RED → BLUE"]),
        ({"m": torch.zeros(3)}, {"m": torch.ones(3)}, ["m changed"]),
        ({"m": torch.zeros(3)}, {"m": torch.zeros(2)}, ["m tensor float32[3] → tensor float32[2]"]),
        ({"s": {1, 2}}, {"s": {1, 3}}, ["s {1, 2} → {1, 3}"]),
        ({"f": np.float32(0.5)}, {"f": np.float32(0.25)}, ["f 0.5 → 0.25"]),
        ({"c": 1 + 2j}, {"c": Path("a/b")}, ["c (1+2j) → a/b"]),
        ({"f": max}, {"f": min}, ["f max → min"]),
        ({"net": nn.Sequential(nn.Dropout(0.1))}, {"net": nn.Sequential(nn.Dropout(0.2))}, ["net[0].p 0.1 → 0.2"]),
        ({"x": {1: "a"}}, {"x": {1: "b"}}, ["x[1] a → b"]),
    ],
)
def test_difference_reads_like_the_config(old: dict[str, Any], new: dict[str, Any], lines: list[str]) -> None:
    assert difference(canonical(old), canonical(new)) == lines


def test_difference_keeps_lambdas_apart() -> None:
    first, second, third = (lambda x: x + 1), (lambda x: x + 2), (lambda x: x + 3)
    old = canonical({"a": first, "b": second})
    assert difference(old, canonical({"a": first, "b": third})) == ["code of lambda in b changed"]
    lambdas = canonical({"t": [third, first], "u": second})
    code = lambdas[lambdas["t[0]"].removeprefix("ref:")].removeprefix("code:")
    assert difference(canonical({"t": [first], "u": second}), lambdas) == [f"t[0] + lambda {code[:4]}"]


def test_difference_names_code_and_what_it_reads() -> None:
    old = {**canonical({"t": Noise(1)})}
    new = {**old, "def Noise.__call__": "code:0", "def Noise.__call__: SIGMA": "float:0x1.0p-1"}
    assert difference(old, new) == ["code of Noise.__call__ changed", "SIGMA 0.1 → 0.5 (in Noise.__call__)"]
