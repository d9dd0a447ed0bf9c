"""What happens to freed memory, seen in the page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from pochitrain.engine.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):  # until the heap has a place of this size
    torch.ones(12 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12 << 20)  # 48 MiB, 12 000 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str, **environment: str) -> int:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, keep], env={**known, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory can be set up")
def test_freed_memory_stays_with_the_process() -> None:
    version = tuple(map(int, platform.libc_ver()[1].split(".")))
    if version < (2, 35):
        pytest.skip("before glibc 2.35 tensors of this size always go back to the system")
    assert faults("keep") * 10 < faults("as it is")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory can be set up")
def test_what_the_environment_says_of_memory_comes_first() -> None:
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="65536") > 10_000
