"""What is learned of the files, what is remembered of it, and which files show one picture."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochitrain.data.audit import (
    Survey,
    Twins,
    cropped,
    describe,
    duplicates,
    lost_area,
    small_classes,
    survey,
    twins,
    unreadable,
)
from pochitrain.data.folder import scan_folder
from tests.data.pictures import picture, write_pictures


def look(root: Path, split: str = "train") -> Survey:
    return survey(split, scan_folder(root), root.parent / f"{root.name}.cache")


def change_in_secret(path: Path, content: bytes) -> None:
    """Replace the bytes of a file, of which size and mtime say nothing."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def told(pairs: list[Twins]) -> list[tuple[str, str, str]]:
    return [(pair.kind, Path(pair.first.path).name, Path(pair.second.path).name) for pair in pairs]


# ---- looking and remembering ----


def test_facts_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    path = tmp_path / "train" / "ant" / "1.jpg"
    path.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(path, exif=exif)
    found = look(tmp_path / "train")
    facts = found.facts[0]
    assert (facts["width"], facts["height"], facts["bytes"]) == (90, 120, path.stat().st_size)
    assert facts["digest"].tobytes() == hashlib.sha256(path.read_bytes()).digest()
    assert found.counts() == [1]


def test_damage_behind_the_header_is_found(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 3, "bee": 1})
    content = bytearray((root / "ant" / "001.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (root / "ant" / "001.png").write_bytes(content)
    (root / "bee" / "000.png").write_bytes(b"")
    found = look(root)
    assert sorted(found.reasons) == [1, 3]
    assert found.readable.tolist() == [0, 2]
    lines = [(f.kind, f.severity, Path(f.file).name, f.detail) for f in unreadable(found, "warning")]
    assert [line[:3] for line in lines] == [
        ("unreadable", "warning", "001.png"),
        ("unreadable", "warning", "000.png"),
        ("empty_class", "error", "train"),
    ]
    assert lines[1][3] == "the file is empty"
    assert "bee" in lines[2][3]


def test_a_known_file_is_not_decoded_again(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 3})
    first = look(root)
    known: list[int] = []
    again = survey("train", scan_folder(root), tmp_path / "train.cache", known.append)
    assert known == [3]  # all at once, before any is decoded
    assert np.array_equal(first.facts, again.facts)


def test_a_change_is_noticed_though_size_and_mtime_are_kept(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 3})
    look(root)
    path = root / "ant" / "001.png"
    good = path.read_bytes()
    change_in_secret(path, bytes(len(good)))
    for _time in range(2):
        assert list(look(root).reasons) == [1]
    change_in_secret(path, good)
    assert not look(root).reasons


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "magic"])
def test_a_damaged_cache_is_written_anew(damage: str, tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 3})
    first = look(root)
    cache = tmp_path / "train.cache"
    content = bytearray(good := cache.read_bytes())
    if damage == "flip":
        content[100] ^= 1
    if damage == "magic":
        content[0] ^= 1
    cache.write_bytes(content[: {"cut": 150, "empty": 0}.get(damage, len(content))])
    assert np.array_equal(look(root).facts, first.facts)
    assert cache.read_bytes() == good


def test_what_was_decoded_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 40})
    calls: list[int] = []

    def interrupt(files: int) -> None:
        calls.append(files)
        if sum(calls) >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey("train", scan_folder(root), tmp_path / "cache", interrupt)
    known: list[int] = []
    assert survey("train", scan_folder(root), tmp_path / "cache", known.append).counts() == [40]
    assert known[0] >= 16
    assert sum(known) == 40


def test_one_cache_serves_several_splits_and_forgets_what_is_gone(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 4})
    folder = scan_folder(root)
    cache = tmp_path / "cache"
    survey("train", folder, cache)
    (root / "ant" / "003.png").unlink()
    half = write_pictures(tmp_path / "half", {"ant": 2}, first=10)
    shutil.copy(half / "ant" / "000.png", root / "ant" / "new.png")
    known: list[int] = []
    survey("train", scan_folder(root), cache, known.append)
    assert known == [3, 1]
    assert b"003.png" not in cache.read_bytes()


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 2})
    (tmp_path / "file").write_text("")
    found = survey("train", scan_folder(root), tmp_path / "file" / "cache")
    assert found.counts() == [2]
    assert "decodes again" in found.notes[0]


# ---- the same picture twice ----


