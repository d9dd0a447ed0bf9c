"""The data path alone, in images per second of one core: ours in its first and later epochs, and ImageFolder.

    python benchmarks/data_path.py                     # 32 px, 500 × 375 and 12-megapixel JPEGs, made for it
    python benchmarks/data_path.py --data photos/train # and images of your own

Both sides apply the same transforms in one thread, without loading processes, and keep the memory that they free, as a
training of ours does; epochs alternate between them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pictures import files_below, write_jpegs
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from pochitrain.data.cache import memory_store
from pochitrain.data.loaders import Loader
from pochitrain.data.reading import Samples
from pochitrain.engine.memory import keep_freed_memory

END = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
VAL = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *END])
CROP = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *END])
CROP_V2 = v2.Compose(
    [
        v2.ToImage(), v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)  # fmt: skip
RESIZED = transforms.Compose(
    [transforms.Resize(256), transforms.RandomCrop(224), transforms.RandomHorizontalFlip(), *END]
)
SMALL_VAL = transforms.Compose(END)
SMALL = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *END])


def per_second(batches: Iterator[Any]) -> float:
    started, count = time.process_time(), 0  # of one core: what others do on the machine does not count
    for _images, labels in batches:
        count += len(labels)
    return count / (time.process_time() - started)


def ours(files: list[str], transform: Callable[[Any], Any], purpose: str, store: str) -> Loader:
    samples = Samples(files, [0] * len(files), transform, 1, purpose)
    samples.confirm_plan((0,), torch.device("cpu"))
    samples.keep_in(memory_store(store, 8 << 30))
    return Loader(
        samples, batch_size=32, shuffle=purpose == "augment", workers=0, device=torch.device("cpu"), channels_last=True,
        pin_memory=False, timeout_seconds=100, skip_failures=False, ahead=0,
    )  # fmt: skip


def measure(title: str, root: Path, transform: Callable[[Any], Any], purpose: str, rounds: int) -> None:
    loader = ours(files_below(root), transform, purpose, title)
    plain = DataLoader(datasets.ImageFolder(str(root), transform), batch_size=32, shuffle=purpose == "augment")
    first, later, theirs = per_second(loader.epoch(1)), [], []
    for epoch in range(2, rounds + 2):
        theirs.append(per_second(iter(plain)))
        later.append(per_second(loader.epoch(epoch)))
    base = statistics.median(theirs)
    ratios = [a / b for a, b in zip(later, theirs, strict=True)]
    print(
        f"{title:40} {base:9,.0f} {first:9,.0f} {statistics.median(later):9,.0f}"
        f"   first × {first / base:4.2f}   later × {statistics.median(ratios):5.1f}",
        flush=True,
    )
    loader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of class folders")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{'images/s':40} {'plain':>9} {'1st epoch':>9} {'later':>9}")
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            "32 px": (write_jpegs(Path(folder, "small"), 2000, (32, 32)), SMALL_VAL, SMALL),
            "500 × 375": (write_jpegs(Path(folder, "middle"), 160, (500, 375)), VAL, CROP),
            "4000 × 3000": (write_jpegs(Path(folder, "large"), 32, (4000, 3000)), VAL, CROP),
        }
        if given.data:
            sets[str(given.data)] = (given.data, VAL, CROP)
        for name, (root, val, train) in sets.items():
            measure(f"{name}, validation", root, val, "val", given.rounds)
            measure(f"{name}, random crop and flip", root, train, "augment", given.rounds)
            if train is CROP:
                measure(f"{name}, Resize before them", root, RESIZED, "augment", given.rounds)
                measure(f"{name}, random crop and flip, v2", root, CROP_V2, "augment", given.rounds)


if __name__ == "__main__":
    main()
