"""What a search costs beside its trainings, and what pruning and parallel trials bring.

    python benchmarks/optimize.py                               # scikit-learn's digits at 32 pixels
    python benchmarks/optimize.py --data cifar10-mini --trials 4 --studies 8

First, trials of two epochs: what lies between the end of one trial and the end of the next, against the time that the
loop itself took for its epochs. What is left over is everything else: suggestion, building model and loaders, saving,
files and pages of the study. Second, the same study in turn: sequential and unpruned, pruned, two trials at a time.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pochitrain import digits_folder, load_config, optimize
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.optimize import Searched

CONFIG = """
from torchvision import transforms
train_data_root, val_data_root = {train!r}, {val!r}
work_dir = {work_dir!r}
model_name, pretrained = {model!r}, False
batch_size, learning_rate, optimizer = 64, 0.001, "AdamW"
scheduler, scheduler_params = "ExponentialLR", {{"gamma": 0.9}}
scale = transforms.Resize(({size}, {size}))
train_transform = transforms.Compose([scale, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
val_transform = transforms.Compose([scale, transforms.ToTensor()])
optuna = {{"search_space": {{
    "learning_rate": {{"type": "float", "low": 1e-5, "high": 1e-1, "log": True}},
    "scheduler_gamma": {{"type": "float", "low": 0.3, "high": 1.0}},
    "optimizer": {{"type": "categorical", "choices": ["SGD", "Adam", "AdamW"]}},
}}}}
"""


class Clock(Log):
    """Notes when the search began, with its processes ready, and when each trial ended."""

    def __init__(self) -> None:
        super().__init__("warning")
        self.begun: float | None = None
        self.ends: list[float] = []

    def info(self, text: str = "") -> None:
        self.begun = self.begun or time.perf_counter()
        if text.startswith(_("trial {number}", number="")):
            self.ends.append(time.perf_counter())


def search(path: Path, **optuna: Any) -> tuple[Searched, float, list[float]]:
    """Return a search, its seconds from the first suggestion to the last end, and when each trial ended."""
    clock = Clock()
    overrides = {f"optuna.{name}": value for name, value in {"sampler": "RandomSampler", **optuna}.items()}
    found = optimize(load_config(path, overrides), log=clock)
    assert clock.begun is not None
    return found, clock.ends[-1] - clock.begun, clock.ends


def epoch_seconds(folder: str) -> float:
    with (Path(folder) / "metrics.csv").open(encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def overhead(path: Path, trials: int) -> None:
    found, _seconds, ends = search(path, n_trials=trials + 1, optuna_epochs=2, pruner=None)
    shares = []
    for row, begun, ended in zip(found.rows[1:], ends, ends[1:], strict=False):  # the first one warms up
        whole, training = ended - begun, epoch_seconds(row.folder)
        shares.append(1 - training / whole)
        print(f"trial {row.number}: {whole:6.2f} s, of which epochs {training:6.2f} s, else {whole - training:5.2f} s")
    print(f"beside its epochs a trial costs {100 * statistics.median(shares):.1f} % (median of {len(shares)})")


def compare(path: Path, trials: int, epochs: int, rounds: int) -> None:
    ways: dict[str, dict[str, Any]] = {
        "sequential, unpruned": {"pruner": None},
        "sequential, MedianPruner": {"pruner": "MedianPruner"},
        "two at a time, unpruned": {"pruner": None, "n_jobs": 2},
        "two at a time, MedianPruner": {"pruner": "MedianPruner", "n_jobs": 2},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    best: dict[str, float] = {}
    for _round in range(rounds):
        for name, way in ways.items():
            found, taken, _ends = search(path, n_trials=trials, optuna_epochs=epochs, **way)
            seconds[name].append(taken)
            assert found.best is not None
            assert found.best.values is not None
            best[name] = found.best.values[0]
    first = statistics.median(next(iter(seconds.values())))
    for name, own in seconds.items():
        median = statistics.median(own)
        print(f"{name:28} {median:7.1f} s   x {first / median:.2f}   best val_accuracy {best[name]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train and val")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--trials", type=int, default=4, help="of two epochs, for what a search costs; 0: none")
    parser.add_argument("--studies", type=int, default=12, help="trials of each of the studies; 0: none")
    parser.add_argument("--epochs", type=int, default=4, help="of a trial of the studies")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.data.resolve() if arguments.data else digits_folder(Path(scratch, "digits"))
        path = Path(scratch, "benchmark_config.py")
        places = {"train": str(root / "train"), "val": str(root / "val"), "work_dir": str(Path(scratch, "work_dirs"))}
        path.write_text(CONFIG.format(**places, model=arguments.model, size=arguments.size), encoding="utf-8")
        if arguments.trials:
            overhead(path, arguments.trials)
        if arguments.studies:
            compare(path, arguments.studies, arguments.epochs, arguments.rounds)


if __name__ == "__main__":
    main()
