"""A model's answers do not depend on how the images are batched, and are those of the validation while training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision import models, transforms

from pochitrain.config.loader import load_config
from pochitrain.data.decode import decode_image
from pochitrain.data.source import load_data
from pochitrain.engine.loop import evaluate
from pochitrain.engine.predict import Predictions, predict, softmax
from pochitrain.engine.run import build_run
from pochitrain.errors import DataError
from tests.conftest import make_images
from tests.engine.tiny import NET

WriteConfig = Callable[..., Path]
CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")
TO_TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Resize(32)])


def paths_of(root: Path) -> tuple[list[str], list[int]]:
    paths = sorted(root.glob("*/*"))
    return [str(path) for path in paths], [CLASSES.index(path.parent.name) for path in paths]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = models.resnet18(num_classes=3)
    with torch.no_grad():
        model.fc.weight.mul_(100)  # logits as large as a trained model's, and so their rounding
    return model


def answers(
    model: nn.Module, root: Path, *, batch_size: int = 8, precision: str = "fp32", **more: object
) -> Predictions:
    paths, labels = paths_of(root)
    settings = {"workers": 0, "device": CPU, **more}
    return predict(model, CLASSES, paths, labels, TO_TENSOR, batch_size=batch_size, precision=precision, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference(resnet: nn.Module, images: Path) -> Predictions:
    return answers(resnet, images / "train")


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 0), (5, 0), (11, 0), (23, 0), (64, 0), (5, 2)])
def test_batches_and_workers_change_nothing(
    resnet: nn.Module, images: Path, reference: Predictions, batch_size: int, workers: int
) -> None:
    other = answers(resnet, images / "train", batch_size=batch_size, workers=workers)
    assert other.paths == reference.paths
    assert np.array_equal(other.predicted, reference.predicted)
    assert np.abs(other.probabilities - reference.probabilities).max() < 1e-6


def test_the_answers_are_those_of_a_plain_loop(resnet: nn.Module, images: Path, reference: Predictions) -> None:
    paths, labels = paths_of(images / "train")
    resnet.eval()
    with torch.no_grad():
        batch = torch.stack([TO_TENSOR(decode_image(path)) for path in paths])
        logits = resnet(batch)
    assert reference.paths == tuple(paths)
    assert reference.labels is not None
    assert reference.labels.tolist() == labels
    assert np.abs(reference.logits - logits.numpy()).max() < 1e-4
    expected = torch.softmax(logits.double(), dim=1)
    assert np.abs(reference.probabilities - expected.numpy()).max() < 1e-5
    chance = torch.take_along_dim(expected, torch.tensor(labels)[:, None], dim=1)[:, 0]
    assert np.abs(reference.losses + chance.log().numpy()).max() < 1e-4
    assert np.array_equal(reference.confidence, reference.probabilities.max(axis=1))
    assert reference.names == [CLASSES[label] for label in reference.predicted]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_validation_of_the_training_gave_the_same_answers(
    write_config: WriteConfig, images: Path, precision: str, channels_last: bool
) -> None:
    lines = f"{NET}precision = {precision!r}\nchannels_last = {channels_last}\n"
    config = load_config(write_config(lines))
    run = build_run(config, load_data(config))
    record = evaluate(run)
    assert run.confusion is not None
    found = answers(
        run.model, images / "val", batch_size=config.batch_size, precision=precision, channels_last=channels_last
    )
    counts = np.zeros((3, 3), dtype=np.int64)
    assert found.labels is not None
    np.add.at(counts, (found.labels, found.predicted), 1)
    assert np.array_equal(counts, run.confusion.numpy())
    assert 100.0 * counts.trace() / counts.sum() == record["val_accuracy"]
    assert found.precision == precision


def test_bf16_is_not_fp32(resnet: nn.Module, images: Path, reference: Predictions) -> None:
    rounded = answers(resnet, images / "train", precision="bf16")
    assert 1e-6 < np.abs(rounded.probabilities - reference.probabilities).max() < 0.05


def test_broken_images_are_listed_and_the_others_keep_their_names(resnet: nn.Module, tmp_path: Path) -> None:
    root = make_images(tmp_path, {"ant": 3, "bee": 4, "cat": 2})
    whole = answers(resnet, root, batch_size=2)
    (root / "bee" / "001.png").write_bytes(b"")
    (root / "bee" / "002.png").write_text("no image")
    found = answers(resnet, root, batch_size=2)
    assert [(Path(path).name, reason) for path, reason in found.broken] == [
        ("001.png", "the file is empty"), ("002.png", "no JPEG, PNG, BMP, GIF, TIFF or WebP image"),
    ]  # fmt: skip
    kept = [index for index, path in enumerate(whole.paths) if path in found.paths]
    assert len(kept) == len(found.paths) == 7
    assert found.labels is not None
    assert whole.labels is not None
    assert np.array_equal(found.labels, whole.labels[kept])
    assert np.array_equal(found.logits, whole.logits[kept])


def test_when_nothing_can_be_read_the_reasons_are_told(resnet: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.png").write_text("no image")
    with pytest.raises(DataError, match=r"The image cannot be read\n.*1\.png: no JPEG"):
        answers(resnet, tmp_path)


def test_images_that_do_not_stack_are_an_error(resnet: nn.Module, tmp_path: Path) -> None:
    make_images(tmp_path, {"ant": 1})
    make_images(tmp_path, {"bee": 1}, size=(9, 8))
    with pytest.raises(DataError, match="images of different sizes do not stack"):
        answers(resnet, tmp_path)


def test_a_model_that_overflows_is_an_error(images: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    nn.init.constant_(model[1].weight, 1e38)
    with pytest.raises(DataError, match="not finite for 9 images"):
        answers(model, images / "val")


class Own:
    """A data set of the user's: the true class is hidden in the image."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 2:
            raise ValueError("lost")
        image = torch.zeros(3, 4, 4)
        image[index % 3] = 1
        return image, index % 3


