"""Edits of a config and of the modules that it imports: which keep the identity, and which change it.

`python -m tests.config.identity_table` prints the table. It needs nothing but Python, so every version can run it.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pochitrain.config.canonical import canonical, difference, digest
from pochitrain.errors import ConfigError

# Only the standard library, so that the table runs wherever Python runs.
CONFIG = '''
"""An experiment."""
import math
import re
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property, lru_cache, partial, singledispatch, wraps
from collections.abc import Iterator
from pathlib import Path

import nets
import kit.filters
from kit import augment
from kit.deep import scale as deep_scale

SIGMA = 0.1
LIMIT = 0.25
ROUNDS = 3
FLOOR = 7
WEIGHTS = {"stem": 32, "head": 64}
LEVELS = [1, 2, 4]
TAGS = {"x", "y"}
PATTERN = re.compile("bn[0-9]", re.I)
SHARE = Fraction(1, 3)
PRICE = Decimal("0.10")
FOLDER = Path("a/b")
LABELS = [TAGS, FOLDER]
UNUSED = 99
Size = namedtuple("Size", "height width", defaults=(32,))


class Mode(Enum):
    FAST = 1
    EXACT = 2

    def speed(self):
        return self.value * 10


class Option(Flag):
    A = 1
    B = 2


@dataclass
class Crop:
    size: int = 24
    padding: float = 0.5
    names: list = field(default_factory=lambda: ["a", "b"])

    def area(self):
        return self.size**2


class Base:
    gain = 2.0

    def apply(self, x):
        return self.inner(x) * self.gain

    def inner(self, x):
        return x + 1


class Noise(Base):
    """Adds noise."""

    __slots__ = ("low", "high")
    __match_args__ = ("low", "high")

    def __init__(self, low, high=0.9):
        self.low = low
        self.high = high

    def __call__(self, x):
        # a comment
        return self.apply(x) + SIGMA * (self.high - self.low)

    @property
    def span(self):
        return self.high - self.low

    @cached_property
    def middle(self):
        return (self.high + self.low) / 2

    @staticmethod
    def clip(x, top=5):
        return min(x, top)

    @classmethod
    def default(cls):
        return cls(0.1)


def twice(times):
    def decorate(function):
        @wraps(function)
        def wrapper(*args, **kwargs):
            return [function(*args, **kwargs) for _round in range(times)]

        return wrapper

    return decorate


@twice(times=2)
def jitter(x, strength=0.4, *, keep=True):
    return x * strength if keep else x


@lru_cache(maxsize=8)
def table(n):
    return [i * i for i in range(n)]


@singledispatch
def size_of(x):
    return 1


@size_of.register
def _(x: list):
    return len(x)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return n > 0 and even(n - 1) and FLOOR


def make_filter(cut):
    order = 2

    def filter(x):
        return [value for value in x if value**order > cut]

    return filter


def never_reached(x):
    return x * UNUSED


def my_net(num_classes, depth=18, *, width: int = 64):
    """Build a net."""
    layers: list = []
    for index in range(depth):
        layers.append(nets.block(index, width))
    found = [[value for value in range(index) if value > LIMIT] for index in range(3)]
    total = sum(map(lambda value: value * ROUNDS, LEVELS))
    names = [f"{name}-{weight:03d}" for name, weight in WEIGHTS.items()]
    match layers:
        case [first, *_rest]:
            total += 1
        case _:
            total -= 2
    from kit.late import finish

    import kit.filters as filters

    return finish(layers, found, total, names, filters.sharpen(3), even(4), num_classes, PATTERN, SHARE, PRICE, LABELS)


def my_loss(logits, labels):
    try:
        return deep_scale(logits) - size_of(labels)
    except ZeroDivisionError as error:
        raise ValueError("empty") from error
    finally:
        assert labels != None


learning_rate = 0.001
batch_size = 32
optimizer = "Adam"
class_weights = [1.0, 2.0]
scheduler_params = {"step_size": 30, "gamma": 0.1}
layer_rates = {"conv1": 0.1, "layer1": 0.2}
mode = Mode.FAST
option = Option.A | Option.B
crop = Crop(padding=0.75)
size = Size(224)
history = deque([1, 2], maxlen=4)
counts = defaultdict(lambda: 7, a=1)
order = OrderedDict(first=1, second=2)
train_transform = [Noise(0.1), jitter, augment.Flip(0.5), make_filter(0.3), kit.filters.blur, Noise.clip]
val_transform = [lambda x: x / 2, lambda x: x / 3]; extra = lambda: 0, lambda: 1
model = my_net
loss = partial(my_loss, labels=[1, 2])
bound = Crop(size=8).area
lookup = table
anchors = (1, -2.5, 3j, b"raw", None, ..., True, 10**30)
'''

NETS = '''
"""Nets."""
from kit.deep import scale

WIDTH = 3
SPARE = 4


def block(index, width):
    return helper(index) + width * WIDTH


def helper(index):
    return scale(index)


def spare():
    return SPARE
'''

AUGMENT = """
from .deep import FACTOR


