"""Image files of every kind, made by real encoders, each beside the pixels that it must give.

The expected pixels are numpy arithmetic on what went into the encoder: no decoder has a say in them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 10
RANDOM = np.random.default_rng(20)
RGB = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
DEEP_ALPHA = RANDOM.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
# JPEG is kind to slow gradients: what is left of the deviation is rounding.
SMOOTH = np.stack(
    [
        np.linspace(20, 230, 32)[:, None] + np.zeros(24),
        np.linspace(200, 40, 24)[None, :] + np.zeros((32, 1)),
        (np.linspace(0, 120, 32)[:, None] + np.linspace(0, 100, 24)[None, :]),
    ],
    axis=2,
).astype(np.uint8)


@dataclass(frozen=True)
class Specimen:
    """A file and what a viewer shows for it: (H, W, 3) from 0 to 255, met within `tolerance` levels."""

    name: str
    content: bytes
    pixels: np.ndarray
    tolerance: float


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, dtype=np.float64)[..., None], 3, axis=2)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colour of 0 to 255 under alpha of 0 to 1, laid over white."""
    return colour * alpha[..., None] + 255.0 * (1 - alpha[..., None])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(samples: np.ndarray, colour_type: int, *, bits: int | None = None, before: Sequence[tuple[bytes, bytes]] = (), after: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a PNG of (H, W) or (H, W, C) samples (PNG specification, third edition); `before`, `after`: chunks around the pixels."""
    height, width = samples.shape[:2]
    bits = bits or samples.dtype.itemsize * 8
    if bits < 8:
        rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in samples]
    else:
        rows = [row.astype(samples.dtype.newbyteorder(">")).tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    samples: np.ndarray, photometric: int, *, sample_format: int = 1, extra: Sequence[int] = (), planes: bool = False, order: str = "<", more: Sequence[tuple[int, int, list[int]]] = ()
) -> bytes:
    """Return an uncompressed TIFF of (H, W) or (H, W, C) samples (TIFF 6.0); `more`: (tag, 3 short or 4 long, values)."""
    height, width = samples.shape[:2]
    layers = np.moveaxis(np.atleast_3d(samples), 2, 0) if planes else samples[None]
    strips = [layer.astype(samples.dtype.newbyteorder(order)).tobytes() for layer in layers]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    bits = samples.dtype.itemsize * 8
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric]),
        (273, 4, [0] * len(strips)), (277, 3, [channels]), (278, 4, [height]), (279, 4, [len(strip) for strip in strips]),
        (284, 3, [2 if planes else 1]), (339, 3, [sample_format] * channels), *([(338, 3, list(extra))] if extra else []), *more,
    ]  # fmt: skip
    tags.sort()
    values_at = 8 + 2 + 12 * len(tags) + 4
    lengths = [len(values) * (2 if kind == 3 else 4) for _tag, kind, values in tags]
    pixels_at = values_at + sum(length for length in lengths if length > 4)
    entries, values_blob = b"", b""
    for tag, kind, values in tags:
        if tag == 273:
            values = [pixels_at + sum(map(len, strips[:number])) for number in range(len(strips))]
        packed = struct.pack(order + ("H" if kind == 3 else "I") * len(values), *values)
        entries += struct.pack(order + "HHI", tag, kind, len(values))
        if len(packed) > 4:
            entries += struct.pack(order + "I", values_at + len(values_blob))
            values_blob += packed
        else:
            entries += packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "IH", 8, len(tags)) + entries + struct.pack(order + "I", 0)
    return mark + directory + values_blob + b"".join(strips)


def bmp_rle8(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """Return a run-length encoded BMP: every pixel a run of one, rows from the bottom."""
    height, width = indices.shape
    body = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in indices[::-1]) + b"\0\1"
    colours = b"".join(bytes((blue, green, red, 0)) for red, green, blue in palette)
    offset = 14 + 40 + len(colours)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 2835, 2835, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + colours + body


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def stored_for(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a camera stores so that `orientation` turns them upright (EXIF 2.32, figure of tag 274)."""
    return {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: np.rot90(upright.transpose(1, 0, 2), 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip


def ycck_jpeg(cmyk: np.ndarray) -> bytes:
    """Return the JPEG that Photoshop writes for CMYK: inverted, C M Y turned into Y Cb Cr (Adobe marker, transform 2)."""
    red, green, blue, black = (np.moveaxis(255.0 - cmyk, 2, 0))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    channels = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402, black]
    # Pillow's encoder inverts its input and writes transform 0: undo the first, patch the second.
    stored = np.stack([255 - np.rint(channel).clip(0, 255) for channel in channels], axis=2).astype(np.uint8)
    content = encoded(Image.fromarray(stored, "CMYK") if False else Image.frombytes("CMYK", stored.shape[1::-1], stored.tobytes()), "JPEG", quality=100, subsampling=0)
    place = content.index(b"Adobe\0") + 11
    assert content[place] == 0
    return content[:place] + b"\2" + content[place + 1 :]


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Return sRGB of 0 to 255 for 8-bit CIE L*a*b* samples of a TIFF (D50, adapted to D65 by Bradford; IEC 61966-2-1)."""
    light = lab[..., 0] * (100 / 255)
    green_red, blue_yellow = lab[..., 1].astype(np.int8), lab[..., 2].astype(np.int8)
    middle = (light + 16) / 116
    ratios = np.stack([middle + green_red / 500, middle, middle - blue_yellow / 200], axis=2)
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * [0.96422, 1.0, 0.82521]
    to_linear = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]])
    linear = (xyz @ to_linear.T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
