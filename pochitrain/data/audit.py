"""What is wrong with the images of a config: each file decoded in full, once, and compared with all the others.

What was learned of a file is remembered (`remembered`), so that a second look costs no decoding.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pochitrain.data.decode import BrokenImage, decode_with_remark, display_name
from pochitrain.data.folder import ImageFolder
from pochitrain.data.jpeg import remark_in_words
from pochitrain.data.likeness import alike, limits, signature
from pochitrain.data.remembered import RECORD, Facts, remember, remembered, stamp
from pochitrain.errors import file_reason
from pochitrain.locale import _

Step = tuple[Literal["resize", "crop"], tuple[int, ...]]  # (shorter side,) or (height, width)
Severity = Literal["error", "warning"]

SMALL_CLASS = {"train": 10, "val": 5}  # images; with fewer, one image moves the accuracy of the class by 20 points
CROP_LIMIT = 0.6  # of the area of an image; Resize(256), CenterCrop(224) takes 23 % of a square, 43 % of 4:3

_CHUNK = 16  # files; the most that is lost to Ctrl+C


@dataclass(frozen=True)
class Survey:
    """What is known of one part of the data, "train" or "val"."""

    split: str
    folder: ImageFolder
    facts: Facts  # (files,)
    reasons: dict[int, str]  # file → why it cannot be read
    notes: tuple[str, ...] = ()
    readable: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "readable", np.flatnonzero(self.facts["width"]))

    def counts(self) -> list[int]:
        """Return the readable images of each class."""
        found = Counter(self.folder.labels[index] for index in self.readable)
        return [found[label] for label in range(len(self.folder.classes))]


@dataclass(frozen=True)
class Picture:
    """One readable file."""

    survey: Survey
    index: int

    @property
    def split(self) -> str:
        return self.survey.split

    @property
    def path(self) -> str:
        return self.survey.folder.path(self.index)

    @property
    def class_name(self) -> str:
        return self.survey.folder.classes[self.survey.folder.labels[self.index]]

    @property
    def size(self) -> tuple[int, int]:
        facts = self.survey.facts[self.index]
        return int(facts["width"]), int(facts["height"])


class Twins(NamedTuple):
    """Two files with one picture; of a training and a validation file the training file is the first."""

    first: Picture
    second: Picture
    exact: bool  # the same bytes
    distance: float  # see `likeness`
    turn: int  # how the first is turned to be like the second

    @property
    def leak(self) -> bool:
        return self.first.split != self.second.split

    @property
    def kind(self) -> str:
        return ("" if self.exact else "near_") + ("leak" if self.leak else "duplicate")


@dataclass(frozen=True)
class Finding:
    """One line of the report. An error keeps a training from starting or ends it; a warning asks for a judgement."""

    kind: str
    severity: Severity
    file: str
    other: str = ""
    detail: str = ""


# ---- looking at every file ----


def survey(split: str, folder: ImageFolder, cache: Path, advance: Callable[[int], None] = lambda files: None) -> Survey:
    """Return what is known of the files, after decoding those that `cache` does not know, or knows to be broken.

    Threads decode. Processes take a second to start and are faster only where images are so small that it hardly
    matters (7 500 of 32 × 32: 0.6 s against 1.0 s). What was decoded is in the cache also after an interrupt.

    Args:
        cache: a file for all that is below `folder.root`; it is created, and a damaged one is written anew.
        advance: is told how many more files are done.
    """
    facts = np.zeros(len(folder.files), RECORD)
    known = remembered(cache)
    names = [os.fsencode(name) for name in folder.files]
    stamps = [stamp(folder.path(index)) for index in range(len(names))]
    new, broken = [], set[int]()
    for index, (name, here) in enumerate(zip(names, stamps, strict=True)):
        row = known.get(name)
        if row is not None and (row["bytes"], row["mtime_ns"], row["ctime_ns"]) == here:
            facts[index] = row
        if not facts[index]["width"]:
            new.append(index)
        if facts[index]["mtime_ns"] and not facts[index]["width"]:
            broken.add(index)
    advance(len(facts) - len(new))
    reasons: dict[int, str] = {}
    notes: list[str] = []
    learned = False
    try:
        for index, found in _measured(folder, new, advance):
            if isinstance(found, str):
                reasons[index] = found
                facts["bytes"][index], facts["mtime_ns"][index], facts["ctime_ns"][index] = stamps[index]
            else:
                facts[index] = (*stamps[index], *found)
            known[names[index]] = facts[index]
            learned |= index not in broken or index not in reasons
    finally:
        if learned:
            notes += remember(cache, known, folder)
    return Survey(split, folder, facts, reasons, tuple(notes))


def _measured(
    folder: ImageFolder, indices: Sequence[int], advance: Callable[[int], None]
) -> Iterator[tuple[int, tuple[Any, ...] | str]]:
    """Yield (file, the rest of its record, or why it cannot be read)."""

    def measure(some: Sequence[int]) -> list[tuple[Any, ...] | str]:
        return [_measure(folder.path(index)) for index in some]

    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for some, found in zip(chunks, pool.map(measure, chunks), strict=True):
            yield from zip(some, found, strict=True)
            advance(len(some))
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(path: str) -> tuple[Any, ...] | str:
    try:
        image, remark = decode_with_remark(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except BrokenImage as error:
        return error.problems[0].what
    except OSError as error:
        return file_reason(error)
    return image.width, image.height, np.frombuffer(digest, np.uint8), signature(image), remark.encode()


# ---- the same picture twice ----


def twins(surveys: Sequence[Survey]) -> list[Twins]:
    """Return what is there more than once: of n files with one picture n - 1 pairs, first the exact, then the nearest.

    Files with the same bytes are one for the search after near duplicates. There, a training and a validation file make
    a pair before two files of one part do, so that no leak hides behind a duplicate.
    """
    pictures = [Picture(survey, int(index)) for survey in surveys for index in survey.readable]
    if not pictures:
        return []
    facts = np.concatenate([survey.facts[survey.readable] for survey in surveys])
    firsts: dict[bytes, int] = {}
    found = []
    for at, digest in enumerate(facts["digest"]):
        first = firsts.setdefault(digest.tobytes(), at)
        if first != at:
            found.append(Twins(pictures[first], pictures[at], exact=True, distance=0.0, turn=0))
    signatures = facts["signature"].astype(np.float32)
    telling = np.array([at for at in firsts.values() if signatures[at].any()], np.int64)
    return found + _near_twins([pictures[at] for at in telling], signatures[telling])


def _near_twins(pictures: Sequence[Picture], signatures: npt.NDArray[np.float32]) -> list[Twins]:
    if not pictures:
        return []
    signatures /= np.linalg.norm(signatures, axis=(1, 2), keepdims=True)  # the cache rounds them
    _names, groups = np.unique([picture.class_name for picture in pictures], return_inverse=True)
    pairs = [
        Twins(pictures[first], pictures[second], exact=False, distance=float(distance), turn=int(turn))
        for first, second, distance, turn in zip(*alike(signatures, limits(signatures, groups)), strict=True)
    ]
    return list(_joining(sorted(pairs, key=lambda pair: (not pair.leak, pair.distance))))


def _joining(pairs: Iterable[Twins]) -> Iterator[Twins]:
    """Yield the pairs whose files no earlier pairs connect."""
    above: dict[tuple[str, int], tuple[str, int]] = {}

    def top(picture: Picture) -> tuple[str, int]:
        key = (picture.split, picture.index)
        while key in above:
            key = above[key]
        return key

    for pair in pairs:
        first, second = top(pair.first), top(pair.second)
        if first != second:
            above[second] = first
            yield pair


# ---- findings ----


def unreadable(survey: Survey, severity: Severity) -> list[Finding]:
    """Return a finding for each file that cannot be read, and for each class that has no other."""
    folder = survey.folder
    found = [
        Finding("unreadable", severity, display_name(folder.path(index)), detail=reason)
        for index, reason in sorted(survey.reasons.items())
    ]
    present = set(folder.labels)
    for label, (name, count) in enumerate(zip(folder.classes, survey.counts(), strict=True)):
        if not count and label in present and survey.split == "train":
            what = _("no image of class {name} can be read", name=name)
            found.append(Finding("empty_class", "error", display_name(folder.root), detail=what))
    return found


def doubtful(survey: Survey) -> list[Finding]:
    """Return a finding for each image that the decoder has remarked on."""
    return [
        Finding(
            "doubtful",
            "warning",
            display_name(survey.folder.path(int(index))),
            detail=remark_in_words(survey.facts["remark"][index].decode(errors="replace")),
        )
        for index in survey.readable
        if survey.facts["remark"][index]
    ]


def small_classes(survey: Survey) -> list[Finding]:
    """Return a finding for each class that has images, but very few."""
    least = SMALL_CLASS[survey.split]
    where = display_name(survey.folder.root)
    return [
        Finding(
            "small_class",
            "warning",
            where,
            detail=_("images of class {name}: {count}, fewer than {least}", name=name, count=count, least=least),
        )
        for name, count in zip(survey.folder.classes, survey.counts(), strict=True)
        if 0 < count < least
    ]


def duplicates(pairs: Iterable[Twins]) -> list[Finding]:
    """Return a finding for each pair, and another one where its files are in two classes."""
    found = []
    for pair in pairs:
        files = display_name(pair.first.path), display_name(pair.second.path)
        found.append(Finding(pair.kind, "warning", *files, describe(pair)))
        if pair.first.class_name != pair.second.class_name:
            # Text comes first: a spreadsheet would take a class named "=1+1" for a formula.
            names = _("classes: {first} | {second}", first=pair.first.class_name, second=pair.second.class_name)
            found.append(Finding("two_classes", "warning", *files, names))
    return found


def describe(pair: Twins) -> str:
    """Return how two files with one picture differ."""
    if pair.exact:
        return _("the same bytes")
    words = []
    if pair.turn:
        quarter = _("turned by 90° and mirrored") if pair.turn in (4, 7) else _("turned by 90°")
        mirrored = {1: _("mirrored top to bottom"), 2: _("mirrored left to right"), 3: _("turned by 180°")}
        words.append(mirrored.get(pair.turn, quarter))
    if sorted(pair.first.size) != sorted(pair.second.size):
        words.append("{} × {} → {} × {}".format(*pair.first.size, *pair.second.size))
    return ", ".join([*words, _("likeness {percent:.1f} %", percent=100 - 50 * pair.distance**2)])  # the cosine


def lost_area(widths: npt.NDArray[Any], heights: npt.NDArray[Any], steps: Sequence[Step]) -> npt.NDArray[np.float64]:
    """Return the share of each image's area, 0 to 1, that the resizes and centre crops of `steps` throw away."""
    width, height, kept = widths.astype(np.float64), heights.astype(np.float64), np.ones(len(widths))
    for kind, size in steps:
        if kind == "crop":
            kept *= np.minimum(size[1] / width, 1) * np.minimum(size[0] / height, 1)
        if kind == "resize" and len(size) == 1:
            scale = size[0] / np.minimum(width, height)
            width, height = width * scale, height * scale
        else:
            width, height = np.full_like(width, size[1]), np.full_like(height, size[0])
    return 1 - kept


def cropped(survey: Survey, steps: Sequence[Step]) -> list[Finding]:
    """Return a finding for each image that loses more than `CROP_LIMIT` of its area."""
    facts = survey.facts[survey.readable]
    lost = lost_area(facts["width"], facts["height"], steps)
    return [
        Finding(
            "crop",
            "warning",
            display_name(survey.folder.path(int(index))),
            detail=_("{percent:.0f} % of the area is cut off", percent=100 * share),
        )
        for index, share in zip(survey.readable, lost, strict=True)
        if share > CROP_LIMIT
    ]
