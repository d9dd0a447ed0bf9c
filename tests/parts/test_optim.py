"""Arguments of optimizers and schedulers: passed on unchanged, and wrong ones refused before any data is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError, Problem
from pochitrain.parts.optim import (
    build_optimizer,
    build_scheduler,
    check_optimization,
    load_optimizer,
    step_scheduler,
)
from tests.engine.tiny import run_of

WriteConfig = Callable[..., Path]


def config_of(write_config: WriteConfig, lines: str = "", **settings: Any) -> Config:
    return load_config(write_config(lines), settings)


def optimizer_of(config: Config) -> torch.optim.Optimizer:
    return build_optimizer(config, [{"params": [torch.nn.Parameter(torch.zeros(2))]}])


def problem(config: Config) -> Problem:
    [found] = check_optimization(config)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Adam", {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 0}),
        ("AdamW", {"lr": 0.01, "betas": (0.9, 0.999), "weight_decay": 0.01}),
        ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}),
    ],
)
def test_defaults(write_config: WriteConfig, name: str, expected: dict[str, Any]) -> None:
    optimizer = optimizer_of(config_of(write_config, optimizer=name))
    assert type(optimizer) is getattr(torch.optim, name)
    assert {key: optimizer.defaults[key] for key in expected} == expected


def test_optimizer_params_override_the_defaults(write_config: WriteConfig) -> None:
    given = {"momentum": 0.5, "nesterov": True}
    optimizer = optimizer_of(config_of(write_config, optimizer="SGD", optimizer_params=given))
    assert optimizer.defaults["momentum"] == 0.5
    assert optimizer.defaults["nesterov"] is True
    assert optimizer.defaults["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_one_pass_gives_what_many_give_whatever_the_memory_layout(write_config: WriteConfig, name: str) -> None:
    def trained(fused: str) -> torch.Tensor:
        torch.manual_seed(0)
        layout = torch.channels_last
        weight = torch.nn.Parameter(torch.randn(8, 6, 3, 3).contiguous(memory_format=layout))
        config = config_of(write_config, f"optimizer = {name!r}\noptimizer_params = {fused}")
        optimizer = build_optimizer(config, [{"params": [weight]}])
        assert bool(optimizer.defaults["fused"]) == (fused == "None")
        for step, gradient in enumerate(torch.randn(4, 8, 6, 3, 3)):
            weight.grad = gradient.contiguous(memory_format=layout) if step % 2 else gradient
            if step == 2:  # a checkpoint of a run with the other layout
                for moment in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[weight][moment] = optimizer.state[weight][moment].contiguous()
            optimizer.step()
        return weight.detach()

    assert torch.allclose(trained("None"), trained("{'fused': False}"), rtol=0, atol=1e-6)


def test_a_state_from_a_device_without_the_fused_form_is_continued_in_it(write_config: WriteConfig) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    before = build_optimizer(config_of(write_config, "optimizer_params = {'fused': False}"), [{"params": [weight]}])
    before.step()
    after = build_optimizer(config_of(write_config), [{"params": [weight]}])
    load_optimizer(after, before.state_dict())
    assert after.param_groups[0]["fused"] is True
    after.step()
    assert after.state[weight]["step"] == 2


def test_the_learning_rate_is_no_further_argument(write_config: WriteConfig) -> None:
    """Two settings of one thing: searching learning_rate would change nothing."""
    with pytest.raises(ConfigError) as error:
        config_of(write_config, "batch_size = 0\noptimizer_params = {'lr': 0.1, 'eps': 1e-7}")
    found = error.value.problems
    assert [each.where.split(", ")[-1] for each in found] == ["batch_size", "optimizer_params.lr"]
    assert found[1].what == "The learning rate has a setting of its own"
    assert found[1].mend == "write it as learning_rate, and leave lr out"
    own = "def optimizer(parameters, lr): return torch.optim.SGD(parameters, lr=lr)\noptimizer_params = {'lr': 0.5}"
    assert optimizer_of(config_of(write_config, own)).defaults["lr"] == 0.5  # whose arguments are the user's


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("Adam", {"momentum": 0.9}, "momentum"),
        ("Adam", {"betas": (0.9, 2.0)}, "Invalid beta parameter at index 1"),
        ("Adam", {"betas": (0.9,)}, "index out of range"),
        ("Adam", {"fused": True, "foreach": True}, "cannot be `True` together"),
        ("SGD", {"nesterov": True, "momentum": 0}, "Nesterov momentum requires a momentum"),
        ("AdamW", {"weight_decay": -1.0}, "Invalid weight_decay value"),
        ("AdamW", {"weight_decay": "0.1"}, "str"),
        ("SGD", {"params": []}, "params"),
    ],
)
def test_wrong_optimizer_params(write_config: WriteConfig, name: str, given: dict[str, Any], reason: str) -> None:
    found = problem(config_of(write_config, optimizer=name, optimizer_params=given))
    assert found.what.startswith(f"optimizer_params does not fit {name}: ")
    assert reason in found.what
    assert found.where == "optimizer_params"
    assert found.mend.startswith(f"{name} takes: ")
    assert "weight_decay" in found.mend
    assert "params," not in found.mend


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("StepLR", {}, "step_size"),
        ("StepLR", None, "step_size"),
        ("StepLR", {"step_size": 0}, "ZeroDivisionError"),
        ("StepLR", {"step_size": 2, "gama": 0.1}, "gama"),
        ("StepLR", {"step_size": "2"}, "str"),
        ("MultiStepLR", {"milestones": 30}, "int"),
        ("CosineAnnealingLR", {"T_max": 0}, "ZeroDivisionError"),
        ("CosineAnnealingLR", {"T_mx": 5}, "T_mx"),
        ("ExponentialLR", {"gamma": "fast"}, "sequence"),
        ("LinearLR", {"start_factor": 2.0}, "Starting multiplicative factor"),
        ("LinearLR", {"total_iters": None}, "NoneType"),
        ("ReduceLROnPlateau", {"mode": "sideways"}, "mode sideways is unknown"),
        ("ReduceLROnPlateau", {"factor": 1.5}, "Factor should be < 1.0"),
    ],
)
def test_wrong_scheduler_params(
    write_config: WriteConfig, name: str, given: dict[str, Any] | None, reason: str
) -> None:
    found = problem(config_of(write_config, scheduler=name, scheduler_params=given))
    assert found.what.startswith(f"scheduler_params does not fit {name}: ")
    assert reason in found.what
    assert found.where == "scheduler_params"
    assert found.mend.startswith(f"{name} takes: ")
    assert "optimizer" not in found.mend.partition(": ")[2].split(", ")
    assert "last_epoch" not in found.mend


GUIDE = [
    ("StepLR", {"step_size": 30, "gamma": 0.1}),
    ("MultiStepLR", {"milestones": [30, 60, 90], "gamma": 0.1}),
    ("CosineAnnealingLR", {"T_max": 50}),
    ("CosineAnnealingLR", {"T_max": 100 / 2}),
    ("ExponentialLR", {"gamma": 0.95}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 100}),
    ("ReduceLROnPlateau", {"mode": "max", "factor": 0.5, "patience": 3}),
    ("ReduceLROnPlateau", None),
    (None, None),
]


@pytest.mark.parametrize(("name", "given"), GUIDE)
def test_right_ones_pass_and_reach_torch_unchanged(
    write_config: WriteConfig, name: str | None, given: dict[str, Any] | None
) -> None:
    config = config_of(write_config, scheduler=name, scheduler_params=given)
    assert check_optimization(config) == []
    scheduler = build_scheduler(config, optimizer_of(config))
    if name is None:
        assert scheduler is None
        return
    assert type(scheduler) is getattr(torch.optim.lr_scheduler, name)
    state = scheduler.state_dict()
    for key, value in (given or {}).items():
        held = state[key]
        assert (sorted(held) if key == "milestones" else held) == value


def test_own_classes_functions_and_bound_functions(write_config: WriteConfig) -> None:
    lines = """
