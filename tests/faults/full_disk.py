"""A real file system that is full, or becomes read-only, in the middle of a training; then the same command again.

    python -m tests.faults.full_disk    # as root: it mounts 4 MB of memory as a disk

Prints a line for each number of bytes that were left free; the exit code is the number of lines that are wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import TINY, make_images
from tests.faults.lives import Life, command, differing, left_behind, live, temporaries, trained
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
        for free in [*range(0, 60_000, 5_000), *range(60_000, 500_000, 20_000)]:
            first, second, same = fill(path, disk, free, straight)
            wrong += (first, second) not in ((74, 0), (0, 0)) or not same
            print(f"{free:7} bytes free: exit {first}, with space again exit {second}, identical: {same}")
        first, second, same = take_away(path, disk, straight)
        wrong += (first, second, same) != (74, 0, True)
        print(f"read-only in mid-run: exit {first}, writable again exit {second}, identical: {same}")
    return wrong


def fill(path: Path, disk: Path, free: int, straight: dict[str, Any]) -> tuple[int, int, bool]:
    """Leave `free` bytes after the first epoch; return both exit codes and whether the result is the straight one."""
    with mounted(disk):
        life = Life(command("train", "-c", path), path.with_name("said.txt"))
        life.wait_for("epoch 1/4")
        life.send(signal.SIGSTOP)
        left = os.statvfs(disk)
        (disk / "filler").write_bytes(b"\0" * max(left.f_bavail * left.f_bsize - free, 0))
        life.send(signal.SIGCONT)
        first = life.end()
        (disk / "filler").unlink()
        return first, *_again(path, disk, life, straight)


def take_away(path: Path, disk: Path, straight: dict[str, Any]) -> tuple[int, int, bool]:
    with mounted(disk):
        life = Life(command("train", "-c", path), path.with_name("said.txt"))
        life.wait_for("epoch 1/4")
        remounted = 1
        while remounted:  # refused as long as a file is open for writing
            remounted = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, check=False).returncode
        first = life.end()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        return first, *_again(path, disk, life, straight)


def _again(path: Path, disk: Path, life: Life, straight: dict[str, Any]) -> tuple[int, bool]:
    code = live(command("train", "-c", path), life.output)
    same = differing(left_behind(disk / "work_dirs"), straight) == [] and not temporaries(disk)
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
