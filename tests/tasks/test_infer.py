"""`pochi infer` and `pochi calibrate`: from an experiment or a file to answers, and how good they are."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pochitrain import durable, load_config, train
from pochitrain.cli import app, run
from pochitrain.data.pick import Picked
from pochitrain.engine.calibration import (
    Confidences,
    Threshold,
    calibration_path,
    confidences_by_class,
    fit_temperature,
    load_calibration,
    thresholds,
)
from pochitrain.engine.checkpoint import load_weights
from pochitrain.engine.loading import load_model
from pochitrain.engine.predict import Predictions
from pochitrain.errors import ConfigError, DataError, DiskError
from pochitrain.experiment import Experiment, read_manifest, write_manifest
from pochitrain.reports.evaluation import evaluate_predictions
from pochitrain.sinks.console import Log
from pochitrain.tasks.calibrate import FEW, calibrate
from pochitrain.tasks.infer import Inferred, Wish, infer
from pochitrain.tasks.judge import trained_on
from pochitrain.tasks.judged import RESULTS, folder_names
from pochitrain.tasks.reliance import Reliance
from pochitrain.tasks.verdict import say_evaluation
from tests.conftest import TINY, make_images, pochi

WriteConfig = Callable[..., Path]
PLAIN = """
model, model_name, pretrained = None, "shufflenet_v2_x0_5", False
train_transform = val_transform = transforms.Compose([transforms.Resize(32), transforms.ToTensor()])
"""


def trained_in(folder: Path, images: Path, lines: str) -> Experiment:
    path = folder / "tiny_config.py"
    text = TINY.format(train=str(images / "train"), val=str(images / "val"), work_dir=str(folder / "work_dirs"))
    path.write_text(text + lines, encoding="utf-8")
    return train(load_config(path)).experiment


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Experiment:
    """Return an experiment with a model of torchvision's. Do not change it."""
    return trained_in(tmp_path_factory.mktemp("plain"), images, PLAIN + "epochs = 12")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Experiment:
    """Return an experiment whose model is a function in the config. Do not change it."""
    return trained_in(tmp_path_factory.mktemp("own"), images, "")


def judged(experiment: Experiment | Path | str, output: Path, **wish: Any) -> Inferred:
    text = str(experiment.dir if isinstance(experiment, Experiment) else experiment)
    images = wish.pop("images", ())
    return infer(text, Wish(images=[str(it) for it in images], output=output, report=False, **wish))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def accuracy_in_csv(experiment: Experiment, epoch: int) -> float:
    return float(rows(experiment.metrics_csv)[epoch - 1]["val_accuracy"])


