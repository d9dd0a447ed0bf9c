"""Image files for the benchmarks: soft pictures, which cost a decoder what photographs cost."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image


def write_jpegs(root: Path, count: int, size: tuple[int, int], classes: int = 2) -> Path:
    """Write `count` different JPEG files of (width, height) into class folders; return the root.

    One picture is encoded for every 50 files; a comment makes each file one of its own.
    """
    different = [_jpeg(number, size) for number in range(min(50, count))]

    def write(number: int) -> None:
        data = different[number % len(different)]
        comment = b"%08d" % number  # JPEG's comment segment: marker, length, text
        folder = root / f"class{number % classes}"
        (folder / f"{number:06}.jpg").write_bytes(data[:2] + b"\xff\xfe\x00\x0a" + comment + data[2:])

    for number in range(classes):
        (root / f"class{number}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
    return root


def _jpeg(number: int, size: tuple[int, int]) -> bytes:
    random = np.random.default_rng(number)
    patches = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 6, (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(patches) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def files_below(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*") if path.is_file())
