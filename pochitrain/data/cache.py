"""Which store keeps the decoded images: one in memory, or one on the disk that later runs find again.

A store in memory consists of anonymous files, so that forked and spawned processes share it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import PIL
import simplejpeg
import torch
import torchvision

from pochitrain.config.canonical import canonical, digest
from pochitrain.data.pipeline import Step
from pochitrain.data.store import Store, cache_dir, close_files, free_disk, others_on_disk, read_steps, stored_pipelines
from pochitrain.errors import ConfigError, file_reason
from pochitrain.locale import _

VERSION = 4  # raised when a decoded image means something else than before
_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.2  # of what is free
_CGROUP, _OUR_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_GROUP_FILES = {  # version of control groups → limit, taken, and what of it are files that were read
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}

# ---- in memory ----

_in_memory: dict[str, Store] = {}  # by pipeline, the oldest first
_wanted: dict[str, int] = {}  # how many bytes will be asked of them
_sharers = 1
_MOST_STORES = 4  # training and validation of this pipeline and of the one before it


def share_memory(processes: int) -> None:
    """Let this process take its part only of the free memory: so many processes train side by side."""
    global _sharers
    _sharers = processes


def memory_store(pipeline: str, limit_bytes: int, wanted_bytes: int = 0) -> Store:
    """Return the store of a pipeline in this process: trainings that follow each other share it.

    Args:
        limit_bytes: of all stores in memory together.
        wanted_bytes: what will be asked of it. The oldest others make room, the newest, of the same training, does not.
    """
    if pipeline not in _in_memory:
        while len(_in_memory) >= _MOST_STORES or (
            len(_in_memory) > 1 and _others_in_memory(pipeline) + wanted_bytes > limit_bytes
        ):
            del _in_memory[next(iter(_in_memory))]
        _in_memory[pipeline] = _store_in_memory(limit_bytes)
    store = _in_memory[pipeline] = _in_memory.pop(pipeline)  # the newest now
    store.limit_bytes, store.others_bytes = limit_bytes, partial(_others_in_memory, pipeline)
    store.full = False
    _wanted[pipeline] = wanted_bytes
    return store


def _others_in_memory(pipeline: str) -> int:
    return sum(store.file_bytes() for name, store in tuple(_in_memory.items()) if name != pipeline)


def _store_in_memory(limit_bytes: int) -> Store:
    """Return a store whose files vanish with the process, even a killed one, and that other processes can open."""
    if hasattr(os, "memfd_create"):
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        files = [os.memfd_create(f"pochitrain {name}", flags) for name in ("pixels", "index")]
        with contextlib.suppress(OSError, AttributeError):  # not everywhere; `Store.view` then copies
            fcntl.fcntl(files[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
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
    """Return how many bytes can be taken without swapping: what the kernel says, within the limits of a container."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(min([free, *_free_in_groups()]), 0)


def _free_in_groups() -> Iterator[int]:
    """Yield what the control groups of this process, and those around them, leave to it."""
    with contextlib.suppress(OSError, ValueError):
        for line in _OUR_GROUPS.read_text().splitlines():
            _number, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = _CGROUP / "memory" if controllers else _CGROUP
            files = _GROUP_FILES[1 if controllers else 2]
            group = root / path.lstrip("/")
            while group.is_relative_to(root):
                with contextlib.suppress(OSError, KeyError, ValueError):  # "max" is no number
                    limit, taken = (int((group / name).read_text()) for name in files[:2])
                    parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                    yield limit - taken + int(parts[files[2]])  # files that were read: the kernel drops them
                group = group.parent


# ---- on the disk ----

_opened_before: Path | None = None


def disk_store(pipeline: str, steps: Sequence[Step], limit_bytes: int) -> Store:
    """Return the store of a pipeline on the disk; of others, those that were not used for longest make room for it.

    One that is larger than the limit is begun anew; the one that was opened before, for the same training, stays.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = cache_dir() / pipeline
    global _opened_before
    try:
        if (folder / "pixels").exists() and (folder / "pixels").stat().st_size > limit_bytes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pixels", "index"):
            with open(folder / name, "ab"):
                pass
        names = [type(step).__name__ if hasattr(type(step), "forward") else repr(step) for step in steps]
        if read_steps(folder) is None:  # else there is nothing to write on a disk that is full by now
            (folder / "pipeline.json").write_text(json.dumps({"steps": [" ".join(n.split())[:80] for n in names]}))
        os.utime(folder)
        others_bytes = partial(others_on_disk, folder)
        store = Store(
            str(folder / "pixels"), str(folder / "index"), limit_bytes, lasting=True, others_bytes=others_bytes
        )
    except OSError as error:
        raise _unwritable(error) from error
    others = sorted((one for one in stored_pipelines() if one.folder != folder), key=lambda one: one.used_at)
    kept, _opened_before = _opened_before, folder
    total = store.used_bytes + sum(one.used_bytes for one in others)
    for other in others:
        if total > limit_bytes and other.folder != kept:
            shutil.rmtree(other.folder, ignore_errors=True)  # who is reading it keeps it until it is closed
            total -= other.used_bytes
    return store


def _unwritable(error: OSError) -> ConfigError:
    return ConfigError(
        _("The cache of decoded images cannot be written: {reason}", reason=file_reason(error)),
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
    libraries = {library.__name__: library.__version__ for library in (PIL, simplejpeg, torch, torchvision)}
    return digest({**flat, "version": str(VERSION), **libraries})[:24]


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
    held = sum(store.file_bytes() for store in _in_memory.values())
    memory = int((free_memory() + held) * _MEMORY_SHARE / _sharers) if given is None else given
    disk = int(free_disk() * _DISK_SHARE) if given is None else given
    total, key = count * image_bytes, pipeline_key(once)
    newest = next(reversed(_in_memory), key)  # of the same training: that of its other images
    together = total + (_wanted[newest] if newest != key else 0)
    if wanted == "disk":
        return disk_store(key, once, disk)
    if wanted == "auto" and memory < together and total <= disk:
        with contextlib.suppress(ConfigError):  # nobody asked for the disk: without it, as many as fit in memory
            return disk_store(key, once, disk)
    return memory_store(key, memory, total)
