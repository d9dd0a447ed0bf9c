"""The laws of the house: who may import whom, what starts light, and that every setting is alive."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pochitrain.config.fields import is_identity
from pochitrain.config.schema import Config
from pochitrain.config.words import documentation, inner_model, walk_settings

PACKAGE = Path(__file__).parents[1] / "pochitrain"

# A room may import from the rooms before it in its line, and from itself.
ROOMS = [
    "locale",
    "errors",
    "history",
    "durable",
    "randomness",
    "config",
    "leaving",
    "experiment",
    "parts",
    "data",
    "engine",
    "reports",
    "sinks",
    "tasks",
    "usage",
    "cli",
]
SIDEWAYS = {("parts", "data"), ("data", "parts"), ("sinks", "engine")}
LIGHT = (
    "locale",
    "errors",
    "history",
    "durable",
    "config",
    "leaving",
    "experiment",
    "usage",
    "cli",
)  # load no torch by themselves
HEAVY = ("torch", "torchvision", "matplotlib", "seaborn", "sklearn", "pandas", "plotly", "optuna", "mlflow")


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "pochitrain" else set()
            )
    return names


def test_arrows_between_rooms_run_downwards() -> None:
    wrong = []
    for name, tree in modules().items():
        room = name.partition(".")[0]
        if room not in ROOMS:
            assert room in ("__init__", "__main__"), f"{room} is in no line of the table"
            continue
        for imported in imports(tree):
            parts = imported.split(".")
            if parts[0] != "pochitrain" or len(parts) < 2:
                continue
            target = parts[1]
            assert target in ROOMS, f"{name} imports {imported}"
            if ROOMS.index(target) > ROOMS.index(room) or (room, target) in SIDEWAYS:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_light_rooms_import_nothing_heavy() -> None:
    for name, tree in modules().items():
        if name.partition(".")[0] in LIGHT:
            assert not {i.partition(".")[0] for i in imports(tree)} & set(HEAVY), name


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["config", "schema"], ["train", "--help"]])
def test_light_commands_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pochitrain.cli import app, run\nsys.argv = ['pochi', *sys.argv[1:]]\ncode = run(app)\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'pandas', 'sklearn', 'optuna'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (
        time.perf_counter() - started < 5
    )  # measured at 0.1 s; a busy machine is not a failure, an import of torch is


def test_every_setting_is_documented_in_both_languages_and_says_whether_it_counts() -> None:
    for name, info in walk_settings():
        assert documentation(info, japanese=False).endswith("."), name
        assert re.search(r"[ぁ-んァ-ン一-龥]", documentation(info, japanese=True)), name
        assert isinstance(is_identity(info), bool)


def test_every_setting_is_read_somewhere() -> None:
    """A setting that no line reads would be a promise that nobody keeps."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("schema.py", "words.py", "fields.py")
    )
    later = {"optuna"}  # read by the search
    for name, info in walk_settings():
        top, _dot, last = name.rpartition(".")
        if name.partition(".")[0] in later or inner_model(info) is not None:
            continue
        if top == "confusion_matrix_config":  # handed over whole, as keyword arguments
            assert re.search(rf"\b{last}\b", (PACKAGE / "reports" / "confusion.py").read_text(encoding="utf-8")), name
        else:
            assert re.search(rf"\.{last}\b|[\"']{last}[\"']", text), f"nothing reads {name}"


def test_operational_members_of_an_operational_setting() -> None:
    """A member of a setting outside the identity cannot be inside it."""
    outside = {name for name, info in walk_settings() if not is_identity(info)}
    for name, info in walk_settings():
        parent = name.rpartition(".")[0]
        assert not (parent in outside and is_identity(info)), name


def test_the_schema_is_flat() -> None:
    assert set(Config.model_fields) >= {"model_name", "learning_rate", "train_transform"}
    assert all("." not in name for name in Config.model_fields)
