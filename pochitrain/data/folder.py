"""A data root on the disk: one folder per class, images at any depth below. What is there, and what it is called.

Names are compared in Unicode form NFC (a Mac may write the same name in NFD); files keep the spelling of the disk.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import hashlib
import json
import os
import stat
import time
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pochitrain.data.decode import BrokenImage, ImageHeader, inspect_image
from pochitrain.data.decode import display_name as display_name
from pochitrain.errors import DataError, Problem, file_reason
from pochitrain.locale import _

SUFFIXES = frozenset({"jpg", "jpeg", "jfif", "png", "bmp", "gif", "tif", "tiff", "webp"})
_NEVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})  # left behind by macOS and Windows; compared in lower case

_WAITING_SECONDS = 2e-5  # for one file; a disk that takes longer is slow


@dataclass(frozen=True)
class ImageFolder:
    """The images below a root, in an order that is the same on every machine: by class, then by path."""

    root: Path
    classes: tuple[str, ...]  # sorted; as shown and compared: NFC, `display_name`
    files: tuple[str, ...]  # relative to the root, "/" between the parts, spelled as on the disk
    labels: tuple[int, ...]
    sizes: tuple[int, ...]  # bytes
    notes: tuple[str, ...] = ()  # what was left out, for the reader

    def path(self, index: int) -> str:
        """Return where a file can be opened."""
        return os.path.join(self.root, self.files[index])


# ---- finding the files ----


@contextlib.contextmanager
def garbage_kept() -> Iterator[None]:
    """Make objects by the 100 000 without looking for garbage among them all the time: half the time of a scan."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@garbage_kept()
def scan_folder(root: str | Path, faults: list[Problem] | None = None, *, allow_empty: bool = False) -> ImageFolder:
    """Return the classes and images below a root. Reads folders only, never a file.

    Hidden entries never count: a leading dot, `__MACOSX`, `Thumbs.db`, `desktop.ini`. Linked folders are followed. What
    is reachable twice counts once, where the order meets it first. What is left out for a reason that a reader may not
    expect (other kinds of files, dangling links, loops, second names) is told in `notes`.

    Args:
        faults: takes what is wrong, as long as there are images all the same; without it, that is an error.
        allow_empty: a class may hold no image, as long as another holds some.

    Raises:
        DataError: with everything that is wrong: the root is missing or no folder, a folder cannot be read, there is no
            class folder, two of them have one name, a class holds no image.
    """
    root = Path(root)
    try:
        status = os.stat(root)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise DataError(
            _("The data folder cannot be read: {reason}", reason=file_reason(error)),
            display_name(root.absolute()),
            _("check the path; a relative one starts from the folder in which the command runs"),
        ) from None
    scan = _Scan(os.fspath(root), (status.st_dev, status.st_ino))
    folders: dict[str, list[tuple[str, os.stat_result]]] = defaultdict(list)  # class → spelling on the disk
    loose = 0
    for name, status in scan.entries(""):
        if stat.S_ISDIR(status.st_mode):
            folders[display_name(_nfc(name))].append((name, status))
        elif _suffix(name) in SUFFIXES:
            loose += 1
        else:
            scan.others[-1][_suffix(name)] += 1
    classes = sorted(folders)
    for label, name in enumerate(classes):
        scan.walk(*folders[name][0], label)
    spellings = {name: [spelling for spelling, _status in folders[name]] for name in classes}
    problems = scan.problems + _class_problems(root, spellings, scan, loose, allow_empty and bool(scan.files))
    if problems and (faults is None or not scan.files):
        raise DataError(problems=problems)
    if faults is not None:
        faults += problems
    notes = scan.notes()
    if loose:
        notes.insert(0, _("{count} images beside the class folders are left out", count=loose))
    return ImageFolder(root, tuple(classes), tuple(scan.files), tuple(scan.labels), tuple(scan.sizes), tuple(notes))


