"""What is not done by default, and why: `torch.compile` and fused optimizers against what is done, on one batch.

    python benchmarks/tricks.py                                  # resnet18, 224 px
    python benchmarks/tricks.py --size 32 --batch 128
    python benchmarks/tricks.py --device cuda --model resnet50

The variants take turns; each number is the median of its turns against the turn of the plain step beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from pochitrain.engine.run import PRECISIONS

STEPS = 10  # in a turn


def step_of(given: argparse.Namespace, optimizer_name: str, *, compiled: bool, fused: bool) -> Callable[[], None]:
    """Return one training step on a batch that is there already."""
    torch.manual_seed(0)
    device = torch.device(given.device)
    model: nn.Module = models.get_model(given.model, num_classes=10).to(device, memory_format=torch.channels_last)
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=0.001, fused=fused)
    run = torch.compile(model) if compiled else model
    images = torch.randn(given.batch, 3, given.size, given.size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(10, (given.batch,), device=device)
    dtype = PRECISIONS[given.precision]

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = functional.cross_entropy(run(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    started = time.perf_counter()
    for _step in range(STEPS):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for optimizer in ("SGD", "AdamW"):
        variants = {
            "as it is": step_of(given, optimizer, compiled=False, fused=False),
            "fused optimizer": step_of(given, optimizer, compiled=False, fused=True),
            "torch.compile": step_of(given, optimizer, compiled=True, fused=False),
        }
        first = {name: seconds(step, given.device) for name, step in variants.items()}
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for _round in range(given.rounds):
            for name, step in variants.items():
                taken[name].append(seconds(step, given.device))
        for name, times in taken.items():
            ratio = statistics.median(base / one for base, one in zip(taken["as it is"], times, strict=True))
            print(f"{optimizer:6} {name:16} {ratio:5.2f} × as fast, the first {STEPS} steps took {first[name]:6.1f} s")


if __name__ == "__main__":
    main()
