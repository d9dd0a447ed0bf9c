"""Optimizer, parameter groups and scheduler from their settings."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from pochitrain.config.fields import OPTIMIZERS, SCHEDULERS
from pochitrain.config.inject import call_part, name_of, parameters, part_values
from pochitrain.config.mistakes import raised_by_user
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError, Problem
from pochitrain.locale import _

OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "Adam": {},
    "AdamW": {"weight_decay": 0.01},
    "SGD": {"momentum": 0.9, "weight_decay": 1e-4},
}
BUILT_IN_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {name: getattr(torch.optim, name) for name in OPTIMIZERS}
BUILT_IN_SCHEDULERS: dict[str, Callable[..., Any]] = {name: getattr(lr_scheduler, name) for name in SCHEDULERS}

# One pass over weights, gradients and moments instead of a dozen: half the time. SGD has so little to do that its fused
# form is slower on processors (`benchmarks/tricks.py`).
_FUSED = ("Adam", "AdamW")
_ANOTHER_FORM = {"fused", "foreach", "capturable", "differentiable"}

# What the loop and a checkpoint ask of a scheduler.
_SCHEDULER_METHODS = ("step", "state_dict", "load_state_dict")

# What counts epochs in the arguments of schedulers. Torch takes 2.5 or "a" too; it never gets there or divides by 0.
_IN_EPOCHS = ("step_size", "milestones", "T_max", "total_iters")
_TRIED_EPOCHS = 10_000  # 0.1 seconds

# What torch raises for arguments that it does not take or cannot use.
_ARGUMENT_ERRORS = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError)


@dataclass(frozen=True)
class LayerGroup:
    """The parameters that one pattern of `layer_rates` caught; the pattern "other" holds the rest."""

    pattern: str
    rate: float
    names: tuple[str, ...]


def layer_groups(model: nn.Module, config: Config) -> list[LayerGroup]:
    """Return which pattern governs which parameters, in the written order; the first match wins.

    A pattern is anchored at the start of the parameter's name and must end at a dot or at the end: `layer1` is all of
    stage 1, `layer4\\.1` one block, `conv1` the stem only.

    Raises:
        ConfigError: with every pattern that matches nothing.
    """
    rates = config.layer_wise_lr_config.layer_rates or {}
    expressions = {pattern: re.compile(pattern) for pattern in rates}
    caught: dict[str, list[str]] = {pattern: [] for pattern in rates}
    rest: list[str] = []
    for name, _parameter in model.named_parameters():
        pattern = next((p for p, expression in expressions.items() if _governs(expression, name)), None)
        (rest if pattern is None else caught[pattern]).append(name)
    if unused := [pattern for pattern, names in caught.items() if not names]:
        modules = ", ".join(name for name, _module in model.named_children())
        raise ConfigError(
            problems=[
                Problem(
                    _("The pattern {pattern} of layer_rates matches no parameter", pattern=repr(pattern)),
                    "layer_wise_lr_config.layer_rates",
                    _(
                        "the modules of this model are: {modules}; an earlier pattern may have caught it",
                        modules=modules,
                    ),
                )
                for pattern in unused
            ]
        )
    groups = [LayerGroup(pattern, rates[pattern], tuple(names)) for pattern, names in caught.items()]
    others = "other" if "other" not in rates else "(other)"
    return groups + ([LayerGroup(others, config.learning_rate, tuple(rest))] if rest else [])


def _governs(expression: re.Pattern[str], name: str) -> bool:
    """Tell whether the expression is the name, or the beginning of it that a dot ends."""
    parts = name.split(".")
    return any(expression.fullmatch(".".join(parts[:count])) for count in range(1, len(parts) + 1))


def parameter_groups(model: nn.Module, config: Config, loss_fn: Any = None) -> list[dict[str, Any]]:
    """Return torch's parameter groups; with layer-wise rates each has its pattern as `name`. A rate of 0 freezes.

    What a loss that is a module has to learn is a group of its own, with `learning_rate`.

    Raises:
        ConfigError: a pattern matches nothing, or no parameter is left to train.
    """
    groups: list[dict[str, Any]] = []
    if config.enable_layer_wise_lr:
        parameters = dict(model.named_parameters())
        for group in layer_groups(model, config):
            members = [parameters[name] for name in group.names]
            if group.rate == 0:
                for parameter in members:
                    parameter.requires_grad_(False)
            groups.append({"params": members, "lr": group.rate, "name": group.pattern})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(
            _("Nothing is left to train: every parameter is frozen"),
            "layer_wise_lr_config.layer_rates" if groups else "model",
            _("give at least one layer a rate above 0") if groups else _("leave requires_grad on for some parameters"),
        )
    groups = groups or [{"params": trained}]
    learning = [each for each in loss_fn.parameters() if each.requires_grad] if isinstance(loss_fn, nn.Module) else []
    return groups + ([{"params": learning, "lr": config.learning_rate, "name": "(loss)"}] if learning else [])


def build_optimizer(config: Config, groups: Iterable[dict[str, Any]]) -> Optimizer:
    """Return the optimizer over `groups`.

    Raises:
        ConfigError: `optimizer_params` does not fit the optimizer, or the user's own is none.
    """
    given = config.optimizer_params or {}
    chosen, groups = config.optimizer, list(groups)
    factory: Any = BUILT_IN_OPTIMIZERS[chosen] if isinstance(chosen, str) else chosen
    arguments = {"lr": config.learning_rate, **(OPTIMIZER_DEFAULTS[chosen] if isinstance(chosen, str) else {}), **given}
    fused = chosen in _FUSED and _ANOTHER_FORM.isdisjoint(given) and _can_be_fused(groups)
    if fused:
        arguments["fused"] = True
    try:
        if isinstance(factory, type):
            made = factory(groups, **arguments)
        else:
            _require_first("optimizer", factory, "parameters")
            made = call_part("optimizer", factory, part_values(config, **arguments), groups)
    except ConfigError:
        raise
    except _ARGUMENT_ERRORS as error:
        problem = _arguments_problem("optimizer_params", factory, error, skip=("params", "lr"))
        raise raised_by_user(error) or problem from error
    if not isinstance(made, Optimizer):
        raise _returned("optimizer", factory, made, _("return an optimizer of torch from it, e.g. torch.optim.SGD(…)"))
    if fused:
        made.register_step_pre_hook(_align)
    return made


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Put a state back. In how many passes it is applied follows from this device, not from the one it comes from."""
    groups = [
        {**saved, "fused": here["fused"]} if "fused" in here else saved
        for saved, here in zip(state.get("param_groups", ()), optimizer.param_groups, strict=False)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups} if groups else state)


