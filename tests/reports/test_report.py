"""The report of an evaluation: what it draws, what its page holds, and that it can be opened whatever was judged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torchvision import transforms

from pochitrain.engine.predict import Predictions
from pochitrain.reports.diagnosis import precision_recall_curves, reliability, roc_curves
from pochitrain.reports.evaluation import Evaluation, evaluate_predictions
from pochitrain.reports.gallery import (
    PER_CELL,
    cards,
    cell_pictures,
    images_of_cells,
    least_certain,
    overlaid,
    relative_names,
    viewed,
    worst_mistakes,
)
from pochitrain.reports.report import write_report
from tests.reports.pictures import is_cut
from tests.reports.test_html import EVIL, Parsed

LOOK: dict[str, Any] = {
    "title": "混同行列 <i>",
    "xlabel": "Predicted Label",
    "ylabel": "True Label",
    "fontsize": 14,
    "title_fontsize": 16,
    "label_fontsize": 12,
    "figsize": [5, 4],
    "cmap": "Greens",
}
SETTINGS = {"seed": 42, "early_stopping": {"patience": 7}}
PICTURES = {
    *("confusion_matrix.png", "confusion_matrix_normalized.png", "roc.png", "precision_recall.png", "reliability.png"),
    *("confidence.png", "most_confused.png", "per_class.png", "mistakes.png", "least_certain.png"),
}


def make_predictions(
    folder: Path | None, images: int, classes: int, *, skill: float = 2.0, seed: int = 0
) -> Predictions:
    """Return answers of a model that is right more often the higher its `skill`, about images of 8 × 8 in `folder`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += skill
    shares = np.exp(logits.astype(np.float64))
    paths = [(folder or Path("nowhere")) / f"{number:05d}.png" for number in range(images)]
    if folder:
        folder.mkdir(exist_ok=True)
        for path in paths:
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return Predictions(
        paths=tuple(map(str, paths)),
        labels=labels,
        logits=logits,
        probabilities=shares / shares.sum(axis=1, keepdims=True),
        classes=tuple(f"class {number}" for number in range(classes)),
        broken=(),
        seconds=1.5,
        precision="fp32",
    )


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


NORMALIZED = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))])


def renamed(predictions: Predictions, **changes: Any) -> Predictions:
    return Predictions(**{**vars(predictions), **changes})


def report(predictions: Predictions, folder: Path, **more: Any) -> tuple[Parsed, dict[str, Any], Evaluation]:
    """Write a report and return its page, the data in it, and what was judged."""
    evaluation = evaluate_predictions(predictions)
    arguments = {"title": "experiment", "settings": {}, "confusion_look": LOOK, **more}
    path = write_report(predictions, evaluation, folder, **arguments)
    assert path == folder / "report.html"
    page = Parsed(path.read_text(encoding="utf-8"))
    return page, json.loads(page.scripts[0]), evaluation


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    return make_predictions(tmp_path_factory.mktemp("data") / "images", 90, 3)


@pytest.fixture(scope="module")
def written(
    predictions: Predictions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Parsed, dict[str, Any], Evaluation]:
    folder = tmp_path_factory.mktemp("report") / "new"
    return folder, *report(predictions, folder, settings=SETTINGS)


def test_every_picture_is_there_and_whole(written: tuple[Path, Parsed, dict[str, Any], Evaluation]) -> None:
    folder = written[0]
    assert {path.name for path in folder.glob("*")} == PICTURES | {"report.html"}
    assert not [name for name in sorted(PICTURES) if is_cut(folder / name)]


def test_the_page_says_the_numbers_of_the_evaluation(
    written: tuple[Path, Parsed, dict[str, Any], Evaluation],
) -> None:
    _folder, page, data, evaluation = written
    accuracy = evaluation.metrics["accuracy"]
    assert f"{100 * accuracy.value:.1f} %" in page.text
    assert f"95 % interval {100 * accuracy.low:.1f} – {100 * accuracy.high:.1f} %" in page.text
    assert f"{np.trace(evaluation.confusion)} of 90 images correct" in page.text
    for each in evaluation.per_class:
        assert f"{100 * each['f1'].value:.1f} %" in page.text
    assert data["matrix"]["counts"] == evaluation.confusion.tolist()
    assert data["matrix"]["classes"] == ["class 0", "class 1", "class 2"]
    assert "seed42early_stopping.patience7" in page.text


def test_a_cell_holds_the_images_that_it_counts(
    written: tuple[Path, Parsed, dict[str, Any], Evaluation], predictions: Predictions
) -> None:
    _folder, _page, data, evaluation = written
    names = {Path(path).name: at for at, path in enumerate(predictions.paths)}
    for cell, images in data["matrix"]["cells"].items():
        true, predicted = map(int, cell.split(","))
        assert len(images) == min(evaluation.confusion[true, predicted], PER_CELL)
        for name, of_true, of_predicted, picture in images:
            at = names[name]
            assert (predictions.labels[at], predictions.predicted[at]) == (true, predicted)
            assert of_true == pytest.approx(predictions.probabilities[at, true], abs=1e-4)
            assert of_predicted == pytest.approx(predictions.confidence[at], abs=1e-4)
            assert picture.startswith("data:image/webp;base64,")
    true, predicted = data["matrix"]["first"]
    off_diagonal = evaluation.confusion - np.diag(np.diag(evaluation.confusion))
    assert off_diagonal[true, predicted] == off_diagonal.max()


