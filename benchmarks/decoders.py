"""JPEG decoders against each other: pixels that differ, and images per second of one core.

    python benchmarks/decoders.py                      # 500 × 375 and 12 megapixels, made for it
    python benchmarks/decoders.py --data photos/train  # and JPEG files of your own

Pillow is the reference. "ours" is `decode_image` with all its checks; "half size" asks Pillow for the smallest of
libjpeg's scales (1/2, 1/4, 1/8) that is not below 256 pixels, and both sides are compared after Resize(256). The
decoders take turns.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from pictures import files_below, write_jpegs
from PIL import Image
from torchvision import transforms

from pochitrain.data.decode import decode_image

RESIZE = transforms.Resize(256)


def by_pillow(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def by_simplejpeg(path: str) -> Image.Image:
    return Image.fromarray(simplejpeg.decode_jpeg(Path(path).read_bytes()))


def by_torchcodec() -> Callable[[str], Any] | None:
    try:
        from torchcodec.decoders import ImageDecoder  # not in every version
    except ImportError:
        return None
    return lambda path: ImageDecoder(path).decode()


def by_draft(path: str) -> Image.Image:
    image = Image.open(io.BytesIO(Path(path).read_bytes()))
    image.draft("RGB", (256, 256))
    return image.convert("RGB")


def per_second(decode: Callable[[str], Any], files: list[str]) -> float:
    started = time.process_time()  # of one core: what others do on the machine does not count
    for path in files:
        decode(path)
    return len(files) / (time.process_time() - started)


def difference(decode: Callable[[str], Any], files: list[str], then: Callable[[Any], Any]) -> str:
    """Return in how many files the pixels are not Pillow's, and by how much."""
    gaps = [
        np.abs(np.asarray(then(decode(path))).astype(np.int16) - np.asarray(then(by_pillow(path)))) for path in files
    ]
    unequal = sum(bool(gap.any()) for gap in gaps)
    mean, worst = statistics.fmean(gap.mean() for gap in gaps), max(int(gap.max()) for gap in gaps)
    return f"{unequal} of {len(files)} differ, by {mean:.2f} levels in the mean, {worst} at most"


def compare(title: str, files: list[str], rounds: int) -> None:
    decoders: dict[str, Callable[[str], Any]] = {
        "Pillow": by_pillow, "ours": decode_image, "simplejpeg": by_simplejpeg, "half size": by_draft
    }  # fmt: skip
    if (torchcodec := by_torchcodec()) is not None:
        decoders["torchcodec"] = torchcodec
    speeds: dict[str, list[float]] = {name: [] for name in decoders}
    for turn in range(rounds + 1):
        for name, decode in decoders.items():
            speed = per_second(decode, files)
            if turn:  # the first turn warms up
                speeds[name].append(speed)
    print(f"{title}, {len(files)} files")
    for name, decode in decoders.items():
        ratio = statistics.median(one / other for one, other in zip(speeds[name], speeds["Pillow"], strict=True))
        gap = "" if name in ("Pillow", "torchcodec") else difference(
            decode, files[:150], RESIZE if name == "half size" else np.asarray
        )  # fmt: skip
        print(f"  {name:11} {statistics.median(speeds[name]):7.0f} images/s  {ratio:5.2f} ×  {gap}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, help="a folder with JPEG files of your own")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    if given.data is not None:
        own = [path for path in files_below(given.data) if path.lower().endswith((".jpg", ".jpeg"))]
        compare(str(given.data), own, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for size, count in (((500, 375), 100), ((4000, 3000), 6)):
            files = files_below(write_jpegs(Path(folder, str(size[0])), count, size))
            compare(f"{size[0]} × {size[1]}", files, given.rounds)


if __name__ == "__main__":
    main()