def _can_be_fused(groups: list[dict[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters)


def _align(optimizer: Optimizer, _arguments: Any, _keywords: Any) -> None:
    """Give gradients and moments the memory layout of their weights.

    torch's fused kernels take it for granted, and on processors compute nonsense without a word where it is not so:
    when a run that began without `channels_last` goes on with it, or a hook of the user's has made the gradient.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            if not _same_layout(weight.grad, weight):
                weight.grad = torch.empty_like(weight, requires_grad=False).copy_(weight.grad)
            state = optimizer.state.get(weight, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape and not _same_layout(value, weight):
                    state[name] = torch.empty_like(weight, requires_grad=False).copy_(value)


def _same_layout(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Compare strides; those of dimensions of size 1 mean nothing."""
    strides = first.stride(), second.stride()
    return strides[0] == strides[1] or all(
        one == other for size, one, other in zip(second.shape, *strides, strict=True) if size > 1
    )


def build_scheduler(config: Config, optimizer: Optimizer) -> Any:
    """Return the scheduler (stepped once per epoch), None for a constant rate.

    Raises:
        ConfigError: `scheduler_params` does not fit the scheduler, or the user's own is none.
    """
    if config.scheduler is None:
        return None
    given = config.scheduler_params or {}
    chosen = config.scheduler
    factory: Any = BUILT_IN_SCHEDULERS[chosen] if isinstance(chosen, str) else chosen
    try:
        if isinstance(factory, type):
            made = factory(optimizer, **given)
        else:
            _require_first("scheduler", factory, "optimizer")
            made = call_part("scheduler", factory, part_values(config, **given), optimizer)
    except ConfigError:
        raise
    except _ARGUMENT_ERRORS as error:
        problem = _arguments_problem("scheduler_params", factory, error, skip=("optimizer",))
        if len(optimizer.param_groups) > 1 and any(isinstance(value, list | tuple) for value in given.values()):
            problem = _groups_problem(problem.problems[0], optimizer)
        raise raised_by_user(error) or problem from error
    if isinstance(made, Optimizer) or not all(hasattr(made, method) for method in _SCHEDULER_METHODS):
        mend = _("return an object with {methods}, or set scheduler = None", methods=", ".join(_SCHEDULER_METHODS))
        raise _returned("scheduler", factory, made, mend)
    return made


def _groups_problem(problem: Problem, optimizer: Optimizer) -> ConfigError:
    """Return a problem with what a list in `scheduler_params` has its values for."""
    names = [str(group.get("name", _("(model)"))) for group in optimizer.param_groups]
    groups = _("a list has {count} values, for the groups {names}", count=len(names), names=", ".join(names))
    return ConfigError(problem.what, problem.where, f"{problem.mend}; {groups}")


def _require_first(setting: str, factory: Any, first: str) -> None:
    """Require that a function of the user's takes what it is given first."""
    name, by_name = name_of(factory), (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    if inspect.isfunction(factory) and all(parameter.kind in by_name for parameter in parameters(factory).values()):
        what = _("{name} does not take the {first} first", name=name, first=first)
        raise ConfigError(what, setting, _("write {example}", example=f"def {name}({first}, …)"))


def _returned(setting: str, factory: Any, made: Any, mend: str) -> ConfigError:
    kind = "None" if made is None else type(made).__name__
    what = _("{name} returned {kind}, which is no {setting}", name=name_of(factory), kind=kind, setting=setting)
    return ConfigError(what, setting, mend)


def step_scheduler(scheduler: Any, record: dict[str, Any]) -> None:
    """Step the scheduler at the end of an epoch; a plateau scheduler sees the metric that fits its mode."""
    if scheduler is None:
        return
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        kind = "loss" if scheduler.mode == "min" else "accuracy"
        scheduler.step(record[f"val_{kind}" if f"val_{kind}" in record else f"train_{kind}"])
        return
    with warnings.catch_warnings():
        # It looks for an optimizer.step() in this process; a run may go on after the last step of an epoch, and in fp16
        # the first steps may all be left out.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        scheduler.step()


def check_optimization(config: Config) -> list[Problem]:
    """Return what is wrong with optimizer and scheduler settings, by trying them on one number per parameter group."""
    least = len(config.layer_wise_lr_config.layer_rates or {}) if config.enable_layer_wise_lr else 1
    found = []
    for groups in range(least, least + 3):  # the model and the loss, unknown yet, decide about "other" and "(loss)"
        found.append(_problems_with(config, max(groups, 1)))
        if not found[-1]:
            return []
    return found[0]


def _problems_with(config: Config, groups: int) -> list[Problem]:
    numbers = [nn.Parameter(torch.zeros(1)) for _group in range(groups)]
    try:
        optimizer = build_optimizer(config, [{"params": [number]} for number in numbers])
        _try_epochs(config, numbers, optimizer, build_scheduler(config, optimizer))
        _require_epochs(config)
    except ConfigError as error:
        return list(error.problems)
    except _ARGUMENT_ERRORS as error:
        name = "scheduler_params" if config.scheduler is not None else "optimizer_params"
        factory = config.scheduler if config.scheduler is not None else config.optimizer
        factory = {**BUILT_IN_OPTIMIZERS, **BUILT_IN_SCHEDULERS}.get(factory, factory)
        problem = _arguments_problem(name, factory, error, skip=("params", "lr", "optimizer"))
        return list((raised_by_user(error) or problem).problems)
    return []


def _try_epochs(config: Config, numbers: Sequence[nn.Parameter], optimizer: Optimizer, scheduler: Any) -> None:
    """Step the optimizer for two epochs, and the scheduler for all: it may end before, or leave what rates can be."""
    closure = parameters(optimizer.step).get("closure")
    needs_closure = closure is not None and closure.default is closure.empty
    if needs_closure and config.train_epoch is None:
        what = _("{name} needs a closure at each step, which a training does not give", name=type(optimizer).__name__)
        raise ConfigError(what, "optimizer", _("choose another optimizer, or write a train_epoch of your own"))
    for epoch in range(1, min(config.epochs, _TRIED_EPOCHS) + 1):
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
            raise ConfigError(
                _("The learning rate of epoch {epoch} would be {rate}", epoch=epoch, rate=wrong[0]),
                "scheduler_params" if config.scheduler is not None else "optimizer",
                _("choose values that keep it finite and ≥ 0"),
            )
        if epoch <= 2 and not needs_closure:
            for number in numbers:
                number.grad = torch.ones(1)
            optimizer.step()
        step_scheduler(scheduler, {"train_loss": 1.0, "train_accuracy": 0.0})


def _require_epochs(config: Config) -> None:
    """Require that the epochs in the arguments of torch's schedulers are some."""
    if config.scheduler not in (*BUILT_IN_SCHEDULERS, *BUILT_IN_SCHEDULERS.values()):
        return
    problems = []
    for name, value in (config.scheduler_params or {}).items():
        epochs = value if isinstance(value, Iterable) else [value]
        if name in _IN_EPOCHS and not all(map(_is_epoch, epochs)):
            what = _("{name} cannot be {value}", name=f"scheduler_params.{name}", value=repr(value))
            problems.append(
                Problem(what, f"scheduler_params.{name}", _("epochs are whole numbers ≥ 1: // divides into such"))
            )
    if problems:
        raise ConfigError(problems=problems)


def _is_epoch(value: Any) -> bool:
    """Tell a whole number, also one that a division has made: 10 / 2 is 5.0."""
    return isinstance(value, Real) and float(value).is_integer() and float(value) >= 1


def _arguments_problem(setting: str, factory: Any, error: Exception, skip: tuple[str, ...]) -> ConfigError:
    names = [name for name in parameters(factory) if name not in (*skip, "last_epoch")]
    reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError | ArithmeticError) else str(error)
    return ConfigError(
        _("{setting} does not fit {name}: {reason}", setting=setting, name=name_of(factory), reason=reason),
        setting,
        _("{name} takes: {names}", name=name_of(factory), names=", ".join(names)),
    )
