"""On what a run was made: recorded with it, compared when it goes on elsewhere."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("pochitrain", "torch", "torchvision", "pillow", "simplejpeg", "numpy")
_MAY_ROUND_DIFFERENTLY = (
    *(*_PACKAGES[1:], "python", "processor", "gpu", "threads"),
    *("device", "precision", "channels_last", "compile"),
)


@functools.cache
def environment() -> dict[str, Any]:
    """Return versions and hardware; `commit` is the git commit of the working directory, "" outside a repository."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        **{name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine()),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "commit": _git_commit(),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return "torch 2.9 → 2.10" for each thing that may change rounding; [] when nothing is known of the old one."""
    return [
        f"{name} {old[name]} → {new[name]}"
        for name in _MAY_ROUND_DIFFERENTLY
        if name in old and old[name] != new.get(name)
    ]


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, cwd=Path.cwd(), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
