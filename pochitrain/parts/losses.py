"""The loss and the weights of the classes."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from pochitrain.config.inject import call_part, name_of, named_values, part_values
from pochitrain.config.mistakes import class_weights_problem
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError
from pochitrain.locale import _
from pochitrain.parts.copies import NOT_COPYABLE, own_copy

LossFn = Callable[[Tensor, Tensor], Tensor]


def resolve_class_weights(config: Config, counts: Sequence[int]) -> list[float]:
    """Return one weight per class: as given, all ones, or balanced, N / (K · n_c).

    The balanced weights are those of scikit-learn's `compute_class_weight("balanced")` (King and Zeng 2001).

    Args:
        counts: training images per class; 0 only where nothing is to be balanced.

    Raises:
        ConfigError: a list of another length than there are classes, or a class that no weight can balance.
    """
    given = config.class_weights
    if given == "uniform":
        return [1.0] * len(counts)
    if given is None:
        if empty := [str(label) for label, count in enumerate(counts) if count == 0]:
            raise ConfigError(
                _("Classes without a training image cannot be balanced: {labels}", labels=", ".join(empty)),
                "class_weights",
                _('set class_weights = "uniform" or a list, or add images of them'),
            )
        total = sum(counts)
        return [total / (len(counts) * count) for count in counts]
    if len(given) != len(counts):
        raise ConfigError(problems=[class_weights_problem(len(given), len(counts))])
    return [float(weight) for weight in given]


def loss_to_try(config: Config, loss_fn: LossFn, weights: Sequence[float], device: torch.device) -> LossFn:
    """Return a loss like `loss_fn`, which may change when it is called: a copy, or one that is made as it was."""
    try:
        return copy.deepcopy(loss_fn)
    except NOT_COPYABLE:  # it holds an open file, or a tensor that follows from its parameters
        return build_loss(config, weights, device)


def build_loss(config: Config, weights: Sequence[float], device: torch.device) -> LossFn:
    """Return loss(logits (N, K), labels (N,)) → scalar, the (weighted) mean over the batch.

    A user's class becomes an object once, and an object is copied; a user's function is the loss itself and gets the
    settings that it names after `logits` and `labels` at every call. `class_weights` is a float tensor (K,) on the
    device.

    Raises:
        ConfigError: the user's loss needs a value that no setting gives, or is an object that cannot be copied.
    """
    tensor = torch.tensor(list(weights), dtype=torch.float32, device=device)
    if config.loss is None:
        # Ones change nothing but the time: without them torch takes its shorter path.
        return cross_entropy(None if all(weight == 1 for weight in weights) else tensor)
    own = own_copy("loss", config.loss)
    if isinstance(own, nn.Module):
        return own.to(device)
    values = part_values(config, class_weights=tensor, weight=tensor, num_classes=len(weights))
    if isinstance(own, type) or (isinstance(own, functools.partial) and isinstance(own.func, type)):
        loss = call_part("loss", own, values)
        return loss.to(device) if isinstance(loss, nn.Module) else loss
    named = named_values(own, values, positional=2)
    try:
        inspect.signature(own).bind(None, None, **named)
    except TypeError as error:
        raise ConfigError(
            _("{name} cannot be called as loss(logits, labels): {reason}", name=name_of(own), reason=error),
            "loss",
            _("define what is missing in the config file, or give the parameter a default"),
        ) from error
    except ValueError:  # a builtin without a signature
        pass
    return functools.partial(own, **named) if named else own


def load_loss(loss_fn: LossFn, state: Mapping[str, Any] | None, device: torch.device) -> None:
    """Put the state of a loss that is a module back, with the buffers that it has made while it was called.

    Args:
        state: None from a checkpoint that was written when losses were not kept.

    Raises:
        ConfigError: it is not the state of such a loss.
    """
    if not isinstance(loss_fn, nn.Module):
        return
    if state is None:
        if loss_fn.state_dict() and type(loss_fn).__module__ != nn.CrossEntropyLoss.__module__:  # torch's learn nothing
            raise _lost(_("The checkpoint was written when the state of a loss was not kept"))
        return
    _match_buffers(loss_fn, state, device)
    try:
        loss_fn.load_state_dict(state)
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise _lost(_("The checkpoint does not fit the loss: {reason}", reason=error)) from error


def _lost(what: str) -> ConfigError:
    return ConfigError(what, "loss", _("begin again with --restart (this folder is kept aside)"))


def _match_buffers(loss_fn: nn.Module, state: Mapping[str, Any], device: torch.device) -> None:
    """Make the buffers in `state` that the loss has not, or in another shape; None become those that it gave up."""
    modules, fresh = dict(loss_fn.named_modules()), loss_fn.state_dict()
    for name in dict.fromkeys((*state, *fresh)):
        path, _dot, leaf = name.rpartition(".")
        owner, value, there = modules.get(path), state.get(name), fresh.get(name)
        if owner is None or (leaf not in owner._buffers and (there is not None or hasattr(owner, leaf))):
            continue  # a parameter, or something that the loss saves in a way of its own
        if value is None:
            owner._buffers[leaf] = None
        elif isinstance(value, Tensor) and (there is None or is_lazy(there) or _kind(there) != _kind(value)):
            owner.register_buffer(leaf, torch.empty_like(value, device=device))


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def cross_entropy(weight: Tensor | None) -> LossFn:
    """Return the cross entropy, weighted; a batch of which every class has weight 0 has loss 0 and not 0 / 0."""
    if weight is None or bool(weight.all()):
        return nn.CrossEntropyLoss(weight=weight)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        total = weight[labels].sum()
        return F.cross_entropy(logits, labels, weight=weight, reduction="sum") / torch.where(total > 0, total, 1)

    return loss