class Brightest(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def test_a_data_set_of_the_users_brings_its_labels() -> None:
    found = predict(
        Brightest(), CLASSES, Own(8), None, TO_TENSOR, batch_size=3, workers=0, device=CPU, precision="fp32"
    )
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert np.array_equal(found.labels, found.predicted)
    assert found.paths[:3] == ("sample 0", "sample 1", "sample 3")
    assert found.broken == (("sample 2", "ValueError: lost"),)


def test_mirror_images_are_averaged(images: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    paths, _labels = paths_of(images / "val")
    found = answers(model, images / "val", tta=True)
    with torch.no_grad():
        batch = torch.stack([TO_TENSOR(decode_image(path)) for path in paths])
        expected = (model(batch) + model(batch.flip(3))) / 2
    assert np.abs(found.logits - expected.numpy()).max() < 1e-5


def test_without_labels_there_are_none(images: Path) -> None:
    paths, _labels = paths_of(images / "val")
    found = predict(Brightest(), CLASSES, paths, None, TO_TENSOR, batch_size=4, workers=0, device=CPU, precision="fp32")
    assert found.labels is None


def test_a_temperature_softens_and_changes_no_answer(resnet: nn.Module, images: Path, reference: Predictions) -> None:
    soft = answers(resnet, images / "train", temperature=3.0)
    assert np.array_equal(soft.predicted, reference.predicted)
    assert (soft.confidence < reference.confidence).all()
    assert np.abs(soft.probabilities - softmax(reference.logits / np.float32(3))).max() < 1e-6


def test_softmax_of_large_numbers() -> None:
    logits: NDArray[np.float32] = np.array([[1000.0, 0.0, -1000.0]], dtype=np.float32)
    assert softmax(logits).tolist() == [[1.0, 0.0, 0.0]]