def test_copies_and_changed_copies_are_found_within_and_across(tmp_path: Path) -> None:
    train = write_pictures(tmp_path / "train", {"ant": 5, "bee": 5})
    val = write_pictures(tmp_path / "val", {"ant": 3, "bee": 3}, first=50)
    shutil.copy(train / "ant" / "000.png", val / "ant" / "leak.png")
    shutil.copy(train / "ant" / "001.png", train / "ant" / "copy.png")
    picture(7).rotate(90, expand=True).save(train / "bee" / "turned.png")
    picture(3).resize((60, 45)).save(val / "ant" / "small.jpg")
    pairs = twins([look(train), look(val, "val")])
    assert sorted(told(pairs)) == [
        ("duplicate", "001.png", "copy.png"),
        ("leak", "000.png", "leak.png"),
        ("near_duplicate", "002.png", "turned.png"),
        ("near_leak", "003.png", "small.jpg"),
    ]
    words = {pair.kind: describe(pair) for pair in pairs}
    assert words["leak"] == "the same bytes"
    assert words["near_duplicate"].startswith("turned by 90°, likeness 100.0 %")
    assert words["near_leak"].startswith("120 × 90 → 60 × 45, likeness 100.0 %")


def test_one_picture_in_two_classes_is_told_twice(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 2, "bee": 2})
    shutil.copy(root / "ant" / "000.png", root / "bee" / "copy.png")
    found = duplicates(twins([look(root)]))
    assert [(f.kind, f.severity) for f in found] == [("duplicate", "warning"), ("two_classes", "warning")]
    assert found[1].detail == "classes: ant | bee"  # no formula of a spreadsheet, whatever the class is called


def test_n_files_of_one_picture_make_n_minus_1_pairs(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 3})
    for number in range(4):
        shutil.copy(root / "ant" / "001.png", root / "ant" / f"copy{number}.png")
        picture(1).resize((100 - number, 80)).save(root / "ant" / f"other{number}.png")
    kinds = [pair.kind for pair in twins([look(root)])]
    assert kinds == ["duplicate"] * 4 + ["near_duplicate"] * 4


def test_no_leak_hides_behind_a_duplicate(tmp_path: Path) -> None:
    """Of three like files each validation file is paired with the training file, though the two are nearer."""
    train = write_pictures(tmp_path / "train", {"ant": 2})
    val = write_pictures(tmp_path / "val", {"ant": 1}, first=50)
    for number in range(2):
        picture(0).resize((60 + number, 45)).save(val / "ant" / f"small{number}.png")
    pairs = twins([look(train), look(val, "val")])
    assert sorted(told(pairs)) == [("near_leak", "000.png", "small0.png"), ("near_leak", "000.png", "small1.png")]


def test_blank_pictures_are_not_near_duplicates(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 2})
    for level in (10, 100, 200):
        Image.new("RGB", (20, 20), (level, level, level)).save(root / "ant" / f"blank{level}.png")
    assert twins([look(root)]) == []


def test_nothing_to_compare(tmp_path: Path) -> None:
    root = tmp_path / "train"
    (root / "ant").mkdir(parents=True)
    (root / "ant" / "1.png").write_bytes(b"no image")
    assert twins([look(root)]) == []


# ---- classes and crops ----


def test_small_classes(tmp_path: Path) -> None:
    train = write_pictures(tmp_path / "train", {"ant": 10, "bee": 9})
    val = write_pictures(tmp_path / "val", {"ant": 5, "bee": 4}, first=50)
    assert [f.detail for f in small_classes(look(train))] == ["images of class bee: 9, fewer than 10"]
    assert [f.detail for f in small_classes(look(val, "val"))] == ["images of class bee: 4, fewer than 5"]


@pytest.mark.parametrize(
    ("size", "steps", "lost"),
    [
        ((256, 256), [("resize", (256,)), ("crop", (224, 224))], 1 - (224 / 256) ** 2),
        ((400, 200), [("resize", (256,)), ("crop", (224, 224))], 1 - 224 * 224 / (512 * 256)),
        ((200, 400), [("resize", (256,)), ("crop", (224, 224))], 1 - 224 * 224 / (512 * 256)),
        ((400, 200), [("resize", (256, 256)), ("crop", (256, 256))], 0),
        ((400, 200), [("crop", (100, 300))], 1 - 100 * 300 / (400 * 200)),
        ((8, 8), [("crop", (224, 224))], 0),
        ((400, 200), [("crop", (200, 200)), ("crop", (100, 100))], 1 - 100 * 100 / (400 * 200)),
        ((400, 200), [("resize", (256,))], 0),
    ],
)
def test_lost_area(size: tuple[int, int], steps: list, lost: float) -> None:
    assert lost_area(np.array([size[0]]), np.array([size[1]]), steps)[0] == pytest.approx(lost, abs=1e-12)


def test_an_image_that_loses_most_of_itself_is_named(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "train", {"ant": 2})
    picture(9, (400, 100)).save(root / "ant" / "wide.png")
    (found,) = cropped(look(root), [("resize", (256,)), ("crop", (224, 224))])
    assert (found.kind, found.severity, Path(found.file).name) == ("crop", "warning", "wide.png")
    assert found.detail == "81 % of the area is cut off"
