"""One picture is known again after what people do to files; two pictures are never taken for one."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pochitrain.data.likeness import ALIKE, alike, limits, signature, turned
from tests.data.pictures import picture


def signatures(numbers: range, **like: float) -> np.ndarray:
    return np.stack([signature(picture(number, **like)) for number in numbers])  # type: ignore[arg-type]


def widest(count: int) -> np.ndarray:
    return np.full(count, ALIKE, np.float32)


def saved_again(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "change",
    [
        saved_again,
        lambda image: image.resize((60, 45), Image.Resampling.LANCZOS),
        lambda image: image.resize((224, 224)),
        lambda image: saved_again(image.resize((300, 225))),
        lambda image: ImageEnhance.Brightness(image).enhance(0.85),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.crop((1, 1, 119, 89)),
    ],
    ids=["jpeg", "half", "square", "larger jpeg", "darker", "paler", "grey", "trimmed"],
)
def test_a_changed_copy_is_the_same_picture(change: Callable[[Image.Image], Image.Image]) -> None:
    for number in range(20):
        original = picture(number)
        assert np.linalg.norm(signature(original) - signature(change(original))) < 0.75 * ALIKE, number


@pytest.mark.parametrize("turn", range(8))
def test_turns_are_those_of_the_pixels(turn: int) -> None:
    pixels = np.asarray(picture(1))
    if turn & 4:
        pixels = pixels.swapaxes(0, 1)
    if turn & 1:
        pixels = pixels[::-1]
    if turn & 2:
        pixels = pixels[:, ::-1]
    changed = signature(Image.fromarray(np.ascontiguousarray(pixels)))
    assert np.linalg.norm(turned(signature(picture(1)), turn) - changed) < 0.03
    first, second, distance, found = alike(np.stack([signature(picture(1)), changed]), widest(2))
    assert (first.tolist(), second.tolist(), found.tolist()) == ([0], [1], [turn])
    assert distance[0] < 0.03


def test_different_pictures_are_apart() -> None:
    assert alike(signatures(range(400)), widest(400))[0].size == 0


def test_no_near_pair_is_missed() -> None:
    """The quick search finds what comparing all pairs in all turns finds."""
    groups = [signatures(range(100 * base, 100 * base + 8), like=base, share=0.7) for base in range(20, 30)]
    some = np.concatenate([signatures(range(150)), *groups])
    some = some[np.random.default_rng(0).permutation(len(some))]
    bars = np.random.default_rng(1).uniform(0.5, 0.9, len(some)).astype(np.float32)
    expected = set()
    for turn in range(8):
        distance = np.linalg.norm(turned(some, turn)[:, None] - some, axis=(2, 3))
        near = distance <= np.minimum(bars[:, None], bars)
        expected |= {(int(a), int(b)) for a, b in np.argwhere(near) if a < b}
    first, second, _distance, _turn = alike(some, bars)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert 5 < len(expected) < 500


def test_many_copies_stay_few_pairs() -> None:
    copies = np.repeat(signatures(range(1)), 600, axis=0)
    first, second, *_rest = alike(copies, widest(600))
    assert len(first) <= 16 * 600
    assert set(first) | set(second) == set(range(600))


def test_one_colour_is_like_nothing() -> None:
    assert not signature(Image.new("RGB", (50, 40), (200, 30, 30))).any()


def test_what_is_usual_in_a_group_does_not_count() -> None:
    """Pictures from one fixture are all near each other; only what is nearer still is the same picture."""
    fixture = signatures(range(100, 200), like=1, share=0.85)
    apart = signatures(range(200, 300))
    groups = np.repeat([0, 1], 100)
    bars = limits(np.concatenate([fixture, apart]), groups)
    assert np.all(bars[100:] > 0.9 * ALIKE)
    assert np.all(bars[:100] < 0.5 * ALIKE)
    assert alike(fixture, widest(100))[0].size > 50
    assert alike(fixture, bars[:100])[0].size == 0
    copy = signature(saved_again(picture(100, like=1, share=0.85)))
    first, second, *_rest = alike(np.concatenate([fixture, copy[None]]), np.append(bars[:100], bars[0]))
    assert list(zip(first, second, strict=True)) == [(0, 100)]


def test_mostly_copies_do_not_make_copies_usual() -> None:
    copies = np.repeat(signatures(range(4)), 25, axis=0)
    noise = np.random.default_rng(0).normal(0, 0.002, copies.shape)
    some = (copies + noise).astype(np.float32)
    some /= np.linalg.norm(some, axis=(1, 2), keepdims=True)
    original = np.repeat(range(4), 25)
    first, second, *_rest = alike(some, limits(some, np.zeros(100, np.int64)))
    assert set(first) | set(second) == set(range(100))
    assert np.array_equal(original[first], original[second])


def test_a_small_group_goes_by_all_pictures() -> None:
    """Of ten files of one picture nobody could learn that near pictures are usual; of all the others one can."""
    groups = np.repeat([0, 1], [10, 190])
    copies = np.repeat(signatures(range(1)), 10, axis=0)
    assert np.all(limits(np.concatenate([copies, signatures(range(1, 191))]), groups) > 0.9 * ALIKE)
    assert np.all(limits(signatures(range(100, 300), like=1, share=0.85), groups) < 0.5 * ALIKE)
    assert np.all(limits(copies, groups[:10]) == np.float32(ALIKE))
