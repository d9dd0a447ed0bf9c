from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pochitrain.history import History
from pochitrain.reports.curves import draw_accuracy, draw_layer_rates, draw_loss, draw_training
from pochitrain.reports.style import BLUE, VERMILION
from tests.reports.pictures import is_cut, legend, make_history, texts


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", "en")


def lines(figure: Figure, color: str) -> list[tuple[list[float], list[float]]]:
    """Return the points of each curve of that colour, stars left out."""
    found = [line for line in figure.axes[0].lines if line.get_color() == color and line.get_marker() != "*"]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


@pytest.mark.parametrize("epochs", [1, 3, 50, 1000])
def test_loss_shows_both_curves_their_ends_and_the_best_epoch(tmp_path: Path, epochs: int) -> None:
    history, best = make_history(epochs), (epochs + 1) // 2
    figure = draw_loss(history, tmp_path / "loss.png", best=best)
    assert lines(figure, BLUE) == [([r["epoch"] for r in history], [r["train_loss"] for r in history])]
    assert lines(figure, VERMILION) == [([r["epoch"] for r in history], [r["val_loss"] for r in history])]
    at_best = history[best - 1]["val_loss"]
    assert legend(figure) == [
        f"Training (last {history[-1]['train_loss']:.4g})",
        f"Validation (last {history[-1]['val_loss']:.4g})",
        f"Best epoch {best} ({at_best:.4g})",
    ]
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (best, at_best)
    assert {"Loss", "Epoch"} <= set(texts(figure))
    assert not is_cut(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 50, 1000])
def test_ticks_stand_at_whole_epochs_that_exist(tmp_path: Path, epochs: int) -> None:
    axes = draw_loss(make_history(epochs), tmp_path / "loss.png", best=None).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 11
    assert all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)


def test_short_histories_have_markers_and_so_does_an_epoch_alone_between_nans(tmp_path: Path) -> None:
    def markers(history: History) -> int:
        line = next(line for line in draw_loss(history, tmp_path / "x.png", best=None).axes[0].lines)
        if line.get_marker() == "none":
            return 0
        return len(history) if line.get_markevery() is None else len(line.get_markevery())

    assert markers(make_history(1)) == 1
    assert markers(make_history(3)) == 3
    assert markers(make_history(200)) == 0
    history = make_history(200)
    history[98]["train_loss"] = history[100]["train_loss"] = math.nan
    assert markers(history) == 1


def test_without_validation_the_training_curve_carries_the_best_epoch(tmp_path: Path) -> None:
    figure = draw_loss(make_history(4, validation=False), tmp_path / "loss.png", best=4)
    assert lines(figure, VERMILION) == []
    assert legend(figure) == ["Training (last 1.25)", "Best epoch 4 (1.25)"]


def test_epochs_whose_loss_is_not_finite_are_marked(tmp_path: Path) -> None:
    history = make_history(6)
    history[1]["train_loss"], history[3]["val_loss"], history[5]["val_loss"] = math.nan, math.inf, math.nan
    figure = draw_loss(history, tmp_path / "loss.png", best=1)
    (crosses,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert list(crosses.get_xdata()) == [2, 4, 6]
    assert legend(figure)[1] == "Validation (last nan)"
    assert legend(figure)[-1] == "Not finite"
    assert not is_cut(tmp_path / "loss.png")


def test_a_history_of_nothing_but_nan_can_be_drawn(tmp_path: Path) -> None:
    record = dict.fromkeys(make_history(1)[0], math.nan) | {"epoch": 1}
    paths = draw_training([record], tmp_path, layer_wise=False, log_scale=False, best=None)
    assert [path.name for path in paths] == ["loss.png", "accuracy.png"]
    assert draw_loss([record], tmp_path / "loss.png", best=None).axes[0].get_yticks().size == 0


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.001, "log"), (0.0, "linear")])
def test_a_loss_over_two_decades_gets_a_logarithmic_axis(tmp_path: Path, last: float, scale: str) -> None:
    history = make_history(3)
    history[2]["train_loss"] = last
    figure = draw_loss(history, tmp_path / "loss.png", best=None)
    assert figure.axes[0].get_yscale() == scale
    assert not any("$" in text for text in texts(figure)), "plain numbers, no powers of ten"


def test_accuracy_shows_the_rate_that_each_epoch_used_on_a_second_axis(tmp_path: Path) -> None:
    history = make_history(6)
    figure = draw_accuracy(history, tmp_path / "accuracy.png", best=6, learning_rate=True)
    left, right = figure.axes
    (rate,) = right.lines
    centres = {
        x + 0.5: y for x, y in zip(rate.get_xdata()[:-1], rate.get_ydata()[:-1], strict=True)
    }  # a step begins half an epoch before its epoch
    assert rate.get_drawstyle() == "steps-post"
    assert centres == {record["epoch"]: record["learning_rate"] for record in history}
    assert left.get_zorder() > right.get_zorder(), "the curves are in front of the rate"
    assert legend(figure)[-1] == "Learning rate"
    assert {"Accuracy", "Accuracy (%)", "Learning rate"} <= set(texts(figure))
    assert not is_cut(tmp_path / "accuracy.png")


