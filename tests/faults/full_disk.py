"""A real disk that is full, or a folder that can no longer be written, in mid-training; then the same command again.

    python -m tests.faults.full_disk    # as root: it mounts 4 MB of memory as a disk, and needs chattr

Prints a line for each number of bytes that were left free; the exit code is the number of lines that are wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import TINY, make_images
from tests.faults.lives import (
    Life,
    command,
    differing,
    empty,
    left_behind,
    live,
    only_experiment,
    temporaries,
    trained,
)
from tests.faults.test_disk import SLOW


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        root, disk = Path(folder), Path(folder) / "disk"
        make_images(root / "train", {"ant": 10, "bee": 7, "cat": 6})
        make_images(root / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
        path = root / "tiny_config.py"
        text = TINY.format(train=str(root / "train"), val=str(root / "val"), work_dir=str(disk / "work_dirs"))
        path.write_text(text + SLOW + "checkpoint_every_minutes = 1e-9\n")
        assert live(trained(path, work_dir=str(root / "straight")), root / "straight.txt") == 0
        straight = left_behind(root / "straight")
        for free in [*range(0, 40_000, 2_000), 60_000, 100_000, 200_000, 400_000]:
            with mounted(disk):
                first, second, same, warnings = fill(path, disk, free, straight)
            wrong += (first, second) not in ((74, 0), (0, 0)) or not same
            print(
                f"{free:7} bytes free: exit {first}, {warnings} warnings; with space again exit {second}, "
                f"identical: {same}"
            )
        disk = root / "real"
        for name in ("checkpoints", "."):
            first, second, same = lock_folder(path, disk, name, straight)
            wrong += (first, second, same) != (74, 0, True)
            print(f"{name} not writable in mid-run: exit {first}; writable again exit {second}, identical: {same}")
    return wrong


def fill(path: Path, disk: Path, free: int, straight: dict[str, Any]) -> tuple[int, int, bool, int]:
    """Leave `free` bytes after the first epoch; return both exit codes, whether the result is right, and the warnings."""
    life = Life(command("train", "-c", path), path.with_name("said.txt"))
    life.wait_for("epoch 1/4")
    left = os.statvfs(disk)
    with suppress(OSError):  # the training took some of it in the meantime
        (disk / "filler").write_bytes(b"\0" * max(left.f_bavail * left.f_bsize - free, 0))
    first, warnings = life.end(), life.said.count("warning:")
    (disk / "filler").unlink()
    return first, *_again(path, disk / "work_dirs", life, straight), warnings


def lock_folder(path: Path, disk: Path, name: str, straight: dict[str, Any]) -> tuple[int, int, bool]:
    """Forbid writing into a folder of the experiment after the first epoch, also to root."""
    work_dir = empty(disk) / "work_dirs"
    life = Life(command("train", "-c", path, "--set", f"work_dir={str(work_dir)!r}"), path.with_name("said.txt"))
    life.wait_for("epoch 1/4")
    folder = only_experiment(work_dir).dir / name
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        first = life.end()
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    return first, *_again(path, work_dir, life, straight)


def _again(path: Path, work_dir: Path, life: Life, straight: dict[str, Any]) -> tuple[int, bool]:
    code = live(command("train", "-c", path, "--set", f"work_dir={str(work_dir)!r}"), life.output)
    same = differing(left_behind(work_dir), straight) == [] and not temporaries(work_dir)
    life.output.unlink()
    return code, same


@contextmanager
def mounted(disk: Path) -> Iterator[None]:
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


if __name__ == "__main__":
    sys.exit(main())
