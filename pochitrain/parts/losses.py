"""The loss and the weights of the classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pochitrain.config.inject import call_part, name_of, named_values, part_values
from pochitrain.config.mistakes import class_weights_problem
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError
from pochitrain.locale import _

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


def build_loss(config: Config, weights: Sequence[float], device: torch.device) -> LossFn:
    """Return loss(logits (N, K), labels (N,)) → scalar, the (weighted) mean over the batch.

    A user's class (or module) becomes an object once; a user's function is the loss itself and gets the settings that
    it names after `logits` and `labels` at every call. `class_weights` is a float tensor (K,) on the device.

    Raises:
        ConfigError: the user's loss needs a value that no setting gives.
    """
    tensor = torch.tensor(list(weights), dtype=torch.float32, device=device)
    own = config.loss
    if own is None:
        # Ones change nothing but the time: without them torch takes its shorter path.
        return cross_entropy(None if all(weight == 1 for weight in weights) else tensor)
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


def cross_entropy(weight: Tensor | None) -> LossFn:
    """Return the cross entropy, weighted; a batch of which every class has weight 0 has loss 0 and not 0 / 0."""
    if weight is None or bool(weight.all()):
        return nn.CrossEntropyLoss(weight=weight)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        total = weight[labels].sum()
        return F.cross_entropy(logits, labels, weight=weight, reduction="sum") / torch.where(total > 0, total, 1)

    return loss
