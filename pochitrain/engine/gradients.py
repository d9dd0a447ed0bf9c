"""How large the gradients of the layers are: averaged over an epoch, read once at its end."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pochitrain.config.schema import GradientTracking

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "max": max,
    "rms": lambda norms: statistics.fmean(norm * norm for norm in norms) ** 0.5,
}


class GradientNorms:
    """Sums the L2 norm of each parameter's gradient over the steps of an epoch, on the device.

    Reading the gradients changes nothing in them, so a run with it has the same weights as one without.
    """

    def __init__(self, model: nn.Module, settings: GradientTracking) -> None:
        self.settings = settings
        self.parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not any(re.search(p, name) for p in settings.exclude_patterns)
        }
        device = next(model.parameters()).device
        self.sums = torch.zeros(len(self.parameters), device=device)
        self.steps = torch.zeros((), device=device)

    def wanted(self, epoch: int) -> bool:
        return bool(self.parameters) and (epoch - 1) % self.settings.record_frequency == 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.sums.zero_()
        self.steps.zero_()

    def state(self) -> dict[str, Any]:
        return {"names": list(self.parameters), "sums": self.sums, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an epoch; a sum over other parameters, under other settings, is left out."""
        if state["names"] == list(self.parameters):
            self.sums.copy_(state["sums"])
            self.steps.copy_(state["steps"])

    def add(self) -> None:
        """Add the norms of one step; call it between `backward` and `step`, on unscaled gradients. No sync.

        A step whose gradients overflowed in fp16 does not count: the scaler leaves it out, too.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
        norms = torch.stack(torch._foreach_norm(gradients)).float()
        finite = torch.isfinite(norms).all()
        self.sums += torch.where(finite, norms, 0)
        self.steps += finite

    def record(self) -> dict[str, float]:
        """Return `gradient_norm/<block or parameter>` → mean norm over the steps. One sync."""
        means = dict(zip(self.parameters, (self.sums / self.steps.clamp(min=1)).tolist(), strict=True))
        if not self.settings.group_by_block:
            return {f"gradient_norm/{name}": norm for name, norm in means.items()}
        blocks: dict[str, list[float]] = defaultdict(list)
        for name, norm in means.items():
            blocks[name.partition(".")[0]].append(norm)
        aggregate = AGGREGATIONS[self.settings.aggregation_method]
        return {f"gradient_norm/{block}": float(aggregate(norms)) for block, norms in blocks.items()}
