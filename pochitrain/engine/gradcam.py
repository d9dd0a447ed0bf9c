"""Where a model looked: Grad-CAM, Selvaraju et al., "Visual Explanations from Deep Networks" (ICCV 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ENOUGH = 16  # pixels of a feature map, 4 × 4


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor | None:
    """Return what speaks for class `targets[i]` in image i: (N, H, W) on the CPU, 0 to 1 in each image.

    The map that is weighed is the last output of any module after a convolution that still has height and width, of at
    least 16 pixels if there is one. A model that works on tokens after its convolutions, or has none, has no such map:
    None.

    Costs one forward and one backward pass in fp32. Changes nothing in the model: no gradient, mode or statistic.

    Args:
        images: (N, 3, H, W) on the model's device. targets: (N,) class indices on the same device.
    """
    seen = _LastMap()
    hooks = [module.register_forward_hook(seen) for module in model.modules()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # The first clones because a caller may be in inference mode; an input that needs a gradient makes a graph
            # even where every weight is frozen; the second clone because a model may change its input in place.
            logits = model(images.clone().requires_grad_().clone())
            score = logits.gather(1, targets.clone().unsqueeze(1)).sum()
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    maps = seen.output
    if maps is None or maps.ndim != 4 or not (maps.requires_grad and score.requires_grad):
        return None
    (gradient,) = torch.autograd.grad(score, maps, allow_unused=True)
    if gradient is None:
        return None
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = functional.relu((weights * maps.detach()).sum(dim=1, keepdim=True))
    heat = functional.interpolate(heat, size=images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)).float().cpu()


class _LastMap:
    """A forward hook that keeps the latest output with an extent: pixels (N, C, h, w) or tokens (N, T, C).

    Small images leave so few pixels at the end of a deep model that they say nothing of places: then the latest output
    with enough of them.
    """

    def __init__(self) -> None:
        self.output: Tensor | None = None
        self.convolved = self.enough = False

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self.convolved |= isinstance(module, nn.Conv2d)
        if not (self.convolved and isinstance(output, Tensor)):
            return
        extent = (output.shape[2:] if output.ndim == 4 else output.shape[1:-1]).numel()
        if output.ndim >= 3 and extent > 1 and (extent >= ENOUGH or not self.enough):
            self.output = output
            self.enough |= extent >= ENOUGH
