"""When two files show one picture: resized, saved again, made brighter, turned or mirrored.

A picture becomes the 64 lowest coefficients of its cosine transform, as in a perceptual hash, but with their values
instead of one bit each. They are weighted by frequency: natural images have amplitudes of 1 / frequency (D. J. Field,
J. Opt. Soc. Am. A 4, 1987), and so each coefficient says as much as any other. Of unit length, two pictures that have
nothing in common are √2 apart. Turning and mirroring a picture only changes signs and swaps rows and columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ALIKE = 0.4  # measured on 7 500 images of CIFAR-10: 14 of 14 pairs are true at 0.40; the first wrong one is at 0.45
USUAL_SHARE = 10  # percent of the pairs of a class that are nearer than what counts as usual
LEAST = 0.1  # of 10 photos, copies of other size, trimming or JPEG quality (30 to 94) are nearer; others are 1.1 apart
MANY = 50  # images that a class needs to say what is usual in it
FLAT = 1.0  # standard deviation in grey levels: below it noise decides what a picture is like
NEIGHBOURS = 16  # of each image at most; more of them say nothing new
WAVES, SIDE = 8, 16  # 16 × 16 pixels have 16 × 16 coefficients; of those the lowest 8 × 8

_FREQUENCY = np.arange(WAVES, dtype=np.float32)
_NORM = np.where(_FREQUENCY == 0, np.sqrt(0.5), 1).astype(np.float32)  # of the orthonormal cosine transform
_COSINES = _NORM[:, None] * np.cos(np.pi / SIDE * _FREQUENCY[:, None] * (np.arange(SIDE, dtype=np.float32) + 0.5))
_WEIGHT = np.hypot(_FREQUENCY[:, None], _FREQUENCY)
_SIGN = (-1.0) ** _FREQUENCY
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"
_BLOCK = 256


def signature(image: Image.Image) -> Floats:
    """Return what an RGB image is like, (8, 8) of unit length; all zero for an image of one colour."""
    grey = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.float32) @ _GREY
    if grey.std() < FLAT:
        return np.zeros((WAVES, WAVES), np.float32)
    waves: Floats = _WEIGHT * (_COSINES @ grey @ _COSINES.T)
    return waves / np.linalg.norm(waves)


def turned(signatures: Floats, turn: int) -> Floats:
    """Return the signatures (…, 8, 8) of the same pictures turned or mirrored.

    `turn` is the sum of 4 (mirrored along the diagonal, first of all), 1 (top to bottom) and 2 (left to right): 0 is
    the picture as it is, 3 half a turn, 5 and 6 a quarter.
    """
    if turn & 4:
        signatures = np.swapaxes(signatures, -1, -2)
    if turn & 1:
        signatures = signatures * _SIGN[:, None]
    if turn & 2:
        signatures = signatures * _SIGN
    return signatures


def limits(signatures: Floats, groups: Ints) -> Floats:
    """Return how near each picture must be to another to count as the same one: at most `ALIKE`.

    Where the pictures of a group are alike by nature (one camera, one fixture, handwritten digits) it is less: a third
    of the distance that nine of ten pairs of the group exceed, and never below `LEAST`: in a group of mostly copies
    that distance is the one between copies.
    """
    everywhere = _usual(signatures)
    found = np.full(len(signatures), everywhere, np.float32)
    for group in np.unique(groups):
        members = groups == group
        if members.sum() >= MANY:
            found[members] = _usual(signatures[members])
    return found


def alike(signatures: Floats, limits: Floats) -> tuple[Ints, Ints, Floats, Ints]:
    """Return the pairs (first, second, distance, turn) that are nearer than the limits of both, first < second.

    `turn` makes the first like the second. Every pair is compared (100 000 images: some 20 s) by what no turn changes,
    which bounds the distance from below. Of those that are near by that, the `NEIGHBOURS` nearest of each image that
    come later are looked at in all turns: nothing is missed unless an image has more.
    """
    keys = _invariants(signatures)
    bars = 1 - limits**2 / 2
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(keys), _BLOCK):
        likeness = keys[start : start + _BLOCK] @ keys[start:].T
        likeness[np.tril_indices(len(likeness))] = -1  # itself, and what an earlier row has
        for row in np.flatnonzero(likeness.max(axis=1) >= bars[start : start + _BLOCK]):
            near = np.flatnonzero(likeness[row] >= bars[start + row])
            if len(near) > NEIGHBOURS:
                near = near[np.argpartition(-likeness[row, near], NEIGHBOURS)[:NEIGHBOURS]]
            firsts.append(np.full(len(near), start + row))
            seconds.append(near + start)
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    distance, turn = _closest(signatures, first, second)
    same = distance <= np.minimum(limits[first], limits[second])
    return first[same], second[same], distance[same], turn[same]


def _usual(signatures: Floats) -> float:
    if len(signatures) < MANY:
        return ALIKE
    first, second = np.random.default_rng(0).integers(len(signatures), size=(2, 2000))
    pairs = first != second
    apart = np.linalg.norm(signatures[first[pairs]] - signatures[second[pairs]], axis=(1, 2))
    return min(ALIKE, max(LEAST, float(np.percentile(apart, USUAL_SHARE)) / 3))


def _invariants(signatures: Floats) -> Floats:
    """Return (n, 64) of unit length that no turn changes: absolute values, those across the diagonal in order."""
    size = np.abs(signatures)
    across = np.swapaxes(size, -1, -2)
    upper = np.triu(np.ones((WAVES, WAVES), bool), 1)
    return np.where(upper, np.minimum(size, across), np.maximum(size, across)).reshape(-1, WAVES * WAVES)


def _closest(signatures: Floats, first: Ints, second: Ints) -> tuple[Floats, Ints]:
    """Return for each pair the distance in the turn in which it is least, and that turn."""
    best, turn = np.full(len(first), -1, np.float32), np.zeros(len(first), np.int64)
    for start in range(0, len(first), 1 << 16):
        part = slice(start, start + (1 << 16))
        one, other = signatures[first[part]], signatures[second[part]]
        cosines = np.stack([np.einsum("nuv,nuv->n", turned(one, way), other) for way in range(8)])
        best[part], turn[part] = cosines.max(axis=0), cosines.argmax(axis=0)
    return np.sqrt(np.maximum(2 - 2 * best, 0)), turn
