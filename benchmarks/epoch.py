"""An epoch of training against what the model alone could do, and against a plain PyTorch loop.

    python benchmarks/epoch.py                          # resnet18 at 224 px
    python benchmarks/epoch.py --size 32 --batch 128 --images 4000
    python benchmarks/epoch.py --model resnet50 --images 128 --data photos/train

Five things take turns, epoch by epoch, in one process:
  limit        the same model, batch, precision and memory layout on one batch that is there already
  first epoch  `train_epoch` of the engine with an empty cache
  pochitrain   the same with the cache full
  plain fp32   ImageFolder, DataLoader, the same transforms, fp32: the loop of the tutorials
  plain auto   that loop with autocast and channels_last put in by hand, as ours has them

The plain loops get glibc's memory as it is by itself; the others keep what they free, as a training of ours does.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `import pochitrain` does, for both sides, before torch comes
import torch
from pictures import write_jpegs
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from pochitrain import load_config
from pochitrain.data.cache import memory_store
from pochitrain.data.source import load_data
from pochitrain.engine.loop import train_epoch, train_step
from pochitrain.engine.run import PRECISIONS, build_run

CONFIG = """
from torchvision import transforms
train_data_root, val_data_root = {root!r}, None
model_name, pretrained = {model!r}, False
batch_size, learning_rate, optimizer, epochs, class_weights = {batch}, 0.01, "SGD", 99, "uniform"
precision, num_workers, device = {precision!r}, {workers!r}, {device!r}
train_transform = transforms.Compose({steps})
val_transform = train_transform
"""
END = "transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]"
STEPS = {
    "fixed": "[transforms.Resize(({size}, {size})), " + END,
    "flip": "[transforms.Resize(({size}, {size})), transforms.RandomHorizontalFlip(), " + END,
    "crop": "[transforms.RandomResizedCrop({size}), transforms.RandomHorizontalFlip(), " + END,
}


def plain_loop(
    given: argparse.Namespace, root: Path, steps: str, device: torch.device, precision: str
) -> Callable[[int], None]:
    """Return one epoch of the loop that everybody writes."""
    transform: Any = eval(f"transforms.Compose({steps})", {"transforms": transforms})
    data = datasets.ImageFolder(str(root), transform)
    loader = DataLoader(
        data, batch_size=given.batch, shuffle=True, num_workers=given.plain_workers,
        persistent_workers=given.plain_workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    model = models.get_model(given.model, num_classes=len(data.classes)).to(device).train()
    layout = torch.preserve_format if precision == "fp32" else torch.channels_last
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    dtype = PRECISIONS[precision]

    def epoch(_number: int) -> None:
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=layout)
            labels = labels.to(device, non_blocking=True)
            with nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype):
                loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of class folders; without it 500 × 375 JPEGs are made")
    parser.add_argument("--images", type=int, default=192, help="how many are made")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", choices=STEPS, default="crop")
    parser.add_argument("--workers", type=int, default=None, help="ours; by default it chooses")
    parser.add_argument("--plain-workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        edge = (32, 32) if given.size <= 64 else (500, 375)
        root = given.data or write_jpegs(Path(folder, "images"), given.images, edge)
        compare(given, root, Path(folder))


def compare(given: argparse.Namespace, root: Path, folder: Path) -> None:
    steps = STEPS[given.steps].format(size=given.size)
    path = folder / "config.py"
    path.write_text(
        CONFIG.format(
            root=str(root), model=given.model, batch=given.batch, precision=given.precision, workers=given.workers,
            device=given.device, steps=steps,
        )
    )  # fmt: skip
    config = load_config(path)
    run = build_run(config, load_data(config))
    count, device = len(run.train_loader.samples), run.device
    images = torch.randn(given.batch, 3, given.size, given.size, device=device).contiguous(
        memory_format=torch.channels_last if run.channels_last else torch.contiguous_format
    )  # the loader's own would fill its cache before the first epoch
    labels = torch.randint(len(run.classes), (given.batch,), device=device)
    lengths = [end - first for first, end in run.train_loader.batches.bounds()]

    def limit(_number: int) -> None:
        run.model.train()
        for length in lengths:
            train_step(run, images[:length], labels[:length])

    def first(number: int) -> None:
        run.train_loader.close()
        run.train_loader.samples.keep_in(memory_store(f"empty {number}", 8 << 30))
        ours(number)

    def ours(number: int) -> None:
        run.begin_epoch()
        train_epoch(run, number)

    variants = {
        "limit": limit,
        "first epoch": first,
        "pochitrain": ours,
        "plain fp32": plain_loop(given, root, steps, device, "fp32"),
        f"plain {run.precision}": plain_loop(given, root, steps, device, run.precision),
    }

    def rate(variant: Callable[[int], None], number: int, plain: bool = False) -> float:
        _set_up_memory(plain)
        _warm_up(run, images, labels)
        _wait(device)
        started = time.perf_counter()
        variant(number)
        _wait(device)
        return count / (time.perf_counter() - started)

    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(1, given.rounds + 1):
        for name, variant in variants.items():
            rates[name].append(rate(variant, number, name.startswith("plain")))
    print(f"{given.model}, {given.size} px, batch {given.batch}, {count} images, {device}, {run.precision}")
    for name, found in rates.items():
        ratios = [
            statistics.median(a / b for a, b in zip(one, other, strict=True))
            for one, other in ((found, rates["limit"]), (rates["pochitrain"], found))
        ]
        print(
            f"{name:14} {statistics.median(found):9.1f} images/s   × {ratios[0]:5.3f} of the limit"
            f"   pochitrain × {ratios[1]:5.3f}"
        )
    run.close()


def _warm_up(run: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    run.model.train()
    for _step in range(2):
        train_step(run, images, labels)


def _set_up_memory(plain: bool) -> None:
    """Set glibc's thresholds to those that a plain process arrives at, or to ours; other C libraries have none."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 32 << 20 if plain else 1 << 30)
        libc.mallopt(-1, 64 << 20 if plain else -1)
        libc.malloc_trim(0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