from functools import partial
momentum = 0.3
class optimizer(torch.optim.SGD):
    pass
def make(optimizer, epochs, power):
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, epochs, power)
scheduler = partial(make, power=2.0)
power = 5.0
epochs = 10
"""
    config = config_of(write_config, lines)
    assert check_optimization(config) == []
    optimizer = optimizer_of(config)
    scheduler = build_scheduler(config, optimizer)
    assert type(optimizer).__name__ == "optimizer"
    assert optimizer.defaults["lr"] == 0.01
    assert optimizer.defaults["momentum"] == 0, "a class is called as torch's own are"
    assert scheduler.total_iters == 10
    assert scheduler.power == 2.0, "what the user bound stays bound"
    bound = config_of(
        write_config, "from functools import partial\noptimizer = partial(torch.optim.RMSprop, alpha=0.5)\n"
    )
    assert optimizer_of(bound).defaults["alpha"] == 0.5
    assert optimizer_of(bound).defaults["lr"] == 0.01


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (
            "def optimizer(parameters, lr):\n    return torch.optim.SGD(parameters, lr=-lr)",
            "torch.optim.SGD(parameters",
        ),
        ("def scheduler(optimizer):\n    return torch.optim.lr_scheduler.StepLR(optimizer)", "lr_scheduler.StepLR(opt"),
        (
            "def make(optimizer):\n    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / epoch)\n"
            "scheduler = make",
            "lambda epoch: 1 / epoch",
        ),
        (
            "class scheduler(torch.optim.lr_scheduler.StepLR):\n    def step(self, epoch=None):\n"
            "        super().step()\n        return {}['missing']\nscheduler_params = {'step_size': 1}",
            "return {}['missing']",
        ),
        (
            "class optimizer(torch.optim.SGD):\n    def step(self, closure=None):\n        raise ValueError('no')",
            "raise ValueError('no')",
        ),
    ],
)
def test_what_own_code_raises_is_told_with_its_line(write_config: WriteConfig, lines: str, line: str) -> None:
    found = problem(config_of(write_config, lines))
    assert found.what.startswith("Your code raised ")
    assert line in found.what
    assert "tiny_config.py:" in found.where


@pytest.mark.parametrize("base", ["torch.optim.SGD", "torch.optim.Rprop", "Base"])
@pytest.mark.parametrize("body", ["pass", "def step(self, closure=None):\n        return super().step()"])
def test_an_own_class_is_the_same_after_it_was_used(write_config: WriteConfig, base: str, body: str) -> None:
    """torch writes into the class when its first object is made."""
    lines = f"""
