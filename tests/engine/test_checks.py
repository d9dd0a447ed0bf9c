"""What is tried before anything is written, and what a loss keeps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from pochitrain.config.loader import load_config
from pochitrain.data.source import load_data
from pochitrain.engine.checks import Convolution, Work, check_loss, check_outputs, slow_in_bf16, wrong_in_bf16
from pochitrain.engine.loop import Diverged, fit
from pochitrain.engine.run import build_run, restore, state_of
from pochitrain.errors import PochiError
from tests.engine.tiny import NET, fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]
CPU = torch.device("cpu")


def refused(path: Path, epochs: int = 0) -> str:
    with pytest.raises(PochiError) as caught:
        fit(run_of(path), [], epochs=epochs)
    return str(caught.value)


# -- the loss

LEARNING = """
class loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mean", torch.tensor(1.0))
    def forward(self, logits, labels):
        value = nn.functional.cross_entropy(logits * self.scale, labels)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * value.detach()
        return value / self.mean
"""


def test_a_loss_learns_and_goes_on_where_it_was(write_config: WriteConfig) -> None:
    path = write_config(NET + LEARNING)
    whole, expected = fitted(path, epochs=3)
    assert isinstance(whole.loss_fn, nn.Module)
    assert float(whole.loss_fn.get_parameter("scale").detach()) != 2.0
    first, history = fitted(path, epochs=1)
    run = run_of(path)
    assert isinstance(run.loss_fn, nn.Module)
    assert float(run.loss_fn.get_buffer("mean")) == 1.0, "the check leaves no trace"
    restore(run, copy.deepcopy(state_of(first)), 0)
    assert untimed(fit(run, history, epochs=3)) == untimed(expected)
    assert same_weights(weights(run), weights(whole))


def test_a_loss_learns_beside_layer_wise_rates(write_config: WriteConfig) -> None:
    rates = "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'conv1': 0.1}}\n"
    run, history = fitted(write_config(NET + LEARNING + rates), epochs=1)
    assert list(history[0])[:5] == ["epoch", "learning_rate", "lr_conv1", "lr_other", "lr_(loss)"]
    assert [group.pattern for group in run.groups] == ["conv1", "other"]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("nn.CrossEntropyLoss(reduction='sum')", "it sums over the batch"),
        ("nn.BCEWithLogitsLoss()", "The loss fails on logits (2, 3) and labels (2,)"),
        ("nn.CrossEntropyLoss(weight=torch.ones(4))", "The loss fails on logits (2, 3)"),
        ("lambda logits, labels: torch.tensor(1.0)", "The loss has no gradient"),
    ],
)
def test_a_loss_that_does_not_fit(write_config: WriteConfig, loss: str, words: str) -> None:
    assert words in refused(write_config(f"loss = {loss}\n"))


def test_a_loss_that_averages_passes() -> None:
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.MultiMarginLoss()):
        check_loss(loss, 5, CPU)


def test_a_module_without_an_init_is_given_nothing(write_config: WriteConfig) -> None:
    lines = """
class loss(nn.Module):
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)
"""
    assert run_of(write_config(lines)).loss_fn.__class__.__name__ == "loss"


# -- what the user's own parts return


def test_a_model_with_another_answer_while_training_is_refused(write_config: WriteConfig) -> None:
    lines = """
