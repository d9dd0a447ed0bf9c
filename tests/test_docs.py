"""The documentation is true: its examples run, its tables are the schema's, its commands and links exist."""

from __future__ import annotations

import importlib.util
import io
import math
import re
import runpy
import shlex
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import typer.main

from pochitrain.cli import app
from pochitrain.config.schema import Config
from pochitrain.errors import PochiError
from pochitrain.tasks.command import run_train
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
ENGLISH, JAPANESE = ROOT / "docs" / "configuration.md", ROOT / "docs" / "configuration.ja.md"
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").rglob("*.md"))]
DRAWN = ("Layer-wise learning rates", "Gradient tracing", "Own epoch, observers and plots", "Output")
TRANSLATED = [(ENGLISH, JAPANESE), (ROOT / "README.md", ROOT / "README.ja.md")]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A fenced block: `python` goes to the end of a tiny config, `python script` runs, `… file=NAME` is written."""

    section: str
    number: int
    info: str
    code: str
    files: tuple[tuple[str, str], ...] = ()  # those written earlier in the section

    def __str__(self) -> str:
        return f"{self.section} {self.number}"


def examples(page: Path) -> list[Example]:
    """Return the Python blocks of a page, with the files that stand before them in their section."""
    found = []
    for text in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        files: tuple[tuple[str, str], ...] = ()
        for number, block in enumerate(FENCE.finditer(text), start=1):
            info, code = block["info"], textwrap.dedent(block["code"])
            if "file=" in info:
                files += ((info.partition("file=")[2], code),)
            elif info.startswith("python"):
                found.append(Example(text.partition("\n")[0], number, info, code, files))
    return found


def build() -> Any:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workshop(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with the images of the examples, and with a place for weights that torchvision has fetched."""
    (tmp_path / "data").mkdir()
    for name, folder in {"train": "train", "val": "val", "all": "train"}.items():
        (tmp_path / "data" / name).symlink_to(images / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def place_weights(folder: Path) -> None:
    """Do what the message for machines without network says."""
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    target = folder / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    target.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), target)


def tiny(lines: str = "", *, pictures: bool = True) -> str:
    """Return a tiny config with an example at its end; a `model_name` there is to matter, pictures take their time."""
    before = f"enable_metrics_export = {pictures}\n"
    if "model_name" in lines:
        before += "model = None\npretrained = False\n"
    return TINY.format(train="data/train", val="data/val", work_dir="work_dirs") + before + lines


@pytest.mark.parametrize("example", [e for page, _ in TRANSLATED for e in examples(page)], ids=str)
def test_example_runs(example: Example, workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content in example.files:
        (workshop / name).write_text(content, encoding="utf-8")
    path = workshop / "my_config.py"
    if example.info == "python script":
        path.write_text(tiny(pictures=False), encoding="utf-8")
        (workshop / "script.py").write_text(example.code, encoding="utf-8")
        runpy.run_path("script.py")
        return
    if "pretrained = True" in example.code:
        place_weights(workshop)
    path.write_text(tiny(example.code, pictures=example.section in DRAWN), encoding="utf-8")
    _experiment, history, metric = run_train(path, {}, restart=False, strict_env=False)
    assert [record["epoch"] for record in history] == [1, 2]
    assert math.isfinite(metric)
    said = capfd.readouterr()
    assert "failed" not in said.out + said.err  # an observer or a plot of the example
    assert "nothing reads it" not in said.out
    assert "has no effect" not in said.out


def without_comments(code: str) -> list[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [(token.type, token.string) for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]


@pytest.mark.parametrize("pages", TRANSLATED, ids=lambda pages: pages[0].stem)
def test_both_languages_hold_the_same_blocks(pages: tuple[Path, Path]) -> None:
    english, japanese = (list(FENCE.finditer(page.read_text(encoding="utf-8"))) for page in pages)
    assert [block["info"] for block in english] == [block["info"] for block in japanese]
    for one, other in zip(english, japanese, strict=True):
        if one["info"].startswith("python"):
            codes = [without_comments(textwrap.dedent(block["code"])) for block in (one, other)]
            assert codes[0] == codes[1]
        elif one["info"] != "text":
            assert one["code"] == other["code"]


@pytest.mark.parametrize("pages", TRANSLATED, ids=lambda pages: pages[0].stem)
def test_both_languages_have_the_same_sections_and_tables(pages: tuple[Path, Path]) -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages]
    for kind in (r"^#+ ", r"^\| ", r"^- ", r"^<!-- settings: .*"):
        english, japanese = (re.findall(kind, text, re.MULTILINE) for text in texts)
        assert english == japanese


@pytest.mark.parametrize("page", [ENGLISH, JAPANESE], ids=lambda page: page.name)
def test_tables_are_those_of_the_schema(page: Path) -> None:
    docs = build()
    text = page.read_text(encoding="utf-8")
    assert docs.render(text, docs.language_of(page)) == text, "run `uv run python docs/build.py`"
    names = [name for found in docs.TABLE.finditer(text) for name in found["names"].split()]
    assert sorted(names) == sorted(Config.model_fields)


@pytest.mark.parametrize("page", [ENGLISH, JAPANESE], ids=lambda page: page.name)
def test_exit_codes_are_those_of_the_errors(page: Path) -> None:
    listed = {
        int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", page.read_text("utf-8"), re.M) for code in cell.split(",")
    }
    raised = {error.exit_code for error in PochiError.__subclasses__() if "exit_code" in vars(error)}
    assert listed == raised | {0, 1, 130, 143}  # done, a bug, and StoppedError's two


def test_what_a_run_leaves_behind_is_documented(workshop: Path) -> None:
    """With everything switched on there is no file that the tables do not name."""
    lines = """
val_data_root = "auto"
enable_tensorboard = enable_gradient_tracking = enable_layer_wise_lr = True
layer_wise_lr_config = {"layer_rates": {".*": 0.01}}
tags, print_config = ["all"], True
"""
    path = workshop / "my_config.py"
    path.write_text(tiny(lines), encoding="utf-8")
    folder = run_train(path, {}, restart=False, strict_env=False).experiment.dir
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    left = {f"{name.split('/')[0]}/" if name.startswith(("checkpoints/", "tensorboard/")) else name for name in left}
    assert {"metrics.csv", "split.csv", "plots/gradients_heatmap.png", "best.pt", "tensorboard/"} <= left
    for page in (ENGLISH, JAPANESE):
        first_cells = re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert left <= set(re.findall(r"`([\w./]+)`", " ".join(first_cells)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for block in FENCE.finditer(page.read_text(encoding="utf-8")):
        if block["info"] not in ("bash", "sh"):
            continue
        for command in re.findall(r"\bpochi .*", block["code"]):
            verb: Any = typer.main.get_command(app)
            arguments = shlex.split(command, comments=True)[1:]
            while hasattr(verb, "commands"):
                verb = verb.commands[arguments.pop(0)]
            verb.make_context(verb.name, arguments)  # refuses an option or argument that is not there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.strip()
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if target.startswith("http"):
            continue
        file, _hash, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
