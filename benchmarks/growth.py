"""What 100 000 images cost that 1 000 do not: start-up, memory, the end of an epoch.

    python benchmarks/growth.py                       # 1 000, 10 000 and 100 000 files of 32 px
    python benchmarks/growth.py --counts 1000 20000 --size 500

Each count is one `pochi train` of two epochs in a process of its own, beside a plain loop over the same files. Three
steps of each epoch train, the other batches are only read, so that the cache fills up. It lies in memory that no
process calls its own: its size stands beside the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pictures import write_jpegs

CONFIG = """
import time
from torchvision import transforms
train_data_root, val_data_root = {root!r}, None
model_name, pretrained, epochs, batch_size, num_workers = "resnet18", False, 2, 32, 0
cache_gb = {cache_gb}
train_transform = val_transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])

def train_epoch(run, epoch):
    from pochitrain.engine.loop import train_step
    for step, (images, labels) in enumerate(run.train_loader.epoch(epoch)):
        if step < 3:
            loss, logits, labels = train_step(run, images, labels)
        if step == 0:
            print("first step", time.time(), flush=True)
    print("cache", run.train_loader.samples.store.file_bytes() / 1e6, flush=True)
    print("epoch", time.time(), flush=True)
    return {{"train_loss": float(loss), "train_accuracy": 0.0}}

def told(record):
    print("told", time.time(), flush=True)

observers = [told]
"""
PLAIN = """
import time, torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms
scale = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
model = models.resnet18(num_classes=2).train()
optimizer = torch.optim.Adam(model.parameters())
loader = DataLoader(datasets.ImageFolder({root!r}, scale), batch_size=32, shuffle=True)
for epoch in range(2):
    for step, (images, labels) in enumerate(loader):
        if step < 3:
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if step == 0 and epoch == 0:
            print("first step", time.time(), flush=True)
"""
WATCHED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([done.returncode, done.stdout, done.stderr[-2000:], peak]))
"""


def watched(command: list[str], folder: Path) -> tuple[float, dict[str, list[float]], float]:
    """Return when a command began, what it told with times, and its peak of memory in MB."""
    began = time.time()
    done = subprocess.run([sys.executable, "-c", WATCHED, *command], cwd=folder, capture_output=True, text=True)
    code, said, complaint, peak = json.loads(done.stdout)
    assert code == 0, complaint
    told: dict[str, list[float]] = {}
    for line in said.splitlines():
        name, _space, value = line.rpartition(" ")
        if name in ("first step", "cache", "epoch", "told"):
            told.setdefault(name, []).append(float(value))
    return began, told, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--size", type=int, default=32, help="width of the files in pixels")
    parser.add_argument("--cache-gb", type=float, default=0.2)
    given = parser.parse_args()
    pochi = str(Path(sys.executable).with_name("pochi"))
    print(f"{'files':>9} {'first step':>11} {'plain':>7} {'epoch end':>10} {'peak MB':>9} {'cache MB':>9} {'plain':>7}")
    for count in given.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = str(write_jpegs(folder / "images", count, (given.size, given.size * 3 // 4)))
            (folder / "config.py").write_text(CONFIG.format(root=root, cache_gb=given.cache_gb))
            plain_began, plain, plain_peak = watched([sys.executable, "-c", PLAIN.format(root=root)], folder)
            began, told, peak = watched([pochi, "train", "-c", "config.py"], folder)
            end = told["told"][0] - told["epoch"][0]
            print(
                f"{count:9,} {told['first step'][0] - began:9.1f} s {plain['first step'][0] - plain_began:5.1f} s"
                f" {end:8.2f} s {peak:9.0f} {told['cache'][-1]:9.0f} {plain_peak:7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