class model(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(192, num_classes)
    def forward(self, images):
        logits = super().forward(images.flatten(1))
        return {"logits": logits} if self.training else logits
"""
    said = refused(write_config(lines), epochs=1)
    assert "The model gives dict and not (" in said
    assert "while training too" in said


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"train_loss": "a", "train_accuracy": 1.0}', "returned a train_loss that is no number"),
        ('{"train_loss": torch.ones(2), "train_accuracy": 1.0}', "returned a train_loss that is no number"),
        ('{"train_loss": 1.0, "train_accuracy": 1.0, "epoch": 9}', "returned epoch, which is measured already"),
        ('{"train_loss": 1.0, "train_accuracy": 1.0, "seconds": 9}', "returned seconds, which is measured already"),
    ],
)
def test_the_record_of_an_own_epoch_that_is_refused(write_config: WriteConfig, record: str, words: str) -> None:
    assert words in refused(write_config(f"def train_epoch(run, epoch):\n    return {record}\n"), epochs=1)


def test_the_record_of_an_own_epoch_becomes_numbers(write_config: WriteConfig) -> None:
    lines = """
def train_epoch(run, epoch):
    return {"train_loss": torch.tensor(0.5, requires_grad=True), "train_accuracy": torch.ones(1).numpy()[0], "n": 3}
"""
    _run, [record] = fitted(write_config(lines), epochs=1)
    assert [record[name] for name in ("train_loss", "train_accuracy", "n")] == [0.5, 1.0, 3]
    assert type(record["train_loss"]) is type(record["train_accuracy"]) is float


def test_an_own_epoch_that_diverges(write_config: WriteConfig) -> None:
    lines = "def train_epoch(run, epoch):\n    return {'train_loss': float('nan'), 'train_accuracy': 0}\n"
    with pytest.raises(Diverged, match="The loss is no longer finite"):
        fitted(write_config(lines), epochs=1)


def test_a_pattern_called_other_keeps_its_own_rate(write_config: WriteConfig) -> None:
    lines = NET.replace("self.conv1", "self.other") + (
        "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'other': 0.1}}\nlearning_rate = 0.03\n"
    )
    _run, [record] = fitted(write_config(lines), epochs=1)
    assert (record["lr_other"], record["lr_(other)"]) == (0.1, 0.03)


# -- convolutions that are wrong in bf16

STRIDED = """
precision = {precision!r}
def model(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Flatten(),
        nn.Linear(16, num_classes),
    )
"""


def test_a_narrow_convolution_computes_in_fp32(write_config: WriteConfig) -> None:
    """8 pixels become 1, which the second one with stride 2 is given."""
    words = "this processor computes the convolution 1 wrong on an image of 1 × 1 pixels"
    run = run_of(write_config(STRIDED.format(precision="auto")))
    assert run.precision == "fp32"
    assert run.precision_note in ("", f"In bf16 {words}"), 'empty where "auto" is fp32 anyway'
    for precision in ("bf16", "fp16"):
        assert f"In {precision} {words}" in refused(write_config(STRIDED.format(precision=precision)))


@pytest.mark.parametrize(
    ("convolution", "images", "wrong"),
    [
        (nn.Conv1d(8, 8, 3, 2, 1), [(4,), (1,)], True),  # the smallest that it is called with counts
        (nn.Conv1d(8, 8, 3, 2, 1), [(4,), (2,)], False),
        (nn.ConvTranspose2d(8, 8, 4, 2, 1), [(1, 1)], False),  # 2 pixels come out
        (nn.ConvTranspose2d(8, 8, 3, 2, 1), [(1, 1)], True),  # 1 comes out
        (nn.Conv2d(8, 16, 3, (1, 2), 1, groups=8), [(9, 9)], True),
        (nn.Conv2d(8, 16, 3, 2, 1, groups=8), [(9, 9)], False),
        (nn.Conv3d(8, 8, 1), [(9, 9, 9)], True),
    ],
)
def test_what_is_known_to_be_wrong(convolution: nn.Module, images: list[tuple[int, ...]], wrong: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = convolution

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            for size in images:
                self.shared(torch.zeros(1, 8, *size))
            return torch.zeros(len(batch), 2)

    model = Model()
    work = check_outputs(model, torch.zeros(1, 3, 8, 8), 2)
    found = wrong_in_bf16(work)
    assert (found.name if found else "") == ("shared" if wrong else "")


# As measured by `benchmarks/bf16_speed.py`.
@pytest.mark.parametrize(
    ("name", "size", "slow"),
    [
        ("mobilenet_v3_small", 224, True),
        ("mobilenet_v3_small", 32, True),
        ("efficientnet_b0", 224, True),
        ("shufflenet_v2_x1_0", 224, True),
        ("regnet_y_400mf", 224, False),
        ("squeezenet1_1", 224, False),
        ("resnet18", 32, False),
        ("vit_b_16", 224, False),
    ],
)
def test_models_that_compute_little_with_each_value(name: str, size: int, slow: bool) -> None:
    model = models.get_model(name, num_classes=2)
    assert slow_in_bf16(check_outputs(model, torch.zeros(1, 3, size, size), 2)) == slow


def test_the_work_of_a_model_is_counted() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 8 * 8, 2),
    )  # fmt: skip
    work = check_outputs(model, torch.zeros(1, 3, 4, 4), 2)
    assert work.values == 8 * 16 + 8 * 16 + 4 * 64 + 2
    assert work.products == 8 * 16 * 27 + 8 * 16 * 9 + 4 * 64 * 8 + 2 * 256


class Called(nn.Module):
    """A convolution of stride 2 that is called on 8, 4, 2 and 1 pixels, and one without a module."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.kernel = nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Parameter(torch.ones(2, 3, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for _number in range(4):
            images = self.shared(input=images)
        return nn.functional.conv2d(images, self.kernel, padding=1).flatten(1)


class LowRank(nn.Linear):
    """A linear layer without a weight of its own."""

    def __init__(self) -> None:
        super().__init__(192, 2)
        del self.weight
        self.first, self.second = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.ones(1, 192))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(images.flatten(1), self.first @ self.second, self.bias)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.empty = nn.Parameter(torch.ones(0, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(2).transpose(1, 2)
        nn.functional.linear(pixels, self.empty)
        return self.attention(pixels, pixels, pixels)[0].mean(1)[:, :2]


def test_layers_are_seen_however_they_are_called() -> None:
    work = check_outputs(Called(), torch.zeros(1, 3, 8, 8), 2)
    assert [(each.name, each.size) for each in work.convolutions] == [
        *(("shared", (edge, edge)) for edge in (8, 4, 2, 1)), ("Called", (1, 1)),
    ]  # fmt: skip
    wrong = wrong_in_bf16(work)
    assert wrong is not None
    assert wrong.size == (1, 1)
    assert check_outputs(LowRank(), torch.zeros(1, 3, 8, 8), 2) == Work([], 2 * 192 + 2 * 192, 2 * 192 + 2)
    attending = check_outputs(Attending(), torch.zeros(1, 3, 8, 8), 2)
    assert attending.products >= 64 * 9 * 4  # three projections, and what comes out
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_does_not_bear_to_be_watched_is_left_alone() -> None:
    class Shy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise KeyError("watched")
            return images.flatten(1)[:, :2]

    assert check_outputs(Shy(), torch.zeros(1, 3, 8, 8), 2) == Work()


DEPTHWISE = """
def model(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, num_classes),
    )
"""


def test_bf16_is_chosen_where_it_is_faster(write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    config = load_config(write_config(DEPTHWISE + "precision = 'auto'\n"))
    new = build_run(config, load_data(config))
    assert (new.precision, new.precision_note[:10]) == ("fp32", "this model")
    going_on = build_run(config, load_data(config), precision="bf16")
    assert (going_on.precision, going_on.precision_note) == ("bf16", ""), "what an experiment began with stays"
    asked = run_of(write_config(DEPTHWISE + "precision = 'bf16'\n"))
    assert (asked.precision, asked.precision_note) == ("bf16", "")


KINDS = [
    (kind, kernel, stride, channels)
    for kind in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    for kernel in ((1, 1), (3, 3), (7, 7), (3, 1))
    for stride in ((1, 1), (2, 2), (3, 3), (1, 2))
    for channels in ((8, 16, 1), (64, 32, 1), (16, 32, 16))
]


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="bf16 is not native here")
def test_all_other_convolutions_are_right_in_bf16() -> None:
    """The memory is filled with nonsense before each: a kernel that leaves a part of its result out keeps it."""
    torch.manual_seed(0)
    tried = 0
    for (kind, kernel, stride, (inner, outer, groups)), size, channels_last in itertools.product(
        KINDS, ((1, 1), (2, 1), (3, 3), (5, 5), (3, 9)), (False, True)
    ):
        dimensions = 1 if kind in (nn.Conv1d, nn.ConvTranspose1d) else 2
        if dimensions == 1 and channels_last:
            continue
        kernel, stride, size = kernel[:dimensions], stride[:dimensions], size[:dimensions]
        padding = tuple(length // 2 for length in kernel)
        convolution = kind(inner, outer, kernel, stride, padding, groups=groups, bias=False)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = torch.randn(4, inner, *size).to(memory_format=layout).requires_grad_()
        convolution = convolution.to(memory_format=layout)
        exact = convolution(images)
        image = exact if convolution.transposed else images
        if wrong_in_bf16(Work([Convolution("", tuple(image.shape[2:]), kernel, stride, groups)])):
            continue
        upstream = torch.randn_like(exact)
        expected = torch.autograd.grad(exact, [images, convolution.weight], upstream)
        for count in (exact.numel(), convolution.weight.numel()):
            nonsense = [torch.full((count,), 1e30, dtype=kind) for kind in (torch.float32, torch.bfloat16) * 4]
            del nonsense
            if count == exact.numel():
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    outputs = convolution(images)
        got = torch.autograd.grad(outputs, [images, convolution.weight], upstream.to(outputs.dtype))
        for one, other in zip((outputs, *got), (exact, *expected), strict=True):
            assert (one - other).abs().max() < 0.05 * other.abs().max() + 1e-6, (convolution, size, channels_last)
        tried += 1
    assert tried > 400
