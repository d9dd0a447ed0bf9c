"""`fit` against a plain PyTorch loop that is written here and shares nothing with the engine but the data order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pochitrain.engine.loop import fit
from pochitrain.randomness import key, permutation
from tests.conftest import make_images
from tests.engine.tiny import NET, run_of

RATE, EPOCHS, BATCH = 0.02, 3, 4
Groups = Callable[[nn.Module], list[dict[str, Any]]]
Factor = Callable[[int], float]


def read(folder: Path) -> tuple[list[Image.Image], Tensor]:
    paths = sorted(folder.glob("*/*.png"))
    names = sorted({path.parent.name for path in paths})
    labels = torch.tensor([names.index(path.parent.name) for path in paths])
    return [Image.open(path).convert("RGB") for path in paths], labels


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def batches(order: Sequence[int]) -> list[Sequence[int]]:
    cut = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [*cut[:-2], [*cut[-2], *cut[-1]]] if len(cut[-1]) == 1 else cut


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "Adam": lambda groups: torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=0),
    "AdamW": lambda groups: torch.optim.AdamW(groups, weight_decay=0.01),
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4),
}
SCHEDULES: dict[str | None, tuple[dict[str, Any], Factor]] = {
    None: ({}, lambda done: 1.0),
    "StepLR": ({"step_size": 2, "gamma": 0.1}, lambda done: 0.1 ** (done // 2)),
    "MultiStepLR": ({"milestones": [1, 2], "gamma": 0.5}, lambda done: 0.5**done),
    "CosineAnnealingLR": ({"T_max": 4}, lambda done: (1 + math.cos(math.pi * done / 4)) / 2),
    "ExponentialLR": ({"gamma": 0.7}, lambda done: 0.7**done),
    "LinearLR": (
        {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 5},
        lambda done: 1 - 0.9 * done / 5,
    ),
    # Nothing improves by 10 after the first epoch, so each one after it halves the rate of the next.
    "ReduceLROnPlateau": (
        {"factor": 0.5, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
        lambda done: 0.5 ** max(done - 1, 0),
    ),
}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each sample."""
    return torch.logsumexp(logits, 1) - logits[torch.arange(len(labels)), labels]


