"""Write the tables of settings into the documentation: `uv run python docs/build.py`.

`<!-- settings: a b -->` … `<!-- end -->` in a page becomes a table of the settings a and b, and of their members where
they are dicts, in the language of the page. `uv run python docs/build.py picture EXPERIMENT` makes the picture of the
README out of an experiment's folder.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic.fields import FieldInfo

from pochitrain.config.fields import is_identity
from pochitrain.config.schema import Config
from pochitrain.config.words import accepted, documentation, inner_model, walk_settings

DOCS = Path(__file__).parent
PAGES = (DOCS / "configuration.md", DOCS / "configuration.ja.md")
TABLE = re.compile(r"(<!-- settings: (?P<names>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

HEADINGS = {
    "en": ("Setting", "Takes", "Default", "In the id", "Meaning"),
    "ja": ("設定", "値", "既定値", "ID に含む", "説明"),
}
WORDS = {"en": {"required": "required", "yes": "yes"}, "ja": {"required": "必須", "yes": "○"}}
PICTURES = ("accuracy.png", "confusion_matrix.png")


def render(text: str, language: str) -> str:
    """Return a page with its tables as the schema has them now."""
    before = os.environ.get("POCHI_LANG")
    os.environ["POCHI_LANG"] = language  # `accepted` speaks the reader's language
    try:
        return TABLE.sub(lambda found: found[1] + table(found["names"].split(), language) + found[3], text)
    finally:
        os.environ.pop("POCHI_LANG")
        os.environ.update({"POCHI_LANG": before} if before is not None else {})


def table(names: list[str], language: str) -> str:
    """Return the table of some settings and of their members."""
    unknown = [name for name in names if name not in Config.model_fields]
    assert not unknown, f"no settings: {unknown}"
    fields = dict(walk_settings())
    rows = [row(name, fields[name], language) for top in names for name in fields if name.split(".")[0] == top]
    headings = HEADINGS[language]
    return "\n".join(line(cells) for cells in (headings, ["---"] * len(headings), *rows)) + "\n"


def row(name: str, info: FieldInfo, language: str) -> list[str]:
    words = WORDS[language]
    default = words["required"] if info.is_required() else f"`{shown(info.default)}`"
    if inner_model(info):
        default = ""  # that of its members, in the rows below
    identity = words["yes"] if is_identity(info) else ""
    return [f"`{name}`", accepted(info), default, identity, documentation(info, language == "ja")]


def shown(value: Any) -> str:
    """Return a default as one writes it in a config."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def language_of(page: Path) -> str:
    return "ja" if page.name.endswith(".ja.md") else "en"


def draw_result(experiment: Path, path: Path, height: int = 430) -> None:
    """Put two pictures of an experiment side by side, in 256 colours: a README should load at once."""
    pictures = []
    for name in PICTURES:
        with Image.open(experiment / "plots" / name) as file:
            width = round(file.width * height / file.height)
            pictures.append(file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    together = Image.new("RGB", (sum(picture.width for picture in pictures), height), "white")
    left = 0
    for picture in pictures:
        together.paste(picture, (left, 0))
        left += picture.width
    together.quantize(256).save(path, optimize=True)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["picture"]:
        draw_result(Path(arguments[1]), DOCS / "images" / "result.png")
        return
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8"), language_of(page)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
