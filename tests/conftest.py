"""Small real things for every test: folders of 8×8 PNG files, a config with a tiny model, the real command line."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# On images of 8 × 8 pixels two threads mostly wait for each other, and so do the tests of two processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_CACHE = tempfile.TemporaryDirectory(prefix="pochitrain-tests-")  # removed with the process
os.environ["POCHI_CACHE_DIR"] = _CACHE.name


def pytest_unconfigure() -> None:
    gc.unfreeze()  # commands that ran in this process have set the libraries apart, which now end with it


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes test: one more than there are cores, because many tests wait for disk and processes."""
    return (os.cpu_count() or 1) + 1


TINY = """
import torch
from torch import nn
from torchvision import transforms

train_data_root = {train!r}
val_data_root = {val!r}
work_dir = {work_dir!r}
task = "tiny"
batch_size = 4
epochs = 2
learning_rate = 0.01
precision = "fp32"
device = "cpu"

def model(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )

train_transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
val_transform = transforms.ToTensor()
"""


def make_images(root: Path, classes: dict[str, int], size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """Write `classes` (name → number of images) as PNG folders; the class shows in the brightness of one channel."""
    random = np.random.default_rng(seed)
    for label, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """English, no colours, and a machine whose locale does not matter."""
    monkeypatch.setenv("POCHI_LANG", "en")
    monkeypatch.setenv("NO_COLOR", "1")
    return


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `train` (10 + 7 + 6 images of three classes) and `val` (3 each). Leave the images alone."""
    root = tmp_path_factory.mktemp("images")
    make_images(root / "train", {"ant": 10, "bee": 7, "cat": 6})
    make_images(root / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
    return root


@pytest.fixture
def write_config(tmp_path: Path, images: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny config: `write_config("epochs = 3", name="mine.py")` appends lines to it."""

    def write(lines: str = "", *, name: str = "tiny_config.py", data: Path = images) -> Path:
        text = TINY.format(train=str(data / "train"), val=str(data / "val"), work_dir=str(tmp_path / "work_dirs"))
        path = tmp_path / name
        path.write_text(text + lines + "\n", encoding="utf-8")
        return path

    return write


def pochi(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "pochitrain", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        check=False,
    )