class Flip:
    axis = 1

    def __init__(self, p):
        self.p = p

    def __call__(self, x):
        return x[:: -self.axis] if self.p > FACTOR else x
"""

DEEP = """
FACTOR = 0.2
BIAS = 1


def scale(x):
    def inner(y):
        return y * FACTOR + BIAS

    return inner(x)
"""

FILTERS = """
import math as maths
from math import sqrt as root

STRENGTH = 5
RADIUS = 2


def sharpen(x):
    return x * STRENGTH


def blur(x):
    return root(x) / RADIUS + maths.pi
"""

LATE = """
END = 1


def finish(*parts):
    return parts, END
"""

FILES = {
    "config.py": CONFIG,
    "nets.py": NETS,
    "kit/__init__.py": "",
    "kit/augment.py": AUGMENT,
    "kit/deep.py": DEEP,
    "kit/filters.py": FILTERS,
    "kit/late.py": LATE,
}
SETTINGS = (
    *("learning_rate", "batch_size", "optimizer", "class_weights", "scheduler_params", "layer_rates", "mode", "option"),
    *("crop", "size", "history", "counts", "order", "train_transform", "val_transform", "extra", "model", "loss"),
    *("bound", "lookup", "anchors"),
)

Edit = tuple[str, str, str]  # file, old text, new text; a file "a > b" is renamed

KEEP: dict[str, list[Edit]] = {
    # layout, comments, docstrings
    "comment added": [("config.py", "SIGMA = 0.1\n", "SIGMA = 0.1  # of the noise\n")],
    "comment in a method changed": [("config.py", "# a comment", "# another comment\n        # of two lines")],
    "blank lines before a function": [("config.py", "def my_net", "\n\n\n\ndef my_net")],
    "code indented by two spaces": [("kit/deep.py", "    ", "  ")],
    "tabs for spaces": [("kit/deep.py", "    ", "\t")],
    "CRLF line ends": [("kit/deep.py", "\n", "\r\n")],
    "call split over lines": [("config.py", "Noise(0.1), jitter,", "Noise(\n    0.1,\n), jitter,")],
    "expression in parentheses": [("config.py", "return x + 1", "return (x + (1))")],
    "a backslash continues the line": [("kit/filters.py", "x * STRENGTH", "x \\\n        * STRENGTH")],
    "semicolon": [("kit/deep.py", "FACTOR = 0.2\nBIAS = 1", "FACTOR = 0.2; BIAS = 1")],
    "other quotes": [("config.py", '"empty"', "'empty'")],
    "text in two pieces": [("config.py", '"empty"', '"em" "pty"')],
    "f-string in two pieces": [("config.py", 'f"{name}-{weight:03d}"', 'f"{name}" "-" f"{weight:03d}"')],
    "docstring of the file": [("config.py", "An experiment.", "Another text.")],
    "docstring of a function changed": [("config.py", "Build a net.", "Builds a net.")],
    "docstring of a function added": [("kit/deep.py", "def scale(x):\n", 'def scale(x):\n    """Scale."""\n')],
    "docstring of a class removed": [("config.py", '    """Adds noise."""\n', "")],
    "docstring of an inner function": [("kit/deep.py", "def inner(y):\n", 'def inner(y):\n        """Inner."""\n')],
    "docstring instead of pass": [("kit/late.py", "END = 1\n", 'END = 1\n"""The end."""\n')],
    "pass added": [("kit/deep.py", "    return inner(x)", "    pass\n    return inner(x)")],
    "hexadecimal number": [("config.py", "batch_size = 32", "batch_size = 0x20")],
    "number with underscores": [("config.py", "10**30", "1_0**3_0")],
    "float in another spelling": [("config.py", "learning_rate = 0.001", "learning_rate = 1e-3")],
    "raw string": [("config.py", '"bn[0-9]"', 'r"bn[0-9]"')],
    # annotations
    "annotations removed": [
        ("config.py", "*, width: int = 64", "*, width=64"),
        ("config.py", "layers: list =", "layers ="),
    ],
    "annotations added": [("kit/deep.py", "def scale(x):", "def scale(x: float) -> float:")],
    "annotation on an inner function": [("kit/deep.py", "def inner(y):", 'def inner(y: "Unknown") -> BIAS:')],
    "annotation names a value of the file": [("config.py", "def filter(x):", "def filter(x: UNUSED) -> SIGMA:")],
    "annotation of a variable": [("config.py", "order = 2", "order: int = 2")],
    "annotation of a field": [("config.py", "size: int = 24", "size: float = 24")],
    "bare annotation": [("kit/deep.py", "    return inner(x)", "    y: int\n    return inner(x)")],
    "future annotations": [
        ("config.py", '"""An experiment."""', '"""An experiment."""\nfrom __future__ import annotations')
    ],
    # order and names in the file
    "settings in another order": [
        ("config.py", "learning_rate = 0.001\n", ""),
        ("config.py", 'optimizer = "Adam"\n', 'optimizer = "Adam"\nlearning_rate = 0.001\n'),
    ],
    "keys of a setting in another order": [
        ("config.py", '{"step_size": 30, "gamma": 0.1}', '{"gamma": 0.1, "step_size": 30}')
    ],
    "helpers in another order": [("config.py", "SIGMA = 0.1\nLIMIT = 0.25\n", "LIMIT = 0.25\nSIGMA = 0.1\n")],
    "members of a set in another order": [("config.py", '{"x", "y"}', '{"y", "x"}')],
    "methods in another order": [
        ("config.py", "    def inner(self, x):\n        return x + 1\n", ""),
        ("config.py", "    gain = 2.0\n", "    gain = 2.0\n\n    def inner(self, x):\n        return x + 1\n"),
    ],
    "a default given by keyword": [("config.py", "Crop(padding=0.75)", "Crop(24, padding=0.75)")],
    "a value computed": [("config.py", "batch_size = 32", "batch_size = 4 * 8")],
    "a value by a name": [("config.py", "batch_size = 32", "_half = 16\nbatch_size = 2 * _half")],
    # what is not reached
    "helper that nothing reaches": [("config.py", "return x * UNUSED", "return x - UNUSED")],
    "constant that nothing reaches": [("config.py", "UNUSED = 99", "UNUSED = 100")],
    "helper of a module that nothing reaches": [("nets.py", "return SPARE", "return -SPARE")],
    "constant of a module that nothing reaches": [("nets.py", "SPARE = 4", "SPARE = 5")],
    "new import": [("config.py", "import math\n", "import math\nimport json\n")],
    "new helper": [("config.py", "class Base:", "def new_helper():\n    return 1\n\n\nclass Base:")],
    "local variable named like a value of the file": [
        ("config.py", "UNUSED = 99", "UNUSED = 99\ncut = index = value = 5")
    ],
    # places
    "module renamed": [
        ("nets.py > networks.py", "", ""),
        ("config.py", "nets.", "networks."),
        ("config.py", "import nets", "import networks"),
    ],
    "module renamed, imported under its old name": [
        ("nets.py > networks.py", "", ""),
        ("config.py", "import nets\n", "import networks as nets\n"),
    ],
    "package renamed": [
        *((f"kit/{name}.py > tools/{name}.py", "", "") for name in ("__init__", "augment", "deep", "filters", "late")),
        ("config.py", "kit", "tools"),
        ("nets.py", "kit", "tools"),
    ],
    "config renamed": [("config.py > experiment 2.py", "", "")],
    "function moved to another module": [
        ("nets.py", "def helper(index):\n    return scale(index)\n", "from extra import helper\n"),
        ("extra.py", "", "from kit.deep import scale\n\n\ndef helper(index):\n    return scale(index)\n"),
    ],
    "helper imported from its own module": [
        ("nets.py", "from kit.deep import scale", "import kit.deep\nscale = kit.deep.scale")
    ],
    "relative import made absolute": [("kit/augment.py", "from .deep", "from kit.deep")],
    "star import": [("nets.py", "from kit.deep import scale", "from kit.deep import *")],
}

CHANGE: dict[str, list[Edit]] = {
    # settings
    "number": [("config.py", "learning_rate = 0.001", "learning_rate = 0.002")],
    "last bit of a float": [("config.py", "learning_rate = 0.001", "learning_rate = 0.0010000000000000002")],
    "int for float": [("config.py", "class_weights = [1.0", "class_weights = [1")],
    "text": [("config.py", '"Adam"', '"AdamW"')],
    "item of a list": [("config.py", "class_weights = [1.0, 2.0]", "class_weights = [1.0, 2.5]")],
    "order of a list": [("config.py", "class_weights = [1.0, 2.0]", "class_weights = [2.0, 1.0]")],
    "value of a dict": [("config.py", '"gamma": 0.1', '"gamma": 0.2')],
    "key of a dict": [("config.py", '"gamma": 0.1', '"gama": 0.1')],
    "key added": [("config.py", '"gamma": 0.1', '"gamma": 0.1, "last": 1')],
    "order of layer rates": [("config.py", '{"conv1": 0.1, "layer1": 0.2}', '{"layer1": 0.2, "conv1": 0.1}')],
    "other member of an enum": [("config.py", "mode = Mode.FAST", "mode = Mode.EXACT")],
    "value of an enum member": [("config.py", "    FAST = 1", "    FAST = 3")],
    "method of an enum": [("config.py", "self.value * 10", "self.value * 11")],
    "flags": [("config.py", "Option.A | Option.B", "Option.A")],
    "field of a dataclass object": [("config.py", "Crop(padding=0.75)", "Crop(padding=0.8)")],
    "default of a dataclass field": [("config.py", "size: int = 24", "size: int = 25")],
    "default factory of a dataclass field": [("config.py", '["a", "b"]', '["a", "c"]')],
    "order of dataclass fields": [
        (
            "config.py",
            "    size: int = 24\n    padding: float = 0.5\n",
            "    padding: float = 0.5\n    size: int = 24\n",
        ),
    ],
    "dataclass frozen": [("config.py", "@dataclass\n", "@dataclass(frozen=True)\n")],
    "method of a dataclass": [("config.py", "self.size**2", "self.size**3")],
    "object of a bound method": [("config.py", "Crop(size=8).area", "Crop(size=9).area")],
    "named tuple": [("config.py", "Size(224)", "Size(256)")],
    "default of a named tuple": [("config.py", "defaults=(32,)", "defaults=(33,)")],
    "field name of a named tuple": [("config.py", '"height width"', '"height breadth"')],
    "item of a deque": [("config.py", "deque([1, 2], maxlen=4)", "deque([1, 3], maxlen=4)")],
    "length of a deque": [("config.py", "maxlen=4", "maxlen=5")],
    "factory of a defaultdict": [("config.py", "lambda: 7", "lambda: 8")],
    "order of an OrderedDict": [("config.py", "OrderedDict(first=1, second=2)", "OrderedDict(second=2, first=1)")],
    "complex number": [("config.py", "3j", "4j")],
    "bytes": [("config.py", 'b"raw"', 'b"row"')],
    "sign": [("config.py", "-2.5", "2.5")],
    "integer of 100 bits": [("config.py", "10**30", "10**30 + 1")],
    "tuple for list": [("config.py", "class_weights = [1.0, 2.0]", "class_weights = (1.0, 2.0)")],
    # lambdas, partials, closures, decorators
    "first of two lambdas on a line": [("config.py", "lambda x: x / 2", "lambda x: x / 4")],
    "second of two lambdas on a line": [("config.py", "lambda x: x / 3", "lambda x: x / 4")],
    "constant lambda, second on a line": [("config.py", "lambda: 0, lambda: 1", "lambda: 0, lambda: 2")],
    "lambdas swapped": [("config.py", "lambda: 0, lambda: 1", "lambda: 1, lambda: 0")],
    "argument of a partial": [("config.py", "labels=[1, 2]", "labels=[1, 3]")],
    "function of a partial": [("config.py", "partial(my_loss, labels", "partial(never_reached, labels")],
    "closure": [("config.py", "make_filter(0.3)", "make_filter(0.4)")],
    "inner variable of a factory": [("config.py", "    order = 2", "    order = 3")],
    "argument of a decorator": [("config.py", "@twice(times=2)", "@twice(times=3)")],
    "code of a decorator": [("config.py", "in range(times)]", "in range(times + 1)]")],
    "decorator removed": [("config.py", "@twice(times=2)\n", "")],
    "function under a decorator": [("config.py", "x * strength if keep", "x / strength if keep")],
    "default under a decorator": [("config.py", "strength=0.4", "strength=0.5")],
    "keyword-only default": [("config.py", "keep=True", "keep=False")],
    "cached function": [("config.py", "i * i for i", "i + i for i")],
    "registered implementation": [("config.py", "return len(x)", "return len(x) + 1")],
    # code
    "operator": [("config.py", "return x + 1", "return x - 1")],
    "comparison": [("config.py", "value > LIMIT", "value >= LIMIT")],
    "default": [("config.py", "depth=18", "depth=34")],
    "parameter renamed": [
        ("config.py", "def my_net(num_classes,", "def my_net(classes,"),
        ("config.py", "even(4), num_classes", "even(4), classes"),
    ],
    "condition negated": [("config.py", "if keep else", "if not keep else")],
    "order of statements": [
        (
            "config.py",
            "        self.low = low\n        self.high = high\n",
            "        self.high = high\n        self.low = low\n",
        ),
    ],
    "f-string format": [("config.py", "{weight:03d}", "{weight:04d}")],
    "f-string text": [("config.py", "{name}-{weight", "{name}_{weight")],
    "pattern of a match": [("config.py", "case [first, *_rest]", "case [first, second, *_rest]")],
    "body of a match": [("config.py", "total -= 2", "total -= 3")],
    "exception caught": [("config.py", "except ZeroDivisionError", "except ArithmeticError")],
    "else branch of a conditional": [("config.py", "True if n == 0", "False if n == 0")],
    "loop": [("config.py", "for index in range(depth)", "for index in range(1, depth)")],
    "inner class attribute": [("kit/augment.py", "axis = 1", "axis = 2")],
    # classes
    "attribute of a base class": [("config.py", "gain = 2.0", "gain = 2.5")],
    "method of a base class": [("config.py", "self.inner(x) * self.gain", "self.inner(x) + self.gain")],
    "base class": [
        ("config.py", "class Noise(Base):", "class Noise(Base, Mixin):"),
        ("config.py", "class Noise", "class Mixin:\n    pass\n\n\nclass Noise"),
    ],
    "property": [
        ("config.py", "return self.high - self.low\n\n    @cached", "return self.low - self.high\n\n    @cached")
    ],
    "cached property": [("config.py", "(self.high + self.low) / 2", "(self.high + self.low) / 3")],
    "default of a static method": [("config.py", "top=5", "top=6")],
    "class method": [("config.py", "return cls(0.1)", "return cls(0.2)")],
    "static method made an instance method": [("config.py", "    @staticmethod\n", "")],
    "attribute in a slot": [("config.py", "[Noise(0.1), jitter", "[Noise(0.2), jitter")],
    "match arguments": [("config.py", '__match_args__ = ("low", "high")', '__match_args__ = ("high", "low")')],
    # what code reaches
    "constant read by a method": [("config.py", "SIGMA = 0.1", "SIGMA = 0.2")],
    "constant read in a nested comprehension": [("config.py", "LIMIT = 0.25", "LIMIT = 0.26")],
    "constant read in a lambda in a call": [("config.py", "ROUNDS = 3", "ROUNDS = 4")],
    "constant two recursive functions away": [("config.py", "FLOOR = 7", "FLOOR = 8")],
    "list read by a function": [("config.py", "LEVELS = [1, 2, 4]", "LEVELS = [1, 2, 5]")],
    "dict read by a function": [("config.py", '"head": 64', '"head": 65')],
    "order of a dict that code iterates": [("config.py", '{"stem": 32, "head": 64}', '{"head": 64, "stem": 32}')],
    "set read by a function": [("config.py", '{"x", "y"}', '{"x", "z"}')],
    "regular expression": [("config.py", '"bn[0-9]"', '"bn[0-8]"')],
    "flags of a regular expression": [("config.py", "re.I", "re.M")],
    "fraction": [("config.py", "Fraction(1, 3)", "Fraction(1, 4)")],
    "decimal": [("config.py", 'Decimal("0.10")', 'Decimal("0.1")')],
    "function called by name of a module": [("nets.py", "width * WIDTH", "width + WIDTH")],
    "constant of an imported module": [("nets.py", "WIDTH = 3", "WIDTH = 4")],
    "helper two modules away": [("kit/deep.py", "y * FACTOR + BIAS", "y * FACTOR - BIAS")],
    "constant two modules away": [("kit/deep.py", "BIAS = 1", "BIAS = 2")],
    "constant of a relative import": [("kit/deep.py", "FACTOR = 0.2", "FACTOR = 0.3")],
    "method of an imported class": [("kit/augment.py", "x[:: -self.axis]", "x[:: self.axis]")],
    "argument of an imported class": [("config.py", "augment.Flip(0.5)", "augment.Flip(0.6)")],
    "function of a submodule": [("kit/filters.py", "root(x) / RADIUS", "root(x) - RADIUS")],
    "function imported inside a function": [("kit/late.py", "return parts, END", "return END, parts")],
    "constant behind an import inside a function": [("kit/late.py", "END = 1", "END = 2")],
    "module imported inside a function": [("kit/filters.py", "STRENGTH = 5", "STRENGTH = 6")],
    "other function imported inside": [("config.py", "filters.sharpen(3)", "filters.blur(3)")],
    "library function exchanged": [("kit/filters.py", "import sqrt as root", "import exp as root")],
    "library module exchanged": [("kit/filters.py", "import math as maths", "import cmath as maths")],
}


def edited(edits: list[Edit]) -> dict[str, str]:
    """Return the files after `edits`; a text that is not found is a mistake in the table."""
    files = dict(FILES)
    for file, old, new in edits:
        name, _arrow, renamed = file.partition(" > ")
        if renamed:
            files[renamed] = files.pop(name)
        elif name not in files:
            files[name] = new
        else:
            assert old in files[name], f"{old!r} is not in {name}"
            files[name] = files[name].replace(old, new)
    return files


_numbers = itertools.count()


def load(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Write the files and execute the config as the loader does; return its settings."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    tops = {Path(name).parts[0].removesuffix(".py") for name in files}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]
    config = next(
        folder / name for name in files if Path(name).parent == Path() and name[0] in "ce" and name != "extra.py"
    )
    module = types.ModuleType(f"config_under_test_{next(_numbers)}")
    module.__dict__.update(__file__=str(config), __pochi_source__=files[config.name])
    sys.modules[module.__name__] = module
    exec(compile(files[config.name], str(config), "exec", dont_inherit=True), vars(module))
    return {name: vars(module)[name] for name in SETTINGS}


def flat_of(files: dict[str, str]) -> dict[str, str]:
    """Return the canonical map of a config made of `files`, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            return canonical(load(Path(folder), files), ordered=("layer_rates",))
        finally:
            sys.path.remove(folder)