class _Scan:
    """What a walk over the folders has found so far."""

    def __init__(self, root: str, root_id: tuple[int, int]) -> None:
        self.root, self.root_id = root, root_id  # device and inode
        self.files: list[str] = []
        self.labels: list[int] = []
        self.sizes: list[int] = []
        self.seen: dict[tuple[int, int], tuple[str, int]] = {}  # device and inode → first name and label
        self.others: dict[int, Counter[str]] = defaultdict(Counter)  # label → suffixes of what is no image
        self.left_out: dict[str, list[str]] = defaultdict(list)  # reason → names; of twins "second name = first name"
        self.problems: list[Problem] = []

    def walk(self, folder: str, status: os.stat_result, label: int) -> None:
        """Collect the images below a class folder, depth first, in the order of the names."""
        stack = [(folder, status, frozenset({self.root_id}))]
        while stack:
            name, status, above = stack.pop()
            file_id = (status.st_dev, status.st_ino)
            is_folder = stat.S_ISDIR(status.st_mode)
            if not is_folder and _suffix(name) not in SUFFIXES:
                self.others[label][_suffix(name)] += 1
            elif not is_folder and not stat.S_ISREG(status.st_mode):
                self.left_out["special"].append(name)  # a pipe, a socket, a device
            elif file_id in above:
                self.left_out["loop"].append(name)
            elif file_id in self.seen:
                first, first_label = self.seen[file_id]
                self.left_out["twin" if first_label == label else "disputed"].append(f"{name} = {first}")
            else:
                self.seen[file_id] = (name, label)
                if is_folder:
                    inside = above | {file_id}
                    stack += [(f"{name}/{entry}", found, inside) for entry, found in reversed(self.entries(name))]
                else:
                    self.files.append(name)
                    self.labels.append(label)
                    self.sizes.append(status.st_size)

    def entries(self, folder: str) -> list[tuple[str, os.stat_result]]:
        """Return what is in a folder, hidden entries and broken links apart, sorted by name."""
        found = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in _NEVER:
                        continue
                    if (status := self._status(entry, folder)) is not None:
                        found.append((entry.name, status))
        except OSError as error:
            self.problems.append(
                Problem(
                    _("A folder cannot be read: {reason}", reason=file_reason(error)),
                    display_name(os.path.join(self.root, folder)),
                    _("allow this user to read it, or remove it"),
                )
            )
        return sorted(found, key=lambda item: (_nfc(item[0]), item[0]))

    def _status(self, entry: os.DirEntry[str], folder: str) -> os.stat_result | None:
        try:
            return entry.stat()
        except OSError as error:
            if not entry.is_symlink():
                raise
            reason = "loop" if error.errno == errno.ELOOP else "dangling"
            self.left_out[reason].append(f"{folder}/{entry.name}" if folder else entry.name)
            return None

    def notes(self) -> list[str]:
        """Return what was left out, one line each."""
        lines = []
        if kinds := sum(self.others.values(), Counter()):
            lines.append(
                _("{count} files of other kinds are left out: {kinds}", count=kinds.total(), kinds=_kinds(kinds))
            )
        for reason, line in (
            ("special", _("{count} entries that are no regular files are left out, e.g. {name}")),
            ("dangling", _("{count} links that lead nowhere are left out, e.g. {name}")),
            ("loop", _("{count} links that lead in a circle are left out, e.g. {name}")),
            ("twin", _("{count} second names of the same files are left out, e.g. {name}")),
            ("disputed", _("{count} files are in two classes by links; the first one counts, e.g. {name}")),
        ):
            if names := self.left_out[reason]:
                lines.append(line.format(count=len(names), name=display_name(min(names))))
        return lines


def _class_problems(
    root: Path, spellings: dict[str, list[str]], scan: _Scan, loose: int, allow_empty: bool
) -> list[Problem]:
    where = display_name(root)
    if not spellings:
        what = _("No class folders in the data folder")
        if loose:
            what = _("No class folders: {count} images lie directly in the data folder", count=loose)
        mend = _("put the images of each class into a folder named after it: {root}/cat/1.jpg", root=where)
        return [] if scan.problems else [Problem(what, where, mend)]
    same = _("{count} class folders have one name, written in different Unicode forms: {name}")
    problems = [
        Problem(same.format(count=len(found), name=name), where, _("put their images into one folder"))
        for name, found in spellings.items()
        if len(found) > 1
    ]
    filled = set(scan.labels)
    for label, (name, found) in enumerate(spellings.items()):
        if label not in filled and not allow_empty:
            what = _("Class {name} holds no image", name=name)
            if others := scan.others[label]:
                what = _("Class {name} holds no image, only {kinds}", name=name, kinds=_kinds(others))
            mend = _("add images ({kinds}), or remove the folder", kinds=", ".join(sorted(SUFFIXES)))
            problems.append(Problem(what, display_name(root / found[0]), mend))
    return problems