def test_the_same_predictions_make_the_same_page(
    written: tuple[Path, Parsed, dict[str, Any], Evaluation], predictions: Predictions, tmp_path: Path
) -> None:
    report(predictions, tmp_path, settings=SETTINGS)
    assert (tmp_path / "report.html").read_bytes() == (written[0] / "report.html").read_bytes()


def test_nothing_in_a_name_is_read_as_html(predictions: Predictions, tmp_path: Path) -> None:
    classes = (EVIL, "良品 🦊" + "とても長い不良名称" * 5, "'\"><img src=x onerror=alert(3)>")
    named = renamed(predictions, classes=classes, broken=((EVIL, EVIL),))
    model = {"model": small_net(), "transform": NORMALIZED, "device": "cpu"}
    page, data, _evaluation = report(named, tmp_path, title=EVIL, settings={EVIL: {EVIL: EVIL}}, **model)
    assert not [name for name in sorted(PICTURES) if is_cut(tmp_path / name)]
    assert "Grad-CAM" in page.text
    assert "no convolutional feature map" not in page.text
    assert len(page.scripts) == 4
    assert not any(key.startswith("on") for _tag, attributes in page.tags for key in attributes)
    assert all(str(each["src"]).startswith("data:image/") for each in page.named("img"))
    assert {tag for tag, _attributes in page.tags}.isdisjoint({"b2", "link", "iframe", "object", "a"})
    assert data["matrix"]["classes"][1:] == [classes[1], "'\"><img src=x onerror=alert(3)>"]
    assert "\n" not in data["matrix"]["classes"][0]
    labels = [trace.get("name", "") for trace in data["charts"]["roc"]["data"]]
    assert not any("<" in label for label in labels), "plotly.js would read it"


@pytest.mark.parametrize(("images", "classes", "skill"), [(12, 2, 50.0), (3, 3, 0.0), (5, 1, 0.0), (60, 12, -9.0)])
def test_few_images_all_right_all_wrong_and_absent_classes(
    images: int, classes: int, skill: float, tmp_path: Path
) -> None:
    page, data, evaluation = report(make_predictions(tmp_path / "images", images, classes, skill=skill), tmp_path)
    assert not [name for name in sorted(PICTURES) if is_cut(tmp_path / name)]
    mistakes = images - int(np.trace(evaluation.confusion))
    assert page.text.count("No mistake") == (mistakes == 0)
    assert len(data["matrix"]["counts"]) == classes


def test_mistakes_come_worst_first_and_right_answers_least_certain_first(predictions: Predictions) -> None:
    worst, unsure = worst_mistakes(predictions), least_certain(predictions)
    wrong = predictions.predicted != predictions.labels
    assert wrong[worst].all()
    assert not wrong[unsure].any()
    assert predictions.losses[worst[0]] == predictions.losses[wrong].max()
    assert (np.diff(predictions.losses[worst]) <= 0).all()
    assert predictions.confidence[unsure[0]] == predictions.confidence[~wrong].min()
    assert (np.diff(predictions.confidence[unsure]) >= 0).all()


def test_pictures_stay_within_their_room_and_cells_share_it_by_size(predictions: Predictions) -> None:
    cells = images_of_cells(predictions)
    every = cell_pictures(predictions.paths, cells)
    assert set(every) == {at for images in cells.values() for at in images}
    room = sum(map(len, every.values())) // 3
    some = cell_pictures(predictions.paths, cells, room)
    assert room / 2 < sum(map(len, some.values())) < room + 1000
    shown = {cell: sum(at in some for at in images) for cell, images in cells.items()}
    wrong = {cell: count for cell, count in shown.items() if cell[0] != cell[1]}
    assert 0 < sum(wrong.values()) < len(some)
    by_size = [wrong[cell] for cell in sorted(wrong, key=lambda cell: len(cells[cell]))]
    assert by_size == sorted(by_size), "the larger the cell, the more pictures"


def test_of_many_unreadable_images_the_page_lists_some(predictions: Predictions, tmp_path: Path) -> None:
    broken = tuple((f"broken {number}", "empty") for number in range(1003))
    page, _data, _evaluation = report(renamed(predictions, broken=broken), tmp_path)
    assert "Unreadable images1003" in page.text
    assert page.text.count("broken 9") == 1 + 10 + 100
    assert "broken 999" in page.text
    assert "broken 1000" not in page.text
    assert "and 3 more, see broken.csv" in page.text


def test_long_names_stay_different(predictions: Predictions, tmp_path: Path) -> None:
    classes = tuple(f"class number {number} with the same long name" for number in range(3))
    _page, data, _evaluation = report(renamed(predictions, classes=classes), tmp_path)
    assert data["matrix"]["short"] == [f"class …{number} wit…long name" for number in range(3)]


