"""From the command to the first step, and from the last step back to the prompt.

    python benchmarks/start.py                # scikit-learn's digits, resnet18
    python benchmarks/start.py --rounds 5

Each round starts four processes, one after the other: `pochi --help`; an import of torch and torchvision, which nobody
who trains with them can avoid; the same import with one step of the same training written by hand; `pochi train`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pochitrain import digits_folder

CONFIG = """
import time
from torchvision import transforms
train_data_root, val_data_root = {train!r}, {val!r}
model_name, pretrained, epochs, batch_size = "resnet18", False, 1, 64
enable_metrics_export = {plots}
seed = int({plots})  # pictures do not make another experiment, a seed does
train_transform = val_transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])

def train_epoch(run, epoch):
    from pochitrain.engine.loop import train_step
    for images, labels in run.train_loader.epoch(epoch):
        loss, logits, labels = train_step(run, images, labels)
        print("first step", time.time(), flush=True)
        break
    return {{"train_loss": float(loss), "train_accuracy": 0.0}}

def told(record):
    print("last step", time.time(), flush=True)

observers = [told]
"""
BY_HAND = """
import time, torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
scale = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
model = models.resnet18(num_classes=10).train()
optimizer = torch.optim.Adam(model.parameters())
for images, labels in DataLoader(datasets.ImageFolder({train!r}, scale), batch_size=64, shuffle=True):
    functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    print("first step", time.time())
    break
"""


def run(command: list[str], folder: Path) -> tuple[float, dict[str, float], float]:
    """Return when a process began, what it told with a time, and when it was over."""
    began = time.time()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    ended = time.time()
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith(("first step", "last step"))]
    return began, {name: float(value) for name, value in lines}, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    data, pochi = digits_folder().absolute(), [str(Path(sys.executable).with_name("pochi"))]
    seconds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seconds.setdefault(name, []).append(value)

    for _number in range(given.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for plots in (True, False):
                text = CONFIG.format(train=str(data / "train"), val=str(data / "val"), plots=plots)
                (folder / f"config_{plots}.py").write_text(text)
            began, _told, ended = run([*pochi, "--help"], folder)
            note("pochi --help", ended - began)
            began, _told, ended = run([sys.executable, "-c", "import torch, torchvision"], folder)
            note("import torch, torchvision", ended - began)
            began, told, ended = run([sys.executable, "-c", BY_HAND.format(train=str(data / "train"))], folder)
            note("by hand, to the first step", told["first step"] - began)
            for plots in (True, False):
                began, told, ended = run([*pochi, "train", "-c", f"config_{plots}.py"], folder)
                note("pochi train, to the first step", told["first step"] - began)
                note(
                    f"pochi train, after the last epoch{', with pictures' if plots else ''}", ended - told["last step"]
                )
    print(f"seconds, medians of {given.rounds} rounds on {os.cpu_count()} cores")
    for name, found in seconds.items():
        print(f"{name:48} {statistics.median(found):6.2f}")
    paired = zip(seconds["pochi train, to the first step"][::2], seconds["import torch, torchvision"], strict=True)
    print(f"first step beyond the import: {statistics.median(a - b for a, b in paired):+.2f}")


if __name__ == "__main__":
    main()