# ---- the numbers ----


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_accuracy_is_that_of_the_best_epoch_exactly(
    write_config: WriteConfig, tmp_path: Path, precision: str
) -> None:
    lines = f"{PLAIN}precision = {precision!r}\nepochs = 4\nbatch_size = 5"
    experiment = train(load_config(write_config(lines))).experiment
    best = load_weights(experiment.best_pt)
    found = judged(experiment, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 100.0 * metrics["correct"] / metrics["images"] == accuracy_in_csv(experiment, best["epoch"])
    assert found.evaluation is not None
    assert np.array_equal(found.evaluation.confusion, best["confusion_matrix"].numpy())
    assert found.predictions.precision == precision
    last = judged(experiment.last_pt, tmp_path / "last")
    assert last.evaluation is not None
    assert 100.0 * last.evaluation.confusion.trace() / 9 == accuracy_in_csv(experiment, 4)


def test_the_files_say_what_was_found(plain: Experiment, tmp_path: Path) -> None:
    found = judged(plain, tmp_path, top_k=2)
    predictions, evaluation = found.predictions, found.evaluation
    assert evaluation is not None
    lines = rows(tmp_path / "predictions.csv")
    assert list(lines[0]) == [
        "path", "true", "predicted", "confidence", "correct", "top_1", "probability_1", "top_2", "probability_2",
    ]  # fmt: skip
    assert [line["path"] for line in lines] == list(predictions.paths)
    assert [line["true"] for line in lines] == ["ant"] * 3 + ["bee"] * 3 + ["cat"] * 3
    assert [line["predicted"] for line in lines] == [line["top_1"] for line in lines] == predictions.names
    assert [float(line["confidence"]) for line in lines] == predictions.confidence.tolist()
    assert [line["correct"] == "1" for line in lines] == [line["true"] == line["predicted"] for line in lines]
    report = {line["class"]: line for line in rows(tmp_path / "classification_report.csv")}
    assert list(report) == ["ant", "bee", "cat", "macro avg", "weighted avg"]
    assert float(report["ant"]["recall"]) == evaluation.per_class[0]["recall"].value
    assert float(report["weighted avg"]["recall"]) == pytest.approx(evaluation.metrics["accuracy"].value)
    assert int(report["macro avg"]["support"]) == 9
    matrix = rows(tmp_path / "confusion_matrix.csv")
    assert [list(line.values())[1:] for line in matrix] == [[str(n) for n in row] for row in evaluation.confusion]
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert {"accuracy", "balanced_accuracy", "top_2_accuracy", "macro_f1", "log_loss", "ece", "cohen_kappa"} == set(
        metrics
    )
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": 9}, {"batch_size": 2}])
def test_batch_sizes_change_nothing(plain: Experiment, tmp_path: Path, change: dict[str, Any]) -> None:
    base, other = judged(plain, tmp_path / "a"), judged(plain, tmp_path / "b", **change)
    assert base.predictions.names == other.predictions.names
    assert np.abs(base.predictions.probabilities - other.predictions.probabilities).max() < 1e-6


def test_mirror_images_and_fp32_on_request(plain: Experiment, tmp_path: Path) -> None:
    base = judged(plain, tmp_path / "a", check_precision=True)
    mirrored = judged(plain, tmp_path / "b", tta=True)
    assert not np.array_equal(base.predictions.logits, mirrored.predictions.logits)
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["fp32"]["different"] == 0
    assert json.loads((tmp_path / "b" / "infer.json").read_text())["tta"] is True


# ---- which model ----


def test_a_file_of_a_torchvision_model_needs_nothing_else(plain: Experiment, images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.pt"
    shutil.copy(plain.best_pt, alone)
    there, here = judged(plain, tmp_path / "a"), infer(str(alone), Wish([str(images / "val")], report=False))
    assert np.array_equal(there.predictions.logits, here.predictions.logits)
    assert here.directory == tmp_path / "infer" / "val-model"


def test_a_model_of_the_users_is_made_by_the_snapshot(write_config: WriteConfig, tmp_path: Path) -> None:
    """The config is edited after the training; its helper module lies beside it, and values came from the call."""
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, width, seed):\n"
        "    return nn.Sequential(nn.Conv2d(3, width + seed % 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(width + seed % 10, num_classes))\n"
    )
    lines = (
        "from my_nets import net\nmodel = net\nwidth = 4\nval_transform = lambda image: transforms.ToTensor()(image)"
    )
    path = write_config(lines)
    experiment = train(load_config(path, {"seed": 43})).experiment
    path.write_text(path.read_text().replace("width = 4", "width = 99"))
    best = load_weights(experiment.best_pt)
    found = judged(experiment, tmp_path / "out")
    assert found.evaluation is not None
    assert 100.0 * found.evaluation.confusion.trace() / 9 == best["record"]["val_accuracy"]
    path.unlink()
    again = judged(experiment, tmp_path / "out")
    assert np.array_equal(found.predictions.logits, again.predictions.logits)


