"""The handwritten digits as class folders."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pochitrain.data.folder import check_same_classes, scan_folder
from pochitrain.data.leaks import exact_leaks
from pochitrain.data.samples import digits_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("samples") / "data" / "digits")


def test_the_digits_are_stratified_class_folders(root: Path) -> None:
    train, val = scan_folder(root / "train"), scan_folder(root / "val")
    val = check_same_classes(train, val)
    assert train.classes == tuple("0123456789")
    assert (len(train.files), len(val.files)) == (1442, 355)
    in_train, in_val = Counter(train.labels), Counter(val.labels)
    assert all(abs(in_val[label] / (in_val[label] + in_train[label]) - 0.2) < 0.005 for label in range(10))
    assert exact_leaks(train, val) == []
    assert train.files[0] == "0/digit_0001.png"


def test_the_pixels_are_those_of_the_data_set(root: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    for label in (0, 7):
        expected = images[labels == label].reshape(-1, 8, 8)
        for number in range(1, 11):
            split = "val" if number % 5 == 0 else "train"
            with Image.open(root / split / str(label) / f"digit_{number:04}.png") as image:
                assert image.mode == "L"
                assert np.abs(np.asarray(image) - expected[number - 1] * 255 / 16).max() <= 0.5


def test_a_second_call_changes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert digits_folder(root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_two_starts_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    together = Barrier(3)

    def start(_number: int) -> Path:
        together.wait()
        return digits_folder(tmp_path / "digits")

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(start, range(3))) == [tmp_path / "digits"] * 3
    assert os.listdir(tmp_path) == ["digits"]
    assert sum(path.suffix == ".png" for path in (tmp_path / "digits").rglob("*")) == 1797


def test_a_full_disk_leaves_no_half_folder(tmp_path: Path) -> None:
    _soft, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            digits_folder(tmp_path / "digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_exists_needs_no_heavy_library(root: Path) -> None:
    code = (
        "import sys; from pochitrain.data.samples import digits_folder; digits_folder(sys.argv[1]); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert not {"sklearn", "numpy", "torch"} & set(run.stdout.split())
