"""Every kind of image file against numpy arithmetic; every kind of broken file against its reason."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pochitrain.data.decode import BrokenImage, decode_image, decode_with_remark, display_name, inspect_image
from pochitrain.data.jpeg import remark_in_words
from pochitrain.errors import DataError
from tests.data import zoo

GOOD = {specimen.name: specimen for specimen in zoo.good_ones()}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def reason(function: object, path: str | Path) -> str:
    with pytest.raises(BrokenImage) as caught:
        function(path)  # type: ignore[operator]
    (problem,) = caught.value.problems
    assert problem.where == display_name(path)
    return problem.what


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_gives_the_pixels_that_went_in(name: str, tmp_path: Path) -> None:
    specimen = GOOD[name]
    path = write(tmp_path, name, specimen.content)
    image = decode_image(path)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(float)
    assert pixels.shape == specimen.pixels.shape
    assert np.abs(pixels - specimen.pixels).max() <= specimen.tolerance
    header = inspect_image(path)
    assert (header.width, header.height) == image.size


def test_the_header_says_how_the_file_stores_its_picture(tmp_path: Path) -> None:
    header = inspect_image(write(tmp_path, "a.jpg", GOOD["turned6.jpg"].content))
    assert (header.width, header.height, header.format, header.mode) == (24, 32, "JPEG", "RGB")
    assert inspect_image(write(tmp_path, "b.png", GOOD["palette.png"].content)).mode == "P"


@pytest.mark.parametrize("name", ["turned6.jpg", "turned6.png", "turned6.webp", "turned6.tif", "turned-rgba.png"])
def test_a_picture_cannot_be_turned_twice(name: str, tmp_path: Path) -> None:
    image = decode_image(write(tmp_path, name, GOOD[name].content))
    assert image.info == {}
    assert dict(image.getexif()) == {}
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(image))


@pytest.mark.parametrize(("name", "content", "word"), zoo.refused_ones(), ids=lambda value: value[:12])
def test_header_and_end_are_enough_to_refuse(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    assert word in reason(inspect_image, path)
    assert reason(decode_image, path) == reason(inspect_image, path)


@pytest.mark.parametrize(("name", "content", "word"), zoo.refused_by_pixels(), ids=lambda value: value[:12])
def test_what_only_the_pixels_tell_is_refused_when_decoding(
    name: str, content: bytes, word: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, content)
    inspect_image(path)
    assert word in reason(decode_image, path)


def test_what_may_be_careless_or_damaged_is_decoded_with_a_remark(tmp_path: Path) -> None:
    for content, word in zoo.doubtful_jpegs().values():
        path = write(tmp_path, "a.jpg", content)
        image, remark = decode_with_remark(path)
        assert word in remark_in_words(remark)
        assert np.array_equal(image, Image.open(path).convert("RGB"))
    assert decode_with_remark(write(tmp_path, "a.jpg", GOOD["plain.jpg"].content))[1] == ""


COMPLETE_BEFORE_ITS_END = {
    "two-pictures.jpg",
    "film-behind.jpg",
    "padded.jpg",
    "two.tif",
    "behind.gif",
}  # something follows
SHORT = [name for name, specimen in GOOD.items() if len(specimen.content) < 5000 and name[:6] != "turned"]


@pytest.mark.parametrize("name", sorted(set(SHORT) - COMPLETE_BEFORE_ITS_END))
def test_a_file_that_is_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    content = GOOD[name].content
    for length in sorted({len(content) * part // 20 for part in range(1, 20)} | {len(content) - 1, len(content) - 2}):
        path = write(tmp_path, name, content[:length])
        assert reason(decode_image, path)
        if name != "jpeg-inside.tif":  # half of an entry of its directory may be gone
            assert reason(inspect_image, path)


def test_a_cut_file_says_so(tmp_path: Path) -> None:
    for name in ("plain.jpg", "rgb.png", "palette.gif", "rgb.bmp", "lossless.webp", "rgb-raw.tif"):
        path = write(tmp_path, name, GOOD[name].content[:-1])
        assert reason(inspect_image, path) == "cut off: the end of the file is missing"


def test_zeros_where_the_end_of_a_copy_was_lost_are_no_end(tmp_path: Path) -> None:
    content = GOOD["plain.jpg"].content
    path = write(tmp_path, "a.jpg", content[: len(content) // 2] + bytes(len(content) // 2))
    assert "cut off" in reason(inspect_image, path)
    assert "cut off" in reason(decode_image, path)


BOMB_RUN = """
import resource, sys, time
from pochitrain.data.decode import BrokenImage, decode_image, inspect_image
decode_image(sys.argv[1])  # what every process pays once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    for function in (inspect_image, decode_image):
        start = time.perf_counter()
        try:
            function(path)
        except BrokenImage as error:
            seconds = time.perf_counter() - start
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(path.rpartition("/")[2], "limit" in str(error), seconds, kilobytes)
"""


def test_bombs_are_refused_at_once_and_without_memory(tmp_path: Path) -> None:
    plain = write(tmp_path, "plain.png", GOOD["rgb.png"].content)
    paths = [write(tmp_path, name, content) for name, content in zoo.bombs().items()]
    run = subprocess.run([sys.executable, "-c", BOMB_RUN, plain, *paths], capture_output=True, text=True, check=True)
    rows = [line.split() for line in run.stdout.splitlines()]
    assert [row[0] for row in rows] == [path.name for path in paths for _function in range(2)]
    for _name, is_limit, seconds, kilobytes in rows:
        assert is_limit == "True"
        assert float(seconds) < 0.1
        assert int(kilobytes) < 50_000


def test_threads_see_the_same_pixels(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, specimen.content) for name, specimen in GOOD.items()]
    alone = [decode_image(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: decode_image(path).tobytes(), paths * 4))
    assert together == alone * 4


def test_odd_metadata_is_no_reason_to_warn(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tif", GOOD["odd-metadata.tif"].content)
    with pytest.warns(UserWarning, match="too many entries"), Image.open(path) as image:
        image.load()
    decode_image(path)
    inspect_image(path)


def test_other_warnings_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", GOOD["rgb.png"].content)
    decode_image(path)
    filters = list(warnings.filters)
    decode_image(path)
    assert warnings.filters == filters  # a change would make every warning of the process appear once more
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


NAMES = [
    "写真 1.png",
    "🐈.png",
    "e\u0301.png",
    "é.png",
    "a#%&'\"<>?*.png",
    "new\nline.png",
    "\udcff\udcfe.png",
    "あ" * 83 + ".png",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_can_be_opened_and_shown(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(GOOD["rgb.png"].content)
    assert decode_image(path).size == decode_image(str(path)).size == (zoo.WIDTH, zoo.HEIGHT)
    path.write_bytes(b"")
    assert reason(decode_image, str(path)) == "the file is empty"
    with pytest.raises(BrokenImage) as caught:
        inspect_image(path)
    assert len(str(caught.value).encode().splitlines()) == 2


def test_shown_names_are_one_line_and_never_meet() -> None:
    names = [
        "a\nb",
        "a\\nb",
        "a\\\\nb",
        "\udcff",
        "\\xff",
        "a\u2028b",
        "a\x7fb",
        "a\x1b[31mb",
        "👨‍👩‍👧",
        "か\u3099",
        "\u202egpj",
    ]
    shown = [display_name(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(len(name.encode("utf-8").decode().splitlines()) == 1 for name in shown)
    assert shown[:5] == ["a\\nb", "a\\\\nb", "a\\\\\\\\nb", "\\xff", "\\\\xff"]
    assert shown[-3:] == [*names[-3:-1], "\\u202egpj"]


def test_what_is_no_file_has_a_reason(tmp_path: Path) -> None:
    assert reason(decode_image, tmp_path / "none.png") == "cannot be read: No such file or directory"
    assert reason(inspect_image, tmp_path) == "cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_of_somebody_else_has_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", GOOD["rgb.png"].content)
    os.seteuid(65534)
    try:
        assert reason(decode_image, path) == "cannot be read: Permission denied"
    finally:
        os.seteuid(0)


def test_the_error_survives_the_way_out_of_a_worker(tmp_path: Path) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode_image(write(tmp_path, "a.png", b""))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, BrokenImage)
    assert isinstance(copy, DataError)
    assert str(copy) == str(caught.value)
