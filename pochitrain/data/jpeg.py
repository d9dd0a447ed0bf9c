"""JPEG with an ear for libjpeg: what it remarks on when it has to make up pixels."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from pochitrain.data.completeness import Refusal
from pochitrain.locale import _

# What libjpeg remarks on (its jerror.h) when it has filled in pixels that it could not decode: data is missing, or left
# over although more of the picture follows. Left over before the end (0xd9), it may be a careless writer's.
_LOST = re.compile(r"premature end|Huffman code|arithmetic code|instead of RST|bytes before marker (?!0xd9)", re.I)
_REMARK = re.compile(r"Corrupt JPEG|Warning|Premature|Invalid SOS|Inconsistent progression|Unknown Adobe", re.I)
_APP, _COM, _SOS = range(0xE0, 0xF0), 0xFE, 0xDA
_SOF_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # baseline, extended, and with arithmetic coding (ITU T.81, table B.1)


def decode_jpeg(image: Any, file: BinaryIO) -> tuple[Any, str]:
    """Return (picture with its metadata still on it, libjpeg's remark) of an opened JPEG.

    Pillow has the same libjpeg-turbo and gives the same pixels in the same time, give or take a tenth, but keeps
    libjpeg's remarks to itself: the missing half of a damaged picture would be grey, and nobody would know.
    """
    file.seek(0)
    data = file.read()
    space = "CMYK" if image.mode == "CMYK" else "RGB"
    pixels, remark = _heard(data, space)
    if remark and _LOST.search(lost := _heard(_bare_jpeg(data), space)[1]):  # libjpeg tells its first remark only
        raise Refusal(_("damaged: some of its pixels cannot be decoded ({detail})", detail=lost))
    if pixels is None or space == "CMYK":
        image.load()
        return image, remark
    decoded = Image.fromarray(pixels)
    decoded.info = image.info
    return decoded, remark


def _heard(data: bytes, space: str) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Return (pixels, libjpeg's remark): no pixels with a remark, or for what this interface to libjpeg cannot do."""
    try:
        return simplejpeg.decode_jpeg(data, space), ""
    except ValueError as error:
        return None, str(error) if _REMARK.search(str(error)) else ""


def _bare_jpeg(data: bytes) -> bytes:
    """Return a JPEG of which only the picture is left to remark on: no metadata, nothing between the segments."""
    kept, at, sequential = [data[:2]], 2, False
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS:
            return b"".join([*kept, _plain_scans(data[at:]) if sequential else data[at:]])
        if not 0xC0 <= marker <= 0xFE or marker in range(0xD0, 0xDA):  # fill bytes, or none of a segment
            at += 1
            continue
        if marker not in _APP and marker != _COM:
            kept.append(data[at:end])
        sequential |= marker in _SOF_SEQUENTIAL
        at = end
    return data


def _plain_scans(scans: bytes) -> bytes:
    """Return scans of a sequential JPEG with the spectral range that means all of it.

    A range means nothing there, and careless writers leave anything in its place. These two bytes mark the beginning of
    a scan wherever they stand: among the coded pixels, a zero follows each 0xff.
    """
    plain = bytearray(scans)
    for start in (match.start() for match in re.finditer(b"\xff\xda", scans)):
        end = start + 2 + int.from_bytes(scans[start + 2 : start + 4], "big")
        if end <= len(plain):
            plain[end - 3 : end] = b"\x00\x3f\x00"
    return bytes(plain)
