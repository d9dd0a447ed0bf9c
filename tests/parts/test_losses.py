"""Losses that keep something: each training makes its own, and goes on with what the one before had."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import load_config
from pochitrain.engine.checks import check_loss
from pochitrain.engine.loop import fit
from pochitrain.engine.run import restore, state_of
from pochitrain.errors import ConfigError
from pochitrain.tasks.train import train
from tests.engine.tiny import NET, fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]

KEEPS = """
class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mean", None)
        self.register_buffer("bank", torch.zeros(0, 3))
        self.register_buffer("first", torch.ones(()))
        self.inner = nn.Module()
    def forward(self, logits, labels):
        value = nn.functional.cross_entropy(logits * self.scale, labels)
        if self.training:
            self.mean = value.detach() if self.mean is None else 0.9 * self.mean + 0.1 * value.detach()
            self.bank = torch.cat([self.bank, logits.detach().mean(0, keepdim=True)])
            self.first = None
            if not hasattr(self.inner, "steps"):
                self.inner.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.inner.steps += 1
        return value / (1 if self.mean is None else self.mean) + 0.01 * self.bank.square().sum()
"""


def test_an_object_is_left_as_it_was_written(write_config: WriteConfig) -> None:
    config = load_config(write_config(NET + KEEPS + "loss = Keeps()\nepochs = 1"))
    before = canonical_settings(config)
    first = train(config)
    assert canonical_settings(config) == before
    again = train(config, restart=True)
    assert again.experiment == first.experiment
    assert untimed(again.history) == untimed(first.history)


def test_buffers_that_are_made_late_or_grow_go_on_where_they_were(write_config: WriteConfig) -> None:
    path = write_config(NET + KEEPS + "loss = Keeps")
    whole, expected = fitted(path, epochs=3)
    first, history = fitted(path, epochs=1)
    run = run_of(path)
    restore(run, copy.deepcopy(state_of(first)), 0)
    assert untimed(fit(run, history, epochs=3)) == untimed(expected)
    assert same_weights(weights(run), weights(whole))
    assert isinstance(run.loss_fn, nn.Module)
    assert isinstance(whole.loss_fn, nn.Module)
    kept = run.loss_fn.state_dict()
    assert sorted(kept) == ["bank", "inner.steps", "mean", "scale"]
    assert int(kept["inner.steps"]) == 18
    assert same_weights(kept, whole.loss_fn.state_dict())


AVERAGED = """
class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
    def forward(self, logits, labels):
        value = nn.functional.cross_entropy(logits * self.scale, labels)
        self.scale = 0.9 * self.scale + 0.1 * value.detach()
        return value
"""


def test_what_a_loss_keeps_of_validation_it_may_use_in_training(write_config: WriteConfig) -> None:
    run, history = fitted(write_config(NET + AVERAGED + "loss = Averaged"), epochs=2)
    assert len(history) == 2
    assert isinstance(run.loss_fn, nn.Module)
    assert float(run.loss_fn.state_dict()["scale"]) != 1


def test_an_object_asks_for_nothing_that_the_file_says_beside_it(write_config: WriteConfig) -> None:
    beside = (
        "loss = nn.CrossEntropyLoss(label_smoothing=0.1)\nimport threading\nmy_lock = threading.Lock()\nbatches_seen = "
    )
    one, other = (canonical_settings(load_config(write_config(beside + text))) for text in ("1", "2"))
    assert one == other


def test_a_checkpoint_without_the_loss(write_config: WriteConfig) -> None:
    run = run_of(write_config("loss = nn.CrossEntropyLoss(weight=torch.ones(3))"))
    state = state_of(run)
    del state["loss"]
    restore(run, state, 0)  # it learns nothing
    run = run_of(write_config(KEEPS + "loss = Keeps"))
    state = state_of(run)
    with pytest.raises(ConfigError, match=r"does not fit the loss: (.|\n)*scale"):
        restore(run, {**state, "loss": {"mean": torch.ones(())}}, 0)
    del state["loss"]
    with pytest.raises(ConfigError, match="when the state of a loss was not kept"):
        restore(run, state, 0)


UNCOPYABLE = """
import threading
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.double = 2 * self.weight
        self.register_buffer("calls", torch.zeros(()))
        self.lock = threading.Lock()
    def forward(self, logits, labels):
        self.calls += 1
        return nn.functional.cross_entropy(logits * self.weight, labels)
"""


def test_a_loss_that_cannot_be_copied(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError, match="Odd cannot be copied: ") as caught:
        run_of(write_config(UNCOPYABLE + "loss = Odd()"))
    assert caught.value.problems[0].where == "loss"
    loss = run_of(write_config(UNCOPYABLE + "loss = Odd")).loss_fn
    assert isinstance(loss, nn.Module)
    assert float(loss.get_buffer("calls")) == 0, "another one was tried"


def test_a_model_that_cannot_be_copied(write_config: WriteConfig) -> None:
    lines = "model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\nmodel.double = 2 * model[1].weight\n"
    with pytest.raises(ConfigError, match="Sequential cannot be copied: ") as caught:
        run_of(write_config(lines))
    assert caught.value.problems[0].where == "model"


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, labels: logits.sum() * float("inf"),
        lambda logits, labels: 1e-9 * nn.functional.cross_entropy(logits, labels),
        lambda logits, labels: (logits - logits.mean(1, keepdim=True)).square().mean() * 0,
    ],
)
def test_a_mean_that_is_tiny_or_infinite_is_no_sum(loss: Callable[..., torch.Tensor]) -> None:
    check_loss(loss, 3, torch.device("cpu"))


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_sum_is_one_however_small(scale: float) -> None:
    with pytest.raises(ConfigError, match="it sums over the batch"):
        check_loss(lambda logits, labels: scale * logits.square().sum(), 3, torch.device("cpu"))