OTHER = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.Gt: ast.GtE, ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.And: ast.Or, ast.Or: ast.And},
}


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text with one literal or operator changed, and the line where; docstrings and annotations excepted."""
    tree, lines = ast.parse(text), text.splitlines()
    spared = {id(inner) for node in ast.walk(tree) for inner in ast.walk(_spared(node) or ast.Pass())}
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.Constant) and id(node) not in spared:
            before, node.value = node.value, _other(node.value)
            yield lines[node.lineno - 1], ast.unparse(tree)
            node.value = before
        for name, value in ast.iter_fields(node):
            if type(value) in OTHER:
                setattr(node, name, OTHER[type(value)]())
                yield lines[node.lineno - 1], ast.unparse(tree)
                setattr(node, name, value)
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
            before, node.ops[0] = node.ops[0], OTHER[type(node.ops[0])]()
            yield lines[node.lineno - 1], ast.unparse(tree)
            node.ops[0] = before


def _spared(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.arg | ast.AnnAssign):
        return node.annotation
    return node if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float() | complex():
            return value + 1
        case "0.10":
            return "0.20"
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
    return 0


def report() -> tuple[int, int]:
    """Print a line per edit and the counts; return how many keep the identity, and how many change it."""
    base = flat_of(FILES)
    print(f"Python {sys.version.split()[0]}, id of the base {digest(base)}")
    kept = changed = 0
    for name, edits in KEEP.items():
        lines = difference(base, flat_of(edited(edits)))
        kept += not lines
        print(f"keeps    {name:55}{'; '.join(lines)}")
    for name, edits in CHANGE.items():
        flat = flat_of(edited(edits))
        changed += digest(flat) != digest(base)
        print(f"changes  {name:55}{'; '.join(difference(base, flat))}")
    print(f"{kept} of {len(KEEP)} harmless edits keep the id, {changed} of {len(CHANGE)} meaningful edits change it")
    return kept, changed


def report_values() -> None:
    """Print the values that are refused and why, and how many arguments of torchvision transforms are told apart."""
    from tests.config.test_canonical import DIFFERENT, REFUSED, SAME
    from tests.config.test_torchvision_identity import CASES

    for name, (make, _words) in REFUSED.items():
        try:
            canonical({"value": make()})
        except ConfigError as error:
            print(f"refuses  {name:55}{error.problems[0].what}")
    transforms = {cls for cls, *_rest in CASES}
    print(f"{len(REFUSED)} values refused, {len(DIFFERENT)} pairs of values told apart, {len(SAME)} pairs equal")
    print(f"{len(CASES)} arguments of {len(transforms)} torchvision transforms, each varied once")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    result = report()
    with contextlib.suppress(ImportError):  # without torch
        report_values()
    raise SystemExit(result != (len(KEEP), len(CHANGE)))
