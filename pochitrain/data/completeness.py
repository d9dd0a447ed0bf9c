"""Is the file all there? What the bytes of each format tell about its end, without decoding a pixel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from pochitrain.locale import _

TIFF_STRIPS, TIFF_TILES = (273, 279), (324, 325)  # the tags of their offsets and of their lengths


class Refusal(Exception):
    """The reason why a file is not used as an image, on its way to whoever knows the file's name."""


def cut_off() -> str:
    """Return the reason for a file without its end."""
    return _("cut off: the end of the file is missing")


def check_container(file: BinaryIO, head: bytes, size: int) -> None:
    """Refuse a TIFF or WebP file whose own table of contents reaches beyond its end. Moves the file's position.

    Args:
        head: the first 16 bytes or more.
    """
    if head.startswith((b"II", b"MM")):
        _check_tiff_directory(file, head, size)
    elif head.startswith(b"RIFF") and struct.unpack_from("<I", head, 4)[0] + 8 > size:
        raise Refusal(cut_off())


def check_end(image: Any, file: BinaryIO, size: int) -> None:
    """Refuse a file that ends before its picture does. Moves the file's position.

    Args:
        image: Pillow's image of the file, just opened; the file stands where Pillow has stopped.
    """
    if (check := _CHECKS.get(image.format)) is not None:
        check(image, file, size)


def _check_tiff_directory(file: BinaryIO, head: bytes, size: int) -> None:
    # Pillow goes on, with a warning, when half of the directory is missing.
    order = "<" if head.startswith(b"II") else ">"
    big = b"\x2b" in head[2:4]  # BigTIFF
    if big and order == ">":
        raise Refusal(_("a BigTIFF in big-endian order, which Pillow cannot read; save it as PNG, or as another TIFF"))
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if offset + (16 + 20 * count if big else 6 + 12 * count) > size:
        raise Refusal(cut_off())


def _check_jpeg(_image: Any, file: BinaryIO, size: int) -> None:
    scan = file.tell()  # Pillow stops at the first scan: thumbnails with ends of their own lie before it
    file.seek(max(scan, size - 4096))
    if file.read().rstrip(b"\0\xff\r\n ").endswith(b"\xff\xd9"):
        return
    file.seek(scan)  # cameras append films and second pictures; inside a scan these two bytes cannot occur
    if b"\xff\xd9" not in file.read():
        raise Refusal(cut_off())


def _check_gif(_image: Any, file: BinaryIO, size: int) -> None:
    file.seek(max(0, size - 4096))
    if file.read().rstrip(b"\0").endswith(b";"):
        return
    file.seek(10)  # something may follow the end: look for it block by block (GIF89a, section 17 and following)
    _skip_colours(file, file.read(3)[0])
    while (block := file.read(1)) != b";":
        if block == b",":
            _skip_colours(file, file.read(9)[8])
        if block in (b",", b"!"):
            file.seek(1, 1)  # the size of the codes, or the kind of an extension
            while length := file.read(1)[0]:
                file.seek(length, 1)
        elif not block:
            raise Refusal(cut_off())


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 128:
        file.seek(3 << (flags & 7) + 1, 1)


def _check_bmp(image: Any, file: BinaryIO, size: int) -> None:
    decoder, (_left, _top, _right, height), offset, arguments = image.tile[0]
    if decoder == "raw":
        needed = offset + arguments[1] * height
    else:  # run-length encoded: the file's header says how long it is
        file.seek(2)
        (needed,) = struct.unpack("<I", file.read(4))
    if needed > size:
        raise Refusal(cut_off())


def _check_tiff(image: Any, _file: BinaryIO, size: int) -> None:
    for offsets, lengths in (TIFF_STRIPS, TIFF_TILES):
        starts, counts = image.tag_v2.get(offsets, ()), image.tag_v2.get(lengths, ())
        if any(start + count > size for start, count in zip(starts, counts, strict=False)):
            raise Refusal(cut_off())


_CHECKS: dict[str, Callable[[Any, BinaryIO, int], None]] = {
    "JPEG": _check_jpeg,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
}
