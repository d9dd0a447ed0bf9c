from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pochitrain.history import History
from pochitrain.reports.gradients import draw_gradients
from pochitrain.reports.style import NO_DATA
from tests.reports.pictures import is_cut, legend, make_history, texts


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", "en")


def traced(epochs: int, layers: int, every: int = 1) -> History:
    """Norms fall with depth and with time; recorded on every `every`th epoch."""
    history = make_history(epochs)
    for record in history[every - 1 :: every]:
        for layer in range(layers):
            record[f"gradient_norm/layer{layer}.weight"] = 10.0 ** (-layer / 8) * 0.9 ** record["epoch"]
    return history


def draw(history: History, tmp_path: Path) -> tuple[Figure, Figure]:
    return draw_gradients(history, tmp_path / "timeline.png", tmp_path / "heatmap.png")


def image(figure: Figure) -> AxesImage:
    (found,) = figure.axes[0].images
    return found


@pytest.mark.parametrize(("epochs", "layers"), [(1, 1), (1, 6), (50, 6), (3, 62)])
def test_both_pictures_show_every_layer_and_cut_nothing(tmp_path: Path, epochs: int, layers: int) -> None:
    timeline, heatmap = draw(traced(epochs, layers), tmp_path)
    assert len(timeline.axes[0].lines) == layers
    assert timeline.axes[0].get_yscale() == "log"
    assert image(heatmap).get_array().shape == (layers, epochs)
    assert isinstance(image(heatmap).norm, LogNorm)
    names = [label.get_text() for label in heatmap.axes[0].get_yticklabels()]
    assert names == [f"layer{layer}.weight" for layer in range(layers)]
    assert heatmap.axes[0].yaxis_inverted(), "the first layer is on top"
    for figure, name in ((timeline, "timeline.png"), (heatmap, "heatmap.png")):
        assert {"Gradient norm by layer", "Gradient norm (L2)", "Epoch"} <= set(texts(figure))
        assert not any("$" in text for text in texts(figure))
        assert not is_cut(tmp_path / name)
    if layers > 1:
        assert_names_do_not_overlap(heatmap)


def test_many_names_beside_the_map_do_not_overlap(tmp_path: Path) -> None:
    _, heatmap = draw(traced(3, 161), tmp_path)
    assert_names_do_not_overlap(heatmap)


def assert_names_do_not_overlap(heatmap: Figure) -> None:
    boxes = [label.get_window_extent() for label in heatmap.axes[0].get_yticklabels()]
    middles = [(box.y0 + box.y1) / 2 for box in boxes]
    points = heatmap.axes[0].get_yticklabels()[0].get_fontsize()
    assert np.diff(middles).max() <= -points * heatmap.dpi / 72
    assert points >= 6


def test_only_recorded_epochs_are_drawn_where_they_belong(tmp_path: Path) -> None:
    timeline, heatmap = draw(traced(20, 2, every=5), tmp_path)
    assert list(timeline.axes[0].lines[0].get_xdata()) == [5, 10, 15, 20]
    left, right, _, _ = image(heatmap).get_extent()
    assert (left, right) == (2.5, 22.5)


def test_the_map_does_not_show_an_epoch_0(tmp_path: Path) -> None:
    history = traced(9, 2)
    sparse = [record for record in history if record["epoch"] in (1, 5, 9)]
    _, heatmap = draw(sparse, tmp_path)
    assert heatmap.axes[0].get_xlim() == (0.5, 11)


def test_zero_and_nan_are_grey_in_the_map_and_said_in_the_legend(tmp_path: Path) -> None:
    history = traced(3, 4)
    history[2]["gradient_norm/layer0.weight"] = math.nan
    history[2]["gradient_norm/layer1.weight"] = 0.0
    del history[2]["gradient_norm/layer2.weight"]
    timeline, heatmap = draw(history, tmp_path)
    assert legend(timeline)[:3] == ["layer0.weight (nan)", "layer1.weight (0)", "layer2.weight (nan)"]
    assert image(heatmap).get_array().mask[:, 2].tolist() == [True, True, True, False]
    assert tuple(image(heatmap).get_cmap().get_bad()) == to_rgba(NO_DATA)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_gradients_without_any_positive_number_can_be_drawn(tmp_path: Path, value: float) -> None:
    history = traced(2, 2)
    for record in history:
        record |= {name: value for name in record if name.startswith("gradient_norm/")}
    _, heatmap = draw(history, tmp_path)
    assert image(heatmap).get_array().mask.all()
    assert heatmap.axes[1].get_yticklabels() == []


def test_long_names_leave_room_for_the_curves(tmp_path: Path) -> None:
    history = make_history(3)
    for record in history:
        record["gradient_norm/" + "features.denseblock4." * 6 + "weight"] = 0.1 * record["epoch"]
    for figure, name in zip(draw(history, tmp_path), ("timeline.png", "heatmap.png"), strict=True):
        assert figure.axes[0].get_position().width > 0.5
        assert any("…" in text for text in texts(figure))
        assert not is_cut(tmp_path / name)
