"""One folder becomes training and validation: decided by what an image is, so that others do not move it."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import replace

from pochitrain.data.folder import ImageFolder, display_name
from pochitrain.errors import DataError
from pochitrain.locale import _

_BLOCK_BYTES = 4096
# JPEG, PNG, GIF, WebP: a changed pixel moves what follows, or a checksum at the end.
_COMPRESSED = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")


def split_folder(folder: ImageFolder, fraction: float, group_by: str | None) -> tuple[ImageFolder, ImageFolder]:
    """Return (training, validation), about `fraction` of each class in the second.

    Each image has a number in [0, 1) that follows from its content, or from what `group_by` finds in its path; the
    image validates when the number is below `fraction`. So adding, renaming or removing images moves no other one,
    equal images stay together, and so do the images of one group. The exceptions: a number that would leave a class
    without training trains; a class in which no number is small enough lends its smallest until one comes that is, so
    that every class with two images (or groups) is validated, where no other class needs them all for training.

    Args:
        group_by: regular expression, searched in the relative path (NFC); its first group, or the match, is the key.

    Raises:
        DataError: nothing is left for validation.
    """
    number = [_number(folder, index, group_by) for index in range(len(folder.files))]
    values_of, classes_of = defaultdict[int, set[float]](set), defaultdict[float, set[int]](set)
    for label, value in zip(folder.labels, number, strict=True):
        values_of[label].add(value)
        classes_of[value].add(label)  # a group may have images in several
    training = {label: len(values) for label, values in values_of.items()}
    chosen = set[float]()

    def lend(value: float) -> bool:
        """Let a number validate, unless a class would be left without training."""
        if any(training[label] == 1 for label in classes_of[value]):
            return False
        for label in classes_of[value]:
            training[label] -= 1
        chosen.add(value)
        return True

    for value in sorted(classes_of):
        if value < fraction:
            lend(value)
    for _label, values in sorted(values_of.items()):
        if chosen.isdisjoint(values):
            any(lend(value) for value in sorted(values))  # the first that can be spared
    if not chosen:
        raise DataError(
            _("Nothing is left for validation: each class needs all of its images or groups for training"),
            display_name(folder.root),
            _("add images, choose another group_by, or set val_data_root = None"),
        )
    validates = [value in chosen for value in number]
    return _subset(folder, [not v for v in validates]), _subset(folder, validates)


def group_of(name: str, group_by: str) -> str | None:
    """Return the key that `group_by` finds in a path, None when it finds nothing."""
    match = re.search(group_by, unicodedata.normalize("NFC", name))  # a Mac may write the same name in another form
    if match is None:
        return None
    return match[1] if match.re.groups and match[1] is not None else match[0]


def _number(folder: ImageFolder, index: int, group_by: str | None) -> float:
    group = group_of(folder.files[index], group_by) if group_by else None
    key = _fingerprint(folder.path(index)) if group is None else group.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def _fingerprint(path: str) -> bytes:
    """Return the size and 4 kB each from the head, the middle and the tail of a file; b"" when it cannot be read.

    That is all of a small file, and tells compressed pictures apart without reading gigabytes. Pictures that may be
    stored pixel by pixel (BMP, TIFF) can be equal in all three, on a white page say: these are read whole.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            blocks = [str(size).encode()]
            for start in (0, max(size // 2 - _BLOCK_BYTES // 2, 0), max(size - _BLOCK_BYTES, 0)):
                file.seek(start)
                blocks.append(file.read(_BLOCK_BYTES))
            if size > 3 * _BLOCK_BYTES and not blocks[1].startswith(_COMPRESSED):
                file.seek(0)
                blocks.append(hashlib.file_digest(file, "sha256").digest())
            return b"\0".join(blocks)
    except OSError:  # the check of the headers names it
        return b""


def _subset(folder: ImageFolder, keep: list[bool]) -> ImageFolder:
    kept = [index for index, wanted in enumerate(keep) if wanted]
    return replace(
        folder,
        files=tuple(folder.files[index] for index in kept),
        labels=tuple(folder.labels[index] for index in kept),
        sizes=tuple(folder.sizes[index] for index in kept),
        notes=(),
    )
