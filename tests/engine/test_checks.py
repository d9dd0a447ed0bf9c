"""What is tried before anything is written, and what a loss keeps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pochitrain.engine.checks import check_loss, narrow_convolution
from pochitrain.engine.loop import Diverged, fit
from pochitrain.engine.run import restore, state_of
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


# -- convolutions of narrow images

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
    assert run_of(write_config(STRIDED.format(precision="auto"))).precision == "fp32"
    said = refused(write_config(STRIDED.format(precision="bf16")))
    assert "In bf16 this processor computes a wrong gradient for 1, whose input is only 1 × 1 pixels" in said


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="bf16 is not native here")
def test_all_other_convolutions_have_right_gradients_in_bf16() -> None:
    """The memory is filled with nonsense before each: a kernel that leaves a part of its gradient out keeps it."""
    torch.manual_seed(0)
    tried = 0
    for kernel, stride, channels, height, width in itertools.product(
        ((1, 1), (3, 3), (5, 5), (7, 7), (3, 1)), (1, 2, 3, 4), ((8, 16), (256, 64)), (1, 2, 3, 5), (1, 2, 3, 5)
    ):
        convolution = nn.Conv2d(*channels, kernel, stride, (kernel[0] // 2, kernel[1] // 2), bias=False)
        if narrow_convolution(nn.Sequential(convolution), {"0": (height, width)}):
            continue
        weight, images = convolution.weight, torch.randn(4, channels[0], height, width)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = convolution(images)
        upstream = torch.randn_like(outputs)
        nonsense = [torch.full((weight.numel(),), 1e30, dtype=kind) for kind in (torch.float32, torch.bfloat16) * 4]
        del nonsense
        (gradient,) = torch.autograd.grad(outputs, weight, upstream)
        exact = F.conv2d(images, weight, stride=stride, padding=convolution.padding)
        (expected,) = torch.autograd.grad(exact, weight, upstream.float())
        assert (gradient - expected).abs().max() < 0.05 * expected.abs().max() + 1e-6, (kernel, stride, height, width)
        tried += 1
    assert tried > 250
