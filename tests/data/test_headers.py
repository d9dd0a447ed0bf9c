"""The quick look at a JPEG never says anything but what Pillow says."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pochitrain.data import decode
from pochitrain.data.decode import BrokenImage, ImageHeader, decode_pixels, decode_with_remark, inspect_image
from pochitrain.data.headers import inspect_plain
from tests.data.pictures import picture

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PLAIN = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True, "quality": 30},
    "full colour": {"subsampling": 0},
    "with a comment": {"comment": b"taken on a Sunday"},
    "with a profile": {"icc_profile": ICC},
    "with restarts": {"restart_marker_rows": 1},
}


def slowly(path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageHeader | str:
    """Return what Pillow alone says, or why the file is refused."""
    with monkeypatch.context() as patched:
        patched.setattr(decode, "inspect_plain", lambda _path: None)
        try:
            return inspect_image(path)
        except BrokenImage as error:
            return str(error)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_inspect_plain_is_known(kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(1, (40, 30)).convert(mode).save(tmp_path / "a.jpg", **PLAIN[kind])
    assert inspect_plain(tmp_path / "a.jpg") == (40, 30, mode, kind == "progressive")
    assert inspect_image(tmp_path / "a.jpg") == slowly(tmp_path / "a.jpg", monkeypatch)


def test_what_is_more_than_plain_is_left_to_pillow(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    saved = {"turned.jpg": {"exif": turned}, "cmyk.jpg": {}, "a.png": {}}
    for name, options in saved.items():
        picture(1, (40, 30)).convert("CMYK" if "cmyk" in name else "RGB").save(tmp_path / name, **options)
        assert inspect_plain(tmp_path / name) is None
    assert inspect_image(tmp_path / "turned.jpg").width == 30
    assert inspect_plain(tmp_path / "missing.jpg") is None
    assert inspect_plain(tmp_path) is None


def slow_pixels(path: Path) -> object:
    """Return what the whole decoder makes of a file on which it has nothing to remark, else its remark or refusal."""
    try:
        image, remark = decode_with_remark(path)
    except BrokenImage as error:
        return str(error)
    return remark or np.asarray(image)


def test_damage_is_judged_as_by_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, path, quick, decoded = random.Random(5), tmp_path / "a.jpg", 0, 0
    for options in PLAIN.values():
        picture(1, (40, 30)).save(path, **options)
        whole = path.read_bytes()
        for _trial in range(120):
            data = bytearray(whole)
            for _damage in range(draw.choice((1, 1, 1, 4))):
                at = draw.randrange(min(len(data), 700) + 1)
                match draw.randrange(4):
                    case 0:
                        data[at : at + 1] = [draw.choice((0x00, 0xFF, 0xC0, 0xC2, 0xDA, 0xD9, draw.randrange(256)))]
                    case 1:
                        del data[at : at + draw.choice((1, 2, 60))]
                    case 2:
                        data[at:at] = bytes(draw.choices((0x00, 0xFF, 0xD8, 0xE1, 0xDB), k=draw.choice((1, 2, 5))))
                    case 3:
                        del data[-draw.choice((1, 2, 3, 50, 500)) :]
            path.write_bytes(data)
            if found := inspect_plain(path):
                quick += 1
                assert slowly(path, monkeypatch) == ImageHeader(found.width, found.height, "JPEG", found.mode)
            if (pixels := decode_pixels(path)) is not None:
                decoded += 1
                np.testing.assert_array_equal(slow_pixels(path), pixels)
    assert decoded > 100
    assert quick > 150  # the damage did not simply hide all of them
