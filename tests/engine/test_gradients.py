"""Norms of gradients: equal to a computation by hand, and without any trace in the weights."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pochitrain.config.schema import GradientTracking
from pochitrain.engine.gradients import GradientNorms
from pochitrain.engine.loop import Stop, fit
from pochitrain.engine.run import restore, state_of
from pochitrain.history import GRADIENT, Record
from tests.engine.tiny import NET, fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]
ON = "\nlearning_rate = 0.1\nclass_weights = 'uniform'\nenable_gradient_tracking = True\n"
CONFIG = "gradient_tracking_config = {!r}\n"


def norms(record: Record) -> dict[str, float]:
    return {name.removeprefix(GRADIENT): value for name, value in record.items() if name.startswith(GRADIENT)}


def by_hand(path: Path) -> dict[str, float]:
    """Return the mean over the steps of epoch 1 of the norm of each parameter's gradient."""
    run = run_of(path, optimizer="SGD", optimizer_params={"momentum": 0.0, "weight_decay": 0.0})
    sums: dict[str, float] = {}
    run.model.train()
    for images, labels in run.train_loader.epoch(1):
        images, labels = run.move(images, labels)
        run.model.zero_grad()
        torch.nn.functional.cross_entropy(run.model(images), labels).backward()
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                assert parameter.grad is not None
                sums[name] = sums.get(name, 0.0) + math.sqrt(float((parameter.grad.double() ** 2).sum()))
                parameter -= 0.1 * parameter.grad
    return {name: total / len(run.train_loader) for name, total in sums.items()}


def recorded(write_config: WriteConfig, **settings: Any) -> dict[str, float]:
    sgd = "optimizer = 'SGD'\noptimizer_params = {'momentum': 0.0, 'weight_decay': 0.0}\n"
    _run, history = fitted(write_config(NET + ON + sgd + CONFIG.format(settings)), epochs=1)
    return norms(history[0])


def test_without_groups_every_parameter_has_its_mean_norm(write_config: WriteConfig) -> None:
    found = recorded(write_config, group_by_block=False, exclude_patterns=[])
    expected = by_hand(write_config(NET + ON))
    assert list(found) == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        *(f"layer1.{n}" for n in ("0.weight", "1.weight", "1.bias")),
        "fc.weight",
        "fc.bias",
    ]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "aggregate"),
    [
        ("median", statistics.median),
        ("mean", statistics.fmean),
        ("max", max),
        ("rms", lambda values: math.sqrt(sum(v * v for v in values) / len(values))),
    ],
)
def test_blocks_are_aggregated(
    write_config: WriteConfig, method: str, aggregate: Callable[[list[float]], float]
) -> None:
    expected = by_hand(write_config(NET + ON))
    blocks = {
        block: [v for name, v in expected.items() if name.split(".")[0] == block]
        for block in ("conv1", "bn1", "layer1", "fc")
    }
    found = recorded(write_config, aggregation_method=method, exclude_patterns=[])
    assert found == pytest.approx({block: aggregate(values) for block, values in blocks.items()}, rel=1e-5)
    assert len(blocks["layer1"]) == 3


def test_patterns_exclude_wherever_they_match(write_config: WriteConfig) -> None:
    """By default as in the guide: nothing of `fc`, no bias."""
    found = recorded(write_config, group_by_block=False)
    assert list(found) == ["conv1.weight", "bn1.weight", "layer1.0.weight", "layer1.1.weight"]
    assert list(recorded(write_config, exclude_patterns=["weight$", "^bn"])) == ["layer1", "fc"]
    assert recorded(write_config, exclude_patterns=["."]) == {}


def test_recorded_every_so_many_epochs(write_config: WriteConfig) -> None:
    _run, history = fitted(write_config(NET + ON + CONFIG.format({"record_frequency": 2})), epochs=4)
    assert [bool(norms(record)) for record in history] == [True, False, True, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_looking_never_changes_the_weights(write_config: WriteConfig, precision: str) -> None:
    path = write_config(NET + ON)
    seen, history = fitted(path, epochs=3, precision=precision)
    unseen, bare = fitted(path, epochs=3, precision=precision, enable_gradient_tracking=False)
    assert same_weights(weights(seen), weights(unseen))
    assert [{k: v for k, v in record.items() if GRADIENT not in k} for record in untimed(history)] == untimed(bare)
    assert all(0 < value < 100 for record in history for value in norms(record).values())


def test_frozen_parameters_are_left_out(write_config: WriteConfig) -> None:
    frozen = "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'conv1': 0, 'bn1': 0.0}}\n"
    _run, history = fitted(write_config(NET + ON + frozen), epochs=1)
    assert list(norms(history[0])) == ["layer1"]


def test_a_parameter_without_gradient_counts_as_zero(write_config: WriteConfig) -> None:
    lines = """
class model(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.idle = nn.Linear(2, 2)
"""
    _run, history = fitted(write_config(NET + ON + lines), epochs=1)
    assert norms(history[0])["idle"] == 0.0


def test_a_step_that_overflows_in_fp16_does_not_count() -> None:
    """The scaler leaves such a step out, and one infinite norm would hide the whole epoch."""
    model = torch.nn.Linear(2, 2)
    tracked = GradientNorms(model, GradientTracking(exclude_patterns=[]))
    for value in (1.0, float("inf"), 3.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        tracked.add()
    assert norms(tracked.record()) == pytest.approx({"weight": 2 * 2.0, "bias": 2 * math.sqrt(2)})


def stopped(write_config: WriteConfig, lines: str, after: int) -> tuple[Path, dict[str, Any]]:
    path = write_config(NET + ON + lines)
    run = run_of(path)

    def tick(phase: str, totals: Any) -> None:
        if totals.steps == after:
            raise Stop

    run.tick = tick
    with pytest.raises(Stop):
        fit(run, [], epochs=1)
    return path, copy.deepcopy(state_of(run))


def test_a_resume_within_an_epoch_averages_over_all_of_its_steps(write_config: WriteConfig) -> None:
    path, state = stopped(write_config, "", after=3)
    run = run_of(path)
    restore(run, state, step=3)
    assert untimed(fit(run, [], epochs=1)) == untimed(fitted(path, epochs=1)[1])


@pytest.mark.parametrize("before", [{"exclude_patterns": ["conv1"]}, {"exclude_patterns": ["bn"]}, None])
def test_a_resume_under_other_tracing_averages_over_the_steps_that_it_saw(
    write_config: WriteConfig, before: dict[str, Any] | None
) -> None:
    """The settings of tracing are not part of the identity, so they may change between two lives of a run."""
    lines = CONFIG.format(before) if before else "enable_gradient_tracking = False\n"
    path, state = stopped(write_config, lines, after=2)
    now = {"exclude_patterns": ["fc"], "group_by_block": False}
    run = run_of(path, enable_gradient_tracking=True, gradient_tracking_config=now)
    restore(run, state, step=2)
    steps: list[float] = []

    def tick(phase: str, totals: Any) -> None:
        if phase == "train":
            steps.append(float(run.model.get_parameter("conv1.weight").grad.norm()))  # type: ignore[union-attr]

    run.tick = tick
    found = norms(fit(run, [], epochs=1)[0])
    assert len(steps) == len(run.train_loader) - 2
    assert found["conv1.weight"] == pytest.approx(statistics.fmean(steps), rel=1e-5)
