"""A data root on the disk: one folder per class, images at any depth below. What is there, and what it is called.

Names are compared in Unicode form NFC (a Mac may write the same name in NFD); files keep the spelling of the disk.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pochitrain.data.decode import BrokenImage, ImageHeader, inspect_image
from pochitrain.data.decode import display_name as display_name
from pochitrain.errors import DataError, Problem
from pochitrain.locale import _

SUFFIXES = frozenset({"jpg", "jpeg", "jfif", "png", "bmp", "gif", "tif", "tiff", "webp"})
_NEVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # left behind by macOS and Windows; compared in lower case

_FileId = tuple[int, int]  # device and inode: the file itself, whatever it is called


@dataclass(frozen=True)
class ImageFolder:
    """The images below a root, in an order that is the same on every machine: by class, then by name."""

    root: Path
    classes: tuple[str, ...]  # sorted; as shown and compared (NFC, `display_name`)
    files: tuple[str, ...]  # relative to the root, "/" between parts, spelled as on the disk
    labels: tuple[int, ...]
    sizes: tuple[int, ...]  # bytes
    notes: tuple[str, ...] = ()  # what was left out, for the reader

    def path(self, index: int) -> str:
        """Return where a file can be opened."""
        return os.path.join(self.root, self.files[index])


def scan_folder(root: str | Path) -> ImageFolder:
    """Return the classes and images below a root. Reads folders only, no file; about 10 µs per file.

    Hidden entries never count (a leading dot, `__MACOSX`, `Thumbs.db`, `desktop.ini`). Linked folders are followed; a
    file or folder that is reachable twice counts once, where the order finds it first. What is left out (other files,
    dangling links, loops, second names) is told in `notes`.

    Raises:
        DataError: the root is missing or no folder, a folder cannot be read, there is no class folder, a class holds no
            image, or two classes have the same name. All at once.
    """
    root = Path(root)
    problem = _root_problem(root)
    if problem is not None:
        raise DataError(problems=[problem])
    scan = _Scan(root)
    folders: dict[str, list[str]] = defaultdict(list)
    loose = 0
    for entry in scan.entries("", frozenset()):
        if entry.is_folder:
            folders[_class_name(entry.name)].append(entry.name)
        elif entry.is_image:
            loose += 1
        else:
            scan.count_other(entry.name)
    classes = sorted(folders)
    for label, name in enumerate(classes):
        for folder in folders[name]:
            scan.walk(folder, label)
    problems = scan.problems + _class_problems(root, folders, scan, loose)
    if problems:
        raise DataError(problems=problems)
    if loose:
        scan.remarks.append(_("{count} images beside the class folders are left out", count=loose))
    return ImageFolder(
        root, tuple(classes), tuple(scan.files), tuple(scan.labels), tuple(scan.sizes), tuple(scan.notes())
    )
