from __future__ import annotations

import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from PIL import Image

from pochitrain.reports.curves import draw_loss
from pochitrain.reports.style import (
    DPI,
    FAMILIES,
    TEXT,
    glyphs,
    new_figure,
    readable,
    readable_lines,
    save_figure,
    shorten,
    shorten_all,
    text_width,
)
from tests.reports.pictures import make_history


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("良品_OK 100% $x_1$", "良品_OK 100% $x_1$"),
        (unicodedata.normalize("NFD", "バリ・ペン"), "バリ・ペン"),
        ("two\nlines\tand tab", r"two\nlines\tand tab"),
        ("fox 🦊", "fox :fox face:"),
        ("👩‍🔬️", ":woman::microscope:"),
        (b"\xff\xfe.d".decode(errors="surrogateescape"), r"\udcff\udcfe.d"),
        ("한", "□"),
    ],
)
def test_any_name_becomes_a_line_that_the_fonts_can_draw(name: str, drawn: str) -> None:
    assert readable(name) == drawn
    assert {ord(character) for character in drawn} <= glyphs()


def test_line_breaks_stay_in_what_the_user_wrote_for_the_figure() -> None:
    assert readable_lines("一行目\n二行目🦊") == "一行目\n二行目:fox face:"


def test_each_japanese_character_has_its_own_shape() -> None:
    """A font without them would draw the same box for all."""
    glyphs()
    characters = "混同行列実際予測良品傷欠陥カラーアイウ、。"
    japanese = FT2Font(findfont(FAMILIES[1]))
    assert all(japanese.get_char_index(ord(character)) for character in characters)
    shapes = {_pixels(character) for character in characters}
    assert len(shapes) == len(set(characters))


def test_latin_text_stays_in_dejavu() -> None:
    assert _pixels("Agj") == _pixels("Agj", FAMILIES[:1]) != _pixels("Agj", FAMILIES[1:])


def _pixels(text: str, families: list[str] = FAMILIES) -> bytes:
    figure = new_figure(1, 0.5, constrained=False)
    figure.text(0.1, 0.3, text, **TEXT | {"fontfamily": families})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).tobytes()


def test_a_long_name_keeps_both_ends_and_fits() -> None:
    name = "表面処理不良_ロット2024-11_要再検査_ライン3"
    short = shorten(name, 9, 1.5)
    assert text_width(short, 9) <= 1.5 < text_width(name, 9)
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert text_width(name[: len(head) + 1] + "…" + name[-len(tail) - 1 :], 9) > 1.5, "no more than needed is left out"
    assert shorten(name, 9, 10) == name


def test_names_that_differ_in_the_middle_are_shortened_differently() -> None:
    def fit(name: str) -> str:
        return name if len(name) <= 12 else f"{name[:6]}…{name[-5:]}"

    assert shorten_all(["short", "a long name", "a rather long name"], fit) == ["short", "a long name", "a rath… name"]
    lots = [f"surface defect of lot {number} at the left side" for number in (7, 8, 9)]
    assert shorten_all([*lots, "crack"], fit) == ["sur…7 … side", "sur…8 … side", "sur…9 … side", "crack"]
    both = [f"camera {side} lot {number} at the left side" for side in ("north", "south") for number in (7, 8)]
    assert len(set(shorten_all(both, fit))) == 4
    same = ["one long name twice", "one long name twice"]
    assert shorten_all(same, fit) == [fit(same[0])] * 2


def test_a_picture_is_written_whole_and_alone_in_the_size_asked_for(tmp_path: Path) -> None:
    with matplotlib.rc_context({"savefig.bbox": "tight", "figure.dpi": 30, "savefig.facecolor": "red"}):
        save_figure(new_figure(2, 1), tmp_path / "図 1.png")
    with Image.open(tmp_path / "図 1.png") as picture:
        assert picture.size == (2 * DPI, DPI)
        assert picture.convert("RGB").getcolors() == [(2 * DPI * DPI, (255, 255, 255))]
    assert [path.name for path in tmp_path.iterdir()] == ["図 1.png"]


def test_pictures_can_be_drawn_in_several_threads_at_once(tmp_path: Path) -> None:
    history = make_history(5)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda path: draw_loss(history, path, best=5), paths))
    assert len({path.read_bytes() for path in paths}) == 1


def test_drawing_leaves_no_trace_in_matplotlib_and_loads_nothing_heavy(tmp_path: Path) -> None:
    program = """
import pathlib, sys, matplotlib, numpy
before = dict(matplotlib.rcParams.copy())  # reading rcParams itself would look for a backend
from pochitrain.reports.confusion import draw_confusion
from pochitrain.reports.curves import draw_training
from tests.reports.pictures import make_history
draw_training(make_history(2), pathlib.Path(sys.argv[1]), layer_wise=False, log_scale=False, best=1)
look = {"title": "t", "xlabel": "x", "ylabel": "y", "fontsize": 14, "title_fontsize": 16, "label_fontsize": 12}
path = pathlib.Path(sys.argv[1], "confusion.png")
draw_confusion(numpy.eye(2, dtype=int), ["良品", "傷"], path, **look, figsize=(8, 6), cmap="Blues")
assert dict(matplotlib.rcParams.copy()) == before
print(*{"matplotlib.pyplot", "matplotlib_fontja", "seaborn", "pandas", "torch", "scipy"} & set(sys.modules))
"""
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