def test_accuracy_with_layer_wise_rates_has_one_axis(tmp_path: Path) -> None:
    figure = draw_accuracy(make_history(6), tmp_path / "accuracy.png", best=6, learning_rate=False)
    assert len(figure.axes) == 1
    assert "Learning rate" not in texts(figure)


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (99.9, 100.0), (0.0, 0.1), (62.0, 62.0), (10.0, 90.0)])
def test_the_accuracy_axis_shows_what_is_used_of_0_to_100(tmp_path: Path, low: float, high: float) -> None:
    history = make_history(2, validation=False)
    history[0]["train_accuracy"], history[1]["train_accuracy"] = low, high
    axes = draw_accuracy(history, tmp_path / "accuracy.png", best=None, learning_rate=False).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom < low <= high < top
    assert top - bottom <= max(1.2 * (high - low), 2.5)
    assert all(-1e-9 <= tick <= 100 + 1e-9 for tick in axes.get_yticks() if bottom <= tick <= top)


def layered(rates: dict[str, float], epochs: int = 4) -> History:
    history = make_history(epochs)
    for record in history:
        record |= {f"lr_{name}": rate * 0.9 ** record["epoch"] for name, rate in rates.items()}
    return history


@pytest.mark.parametrize("log_scale", [False, True])
def test_each_layer_has_its_curve_and_name(tmp_path: Path, log_scale: bool) -> None:
    rates = {"conv1": 1e-4, r"layer4\.1$": 2e-4, "_a$b$": 1e-3, "層": 2e-3, "fc": 1e-2}
    history = layered(rates)
    figure = draw_layer_rates(history, tmp_path / "rates.png", log_scale=log_scale)
    assert figure.axes[0].get_yscale() == ("log" if log_scale else "linear")
    assert legend(figure) == [f"{name} ({history[-1]['lr_' + name]:.3g})" for name in rates]
    assert not any(text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert drawn == [[record[f"lr_{name}"] for record in history] for name in rates]
    assert (
        len(
            {
                line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color())
                for line in figure.axes[0].lines
            }
        )
        == 5
    )
    assert not is_cut(tmp_path / "rates.png")


def test_layers_with_equal_rates_share_a_curve_that_names_them(tmp_path: Path) -> None:
    rates = {"conv1": 1e-3, "fc": 1e-2, "bn1": 1e-3} | {f"layer{number}": 1e-4 for number in range(40)}
    figure = draw_layer_rates(layered(rates, 1), tmp_path / "rates.png", log_scale=False)
    assert legend(figure) == ["conv1\nbn1 (0.0009)", "fc (0.009)", "layer0\nlayer1\nand 38 more (9e-05)"]
    assert len(figure.axes[0].lines) == 3
    assert not is_cut(tmp_path / "rates.png")


def test_a_frozen_layer_is_named_on_a_logarithmic_axis_too(tmp_path: Path) -> None:
    figure = draw_layer_rates(layered({"conv1": 0.0, "fc": 0.01}), tmp_path / "rates.png", log_scale=True)
    assert figure.axes[0].get_yscale() == "log"
    assert legend(figure)[0] == "conv1 (0)"
    assert not np.isfinite(figure.axes[0].yaxis.get_transform().transform([0.0])), (
        "left out, not drawn along the bottom"
    )
    only = draw_layer_rates(layered({"conv1": 0.0}), tmp_path / "rates.png", log_scale=True)
    assert only.axes[0].get_yscale() == "linear"


def test_many_layers_get_a_colour_bar_with_names_in_their_order(tmp_path: Path) -> None:
    rates = {f"block{number}": 1e-4 * 1.1**number for number in range(62)}
    figure = draw_layer_rates(layered(rates), tmp_path / "rates.png", log_scale=True)
    axes, bar = figure.axes
    assert axes.get_legend() is None
    assert len(axes.lines) == 62
    names = [label.get_text() for label in bar.get_yticklabels()]
    assert names == [f"block{number}" for number in range(0, 62, 4)]
    assert bar.yaxis_inverted(), "the first layer is on top"
    assert not is_cut(tmp_path / "rates.png")


def test_a_training_draws_what_its_history_holds(tmp_path: Path) -> None:
    def names(history: History, *, layer_wise: bool) -> list[str]:
        paths = draw_training(history, tmp_path, layer_wise=layer_wise, log_scale=False, best=1)
        assert all(path.parent == tmp_path and path.stat().st_size for path in paths)
        return [path.name for path in paths]

    assert names([], layer_wise=False) == []
    assert names(make_history(2), layer_wise=False) == ["loss.png", "accuracy.png"]
    history = layered({"fc": 0.1}, 3)
    history[1]["gradient_norm/fc"] = np.float32(0.5)
    assert names(history, layer_wise=True) == [
        "loss.png",
        "accuracy.png",
        "layer_wise_lr.png",
        "gradients_timeline.png",
        "gradients_heatmap.png",
    ]