def _kinds(counter: Counter[str]) -> str:
    """Return "12 .txt, 3 .heic", the five most frequent."""
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    bare = _("without suffix")
    shown = [f"{count} {display_name('.' + suffix) if suffix else bare}" for suffix, count in ranked[:5]]
    return ", ".join(shown) + (" …" if len(ranked) > 5 else "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


# ---- classes by name ----


def check_same_classes(train: ImageFolder, val: ImageFolder) -> ImageFolder:
    """Return the validation folder labelled with the training folder's classes.

    Raises:
        DataError: a class is in one of the two only.
    """
    try:
        return with_classes(val, train.classes, display_name(train.root))
    except DataError as error:
        if nested := nested_roots(train.root, val.root):
            mend = _("keep them beside each other, such as data/train and data/val")
            raise DataError(problems=[*error.problems, Problem(nested, "", mend)]) from None
        raise


def nested_roots(train_root: Path, val_root: Path) -> str:
    """Return a sentence when the two roots are one folder or one lies inside the other, else ""."""
    train, val = Path(os.path.realpath(train_root)), Path(os.path.realpath(val_root))
    names = {"train": display_name(train_root), "val": display_name(val_root)}
    if train == val:
        return _("training and validation read the same folder: {train}", **names)
    if val.is_relative_to(train):
        return _("the validation folder {val} lies inside the training folder {train}", **names)
    if train.is_relative_to(val):
        return _("the training folder {train} lies inside the validation folder {val}", **names)
    return ""


def with_classes(
    folder: ImageFolder, classes: Sequence[str], source: str, *, allow_missing: bool = False
) -> ImageFolder:
    """Return the folder with labels that count in `classes`, matched by name.

    Args:
        source: where `classes` come from, for the message (a folder, a checkpoint).
        allow_missing: the folder may hold some of the classes only.

    Raises:
        DataError: a class folder that is not in `classes`, or (unless allowed) a class without a folder.
    """
    extra = [name for name in folder.classes if name not in set(classes)]
    missing = [] if allow_missing else [name for name in classes if name not in set(folder.classes)]
    where = display_name(folder.root)
    problems = []
    if extra:
        what = _("Classes that {source} does not have: {names}", source=source, names=_listed(extra))
        problems.append(Problem(what, where, _("remove or rename these classes") + _likely(extra, missing)))
    if missing:
        what = _("Classes of {source} that are missing: {names}", source=source, names=_listed(missing))
        problems.append(Problem(what, where, _("add images of these classes, or remove the classes there")))
    if problems:
        raise DataError(problems=problems)
    number = {name: label for label, name in enumerate(classes)}
    label_here = [number[name] for name in folder.classes]
    return replace(folder, classes=tuple(classes), labels=tuple(label_here[label] for label in folder.labels))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")


def _likely(extra: Sequence[str], missing: Sequence[str]) -> str:
    """Return " (a → b, …)" for the names that look like a misspelling of a missing one."""
    folded = {name.casefold(): name for name in missing}
    pairs = []
    for name in extra:
        if close := difflib.get_close_matches(name.casefold(), folded, n=1):
            pairs.append(f"{name} → {folded[close[0]]}")
    return f" ({', '.join(pairs[:5])})" if pairs else ""


# ---- the data as a value ----


def manifest(folder: ImageFolder) -> dict[str, Any]:
    """Return class names, relative paths and sizes as plain data, the same on every machine and below every root."""
    return {
        "classes": list(folder.classes),
        "files": [[display_name(_nfc(name)), size] for name, size in zip(folder.files, folder.sizes, strict=True)],
    }


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return 64 hexadecimal digits that stand for a manifest (SHA-256 of its JSON)."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def manifest_difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many files were (added, removed, changed in size) between two manifests."""
    before, after = dict(old["files"]), dict(new["files"])
    changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
    return len(after.keys() - before.keys()), len(before.keys() - after.keys()), changed


# ---- the gate before training ----


def check_headers(folder: ImageFolder, threads: int = 8) -> tuple[list[ImageHeader | None], list[BrokenImage]]:
    """Return the header of each file, None for a broken one, and the errors in the order of the files.

    Reads the head and the tail of every file; 7 µs for a plain JPEG, 50 for others, when the disk is no brake. Threads
    wait for a slow one; for a fast one they would only wait for each other.
    """

    def inspect(index: int) -> ImageHeader | BrokenImage:
        try:
            return inspect_image(folder.path(index))
        except BrokenImage as error:
            return error

    def inspect_some(indices: range) -> tuple[list[ImageHeader | BrokenImage], bool]:
        started, worked = time.perf_counter(), time.thread_time()
        results = [inspect(index) for index in indices]
        waited = (time.perf_counter() - started) - (time.thread_time() - worked)
        return results, waited > _WAITING_SECONDS * len(indices)

    count, found = len(folder.files), list[ImageHeader | BrokenImage]()
    parts = deque(range(start, min(start + 64, count)) for start in range(0, count, 64))
    waited = False
    while parts and not waited:
        results, waited = inspect_some(parts.popleft())
        found += results
    with ThreadPoolExecutor(threads) as pool:
        found += [result for results, _waited in pool.map(inspect_some, parts) for result in results]
    headers = [result if isinstance(result, ImageHeader) else None for result in found]
    return headers, [result for result in found if isinstance(result, BrokenImage)]
