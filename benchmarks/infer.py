"""How fast `pochi infer` judges images, against a plain PyTorch evaluation loop and against batch size 1.

    python benchmarks/infer.py                                # trains the shipped config for two epochs first
    python benchmarks/infer.py 34bc9cec                       # an experiment, on its validation data
    python benchmarks/infer.py 34bc9cec --data photos/val     # on other class folders

Every variant judges the same images with the same weights and the same transform, from the folder to the predicted
classes: finding the files and decoding are included. The variants run in turn, round after round, so that a busy moment
meets all of them; ratios are those of medians. The first round warms up and does not count. At the end stands how many
answers differ from those of the plain loop in fp32.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torchvision import datasets

from pochitrain import load_config, train
from pochitrain.sinks.console import Log
from pochitrain.tasks.judge import Judge

SHIPPED = Path(__file__).parents[1] / "configs" / "pochi_train_config.py"
Answers = NDArray[np.int64]


def plain_loop(judge: Judge, model: torch.nn.Module, root: str, workers: int) -> Answers:
    """The loop of the tutorials, in fp32: ImageFolder, DataLoader, no_grad."""
    dataset = datasets.ImageFolder(root, judge.loaded.transform)
    loader = DataLoader(
        dataset, batch_size=judge.batch_size, num_workers=workers, pin_memory=judge.device.type == "cuda"
    )
    predicted = []
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(judge.device), labels.to(judge.device)
            answers = model(images).argmax(1)
            correct += int((answers == labels).sum())
            predicted.append(answers)
    return torch.cat(predicted).cpu().numpy()


def variants(judge: Judge, root: str, workers: int) -> dict[str, Callable[[], Answers]]:
    plain = copy.deepcopy(judge.loaded.model).to(judge.device).eval()
    single = replace(judge, batch_size=1)

    def infer(judge: Judge, precision: str) -> Answers:
        return judge.answers(judge.pick([root]), precision=precision).predicted

    found = {
        "plain loop, fp32": lambda: plain_loop(judge, plain, root, 0),
        f"plain loop, fp32, {workers} workers": lambda: plain_loop(judge, plain, root, workers),
        "pochi infer, fp32": lambda: infer(judge, "fp32"),
        f"pochi infer, {judge.precision}": lambda: infer(judge, judge.precision),
        f"pochi infer, {judge.precision}, batch size 1": lambda: infer(single, judge.precision),
    }
    return found


def shipped_experiment(scratch: Path) -> str:
    """Train the shipped config for two epochs; return the folder of the experiment."""
    return str(train(load_config(SHIPPED, {"epochs": 2, "work_dir": str(scratch)})).experiment.dir)


def measure(chosen: dict[str, Callable[[], Answers]], rounds: int) -> tuple[dict[str, float], dict[str, Answers]]:
    """Return the median seconds and the answers of each variant."""
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    answers: dict[str, Answers] = {}
    for _round in range(rounds + 1):
        for name, variant in chosen.items():
            started = time.perf_counter()
            answers[name] = variant()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", help="the beginning of an id, a folder, or a .pt file")
    parser.add_argument("--data", help="class folders; by default the validation folder of the experiment")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs"))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of the second plain loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        name = arguments.experiment or shipped_experiment(Path(scratch))
        judge = Judge.of(arguments.work_dir, name, None, arguments.batch_size, Log(quiet=True))
        root = arguments.data or str(judge.loaded.config.val_data_root)
        chosen = variants(judge, root, arguments.workers)
        medians, answers = measure(chosen, arguments.rounds)
    first = next(iter(chosen))
    count = len(answers[first])
    threads = torch.get_num_threads()
    print(f"{count} images, {judge.loaded.name}, batch size {judge.batch_size}, {judge.device}, {threads} threads")
    for name, median in medians.items():
        differ = int((answers[name] != answers[first]).sum())
        print(f"{name:36} {count / median:8.1f} images/s   x {medians[first] / median:5.2f}   {differ} answers differ")


if __name__ == "__main__":
    main()