def reference(
    model: nn.Module,
    data: Path,
    *,
    optimizer: str = "SGD",
    factor: Factor = lambda done: 1.0,
    groups: Groups = lambda model: [{"params": list(model.parameters()), "lr": RATE}],
    class_weights: Sequence[float] | None = None,
    sample_loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    layout: torch.memory_format = torch.contiguous_format,
    augment: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> list[list[float]]:
    """Return train_loss, train_accuracy, val_loss, val_accuracy of each epoch."""
    images, labels = read(data / "train")
    val_images, val_labels = read(data / "val")
    weight = torch.tensor(class_weights or [1.0] * (int(labels.max()) + 1))
    model = model.to(memory_format=layout)
    trainer = OPTIMIZERS[optimizer](groups(model))
    rates = [group["lr"] for group in trainer.param_groups]
    rows = []
    for epoch in range(1, EPOCHS + 1):
        for group, rate in zip(trainer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(epoch - 1)
        model.train()
        losses, hits = [], 0
        for step, chosen in enumerate(batches(permutation(len(labels), 42, "order", epoch))):
            inputs = []
            for index in chosen:
                torch.manual_seed(key(42, "augment", epoch, index))
                inputs.append(tensor_of(augment(images[index])))
            torch.manual_seed(key(42, "step", epoch, step))
            logits = model(torch.stack(inputs).contiguous(memory_format=layout))
            each, weigh = sample_loss(logits, labels[chosen]), weight[labels[chosen]]
            trainer.zero_grad()
            ((each * weigh).sum() / weigh.sum().clamp(min=1e-30)).backward()
            trainer.step()
            losses += [(loss.item(), w.item()) for loss, w in zip(each, weigh, strict=True)]
            hits += int((logits.argmax(1) == labels[chosen]).sum())
        model.eval()
        with torch.no_grad():
            logits = model(torch.stack([tensor_of(image) for image in val_images]).contiguous(memory_format=layout))
        val = list(zip(sample_loss(logits, val_labels).tolist(), weight[val_labels].tolist(), strict=True))
        val_hits = int((logits.argmax(1) == val_labels).sum())
        mean, val_mean = (
            math.fsum(a * b for a, b in pairs) / math.fsum(b for _a, b in pairs) for pairs in (losses, val)
        )
        rows.append([mean, 100 * hits / len(labels), val_mean, 100 * val_hits / len(val_labels)])
    return rows


def check(write_config: Callable[..., Path], images: Path, lines: str = "", **same: Any) -> list[dict[str, Any]]:
    """Train with `fit` and with the plain loop; return the records of `fit`, which are equal within 1e-6."""
    path = write_config(
        f"{NET}\nlearning_rate = {RATE}\nclass_weights = 'uniform'\noptimizer = 'SGD'\n{lines}", data=images
    )
    run = run_of(path)
    expected = reference(copy.deepcopy(run.model), images, **same)
    history = fit(run, [], epochs=EPOCHS)
    got = [[r[name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")] for r in history]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert len({row[0] for row in expected}) == EPOCHS, "the weights moved"
    return history


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_with_every_scheduler(
    write_config: Callable[..., Path], images: Path, optimizer: str, scheduler: str | None, channels_last: bool
) -> None:
    params, factor = SCHEDULES[scheduler]
    lines = f"optimizer = {optimizer!r}\nscheduler = {scheduler!r}\nscheduler_params = {params!r}\n"
    lines += f"channels_last = {channels_last}"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    history = check(write_config, images, lines, optimizer=optimizer, factor=factor, layout=layout)
    assert [record["learning_rate"] for record in history] == pytest.approx(
        [RATE * factor(done) for done in range(EPOCHS)]
    )
    assert history[0]["learning_rate"] == RATE


@pytest.mark.parametrize("scheduler", [None, "ExponentialLR", "ReduceLROnPlateau"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_layer_wise_rates(
    write_config: Callable[..., Path], images: Path, optimizer: str, scheduler: str | None
) -> None:
    params, factor = SCHEDULES[scheduler]

    def groups(model: Any) -> list[dict[str, Any]]:
        return [
            {"params": [model.layer1[1].weight, model.layer1[1].bias], "lr": 0.001},
            {"params": [model.conv1.weight], "lr": 0.05},
            {"params": [model.layer1[0].weight], "lr": 0.01},
            {"params": [*model.bn1.parameters(), *model.fc.parameters()], "lr": RATE},
        ]

    rates = {r"layer1\.1": 0.001, "conv1": 0.05, "layer1": 0.01}
    lines = f"optimizer = {optimizer!r}\nscheduler = {scheduler!r}\nscheduler_params = {params!r}\n"
    lines += f"enable_layer_wise_lr = True\nlayer_wise_lr_config = {{'layer_rates': {rates!r}}}"
    history = check(write_config, images, lines, optimizer=optimizer, factor=factor, groups=groups)
    for record in history:
        used = factor(record["epoch"] - 1)
        assert record["learning_rate"] == RATE
        columns = {name: value for name, value in record.items() if name.startswith("lr_")}
        wanted = {**{f"lr_{pattern}": rate * used for pattern, rate in rates.items()}, "lr_other": RATE * used}
        assert columns == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("setting", "numbers"),
    [
        ("[1.0, 3.0, 0.25]", [1.0, 3.0, 0.25]),
        ("None", [23 / (3 * 10), 23 / (3 * 7), 23 / (3 * 6)]),
        ("'uniform'", [1.0, 1.0, 1.0]),
        ("[0.0, 1.0, 1.0]", [0.0, 1.0, 1.0]),
    ],
)
def test_class_weights(write_config: Callable[..., Path], images: Path, setting: str, numbers: list[float]) -> None:
    check(write_config, images, f"class_weights = {setting}", class_weights=numbers)


def test_a_batch_of_weightless_classes_has_no_loss(write_config: Callable[..., Path], tmp_path: Path) -> None:
    """Half of the batches here hold nothing but the class of weight 0: 0 / 0, if one divides by their weights."""
    for split in ("train", "val"):
        make_images(tmp_path / split, {"a": 20, "b": 3})
    check(write_config, tmp_path, "class_weights = [0.0, 1.0]", class_weights=[0.0, 1.0])


@pytest.mark.parametrize("counts", [{"a": 9, "b": 1}, {"a": 3, "b": 4, "c": 5, "d": 6, "e": 11}, {"a": 4, "b": 4}])
def test_numbers_of_classes_and_uneven_last_batches(
    write_config: Callable[..., Path], tmp_path: Path, counts: dict[str, int]
) -> None:
    total = sum(counts.values())
    for split in ("train", "val"):
        make_images(tmp_path / split, counts, seed=len(split))
    weights = [total / (len(counts) * count) for count in counts.values()]
    check(write_config, tmp_path, "class_weights = None", class_weights=weights)


def test_own_loss(write_config: Callable[..., Path], images: Path) -> None:
    lines = """
gamma = 2.0
def loss(logits, labels, gamma):
    likelihood = torch.softmax(logits, 1)[torch.arange(len(labels)), labels]
    return (-((1 - likelihood) ** gamma) * torch.log(likelihood)).mean()
"""

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        log = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
        return -((1 - log.exp()) ** 2) * log

    check(write_config, images, lines, sample_loss=focal)


def test_random_augmentation_and_dropout_counted_by_the_seed(write_config: Callable[..., Path], images: Path) -> None:
    lines = """
channels_last = False  # the mask of a dropout fills the memory in its order
train_transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
class model(Net):
    def forward(self, images):
        return super().forward(nn.functional.dropout(images, 0.3, self.training))
"""

    def flip(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image

    check(write_config, images, lines, augment=flip)
