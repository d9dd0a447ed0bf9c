"""Which store keeps the decoded images: one in memory, or one on the disk that later runs find again.

A store in memory consists of anonymous files, so that forked and spawned processes share it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import PIL
import torchvision

from pochitrain.config.canonical import canonical, digest
from pochitrain.data.pipeline import Step
from pochitrain.data.store import Store, cache_dir, close_files, free_disk, stored_pipelines
from pochitrain.errors import ConfigError
from pochitrain.locale import _

VERSION = 1  # raised when a decoded image means something else than before
_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.2  # of what is free

# ---- in memory ----

_in_memory: dict[str, Store] = {}  # by pipeline, the oldest first
_MOST_STORES = 4  # training and validation of this pipeline and of the one before it


def memory_store(pipeline: str, limit_bytes: int) -> Store:
    """Return the store of a pipeline in this process: trainings that follow each other share it.

    Args:
        limit_bytes: of all stores in memory together.
    """
    if pipeline not in _in_memory:
        while len(_in_memory) >= _MOST_STORES:
            del _in_memory[next(iter(_in_memory))]
        _in_memory[pipeline] = _store_in_memory(limit_bytes)
    store = _in_memory[pipeline] = _in_memory.pop(pipeline)  # the newest now
    store.limit_bytes = limit_bytes - sum(other.used_bytes for other in _in_memory.values() if other is not store)
    store.full = False
    return store


def _store_in_memory(limit_bytes: int) -> Store:
    """Return a store whose files vanish with the process, even a killed one, and that other processes can open."""
    if hasattr(os, "memfd_create"):
        files = [os.memfd_create(f"pochitrain {name}") for name in ("pixels", "index")]
        pixels, index = (f"/proc/{os.getpid()}/fd/{file}" for file in files)
        store = Store(pixels, index, limit_bytes, lasting=False)
        weakref.finalize(store, close_files, files)  # the paths lead to them as long as they are open
        return store
    folder = tempfile.mkdtemp(prefix="pochitrain-cache-")  # macOS: files, which stay in memory as far as there is room
    pixels, index = (os.path.join(folder, name) for name in ("pixels", "index"))
    for path in (pixels, index):
        open(path, "xb").close()
    store = Store(pixels, index, limit_bytes, lasting=False)
    weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
    return store


def free_memory() -> int:
    """Return how many bytes can be taken without swapping: what the kernel says, within the limit of a container."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(free, 0)


# ---- on the disk ----


def disk_store(pipeline: str, steps: Sequence[Step], limit_bytes: int) -> Store:
    """Return the store of a pipeline on the disk; of others, those that were not used for longest make room for it.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = cache_dir() / pipeline
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pixels", "index"):
            with open(folder / name, "ab"):
                pass
        names = [type(step).__name__ if hasattr(type(step), "forward") else repr(step) for step in steps]
        (folder / "pipeline.json").write_text(json.dumps({"steps": [" ".join(n.split())[:80] for n in names]}))
        os.utime(folder)
        store = Store(str(folder / "pixels"), str(folder / "index"), limit_bytes, lasting=True)
    except OSError as error:
        raise _unwritable(error) from error
    others = sorted((one for one in stored_pipelines() if one.folder != folder), key=lambda one: one.used_at)
    total = store.used_bytes + sum(one.used_bytes for one in others)
    for other in others:
        if total > limit_bytes:
            shutil.rmtree(other.folder, ignore_errors=True)  # who is reading it keeps it until it is closed
            total -= other.used_bytes
    store.limit_bytes = limit_bytes - (total - store.used_bytes)
    return store


def _unwritable(error: OSError) -> ConfigError:
    return ConfigError(
        _("The cache of decoded images cannot be written: {reason}", reason=error.strerror),
        str(error.filename),
        _('set POCHI_CACHE_DIR to a folder that can be written, or cache = "memory"'),
    )


# ---- which one ----


def pipeline_key(once: Sequence[Step]) -> str:
    """Return what stands for decoding and the steps after it: 24 hex digits.

    Raises:
        ConfigError: a step has no stable form.
    """
    flat = canonical({"once": list(once)})
    libraries = {"version": str(VERSION), "pillow": PIL.__version__, "torchvision": torchvision.__version__}
    return digest({**flat, **libraries})[:24]


def open_store(wanted: str, once: Sequence[Step], count: int, image_bytes: int, limit_gb: float | None) -> Store | None:
    """Return the store that a setting asks for, None without one.

    Args:
        wanted: the setting `cache`.
        count, image_bytes: how many images of what size will be asked for, about.
        limit_gb: the setting `cache_gb`.
    """
    if wanted == "off" or count == 0:
        return None
    given = None if limit_gb is None else int(limit_gb * 1e9)
    held = sum(store.used_bytes for store in _in_memory.values())
    memory = int((free_memory() + held) * _MEMORY_SHARE) if given is None else given
    disk = int(free_disk() * _DISK_SHARE) if given is None else given
    total, key = count * image_bytes, pipeline_key(once)
    if wanted == "auto":
        wanted = "disk" if memory < total <= disk else "memory"
    if wanted == "disk":
        return disk_store(key, once, disk)
    return memory_store(key, memory)