class Base(torch.optim.ASGD):
    @torch.no_grad()
    def step(self, closure=None):
        return super().step()
class Own({base}):
    {body}
optimizer = Own
"""
    config = config_of(write_config, lines)
    before = canonical_settings(config)
    assert check_optimization(config) == []
    assert canonical_settings(config) == before
    assert any("Own: step" in path for path in before) is (body != "pass")


PER_GROUP = (
    "scheduler = torch.optim.lr_scheduler.OneCycleLR\nscheduler_params = {'max_lr': [0.1, 0.2], 'total_steps': 2}\n"
)


def test_values_for_each_group(write_config: WriteConfig) -> None:
    """How many groups there are is known when model and loss are made: only then a list can be refused."""
    layers = "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'0': 0.1}}\n"
    learning = """
class loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits * self.scale, labels)
"""
    for lines in (layers, learning):
        path = write_config(PER_GROUP + lines)
        assert check_optimization(load_config(path)) == []
        groups = run_of(path).optimizer.param_groups
        assert [round(group["max_lr"], 9) for group in groups] == [0.1, 0.2]
    with pytest.raises(ConfigError, match="a list has 3 values, for the groups 0, other, \\(loss\\)"):
        run_of(write_config(PER_GROUP + layers + learning))
    assert "OneCycleLR" in problem(config_of(write_config, PER_GROUP.replace("[0.1, 0.2]", "[0.1] * 9"))).what


@pytest.mark.parametrize("made", ["None", "[torch.zeros(1)]", "torch.zeros(1)"])
def test_an_own_optimizer_that_is_none(write_config: WriteConfig, made: str) -> None:
    found = problem(config_of(write_config, f"def optimizer(parameters):\n    return {made}\n"))
    kind = {"N": "None", "[": "list", "t": "Tensor"}[made[0]]
    assert found.what == f"optimizer returned {kind}, which is no optimizer"
    assert found.where == "optimizer"
    assert "torch.optim" in found.mend
    assert problem(config_of(write_config, "optimizer = dict")).where == "optimizer_params"


@pytest.mark.parametrize("made", ["None", "[optimizer]", "optimizer", "Steps()"])
def test_an_own_scheduler_that_is_none(write_config: WriteConfig, made: str) -> None:
    lines = (
        f"class Steps:\n    def step(self): pass\ndef constant(optimizer):\n    return {made}\nscheduler = constant\n"
    )
    found = problem(config_of(write_config, lines))
    kind = {"N": "None", "[": "list", "o": "Adam", "S": "Steps"}[made[0]]
    assert found.what == f"constant returned {kind}, which is no scheduler"
    assert found.where == "scheduler"
    assert "load_state_dict" in found.mend


@pytest.mark.parametrize("signature", ["", "*, lr", "**settings"])
def test_an_own_function_that_does_not_take_what_it_is_for(write_config: WriteConfig, signature: str) -> None:
    found = problem(config_of(write_config, f"def optimizer({signature}): pass"))
    assert (found.what, found.where) == ("optimizer does not take the parameters first", "optimizer")
    assert "def optimizer(parameters, …)" in found.mend
    found = problem(config_of(write_config, f"def scheduler({signature}): pass"))
    assert (found.what, found.where) == ("scheduler does not take the optimizer first", "scheduler")


def test_an_optimizer_that_needs_a_closure_needs_an_own_epoch(write_config: WriteConfig) -> None:
    lines = "optimizer = torch.optim.LBFGS\n"
    found = problem(config_of(write_config, lines))
    assert found.what == "LBFGS needs a closure at each step, which a training does not give"
    assert found.where == "optimizer"
    assert check_optimization(config_of(write_config, lines + "def train_epoch(run, epoch): pass")) == []


@pytest.mark.parametrize(
    ("name", "given", "rate"),
    [
        ("ExponentialLR", {"gamma": -1}, "epoch 2 would be -0.01"),
        ("ExponentialLR", {"gamma": 1e200}, "epoch 3 would be inf"),
        ("ExponentialLR", {"gamma": float("nan")}, "epoch 2 would be nan"),
        ("StepLR", {"step_size": 4, "gamma": -0.5}, "epoch 5 would be -0.005"),
        ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 3}, None),
        ("CosineAnnealingLR", {"T_max": 2}, None),
    ],
)
def test_every_rate_of_a_schedule_is_one(
    write_config: WriteConfig, name: str, given: dict[str, Any], rate: str | None
) -> None:
    config = config_of(write_config, scheduler=name, scheduler_params=given, epochs=6)
    found = check_optimization(config)
    assert [(problem.what, problem.where) for problem in found] == (
        [(f"The learning rate of {rate}", "scheduler_params")] if rate else []
    )


@pytest.mark.parametrize(
    ("name", "given", "wrong"),
    [
        ("StepLR", {"step_size": -3}, "step_size cannot be -3"),
        ("StepLR", {"step_size": 2.5}, "step_size cannot be 2.5"),
        ("CosineAnnealingLR", {"T_max": 2.5}, "T_max cannot be 2.5"),  # torch divides by zero for some of these
        ("MultiStepLR", {"milestones": ["a", 3]}, "milestones cannot be ['a', 3]"),
        ("CosineAnnealingLR", {"T_max": -5}, "T_max cannot be -5"),
        ("LinearLR", {"total_iters": -1}, "total_iters cannot be -1"),
    ],
)
def test_epochs_in_a_schedule_are_some(write_config: WriteConfig, name: str, given: dict[str, Any], wrong: str) -> None:
    for lines, settings in (("", {"scheduler": name}), (f"scheduler = torch.optim.lr_scheduler.{name}", {})):
        found = problem(config_of(write_config, lines, scheduler_params=given, **settings))
        assert found.what == f"scheduler_params.{wrong}"
        assert found.mend == "epochs are whole numbers ≥ 1: // divides into such"


def test_a_schedule_lasts_as_long_as_the_training(write_config: WriteConfig) -> None:
    lines = "scheduler = torch.optim.lr_scheduler.OneCycleLR\nscheduler_params = {'max_lr': 0.1, 'total_steps': 3}\n"
    assert check_optimization(config_of(write_config, lines, epochs=3)) == []
    assert "total steps is 3" in problem(config_of(write_config, lines, epochs=6)).what


def test_a_plateau_takes_training_where_there_is_no_validation(write_config: WriteConfig) -> None:
    config = config_of(write_config, scheduler="ReduceLROnPlateau", scheduler_params={"mode": "max"})
    scheduler = build_scheduler(config, optimizer_of(config))
    step_scheduler(scheduler, {"train_loss": 1.0, "train_accuracy": 5.0})
    assert scheduler.best == 5.0
    step_scheduler(scheduler, {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 7.0})
    assert scheduler.best == 7.0
    step_scheduler(None, {})
