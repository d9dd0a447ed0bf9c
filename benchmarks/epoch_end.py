"""What the end of an epoch costs the training: checkpoint, CSV and the copy of the best weights, against its steps.
Also what the pictures cost, which are drawn once, at the end of the training.

    python benchmarks/epoch_end.py                               # ResNet-18, 128 images of 224 pixels in an epoch
    python benchmarks/epoch_end.py --images 1000 --size 32 --dir /mnt/slow

One run of `train`, in which every second epoch ends as always, with a checkpoint, the CSV and a new `best.pt` (as if
each epoch were the best), and every other one writes nothing: a busy moment meets both kinds. Timed are what the
training waits for at the end of an epoch, the writing beside the next one, and how much slower that one is.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision import transforms

import pochitrain.tasks.train as training
from pochitrain.config.schema import Config
from pochitrain.data.source import Data, Split
from pochitrain.engine.checkpoint import Checkpoints
from pochitrain.sinks.console import Log
from pochitrain.tasks.outputs import Outputs


class Noise:
    """Images that cost nothing to read."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.images = count, torch.randn(8, 3, size, size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index % 8], index % 10


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - started)

    return call


def measure(model: str, images: int, size: int, epochs: int, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of: an epoch's end, the writing, an epoch beside it, an epoch alone, and the pictures."""
    ends: list[float] = []
    writes: list[float] = []
    pictures: list[float] = []
    real_fit = training.fit

    def fit(*arguments: Any, save: Callable[..., None], **named: Any) -> Any:
        save = timed(save, ends)
        return real_fit(*arguments, save=lambda epoch, history: save(epoch, history) if epoch % 2 else None, **named)

    training.fit = fit
    training.best_epoch = lambda history, monitor: len(history)
    Checkpoints._write = timed(Checkpoints._write, writes)  # type: ignore[method-assign]
    Outputs.draw = timed(Outputs.draw, pictures)  # type: ignore[method-assign]
    config = Config(
        model_name=model,
        pretrained=False,
        train_transform=transforms.ToTensor(),
        val_transform=transforms.ToTensor(),
        epochs=epochs,
        work_dir=str(folder),
        checkpoint_every_minutes=None,
        log_level="warning",
    )
    splits = [Split(Noise(count, size), None) for count in (images, max(images // 8, 10))]
    data = Data(tuple("0123456789"), (max(images // 10, 1),) * 10, *splits)
    history = training.train(config, data=data, log=Log(quiet=True)).history
    seconds = [record["seconds"] for record in history]
    beside, alone = seconds[3::2], seconds[2::2]  # the first two warm up
    return {"end": ends, "write": writes, "beside": beside, "alone": alone, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--dir", type=Path, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        found = measure(options.model, options.images, options.size, options.epochs, Path(folder))
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    for name, words in (
        ("alone", "an epoch with nothing written beside it"),
        ("beside", "an epoch beside the writing"),
        ("write", "checkpoint, best.pt and CSV, written beside it"),
        ("end", "the training waits at the end of an epoch"),
        ("pictures", "all pictures, once, at the end of the training"),
    ):
        low, high = 1000 * min(found[name]), 1000 * max(found[name])
        print(f"{1000 * middle[name]:9.1f} ms  {words} (median of {len(found[name])}; {low:.1f} to {high:.1f})")
    print(f"{100 * middle['end'] / middle['alone']:9.2f} %   of an epoch is waiting at its end")
    print(f"{middle['beside'] / middle['alone']:9.3f}     epoch beside the writing / epoch alone")


if __name__ == "__main__":
    main()