def test_code_that_has_changed_is_told(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "their_nets.py"
    module.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(3, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.fc(images.mean((2, 3)))\n"
    )
    experiment = train(load_config(write_config("from their_nets import Net\nmodel = Net"))).experiment
    judged(experiment, tmp_path / "out")
    assert "not as in the training" not in capsys.readouterr().out
    module.write_text(module.read_text().replace("mean", "sum"))
    judged(experiment, tmp_path / "out")
    assert "not as in the training: code of Net.forward changed" in capsys.readouterr().out
    module.write_text(module.read_text().replace("Linear(3", "Linear(4").replace("sum", "mean"))
    with pytest.raises(DataError, match="The weights do not fit the model Net"):
        judged(experiment, tmp_path / "out")
    module.unlink()
    with pytest.raises(ConfigError, match=r"(?s)their_nets.*does not run any more"):
        judged(experiment, tmp_path / "out")


def test_a_file_alone_does_not_know_the_users_code(own: Experiment, images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "best.pt"
    shutil.copy(own.best_pt, alone)
    with pytest.raises(ConfigError, match="made model = model") as error:
        judged(alone, tmp_path, images=[images / "val"])
    assert own.id[:12] in str(error.value)


def test_a_run_from_another_machine_uses_what_is_here(plain: Experiment, images: Path, tmp_path: Path) -> None:
    payload = load_weights(plain.best_pt)
    payload["settings"] |= {"device": "cuda:99", "num_workers": 0}
    torch.save(payload, tmp_path / "best.pt")
    found = judged(tmp_path / "best.pt", tmp_path / "out", images=[images / "val"])
    assert len(found.predictions.paths) == 9
    with pytest.raises(ConfigError, match="no device 'cuda:99'"):
        judged(tmp_path / "best.pt", tmp_path / "out", images=[images / "val"], device="cuda:99")


def test_weights_that_were_pretrained_keep_their_architecture(plain: Experiment, tmp_path: Path) -> None:
    import torchvision

    model = torchvision.models.get_model("googlenet", weights=None, num_classes=3, aux_logits=False, init_weights=False)
    payload = load_weights(plain.best_pt) | {"model": model.state_dict(), "model_name": "googlenet"}
    payload["settings"] |= {"model_name": "googlenet", "pretrained": True}
    torch.save(payload, tmp_path / "best.pt")
    assert load_model(tmp_path / "best.pt", None).model.transform_input is True


# ---- which images ----


def test_the_validation_data_of_a_split_a_table_and_a_data_set(
    write_config: WriteConfig, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "val.csv"
    files = sorted((images / "val").glob("*/*.png"))
    table.write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in files))
    own = """
from torchvision.datasets import ImageFolder
def dataset(split, train_data_root, val_data_root, val_transform):
    return ImageFolder(train_data_root if split == "train" else val_data_root, val_transform)
"""
    auto = f"train_data_root = {str(table)!r}\nval_data_root = 'auto'\nval_fraction = 0.5"
    for number, lines in enumerate(("val_data_root = 'auto'", f"val_data_root = {str(table)!r}", auto, own)):
        experiment = train(load_config(write_config(f"{PLAIN}task = 't{number}'\n{lines}"))).experiment
        best = load_weights(experiment.best_pt)
        found = judged(experiment, tmp_path / str(number))
        assert found.evaluation is not None
        assert np.array_equal(found.evaluation.confusion, best["confusion_matrix"].numpy()), lines
        assert "warning: the validation data" not in capsys.readouterr().out
    assert found.predictions.paths[0] == "sample 0"
    with pytest.raises(ConfigError, match="no files that could be sorted"):
        judged(experiment, tmp_path / "own", sort_into=tmp_path / "sorted")


def test_a_table_of_labels_can_be_named(plain: Experiment, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text(f"path,label\n{images / 'val' / 'bee' / '000.png'},ant\n")
    found = judged(plain, tmp_path / "out", images=[table], allow_missing_classes=True)
    assert found.predictions.labels is not None
    assert found.predictions.labels.tolist() == [0]


def test_validation_data_that_is_gone_or_changed(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    make_images(data / "train", {"ant": 4, "bee": 4})
    make_images(data / "val", {"ant": 2, "bee": 2}, seed=1)
    experiment = train(load_config(write_config(PLAIN, data=data))).experiment
    judged(experiment, tmp_path / "out")
    assert "has changed" not in capsys.readouterr().out
    (data / "val" / "ant" / "000.png").rename(data / "val" / "ant" / "zero.png")
    judged(experiment, tmp_path / "out")
    assert "the validation data has changed since the training: +1 −1 ~0 files" in capsys.readouterr().out
    shutil.rmtree(data / "val" / "ant")
    with pytest.raises(DataError, match=r"(?s)without images here: ant.*--allow-missing-classes"):
        judged(experiment, tmp_path / "out")
    assert len(judged(experiment, tmp_path / "out", allow_missing_classes=True).predictions.paths) == 2
    shutil.rmtree(data / "val")
    with pytest.raises(DataError, match=r"(?s)cannot be read.*with --data"):
        judged(experiment, tmp_path / "out")
    table = tmp_path / "val.csv"
    table.write_text("path,label\ndata/train/ant/000.png,ant\ndata/train/bee/000.png,bee\n")
    listed = train(load_config(write_config(f"{PLAIN}val_data_root = {str(table)!r}", data=data))).experiment
    capsys.readouterr()
    judged(listed, tmp_path / "out")
    said = capsys.readouterr().out
    assert "has changed" not in said
    assert "the model was trained on 2 of these images" in said
    table.write_text("path,label\ndata/train/ant/000.png,ant\ndata/train/bee/001.png,bee\n")
    judged(listed, tmp_path / "out")
    assert "the validation data has changed since the training: +1 −1 ~0 files" in capsys.readouterr().out
    none = train(load_config(write_config(f"{PLAIN}val_data_root = None", data=data))).experiment
    with pytest.raises(ConfigError, match="trained without validation data"):
        judged(none, tmp_path / "out")


def test_classes_are_matched_by_name(plain: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = make_images(tmp_path / "some", {"cat": 2, "bee": 1})
    with pytest.raises(DataError, match=r"(?s)without images here: ant.*--allow-missing-classes"):
        judged(plain, tmp_path / "out", images=[some])
    found = judged(plain, tmp_path / "out", images=[some], allow_missing_classes=True)
    assert found.predictions.labels is not None
    assert found.predictions.labels.tolist() == [1, 2, 2]
    assert found.evaluation is not None
    assert found.evaluation.per_class[0]["support"] == 0
    assert "classes without images: ant" in capsys.readouterr().out
    (some / "ant").mkdir()
    with pytest.raises(DataError, match="Class ant holds no image"):
        judged(plain, tmp_path / "out", images=[some])
    assert judged(plain, tmp_path / "out", images=[some], allow_missing_classes=True).predictions.labels.tolist() == [
        1, 2, 2,
    ]  # fmt: skip
    assert "classes without images: ant" in capsys.readouterr().out
    (some / "ant").rmdir()
    make_images(some, {"dog": 1})
    with pytest.raises(DataError, match=r"(?s)does not have: dog.*without images here: ant"):
        judged(plain, tmp_path / "out", images=[some])


def test_other_images_get_predictions(plain: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "new", {"monday": 2, "tuesday": 1, ".hidden": 1})
    (root / "monday" / "loop").symlink_to(root)
    (root / "tuesday" / "broken.jpg").write_text("no image")
    (root / "notes.txt").write_text("no image, and not meant as one")
    found = judged(plain, tmp_path / "out", images=[root], top_k=3)
    assert [os.path.relpath(path, root) for path in found.predictions.paths] == [
        "monday/000.png", "monday/001.png", "tuesday/000.png",
    ]  # fmt: skip
    lines = rows(tmp_path / "out" / "predictions.csv")
    assert "true" not in lines[0]
    assert sum(float(lines[0][f"probability_{n}"]) for n in (1, 2, 3)) == pytest.approx(1)
    assert [line["reason"] for line in rows(tmp_path / "out" / "broken.csv")] == [
        "no JPEG, PNG, BMP, GIF, TIFF or WebP image"
    ]
    assert found.evaluation is None
    assert not (tmp_path / "out" / "metrics.json").exists()
    said = capsys.readouterr().out
    assert (
        "no folder has the name of a class, so no image is labelled: monday, tuesday (classes: ant, bee, cat)" in said
    )
    assert "1 images cannot be read and are left out" in said
    (root / "tuesday" / "broken.jpg").unlink()
    judged(plain, tmp_path / "out", images=[root])
    assert not (tmp_path / "out" / "broken.csv").exists()


def test_files_and_patterns(plain: Experiment, images: Path, tmp_path: Path) -> None:
    one, pattern = images / "val" / "ant" / "001.png", images / "val" / "*" / "00[02].png"
    found = judged(plain, tmp_path, images=[one, pattern, one])
    names = [os.path.relpath(path, images / "val") for path in found.predictions.paths]
    assert names == ["ant/001.png", *(f"{name}/00{n}.png" for name in ("ant", "bee", "cat") for n in (0, 2))]


def test_results_of_other_images_are_not_written_over(plain: Experiment, images: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    other = make_images(tmp_path / "other" / "val", {"ant": 1, "bee": 1, "cat": 1})
    folders = [
        infer(str(work), Wish(images=source, tta=tta, report=False)).directory.name
        for source, tta in (((), False), ([str(other)], False), ([str(images / "val")], False), ((), True))
    ]
    assert folders == ["val", "val-2", "val", "val-tta"]


def test_patterns_and_lists_are_told_apart_by_where_they_are(
    plain: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    found = []
    for name in ("p1", "p2"):
        make_images(tmp_path / name, {"shots": 12})
        monkeypatch.chdir(tmp_path / name)
        files = sorted(map(str, Path("shots").iterdir()))
        for sources in (["shots/*.png"], files[:11], files[:10] + files[11:]):
            found.append(infer(str(work), Wish(images=sources, report=False)).directory)
    assert [path.name for path in found] == ["shots", *(f"shots-{number}" for number in range(2, 7))]
    sources = [json.loads((path / "infer.json").read_text())["images"]["source"] for path in found]
    assert sources[0] == str(tmp_path / "p1" / "shots" / "*.png")
    assert sources[1].startswith(f"{tmp_path / 'p1' / 'shots' / '000.png'}, ")
    assert " … (11, SHA-256 " in sources[1]


def test_what_is_written_is_not_read_as_images_the_next_time(plain: Experiment, images: Path, tmp_path: Path) -> None:
    mixed, loose = tmp_path / "mixed", make_images(tmp_path / "loose", {"new": 2})
    shutil.copytree(images / "val", mixed)
    shutil.copy(plain.best_pt, mixed / "best.pt")
    with pytest.raises(ConfigError, match=r"(?s)read as images the next time.*mixed with --output"):
        infer(str(mixed / "best.pt"), Wish([str(mixed)]))
    with pytest.raises(ConfigError, match=r"(?s)read as images the next time.*mixed with --output"):
        judged(plain, mixed / "ant" / "out", images=[mixed])
    with pytest.raises(ConfigError, match=r"(?s)read as images the next time.*loose with --sort-into"):
        judged(plain, tmp_path / "out", images=[loose], sort_into=loose / "sorted")
    assert {path.name for path in mixed.iterdir()} == {"ant", "bee", "cat", "best.pt"}
    assert not (tmp_path / "out").exists()
    judged(plain, loose / "out", images=[loose])  # tables only


def test_a_folder_that_cannot_be_written_names_its_option(plain: Experiment, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "folder"
    with pytest.raises(DiskError, match=r"another folder \(--output\)"):
        judged(plain, inside, images=[images / "val"])
    with pytest.raises(DiskError, match=r"another folder \(--sort-into\)"):
        judged(plain, tmp_path / "out", images=[images / "val"], sort_into=inside)


def test_images_are_sorted_into_folders(plain: Experiment, tmp_path: Path) -> None:
    root = make_images(tmp_path / "new", {"monday": 3, "tuesday": 3})
    target = tmp_path / "sorted"
    found = judged(plain, tmp_path / "out", images=[root], sort_into=target)
    links = {os.path.realpath(link): link.parent.name for link in target.glob("*/*")}
    expected = {
        os.path.realpath(path): name
        for path, name in zip(found.predictions.paths, found.predictions.names, strict=True)
    }
    assert links == expected
    with pytest.raises(ConfigError, match="not empty"):
        judged(plain, tmp_path / "out", images=[root], sort_into=target)


def test_each_answer_has_its_own_folder() -> None:
    assert folder_names(["a/b", "a_b", "a_b-2", "", ".", "x"]) == {
        "a_b": "a_b", "a_b-2": "a_b-2", "x": "x", "": "_", ".": "_-2", "a/b": "a_b-3",
    }  # fmt: skip


def test_names_of_classes_are_no_markup(
    plain: Experiment, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["[/x]", "[red]", ":smile:"]
    torch.save(load_weights(plain.best_pt) | {"classes": names}, tmp_path / "best.pt")
    table = tmp_path / "val.csv"
    files = zip(sorted((images / "val").glob("*/000.png")), names, strict=True)
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in files))
    judged(tmp_path / "best.pt", tmp_path / "out", images=[table])
    judged(tmp_path / "best.pt", tmp_path / "out", images=[images / "val" / "ant"])
    assert any(name in capsys.readouterr().out for name in names)


def test_a_class_name_leads_nowhere_else(plain: Experiment, images: Path, tmp_path: Path) -> None:
    """A file of weights from somebody else may name its classes as it likes."""
    payload = load_weights(plain.best_pt) | {"classes": ["../../out", "..", "/abs"]}
    torch.save(payload, tmp_path / "best.pt")
    judged(tmp_path / "best.pt", tmp_path / "results", images=[images / "val" / "ant"], sort_into=tmp_path / "a" / "b")
    inside = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert inside <= {"_.._out", "_", "_abs"}
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "results", "a"}


# ---- wrong input ----


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        (["nowhere"], ConfigError, "no file or folder nowhere"),
        (["*.tiff"], ConfigError, r"no file or folder \*.tiff"),
        (["empty"], DataError, "no image in the folder"),
        (["text.png"], DataError, r"(?s)The image cannot be read.*text.png: no JPEG"),
        (["empty", "text.png"], ConfigError, "only be given alone: empty"),
        (["foreign"], DataError, r"(?s)The image cannot be read.*1.png: the file is empty"),
        (["all_broken"], DataError, r"(?s)None of the 3 images can be read.*1.png: the file is empty"),
    ],
)
def test_wrong_images(
    plain: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.png").write_text("no image")
    for name in ("foreign/dog", "all_broken/ant", "all_broken/bee", "all_broken/cat"):
        Path(name).mkdir(parents=True)
        Path(name, "1.png").touch()
    with pytest.raises(error, match=message):
        judged(plain, tmp_path / "out", images=sources)
    assert not (tmp_path / "out").exists()


def test_wrong_files(plain: Experiment, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    sentinel = tmp_path / "sentinel"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(sentinel),)

    raw = plain.best_pt.read_bytes()
    payload = load_weights(plain.best_pt)
    for content, message in (
        (raw[: len(raw) // 2], "damaged"),
        (raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:], "damaged"),
        ({"model": {}, "attack": Attack()}, "damaged"),
        (payload["model"], "no model of `pochi train`: no id, epoch"),
        (payload | {"classes": ["ant", 2, 3]}, "no model of `pochi train`: no classes"),
        (payload | {"format": 99}, "newer version"),
        (payload | {"classes": ["ant", "bee"]}, "weights do not fit the model shufflenet"),
        (payload | {"settings": payload["settings"] | {"model_name": "fcn_resnet50"}}, "Unknown model: fcn_resnet50"),
        (payload | {"settings": payload["settings"] | {"batch_size": "many"}}, "not valid: batch_size"),
        (payload | {"val_transform": {"name": "v1.Nothing"}}, "transform in the file cannot be made"),
    ):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(DataError, match=message):
            judged(path, tmp_path / "out", images=[images / "val"])
    assert not sentinel.exists()


def test_the_command_line(plain: Experiment, images: Path, tmp_path: Path) -> None:
    pictures = sorted((images / "val" / "ant").iterdir())
    done = pochi(
        "infer", plain.id[:8], "--no-report", "--work-dir", plain.dir.parents[2], "--data", *pictures, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(rows(plain.infer_dir / "ant" / "predictions.csv")) == 3
    assert "images/s" in done.stdout


DOCS = Path(__file__).parents[2] / "docs"


def table_of(page: str, section: str) -> list[list[str]]:
    """Return the rows of the one table in a section of a page."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.fixture(scope="module")
def wrong(plain: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the folder that the wrong inputs lie in, and their arguments in the order of the documentation."""
    root = tmp_path_factory.mktemp("wrong")
    for name in (plain.dir.name, plain.dir.name[:3] + "f" * 9):
        shutil.copytree(plain.dir, root / "work_dirs" / "task" / "model" / name)
    shutil.copytree(plain.dir, root / "begun")
    (root / "begun" / "best.pt").unlink()
    begun = Experiment(root / "begun", "")
    write_manifest(begun, {**read_manifest(begun), "epochs_finished": 0})
    (root / "damaged.pt").write_bytes(plain.best_pt.read_bytes()[:-100])
    torch.save({"model": {}, "attack": functools.partial(os.mkdir, str(root / "sentinel"))}, root / "attack.pt")
    torch.save({"weight": torch.zeros(2)}, root / "weights.pt")
    make_images(root / "unknown", {"ant": 1, "bee": 1, "cat": 1, "dog": 1})
    make_images(root / "subset", {"bee": 1, "cat": 1})
    make_images(root / "foreign", {"cow": 1, "dog": 1})
    make_images(root / "some", {"ant": 1, "bee": 1, "cat": 1})
    (root / "empty").mkdir()
    for name in ("all_broken/ant", "all_broken/bee", "all_broken/cat", "some/ant"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "broken.png").write_text("no image")
    (root / "text.png").write_text("no image")
    known = [str(plain.dir)]
    arguments = [
        ["zz"],
        [plain.id[:3]],
        ["nothing.pt"],
        ["begun"],
        ["damaged.pt"],
        ["attack.pt"],
        ["weights.pt"],
        [*known, "unknown"],
        [*known, "subset"],
        [*known, "foreign"],
        [*known, "empty"],
        [*known, "all_broken"],
        [*known, "text.png"],
        [*known, "some"],
        [*known, "nowhere"],
        [*known, "--device", "cuda:99"],
        [*known, "--target-precision", "0.9"],
        [*known, "--target-precision", "0.9", "--tta"],
        [*known, "foreign", "--sort-into", "foreign/sorted"],
    ]
    return {"root": root, "arguments": arguments}


@pytest.mark.parametrize(
    ("language", "page", "section"), [("en", "infer.md", "Wrong input"), ("ja", "infer.ja.md", "誤った入力")]
)
def test_wrong_input_is_told_as_documented(
    wrong: dict[str, Any],
    language: str,
    page: str,
    section: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POCHI_LANG", language)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(wrong["root"])
    told = table_of(page, section)
    assert len(told) == len(wrong["arguments"])
    for (title, code, message), arguments in zip(told, wrong["arguments"], strict=True):
        output = tmp_path / "out"
        found = run(functools.partial(app, ["infer", *arguments, "--no-report", "--output", str(output)]))
        said = "".join(capsys.readouterr())
        assert found == int(code), f"{title}: {said}"
        assert message.split("`")[1].strip("… ") in said, title
        assert output.exists() == (found == 0), title
        shutil.rmtree(output, ignore_errors=True)
    assert not (wrong["root"] / "sentinel").exists()


def test_both_languages_say_the_same() -> None:
    for name in ("infer", "compare"):
        pages = [(DOCS / f"{name}{end}.md").read_text(encoding="utf-8") for end in ("", ".ja")]
        for kind in (r"^#+ ", r"^\| ", r"^- ", r"^```.*", r"^pochi [^#\n]*", r"`[a-z\d_./*-]+`"):
            english, japanese = (sorted(re.findall(kind, text, re.MULTILINE)) for text in pages)
            assert english == japanese


def test_the_report_is_made(plain: Experiment, images: Path, tmp_path: Path) -> None:
    found = infer(str(plain.dir), Wish(output=tmp_path))
    assert found.report == tmp_path / "report.html"
    assert "shufflenet" in found.report.read_text(encoding="utf-8")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == set(RESULTS) - {"broken.csv", "thresholds.csv"}
    judged(plain, tmp_path)
    tables = {name for name in left if name.endswith((".csv", ".json"))}
    assert {path.name for path in tmp_path.iterdir()} == tables, "no page stays beside newer numbers"


def test_nothing_stays_after_a_run_that_was_interrupted(
    plain: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(plain, tmp_path)
    removed: list[str] = []
    monkeypatch.setattr(durable, "event", lambda what, *paths: removed.append(paths[0].name) if what == "unlink" else 0)
    tables = {path.name for path in tmp_path.iterdir()}
    for name in ("report.html", "thresholds.csv"):
        (tmp_path / name).write_text("of an earlier run")
    judged(plain, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == tables
    assert removed[-1] == "infer.json", "as long as a file of a run is there, so is what says whose it is"
    (tmp_path / "report.html").write_text("of an earlier run")
    (tmp_path / "infer.json").unlink()
    judged(plain, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == tables


# ---- calibration ----


def doubted(experiment: Experiment, folder: Path, table: Path, wrong: int) -> Path:
    """Write a table of images in which the least certain answers, and no others, are wrong; return it."""
    predictions = judged(experiment, table.with_suffix(""), images=[folder]).predictions
    names = predictions.names
    for at in np.argsort(predictions.confidence)[:wrong]:
        names[at] = next(name for name in predictions.classes if name != names[at])
    lines = [f"{path},{name}\n" for path, name in zip(predictions.paths, names, strict=True)]
    table.write_text("path,label\n" + "".join(lines))
    return table


def test_calibration_never_touches_the_model_and_is_used(
    plain: Experiment, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    table = doubted(plain, images / "val", tmp_path / "val.csv", 2)
    before, weights = judged(work, tmp_path / "out", images=[table]), (work / "best.pt").read_bytes()
    calibration = calibrate(str(work), [str(table)])
    assert (work / "best.pt").read_bytes() == weights
    assert load_calibration(work / "best.pt") == calibration
    after = judged(work, tmp_path / "out", images=[table])
    assert after.predictions.names == before.predictions.names
    assert before.evaluation is not None
    assert after.evaluation is not None
    losses = [found.evaluation.metrics["log_loss"].value for found in (before, after)]
    assert tuple(losses) == calibration.log_loss
    assert losses[1] < losses[0]
    assert "calibrated on these very images" in capsys.readouterr().out
    assert tuple(json.loads((tmp_path / "out" / "infer.json").read_text())["calibration"]) == (
        "temperature", "source", "images", "log_loss", "ece",
    )  # fmt: skip
    judged(work, tmp_path / "out", tta=True)
    assert "the calibration holds without --tta only, so it is not used" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"(?s)holds without --tta only.*leave out --tta"):
        judged(work, tmp_path / "out", tta=True, target_precision=0.9)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "made for other weights than these"), ("{}", "calibration is damaged")]
)
def test_a_calibration_that_cannot_be_used_is_a_warning(
    plain: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    calibrate(str(work))
    if content is None:
        with (work / "best.pt").open("ab") as file:
            file.write(b"\0")  # other weights, as far as anybody can tell
    else:
        calibration_path(work / "best.pt").write_text(content)
    found = judged(work, tmp_path / "out")
    assert np.array_equal(found.predictions.logits, judged(plain, tmp_path / "plain").predictions.logits)
    assert json.loads((tmp_path / "out" / "infer.json").read_text())["calibration"] is None
    assert re.search(rf"warning: .*{message}, so it is not used: run `pochi calibrate`", capsys.readouterr().out)
    with pytest.raises(DataError, match=message):
        judged(work, tmp_path / "out", target_precision=0.9)


def test_below_its_threshold_an_answer_is_unknown(
    plain: Experiment, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    with pytest.raises(ConfigError, match=r"(?s)need a calibrated model.*pochi calibrate"):
        judged(work, tmp_path / "out", target_precision=0.9)
    table = doubted(plain, images / "train", tmp_path / "train.csv", 5)
    calibrate(str(work), [str(table)])
    found = judged(work, tmp_path / "out", images=[table], target_precision=0.8, sort_into=tmp_path / "sorted")
    lines, limits = rows(tmp_path / "out" / "predictions.csv"), rows(tmp_path / "out" / "thresholds.csv")
    said = capsys.readouterr().out.partition("What the calibration found")[2]
    for line in limits:
        shown = f"{100 * float(line['calibration_coverage']):.2f} %"
        assert any(row.split()[:1] == [line["class"]] and shown in row for row in said.splitlines()), line
    least = {line["class"]: float(line["threshold"] or "inf") for line in limits}
    for line in lines:
        sure = float(line["confidence"]) >= least[line["predicted"]]
        assert line["answer"] == (line["predicted"] if sure else "unknown")
    answered = [line for line in lines if line["answer"] != "unknown"]
    assert 0 < len(answered) < len(lines)
    right = sum(line["correct"] == "1" for line in answered) / len(answered)
    assert right >= 0.8
    target = json.loads((tmp_path / "out" / "metrics.json").read_text())["target_precision"]
    assert target["precision"]["value"] == right
    assert target["coverage"]["value"] == len(answered) / len(lines)
    assert len(list((tmp_path / "sorted" / "unknown").iterdir())) == len(lines) - len(answered)
    assert found.predictions.labels is not None
    with pytest.raises(ConfigError, match="above 0 and at most 1, not 99"):
        judged(work, tmp_path / "out", target_precision=99)


def test_an_answer_that_no_class_has_means_unknown(plain: Experiment, images: Path, tmp_path: Path) -> None:
    torch.save(load_weights(plain.best_pt) | {"classes": ["unknown", "(unknown)", "cat"]}, tmp_path / "best.pt")
    predictions = judged(tmp_path / "best.pt", tmp_path / "out", images=[images / "val" / "ant"]).predictions
    assert Reliance(0.9, [], predictions, np.array([False] * 3)).answers == ["((unknown))"] * 3


def test_calibration_says_what_makes_it_doubtful(
    plain: Experiment, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(plain.dir, work)
    first = calibrate(str(work))
    said = capsys.readouterr().out
    assert "warning: only 9 images: the temperature can be off by 20 % and more; take 100 or more" in said
    assert "replaces" not in said
    assert "trained on" not in said
    with pytest.raises(DataError, match="temperature cannot be found on images of one class"):
        calibrate(str(work), [str(one_class(images, tmp_path))])
    assert load_calibration(work / "best.pt") == first
    calibrate(str(work), [str(images / "train")])
    said = capsys.readouterr().out
    assert "warning: the model was trained on 23 of these images: it does worse on new ones" in said
    assert f"replaces the temperature {first.temperature:.4f}, from 9 images: {images / 'val'}" in said


def one_class(images: Path, folder: Path) -> Path:
    table = folder / "one.csv"
    table.write_text("path,label\n" + "".join(f"{path},ant\n" for path in (images / "val" / "ant").iterdir()))
    return table


def test_images_of_the_training_are_known_by_their_paths(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("a/1.png", "b/2.png", "c/1.png")]
    picked = Picked(items, None, False, "x", "x")
    manifest = {"files": [["a/1.png", 1], ["b/2.png", 1], ["d/1.png", 1]]}
    assert trained_on({"data.train": manifest}, str(tmp_path), picked) == 2
    table = {"files": [["a: ../a/1.png", 1], [f"b: {items[2]}", 1]]}
    assert trained_on({"data.train": table}, str(tmp_path / "lists" / "train.csv"), picked) == 2
    assert trained_on({"data.train": {"labels": "digest"}}, str(tmp_path), picked) == 0
    assert trained_on({}, str(tmp_path), picked) == 0


def test_a_number_that_is_none_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = Predictions(
        ("x",), np.array([0]), np.ones((1, 1), np.float32), np.ones((1, 1)), ("a",), (), 1, "fp32"
    )
    say_evaluation(Log(), evaluate_predictions(predictions))
    said = capsys.readouterr().out
    assert "Cohen's kappa" in said
    assert "–" in next(line for line in said.splitlines() if "kappa" in line)
    assert "nan" not in said


def test_the_temperature_is_where_the_log_loss_is_lowest() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 400)
    logits = random.normal(size=(400, 5))
    logits[np.arange(400), labels] += 2
    logits = (3 * logits).astype(np.float32)
    found = fit_temperature(logits, labels)
    assert found is not None

    def loss(temperature: float) -> float:
        scaled = torch.from_numpy(logits).double() / temperature
        return float(torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels)))

    grid = np.linspace(0.5, 5, 4501)
    assert found == pytest.approx(grid[np.argmin([loss(t) for t in grid])], abs=1e-3)
    assert found == pytest.approx(1.5, rel=0.1)  # unit noise and a shift of 2 are calibrated at logits × 2
    assert loss(found) <= min(loss(found * 0.999), loss(found * 1.001))


@pytest.mark.parametrize(("images", "deviation"), [(30, 0.4), (FEW, 0.2), (1000, 0.06)])
def test_from_few_images_the_temperature_is_uncertain(images: int, deviation: float) -> None:
    random = np.random.default_rng(0)

    def found(classes: int, shift: float) -> float:
        labels = random.integers(0, classes, images)
        logits = random.normal(size=(images, classes))
        logits[np.arange(images), labels] += shift
        return fit_temperature((2 * shift * logits).astype(np.float32), labels) or np.nan  # overconfident: T = 2

    for classes, shift in ((2, 1.5), (10, 3.0)):  # 86 and 92 % of the answers are right
        spread = np.nanstd([np.log(found(classes, shift)) for _again in range(50)])
        assert spread == pytest.approx(deviation, rel=0.4)


def test_there_may_be_no_temperature() -> None:
    labels = np.array([0, 1, 2, 0])
    assert fit_temperature(np.eye(3, dtype=np.float32)[labels], labels) is None  # the colder, the better
    assert fit_temperature(-np.eye(3, dtype=np.float32)[labels], labels) is None  # the hotter, the better


def test_a_threshold_is_the_lowest_confidence_that_keeps_the_precision() -> None:
    confidences = confidences_by_class(
        ("a", "b", "c"),
        np.array([0, 0, 0, 0, 0, 1]),
        np.array([0, 0, 1, 0, 2, 0]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.9]),
    )
    assert confidences["a"] == Confidences([0.9, 0.8, 0.6], [0.7, 0.5])
    assert thresholds(confidences, 0.75) == {
        "a": Threshold(0.6, 3, 4, 5), "b": Threshold(None, 0, 0, 1), "c": Threshold(None, 0, 0, 0),
    }  # fmt: skip
    assert thresholds(confidences, 0.8)["a"] == Threshold(0.8, 2, 2, 5)
    assert thresholds(confidences, 0.9)["a"] == Threshold(0.9, 1, 1, 5)
    assert thresholds(confidences, 0.95)["a"].confidence is None  # all right at 0.9, but no more is promised
    equal = {"a": Confidences([0.9, 0.9], [0.9])}
    assert thresholds(equal, 0.9)["a"].confidence is None  # no confidence tells them apart
    hundred = {"a": Confidences([0.9] * 7, [0.9] * 93)}
    assert thresholds(hundred, 0.07)["a"].answered == 100


def test_calibration_needs_the_true_classes(plain: Experiment, images: Path) -> None:
    with pytest.raises(DataError, match="Without the true classes"):
        calibrate(str(plain.dir), [str(images / "val" / "ant")])
