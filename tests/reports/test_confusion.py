from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pochitrain.errors import ConfigError
from pochitrain.reports.confusion import Look, colormap, draw_confusion, plan_matrix, text_colors
from tests.reports.pictures import is_cut, texts

LOOK: dict[str, Any] = {
    "title": "Confusion Matrix",
    "xlabel": "Predicted Label",
    "ylabel": "True Label",
    "fontsize": 14,
    "title_fontsize": 16,
    "label_fontsize": 12,
    "figsize": (8, 6),
    "cmap": "Blues",
}
JAPANESE = {"title": "混同行列", "xlabel": "予測ラベル", "ylabel": "実際ラベル"}
ODD = [
    "良品",
    "とても長い不良名称のため図を圧迫するクラス名その一",
    "変形🦊",
    "a_b$x$",
    "100%",
    "two\nlines",
    "_x",
    "傷",
]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", "en")


def some_matrix(classes: int, images: int = 50) -> np.ndarray:
    shares = np.full((classes, classes), 0.2 / classes)
    np.fill_diagonal(shares, 1 - 0.2 * (classes - 1) / classes)
    return np.random.default_rng(0).multinomial(images, shares)


def draw(tmp_path: Path, matrix: np.ndarray, names: list[str] | None = None, **look: Any) -> Figure:
    names = names or [f"class_{number}" for number in range(len(matrix))]
    return draw_confusion(matrix, names, tmp_path / "confusion.png", **LOOK | look)


def cells(figure: Figure) -> dict[tuple[int, int], Text]:
    """Return the numbers by row and column."""
    return {(round(text.get_position()[1]), round(text.get_position()[0])): text for text in figure.axes[0].texts}


@pytest.mark.parametrize("classes", [1, 2, 10, 30, 100])
def test_numbers_and_names_can_be_read_and_nothing_is_cut(tmp_path: Path, classes: int) -> None:
    matrix = some_matrix(classes)
    names = (ODD + [f"クラス{number}" for number in range(100)])[:classes]
    figure = draw(tmp_path, matrix, names, **JAPANESE)
    assert not is_cut(tmp_path / "confusion.png")
    assert set(JAPANESE.values()) <= set(texts(figure))
    assert f"{np.trace(matrix)} of {matrix.sum()} images correct" in texts(figure)
    wide, tall = figure.get_size_inches()
    assert (wide > 8 and tall > 6) if classes == 100 else (classes > 10 or (wide, tall) == (8, 6))

    axes = figure.axes[0]
    corners = axes.transData.transform([(0, 0), (1, -1)])
    cell_width, cell_height = corners[1] - corners[0]
    for text in cells(figure).values():
        box = text.get_window_extent()
        assert box.width <= cell_width
        assert text.get_fontsize() * figure.dpi / 72 <= cell_height
        assert text.get_fontsize() >= 6 - 1e-9
    assert len(axes.get_yticklabels()) == len(axes.get_xticklabels()) == classes, "every class has its name"
    size = axes.get_yticklabels()[0].get_fontsize()
    assert size >= 6
    assert size * figure.dpi / 72 <= cell_height
    assert axes.get_xticklabels()[0].get_rotation() == 0 or size * figure.dpi / 72 <= cell_width


def test_a_cell_holds_the_images_of_its_row_given_its_column(tmp_path: Path) -> None:
    matrix = np.array([[7, 2, 0], [1, 8, 0], [0, 0, 9]])
    figure = draw(tmp_path, matrix, ["a", "b", "c"])
    assert {at: text.get_text() for at, text in cells(figure).items()} == {
        at: str(number) for at, number in np.ndenumerate(matrix)
    }
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.yaxis_inverted(), "the first class is on top"
    assert np.array_equal(axes.images[0].get_array(), matrix)
    assert "Images" in texts(figure)


@pytest.mark.parametrize("cmap", ["Blues", "viridis", "Greys_r", "coolwarm"])
def test_numbers_contrast_with_their_cell(tmp_path: Path, cmap: str) -> None:
    figure = draw(tmp_path, np.arange(100).reshape(10, 10), cmap=cmap)
    image = figure.axes[0].images[0]
    for at, text in cells(figure).items():
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in image.to_rgba(image.get_array()[at])[:3]
        )
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        contrast = 1.05 / (luminance + 0.05) if text.get_color() == "white" else (luminance + 0.05) / 0.05
        assert contrast >= 4.5, "WCAG AA"


def test_white_stands_on_dark_and_black_on_light() -> None:
    assert text_colors(np.array([[0.0, 0.0, 0.4, 1.0], [1.0, 1.0, 0.8, 1.0]])).tolist() == ["white", "black"]


@pytest.mark.parametrize("figsize", [(8, 6), (5.5, 7.25), (12.0, 4.0)])
def test_the_asked_size_is_kept_for_few_classes(tmp_path: Path, figsize: tuple[float, float]) -> None:
    assert tuple(draw(tmp_path, some_matrix(10), figsize=figsize).get_size_inches()) == figsize


def test_a_size_too_small_for_its_own_labels_grows(tmp_path: Path) -> None:
    figure = draw(tmp_path, some_matrix(3), figsize=(1.0, 0.5))
    assert not is_cut(tmp_path / "confusion.png")
    assert {"Confusion Matrix", "Predicted Label", "True Label"} <= set(texts(figure))


