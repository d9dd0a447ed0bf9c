"""JPEG with an ear for libjpeg: what it remarks on when it has to make up pixels."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from pochitrain.data.completeness import Refusal, cut_off
from pochitrain.data.headers import plain_frame
from pochitrain.locale import _

# What libjpeg remarks on (its jerror.h) when it has filled in pixels that it could not decode: data is missing, or left
# over although more of the picture follows. Left over before the end (0xd9), it may be a careless writer's.
_LOST = re.compile(r"premature end|Huffman code|arithmetic code|instead of RST|bytes before marker (?!0xd9)", re.I)
_REMARK = re.compile(r"Corrupt JPEG|Warning|Premature|Invalid SOS|Inconsistent progression|Unknown Adobe", re.I)
# Our own remarks, as they are kept: in no reader's language.
COARSE, ARITHMETIC, SAMPLING = "pochi: coarse", "pochi: arithmetic", "pochi: sampling"
_APP, _COM, _SOS = range(0xE0, 0xF0), 0xFE, 0xDA
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_SOF_PROGRESSIVE, _SOF_ARITHMETIC, _EOI = (0xC2, 0xCA), (0xC9, 0xCA), 0xD9
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
    if remark in ("", SAMPLING):
        remark = _unheard(data) or remark
    if pixels is None or space == "CMYK":
        image.load()
        return image, remark
    decoded = Image.fromarray(pixels)
    decoded.info = image.info
    return decoded, remark


def decode_plain(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the pixels (H, W, 3) of a plain JPEG on which libjpeg has nothing to remark, None for any other file."""
    frame = plain_frame(data)
    if frame is None or frame.progressive:
        return None
    return _heard(data, "RGB")[0]


def remark_in_words(remark: str) -> str:
    """Return a remark as a reader sees it: libjpeg's as it is, ours in his language."""
    ours = {
        COARSE: _("Progressive JPEG without its last scans: coarser than it was"),
        ARITHMETIC: _("Arithmetic coding: missing pixels are not noticed"),
        SAMPLING: _("Rare chroma sampling: missing pixels are not noticed"),
    }
    return ours.get(remark, remark)


def _unheard(data: bytes) -> str:
    """Return what there is to remark on a JPEG of which libjpeg says nothing, "" for nothing (ITU T.81).

    A file that was cut between two scans, and given an end, looks like a whole one. A progressive one that ends before
    each coefficient has all its bits (section G.1.1) is coarse.

    Raises:
        Refusal: a component of a sequential one has no scan.
    """
    bits: dict[int, list[int]] = {}  # component → how many bits of each of its 64 coefficients are still to come
    at, frame = 2, 0
    while (found := _MARKER.search(data, at)) and data[found.start() + 1] != _EOI:
        start, marker = found.end(), data[found.start() + 1]
        at = start + int.from_bytes(data[start : start + 2], "big")
        segment = data[start + 2 : at]
        if marker in (*_SOF_SEQUENTIAL, *_SOF_PROGRESSIVE):
            frame, bits = marker, {component: [16] * 64 for component in segment[6::3]}
        elif marker == _SOS:
            if len(segment) < 6 or at > len(data):
                raise Refusal(cut_off())
            first, last, precision = segment[-3:] if frame in _SOF_PROGRESSIVE else (0, 63, 0)
            for component in segment[1:-3:2]:
                bits.get(component, [0])[first : last + 1] = [precision & 15] * (last + 1 - first)
            if frame in _SOF_SEQUENTIAL and not any(map(any, bits.values())):
                break
    lacking = any(map(any, bits.values()))
    if lacking and frame in _SOF_SEQUENTIAL:
        raise Refusal(cut_off())
    return COARSE if lacking else ARITHMETIC if frame in _SOF_ARITHMETIC else ""


def _heard(data: bytes, space: str) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Return (pixels, libjpeg's remark): no pixels with a remark, or for what this interface to libjpeg cannot do."""
    try:
        return simplejpeg.decode_jpeg(data, space), ""
    except ValueError as error:
        if "subsampling" in str(error):  # this interface to libjpeg does not know it, and Pillow decodes in silence
            return None, SAMPLING
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