def test_an_image_that_is_gone_has_no_picture_and_a_model_without_a_map_no_overlay(tmp_path: Path) -> None:
    judged = make_predictions(tmp_path / "images", 20, 2, skill=0.0)
    at = worst_mistakes(judged)[0]
    Path(judged.paths[at]).unlink()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    page, data, _evaluation = report(judged, tmp_path / "report", model=flat, transform=NORMALIZED, device="cpu")
    entries = [entry for images in data["matrix"]["cells"].values() for entry in images]
    assert len(entries) == 20
    assert [len(entry) for entry in entries].count(3) == 1
    assert f"{at:05d}.png" in page.text
    assert page.text.count("no convolutional feature map") == 2


def test_samples_of_a_data_set_without_files_have_names_and_no_pictures(predictions: Predictions) -> None:
    names = tuple(f"sample {number}" for number in range(len(predictions.paths)))
    card = cards(renamed(predictions, paths=names), [5], small_net(), NORMALIZED, "cpu")[0]
    assert (card.name, card.picture, card.overlay) == ("sample 5", None, None)
    assert relative_names(names) == ("", list(names))
    assert relative_names(["/a/b/c.png", "/a/d.png"]) == ("/a", ["b/c.png", "d.png"])


# ---- the curves ----


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_areas_are_those_of_scikit_learn(classes: int) -> None:
    judged = make_predictions(None, 200, classes, skill=0.7)
    assert judged.labels is not None
    roc = roc_curves(judged.labels, judged.probabilities, judged.classes)
    precision_recall = precision_recall_curves(judged.labels, judged.probabilities, judged.classes)
    one_hot = np.eye(classes, dtype=int)[judged.labels]
    for curves, area in ((roc, roc_auc_score), (precision_recall, average_precision_score)):
        found = {curve.name: curve.area for curve in curves}
        each = {name: area(one_hot[:, k], judged.probabilities[:, k]) for k, name in enumerate(judged.classes)}
        named = {name: value for name, value in found.items() if name in each}
        assert named == pytest.approx({name: each[name] for name in named}, abs=1e-12)
        if classes == 2:
            assert list(found) == list(judged.classes)
            continue
        assert found["micro average"] == pytest.approx(area(one_hot, judged.probabilities, average="micro"), abs=1e-12)
        assert found["macro average"] == pytest.approx(np.mean(list(each.values())), abs=1e-12)
        if classes == 12:
            assert sorted(named.values()) == pytest.approx(sorted(each.values())[:5], abs=1e-12), "the five worst"


def test_a_class_without_images_has_no_curve() -> None:
    probabilities = np.full((6, 3), 1 / 3)
    curves = roc_curves(np.array([0, 0, 1, 1, 1, 0]), probabilities, ["a", "b", "absent"])
    assert [curve.name for curve in curves] == ["a", "b"]
    assert [curve.area for curve in curves] == [0.5, 0.5]
    assert roc_curves(np.array([1, 1]), probabilities[:2], ["a", "b", "c"]) == []


def test_the_steps_of_confidence_add_up_to_the_calibration_error(predictions: Predictions) -> None:
    right = predictions.predicted == predictions.labels
    bins = reliability(predictions.confidence, right)
    filled = bins.images > 0
    assert bins.images.sum() == 90
    assert bins.correct.sum() == right.sum()
    accuracy = np.array([each.value for each in bins.accuracy])
    gaps = np.abs(accuracy - bins.confidence)[filled] * bins.images[filled] / 90
    assert gaps.sum() == pytest.approx(evaluate_predictions(predictions).metrics["ece"].value, abs=1e-12)
    assert [math.isnan(value) for value in bins.confidence] == (~filled).tolist()


# ---- where the model looked ----


def test_galleries_show_where_the_model_looked(predictions: Predictions) -> None:
    shown = cards(predictions, worst_mistakes(predictions, 3), small_net(), NORMALIZED, "cpu")
    assert all(card.picture and card.overlay and card.picture != card.overlay for card in shown)
    assert cards(predictions, worst_mistakes(predictions, 3), small_net(), NORMALIZED, "cpu") == shown, "to the byte"


def test_the_picture_below_the_light_has_its_own_colours_again() -> None:
    images = torch.rand(2, 3, 5, 7)
    seen = torch.stack([(image - 0.5) / 0.25 for image in images])
    nested = transforms.Compose([transforms.Compose([transforms.Normalize([0.5] * 3, [0.25] * 3)])])
    torch.testing.assert_close(viewed(seen, nested), images)
    assert viewed(images, lambda image: image) is images
    stretched = viewed(100 * seen, lambda image: image)
    assert stretched.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert stretched.amax(dim=(1, 2, 3)).tolist() == [1, 1]


def test_light_falls_where_the_heat_is() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 0] = 1
    mixed = overlaid(torch.full((3, 4, 4), 0.2), heat)
    assert mixed.shape == (4, 4, 3)
    assert (mixed[1:] == 51).all()
    assert mixed[0, 0].max() > 150