def test_font_sizes_are_those_of_the_config_where_they_fit(tmp_path: Path) -> None:
    figure = draw(tmp_path, some_matrix(3), fontsize=21, title_fontsize=25, label_fontsize=15)
    sizes = {text.get_text(): text.get_fontsize() for text in figure.texts}
    assert {text.get_fontsize() for text in cells(figure).values()} == {21}
    assert (sizes["Confusion Matrix"], sizes["Predicted Label"], sizes["True Label"]) == (25, 15, 15)


def test_names_turn_when_they_would_collide(tmp_path: Path) -> None:
    look = Look("Confusion Matrix", "Predicted Label", "True Label", 14, 16, 12, 8, 6)

    def rotation(classes: int, name: str) -> int:
        return plan_matrix([f"{name}{number}" for number in range(classes)], widest="50", look=look).rotation

    assert rotation(10, "") == 0
    assert rotation(10, "scratched_") == 45
    assert rotation(40, "scratched_") == 90
    figure = draw(tmp_path, some_matrix(10), [f"scratched_{number}" for number in range(10)])
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {45}


def test_names_are_drawn_as_they_stand_and_long_ones_keep_both_ends(tmp_path: Path) -> None:
    figure = draw(tmp_path, some_matrix(8), ODD)
    labels = figure.axes[0].get_yticklabels()
    shown = [label.get_text() for label in labels]
    assert shown[0] == "良品"
    assert shown[1].startswith("とても")
    assert shown[1].endswith("その一")
    assert "…" in shown[1]
    assert shown[2:] == ["変形:fox face:", "a_b$x$", "100%", r"two\nlines", "_x", "傷"]
    assert not any(label.get_parse_math() for label in (*labels, *figure.axes[0].get_xticklabels()))


def test_long_words_shrink_before_they_are_shortened(tmp_path: Path) -> None:
    figure = draw(tmp_path, some_matrix(2), title="長い題名" * 14, ylabel="実際のクラス" * 8, xlabel="x\ny")
    assert not is_cut(tmp_path / "confusion.png")
    assert {"長い題名" * 14, "実際のクラス" * 8, "x\ny"} <= set(texts(figure))
    draw(tmp_path, some_matrix(2), title="長い題名" * 100, ylabel="実際のクラス" * 100)
    assert not is_cut(tmp_path / "confusion.png")


def test_normalized_rows_are_percent_and_a_class_without_images_is_grey(tmp_path: Path) -> None:
    figure = draw(tmp_path, np.array([[1, 2, 0], [0, 0, 0], [0, 0, 5]]), normalize=True)
    shown = {at: text.get_text() for at, text in cells(figure).items()}
    assert shown == {(0, 0): "33.3", (0, 1): "66.7", (0, 2): "0.0", (2, 0): "0.0", (2, 1): "0.0", (2, 2): "100.0"}
    image = figure.axes[0].images[0]
    assert image.get_array().mask.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert (image.norm.vmin, image.norm.vmax) == (0, 100)
    assert "Share of the true class (%)" in texts(figure)
    assert "6 of 8 images correct" in texts(figure)


def test_many_classes_leave_zeros_out_and_keep_single_mistakes_visible(tmp_path: Path) -> None:
    matrix = np.diag(np.full(30, 400))
    matrix[3, 7] = 4
    figure = draw(tmp_path, matrix)
    assert len(cells(figure)) == 31
    image = figure.axes[0].images[0]
    mistake, empty = image.to_rgba(image.get_array())[[3, 0], [7, 1]]
    assert np.abs(mistake - empty).max() > 0.05
    percent = draw(tmp_path, matrix, normalize=True)
    assert cells(percent)[3, 7].get_text() == "1.0"
    assert cells(percent)[3, 3].get_text() == "99"


@pytest.mark.parametrize(
    ("classes", "look"), [(100, {}), (20, {"figsize": (5, 9), "label_fontsize": 20}), (40, {"figsize": (4, 12)})]
)
def test_each_column_is_as_wide_as_a_turned_name(tmp_path: Path, classes: int, look: dict[str, Any]) -> None:
    """Numbers of one digit alone need less."""
    figure = draw(tmp_path, some_matrix(classes, images=8), **look)
    labels = figure.axes[0].get_xticklabels()
    assert len(labels) == classes
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))


def test_beyond_what_fits_on_a_picture_colours_stay_and_names_thin_out(tmp_path: Path) -> None:
    figure = draw(tmp_path, some_matrix(260))
    assert cells(figure) == {}
    assert len(figure.axes[0].get_xticklabels()) == len(figure.axes[0].get_yticklabels()) == 130
    assert figure.axes[0].images[0].get_array().shape == (260, 260)
    assert max(figure.get_size_inches()) < 27


@pytest.mark.parametrize("classes", [2, 30])
def test_a_matrix_without_images_can_be_drawn(tmp_path: Path, classes: int) -> None:
    for normalize in (False, True):
        figure = draw(tmp_path, np.zeros((classes, classes), dtype=int), normalize=normalize)
        assert "0 of 0 images correct" in texts(figure)
        assert not np.ma.filled(figure.axes[0].images[0].get_array(), 0).any()  # shares of nothing are masked


def test_an_unknown_colour_map_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"(?s)no colour map 'Bleus'.*confusion_matrix_config\.cmap.*Blues"):
        colormap("Bleus")
