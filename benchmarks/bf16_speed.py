"""A training step in bf16 against one in fp32, model by model: where `precision = "auto"` should choose which.

    python benchmarks/bf16_speed.py                                 # small and large models at 224 px
    python benchmarks/bf16_speed.py mobilenet_v3_small resnet18 --size 32 --batch 128

The steps take turns. Beside the ratio stands how many products the model computes for each value that comes out of its
convolutions and matrix products, which is what the choice is made by on processors.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from pochitrain.engine.checks import check_outputs, slow_in_bf16
from pochitrain.engine.memory import keep_freed_memory
from pochitrain.engine.run import PRECISIONS

MODELS = (
    "mnasnet0_5", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0",
    "efficientnet_b0", "efficientnet_b3", "shufflenet_v2_x1_0", "regnet_y_400mf", "squeezenet1_1", "regnet_x_400mf",
    "shufflenet_v2_x2_0", "maxvit_t", "efficientnet_v2_s", "convnext_tiny", "swin_t", "densenet121", "resnet18",
    "vit_b_16",
)  # fmt: skip


def seconds(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, precision: str) -> float:
    labels, dtype = torch.zeros(len(images), dtype=torch.int64), PRECISIONS[precision]
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        loss = functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_freed_memory()
    print(f"{'model':20} {'products / value':>16} {'fp32 ms':>9} {'bf16 is':>9}   chosen")
    for name in given.models:
        torch.manual_seed(0)
        model = models.get_model(name, num_classes=10).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        images = torch.randn(given.batch, 3, given.size, given.size).contiguous(memory_format=torch.channels_last)
        work = check_outputs(model, images[:1], 10)
        turns = [
            [seconds(model, optimizer, images, kind) for kind in ("fp32", "bf16")] for _ in range(given.rounds + 1)
        ]
        fp32, ratio = (statistics.median(found) for found in zip(*((a, a / b) for a, b in turns[1:]), strict=True))
        chosen = "fp32" if slow_in_bf16(work) else "bf16"
        print(f"{name:20} {work.products / work.values:16.0f} {fp32 * 1e3:9.0f} {ratio:7.2f} x   {chosen}", flush=True)


if __name__ == "__main__":
    main()
