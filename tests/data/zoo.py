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
# One colour in each 8 × 8 block: JPEG stores these exactly, but for the rounding of Y, Cb and Cr.
BLOCKS = RANDOM.integers(0, 256, (4, 3, 4), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
BLOCKS, BLOCK_INK = BLOCKS[..., :3], BLOCKS[..., 3]


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


def png(
    samples: np.ndarray,
    colour_type: int,
    *,
    bits: int | None = None,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return a PNG of (H, W) or (H, W, C) samples (PNG specification, third edition).

    `before` and `after` are chunks around the pixels.
    """
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
    """Return a chunk: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _adam7_rows() -> list[bytes]:
    """Return the rows of `RGB` in the seven passes of an interlaced PNG (section 8.2), each behind its filter."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return [b"\0" + row.tobytes() for left, top, across, down in passes for row in RGB[top::down, left::across]]


def interlaced_png(rows: int) -> bytes:
    """Return an interlaced PNG of `RGB` with so many rows of all its passes; all of it is well-formed."""
    return _png_of(b"".join(_adam7_rows()[:rows]), interlaced=True)


def short_png(rows: int) -> bytes:
    """Return a PNG of `RGB` that holds its first rows only; all of it is well-formed."""
    return _png_of(b"".join(b"\0" + row.tobytes() for row in RGB[:rows]))


def surplus_png() -> bytes:
    """Return an interlaced PNG of `RGB` with bytes behind its pixels, and a wrong checksum behind those."""
    packed = zlib.compress(b"".join(_adam7_rows()) + b"more")
    return _png_of(packed[:-1] + bytes([packed[-1] ^ 1]), interlaced=True, packed=True)


def _png_of(pixels: bytes, *, interlaced: bool = False, packed: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", pixels if packed else zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def with_wrong_checksum(content: bytes, kind: bytes) -> bytes:
    """Return a PNG in which the checksum of the chunks of one kind is wrong."""
    rest, changed = content[8:], content[:8]
    while rest:
        end = 12 + int.from_bytes(rest[:4], "big")
        changed += rest[: end - 1] + bytes([rest[end - 1] ^ (rest[4:8] == kind)])
        rest = rest[end:]
    return changed


def tiff(
    samples: np.ndarray,
    photometric: int,
    *,
    sample_format: int = 1,
    extra: Sequence[int] = (),
    planes: bool = False,
    order: str = "<",
    deflate: bool = False,
    more: Sequence[tuple[int, int, list[int]]] = (),
) -> bytes:
    """Return a TIFF of (H, W) or (H, W, C) samples (TIFF 6.0).

    `more` holds further tags: (tag, 3 for short or 4 for long, values).
    """
    height, width = samples.shape[:2]
    layers = np.moveaxis(np.atleast_3d(samples), 2, 0) if planes else samples[None]
    strips = [layer.astype(samples.dtype.newbyteorder(order)).tobytes() for layer in layers]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    bits = samples.dtype.itemsize * 8
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [8 if deflate else 1]), (262, 3, [photometric]),
        (273, 4, [0] * len(strips)), (277, 3, [channels]), (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]), (284, 3, [2 if planes else 1]),
        (339, 3, [sample_format] * channels), *([(338, 3, list(extra))] if extra else []), *more,
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


def bmp_with_alpha(colours: np.ndarray, alpha: int) -> bytes:
    """Return a BMP of version 5 (BITMAPV5HEADER) with a mask for alpha, which is the same everywhere."""
    height, width = colours.shape[:2]
    body = np.dstack([colours[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)  # 3: BI_BITFIELDS
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return b"BM" + struct.pack("<IHHI", 138 + len(body), 0, 0, 138) + header.ljust(124, b"\0") + body


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def stored_for(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a camera stores so that `orientation` turns them upright (EXIF 2.32, tag 274)."""
    return {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip


def ycck_jpeg(inks: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return the JPEG that Photoshop writes for CMYK (inverted, as Y Cb Cr K, transform 2), and the inks it holds."""
    red, green, blue, black = np.moveaxis(inks.astype(np.float64), 2, 0)  # inverted twice: red = 255 - (255 - C)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    channels = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402, 255 - black]
    luma, chroma_blue, chroma_red, _black = channels = [np.rint(channel).clip(0, 255) for channel in channels]
    red, blue = luma + 1.402 * (chroma_red - 128), luma + 1.772 * (chroma_blue - 128)
    held = np.stack([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue, inks[..., 3]], axis=2).clip(0, 255)
    # Pillow's encoder inverts what it gets, and writes transform 0.
    stored = (255 - np.stack(channels, axis=2)).astype(np.uint8)
    image = Image.frombytes("CMYK", stored.shape[1::-1], stored.tobytes())
    content = encoded(image, "JPEG", quality=100, subsampling=0)
    place = content.index(b"Adobe\0") + 11
    assert content[place] == 0
    return content[:place] + b"\2" + content[place + 1 :], held


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Return sRGB of 0 to 255 for the 8-bit CIE L*a*b* samples of a TIFF (D50, Bradford to D65; IEC 61966-2-1)."""
    light = lab[..., 0] * (100 / 255)
    green_red, blue_yellow = lab[..., 1].astype(np.int8), lab[..., 2].astype(np.int8)
    middle = (light + 16) / 116
    ratios = np.stack([middle + green_red / 500, middle, middle - blue_yellow / 200], axis=2)
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * [0.96422, 1.0, 0.82521]
    to_linear = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = (xyz @ to_linear.T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def good_ones() -> list[Specimen]:
    """Return one file of every kind that is read."""
    return [*_pngs(), *_transparent(), *_deep(), *_tiffs(), *_inks(), *_jpegs(), *_turned(), *_animated(), *_odd()]


def _palette_image() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return a palette image of four colours, its indices and its palette."""
    indices = GREY % 4
    palette = np.array([[250, 10, 30], [20, 200, 40], [60, 70, 240], [128, 129, 3]], dtype=np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    image.putpalette(palette.tobytes())
    return image, indices, palette


def _pngs() -> list[Specimen]:
    image, indices, palette = _palette_image()
    bits = GREY % 2
    return [
        Specimen("rgb.png", encoded(Image.fromarray(RGB), "PNG"), RGB, 0),
        Specimen("rgb.bmp", encoded(Image.fromarray(RGB), "BMP"), RGB, 0),
        Specimen("lossless.webp", encoded(Image.fromarray(RGB), "WEBP", lossless=True, quality=100), RGB, 0),
        Specimen("grey.png", encoded(Image.fromarray(GREY), "PNG"), three(GREY), 0),
        Specimen("grey.bmp", encoded(Image.fromarray(GREY), "BMP"), three(GREY), 0),
        Specimen("no-alpha.bmp", bmp_with_alpha(RGB, 0), RGB, 0),
        Specimen("half-alpha.bmp", bmp_with_alpha(RGB, 51), 204 + np.rint(RGB * 0.2), 1),
        Specimen("1bit.png", encoded(Image.fromarray(bits.astype(bool)), "PNG"), three(bits * 255), 0),
        Specimen("1bit.bmp", encoded(Image.fromarray(bits.astype(bool)), "BMP"), three(bits * 255), 0),
        Specimen("grey2.png", png(GREY % 4, 0, bits=2), three(GREY % 4 * 85), 0),
        Specimen("grey4.png", png(GREY % 16, 0, bits=4), three(GREY % 16 * 17), 0),
        Specimen("palette.png", encoded(image, "PNG"), palette[indices], 0),
        Specimen("palette.bmp", encoded(image, "BMP"), palette[indices], 0),
        Specimen("palette.gif", encoded(image, "GIF"), palette[indices], 0),
        Specimen("rle.bmp", bmp_rle8(indices, palette), palette[indices], 0),
    ]


def _transparent() -> list[Specimen]:
    alpha = ALPHA / 255
    rgba, la = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])
    image, indices, palette = _palette_image()
    hidden = three((indices == 2).astype(float)) == 1
    image_alphas = np.array([255, 100, 0, 7])
    rgb_hidden = np.equal(RGB, RGB[3, 4]).all(axis=2)[..., None]
    premultiplied = np.dstack([np.rint(RGB * alpha[..., None]).astype(np.uint8), ALPHA])
    over_red = over_white(three(RGB[..., 0]), alpha)
    return [
        Specimen("rgba.png", encoded(Image.fromarray(rgba), "PNG"), over_white(RGB, alpha), 0.51),
        Specimen(
            "rgba.webp", encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), over_white(RGB, alpha), 0.51
        ),
        Specimen("rgba.tif", encoded(Image.fromarray(rgba), "TIFF"), over_white(RGB, alpha), 0.51),
        Specimen("la.png", encoded(Image.fromarray(la), "PNG"), over_white(three(GREY), alpha), 0.51),
        Specimen("la.tif", tiff(la, 1, extra=[2]), over_white(three(GREY), alpha), 0.51),
        Specimen("premultiplied-la.tif", tiff(premultiplied[..., [0, 3]], 1, extra=[1]), over_red, 1.5),
        # Pillow divides by alpha, and multiplies again.
        Specimen("premultiplied.tif", tiff(premultiplied, 2, extra=[1]), over_white(RGB, alpha), 1.5),
        Specimen("palette-key.png", encoded(image, "PNG", transparency=2), np.where(hidden, 255, palette[indices]), 0),
        Specimen(
            "palette-alphas.png",
            encoded(image, "PNG", transparency=bytes(image_alphas.tolist())),
            over_white(palette[indices], image_alphas[indices] / 255),
            0.51,
        ),
        Specimen("palette-key.gif", encoded(image, "GIF", transparency=2), np.where(hidden, 255, palette[indices]), 0),
        Specimen(
            "rgb-key.png",
            encoded(Image.fromarray(RGB), "PNG", transparency=tuple(map(int, RGB[3, 4]))),
            np.where(rgb_hidden, 255, RGB),
            0,
        ),
        Specimen(
            "grey-key.png",
            encoded(Image.fromarray(GREY), "PNG", transparency=int(GREY[3, 4])),
            three(np.where(np.equal(GREY, GREY[3, 4]), 255, GREY)),
            0,
        ),
        Specimen(
            "grey2-key.png",
            png(GREY % 4, 0, bits=2, before=[(b"tRNS", struct.pack(">H", 1))]),
            three(np.where(GREY % 4 == 1, 255, GREY % 4 * 85)),
            0,
        ),
        Specimen(
            "grey4-key.png",
            png(GREY % 16, 0, bits=4, before=[(b"tRNS", struct.pack(">H", 9))]),
            three(np.where(GREY % 16 == 9, 255, GREY % 16 * 17)),
            0,
        ),
    ]


def _deep() -> list[Specimen]:
    grey, rgb = DEEP[..., 0], DEEP / 257.0
    grey_reference, alpha = three(grey / 257.0), DEEP_ALPHA / 65535
    rgba, la = np.dstack([DEEP, DEEP_ALPHA]), np.dstack([grey, DEEP_ALPHA])
    key = (b"tRNS", struct.pack(">H", grey[3, 4]))
    rgb_key = (b"tRNS", struct.pack(">HHH", *DEEP[3, 4]))
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[3, 4] = True
    near = DEEP.copy()
    near[5:8] = DEEP[3, 4] ^ 1  # like the transparent colour but for the last bit
    twelve = grey >> 4
    packed = np.stack(
        [twelve[:, ::2] >> 4, (twelve[:, ::2] & 15) << 4 | twelve[:, 1::2] >> 8, twelve[:, 1::2] & 255], axis=2
    )
    return [
        Specimen("grey16.png", encoded(Image.fromarray(grey), "PNG"), grey_reference, 0.5),
        Specimen("grey16-key.png", png(grey, 0, before=[key]), np.where(three(hidden) == 1, 255, grey_reference), 0.5),
        Specimen("la16.png", png(la, 4), over_white(grey_reference, alpha), 2),
        Specimen("rgb16.png", png(DEEP, 2), rgb, 1),
        Specimen("rgb16-key.png", png(DEEP, 2, before=[rgb_key]), np.where(three(hidden) == 1, 255, rgb), 1),
        Specimen(
            "rgb16-near-key.png",
            png(near, 2, before=[rgb_key]),
            np.where(three(hidden) == 1, 255, near / 257.0),
            1,
        ),
        Specimen("rgba16.png", png(rgba, 6), over_white(rgb, alpha), 2),
        Specimen("grey16-little.tif", tiff(grey, 1), grey_reference, 0.5),
        Specimen("grey16-big.tif", tiff(grey, 1, order=">"), grey_reference, 0.5),
        Specimen("grey16-white-is-zero.tif", tiff(grey, 0), 255 - grey_reference, 0.5),
        Specimen(
            "grey16-deflate.tif",
            encoded(Image.fromarray(grey), "TIFF", compression="tiff_adobe_deflate"),
            grey_reference,
            0.5,
        ),
        Specimen("grey16-big-deflate.tif", tiff(grey, 1, order=">", deflate=True), grey_reference, 0.5),
        Specimen("grey12.tif", tiff12(packed.astype(np.uint8)), three(twelve / 4095 * 255), 0.5),
        Specimen("rgb16-little.tif", tiff(DEEP, 2), rgb, 1),
        Specimen("rgb16-big.tif", tiff(DEEP, 2, order=">"), rgb, 1),
        Specimen("rgba16.tif", tiff(rgba, 2, extra=[2]), over_white(rgb, alpha), 2),
        Specimen("float.tif", tiff((grey / 65535).astype(np.float32), 1, sample_format=3), grey_reference, 0.5),
        Specimen(
            "float-big.tif", tiff((grey / 65535).astype(np.float32), 1, sample_format=3, order=">"), grey_reference, 0.5
        ),
        Specimen(
            "float-big-deflate.tif",
            tiff((grey / 65535).astype(np.float32), 1, sample_format=3, order=">", deflate=True),
            grey_reference,
            0.5,
        ),
        Specimen(
            "float-deflate.tif",
            encoded(Image.fromarray((grey / 65535).astype(np.float32)), "TIFF", compression="tiff_adobe_deflate"),
            grey_reference,
            0.5,
        ),
    ]


def tiff12(packed: np.ndarray) -> bytes:
    """Return a grey TIFF of 12 bits per sample from (H, W / 2, 3) bytes that hold two samples each."""
    height, pairs, _three = packed.shape
    content = tiff(packed.reshape(height, pairs * 3), 1)
    content = content.replace(struct.pack("<HHII", 256, 4, 1, pairs * 3), struct.pack("<HHII", 256, 4, 1, pairs * 2))
    return content.replace(struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))


def _tiffs() -> list[Specimen]:
    image, indices, palette = _palette_image()
    bits = GREY % 2
    files = [
        Specimen(f"rgb-{compression}.tif", encoded(Image.fromarray(RGB), "TIFF", compression=compression), RGB, 0)
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd")
    ]
    with_remarks = [(33000, 3, [1, 2, 3]), (296, 3, [2, 2]), (42112, 3, [7])]
    return [
        *files,
        Specimen("big.tif", encoded(Image.fromarray(RGB), "TIFF", big_tiff=True), RGB, 0),
        Specimen("planes.tif", tiff(RGB, 2, planes=True), RGB, 0),
        Specimen("big-endian.tif", tiff(RGB, 2, order=">"), RGB, 0),
        Specimen("odd-metadata.tif", tiff(RGB, 2, more=with_remarks), RGB, 0),
        Specimen("grey-white-is-zero.tif", tiff(GREY, 0), 255.0 - three(GREY), 0),
        Specimen(
            "fax.tif", encoded(Image.fromarray(bits.astype(bool)), "TIFF", compression="group4"), three(bits * 255), 0
        ),
        Specimen("palette.tif", encoded(image, "TIFF"), palette[indices], 0),
        Specimen("lab.tif", tiff(LAB, 8), lab_to_rgb(LAB), 1.5),
    ]


# Inside the sRGB gamut: what lies outside is a matter of taste.
LAB = np.stack(
    [
        RANDOM.integers(100, 180, (HEIGHT, WIDTH)),
        RANDOM.integers(-20, 20, (HEIGHT, WIDTH)) & 255,
        RANDOM.integers(-20, 20, (HEIGHT, WIDTH)) & 255,
    ],
    axis=2,
).astype(np.uint8)


def _inks() -> list[Specimen]:
    """CMYK by the plain formula R = (255 − C)(255 − K) / 255: what a program without colour management shows."""
    blocks = np.dstack([BLOCKS, BLOCK_INK])
    random = np.dstack([RGB, ALPHA])

    def rgb(inks: np.ndarray) -> np.ndarray:
        return (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255

    image = Image.frombytes("CMYK", blocks.shape[1::-1], blocks.tobytes())
    photoshop, held = ycck_jpeg(blocks)
    return [
        Specimen("cmyk.tif", tiff(random, 5), rgb(random), 1),
        Specimen("cmyk-lzw.tif", encoded(image, "TIFF", compression="tiff_lzw"), rgb(blocks), 1),
        Specimen("cmyk-adobe.jpg", encoded(image, "JPEG", quality=100, subsampling=0), rgb(blocks), 1),
        Specimen("ycck-adobe.jpg", photoshop, rgb(held), 1),
    ]


def _jpegs() -> list[Specimen]:
    image, best = Image.fromarray(BLOCKS), {"quality": 100, "subsampling": 0}
    plain = encoded(image, "JPEG", **best)
    grey = BLOCKS[..., 2]
    phone = encoded(image, "MPO", save_all=True, append_images=[Image.fromarray(BLOCKS[::2, ::2])], **best)
    return [
        Specimen("plain.jpg", plain, BLOCKS, 1),
        Specimen("progressive.jpg", encoded(image, "JPEG", progressive=True, **best), BLOCKS, 1),
        Specimen("grey.jpg", encoded(Image.fromarray(grey), "JPEG", **best), three(grey), 1),
        Specimen("two-pictures.jpg", phone, BLOCKS, 1),
        Specimen("film-behind.jpg", plain + b"\0\0\0\x18ftypmp42" + bytes(range(200)) * 50, BLOCKS, 1),
        Specimen("padded.jpg", plain + bytes(5000), BLOCKS, 1),
        Specimen("jpeg-inside.tif", encoded(image, "TIFF", compression="jpeg", quality=100), BLOCKS, 1),
        Specimen("lossy.webp", encoded(Image.fromarray(BLOCKS[:8, :8]), "WEBP", quality=100), BLOCKS[:8, :8], 3),
    ]


def _turned() -> list[Specimen]:
    """Every EXIF orientation, in every format that has one."""
    files = []
    for orientation in range(1, 9):
        tag = exif(orientation)
        blocks, exact = stored_for(BLOCKS, orientation), Image.fromarray(stored_for(RGB, orientation))
        files += [
            Specimen(
                f"turned{orientation}.jpg",
                encoded(Image.fromarray(blocks), "JPEG", quality=100, subsampling=0, exif=tag),
                BLOCKS,
                1,
            ),
            Specimen(f"turned{orientation}.png", encoded(exact, "PNG", exif=tag), RGB, 0),
            Specimen(f"turned{orientation}.webp", encoded(exact, "WEBP", lossless=True, exif=tag), RGB, 0),
            Specimen(
                f"turned{orientation}.tif",
                tiff(stored_for(RGB, orientation), 2, more=[(274, 3, [orientation])]),
                RGB,
                0,
            ),
            Specimen(
                f"turned{orientation}-lzw.tif",
                encoded(exact, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation}),
                RGB,
                0,
            ),
        ]
    late = png(stored_for(RGB, 6), 2, after=[(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))])
    rgba = np.dstack([RGB, ALPHA])
    xmp = (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + b'<x:d tiff:Orientation="6"/>')
    return [
        *files,
        Specimen("turned-late.png", late, RGB, 0),
        Specimen("turned-by-text.png", png(stored_for(RGB, 6), 2, before=[xmp]), RGB, 0),
        Specimen(
            "turned-wrong.png", with_wrong_checksum(encoded(Image.fromarray(RGB), "PNG", exif=exif(6)), b"eXIf"), RGB, 0
        ),
        Specimen(
            "turned-rgba.png",
            encoded(Image.fromarray(stored_for(rgba, 8)), "PNG", exif=exif(8)),
            over_white(RGB, ALPHA / 255),
            0.51,
        ),
        Specimen(
            "turned-grey16.tif",
            tiff(stored_for(DEEP[..., :1], 6)[..., 0], 1, more=[(274, 3, [6])]),
            three(DEEP[..., 0] / 257),
            0.5,
        ),
        Specimen(
            "turned-damaged.png", encoded(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), RGB, 0
        ),
        Specimen("turned-nonsense.png", encoded(Image.fromarray(RGB), "PNG", exif=exif(77)), RGB, 0),
    ]


def _animated() -> list[Specimen]:
    image, indices, palette = _palette_image()
    second = Image.fromarray(255 - RGB)
    frames: dict[str, Any] = {"save_all": True, "append_images": [second]}
    return [
        Specimen("two.gif", encoded(image, "GIF", **frames), palette[indices], 0),
        Specimen("two.webp", encoded(Image.fromarray(RGB), "WEBP", lossless=True, **frames), RGB, 0),
        Specimen("two.png", encoded(Image.fromarray(RGB), "PNG", **frames), RGB, 0),
        Specimen("two.tif", encoded(Image.fromarray(RGB), "TIFF", **frames), RGB, 0),
    ]


def _odd() -> list[Specimen]:
    dot, line = RGB[:1, :1], np.tile(RGB, (1, 2000, 1))[:1]
    dot_files = [
        Specimen(f"dot.{kind.lower()}", encoded(Image.fromarray(dot), kind), dot, 0) for kind in ("PNG", "BMP", "TIFF")
    ]
    line_files = [
        Specimen(f"line.{kind.lower()}", encoded(Image.fromarray(line), kind), line, 0)
        for kind in ("PNG", "BMP", "TIFF")
    ]
    noted = png(RGB, 2, before=[(b"tEXt", b"Title\0sunset")], after=[(b"tEXt", b"Author\0me")])
    two_megabytes = zlib.compress(bytes(2 << 20))
    large = [(b"zTXt", b"Comment\0\0" + two_megabytes), (b"iCCP", b"profile\0\0" + two_megabytes)]
    turning = (  # texts in which a turn is looked for, and which Pillow refuses
        (b"zTXt", b"Raw profile type exif\0\0" + two_megabytes),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + two_megabytes),
        (b"zTXt", b"Raw profile type exif\0\5abc"),
    )
    image, indices, palette = _palette_image()
    gif = encoded(image, "GIF")
    place, page = struct.Struct("<BHHHH"), np.full((HEIGHT + 7, WIDTH + 5, 3), 255)
    page[4 : 4 + HEIGHT, 3 : 3 + WIDTH] = palette[indices]
    on_page = gif[:6] + struct.pack("<HH", WIDTH + 5, HEIGHT + 7) + gif[10:]
    on_page = on_page.replace(place.pack(0x2C, 0, 0, WIDTH, HEIGHT), place.pack(0x2C, 3, 4, WIDTH, HEIGHT))
    return [
        *dot_files,
        *line_files,
        Specimen("damaged-text.png", with_wrong_checksum(noted, b"tEXt"), RGB, 0),
        Specimen("large-text.png", png(RGB, 2, before=large), RGB, 0),
        *(Specimen(f"turning-text{at}.png", png(RGB, 2, before=[text]), RGB, 0) for at, text in enumerate(turning)),
        Specimen("black.png", png(RGB * 0, 2), RGB * 0, 0),
        Specimen("interlaced.png", interlaced_png(len(_adam7_rows())), RGB, 0),
        Specimen("surplus.png", surplus_png(), RGB, 0),
        Specimen("part.gif", on_page, page, 0),
        Specimen("behind.gif", gif + b"\r\nsent by;me", palette[indices], 0),
        Specimen("column.png", encoded(Image.fromarray(line.transpose(1, 0, 2)), "PNG"), line.transpose(1, 0, 2), 0),
        Specimen("png-named.jpg", encoded(Image.fromarray(RGB), "PNG"), RGB, 0),
    ]


def refused_ones() -> list[tuple[str, bytes, str]]:
    """Return (name, content, a word of the reason) of files that header and end give away."""
    grey = DEEP[..., 0]
    rgb, plain = encoded(Image.fromarray(RGB), "PNG"), encoded(Image.fromarray(BLOCKS), "JPEG")
    keyed, parts = encoded(_palette_image()[0], "PNG", transparency=2), (b"IHDR", b"PLTE", b"tRNS")
    return [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"this is no picture", "no JPEG"),
        ("page.png", b"<html><body>404</body></html>", "no JPEG"),
        ("sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(24), "no JPEG"),
        ("0x0.gif", b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\2\0;", "its header gives no size"),
        ("header-only.png", rgb[:33], "cut off"),
        ("int16.tif", tiff(grey.astype(np.int16), 1, sample_format=2), "integers"),
        ("int8.tif", tiff(GREY.astype(np.int8), 1, sample_format=2), "integers"),
        ("int32.tif", encoded(Image.fromarray(grey.astype(np.int32)), "TIFF"), "integers"),
        ("uint32.tif", tiff(grey.astype(np.uint32), 1), "integers"),
        ("planes16.tif", tiff(DEEP, 2, planes=True), "planes"),
        ("float64.tif", tiff(grey / 65535, 1, sample_format=3), "Pillow cannot read"),
        ("webp-inside.tif", tiff(RGB, 2).replace(*_compression(50001)), "WebP inside a TIFF"),
        ("jpeg2000-inside.tif", tiff(RGB, 2).replace(*_compression(34712)), "Pillow cannot read"),
        ("big-endian-big.tif", b"MM\0+\0\x08\0\0" + bytes(24), "big-endian"),
        ("no-palette.png", png(GREY, 3), "palette is missing"),
        ("long-chunk.png", rgb[:10] + b"\1" + rgb[11:], "beyond the end"),
        ("long-segment.jpg", plain[:4] + b"\xff" + plain[5:], "Pillow cannot read"),
        ("no-pixels.png", png(RGB, 2).replace(b"IDAT", b"IDOT"), "no pixels"),
        *(
            (f"{kind.decode()}.png", with_wrong_checksum(keyed, kind), f"checksum of its {kind.decode()}")
            for kind in parts
        ),
    ]


def _compression(kind: int) -> tuple[bytes, bytes]:
    """Return the tag of an uncompressed little-endian TIFF, and what is to stand in its place."""
    tag = struct.Struct("<HHIHH")
    return tag.pack(259, 3, 1, 1, 0), tag.pack(259, 3, 1, kind, 0)


def refused_by_pixels() -> list[tuple[str, bytes, str]]:
    """Return (name, content, a word of the reason) of files that only decoding gives away."""
    grey = (DEEP[..., 0] / 65535).astype(np.float32)
    holed = grey.copy()
    holed[2, 3] = np.nan
    content = encoded(Image.fromarray(RGB), "PNG", compress_level=0)
    middle = len(content) // 2
    return [
        ("float-wide.tif", tiff(grey * 4093, 1, sample_format=3), "to 4"),
        ("float-negative.tif", tiff(grey - 0.5, 1, sample_format=3), "floating-point"),
        ("float-nan.tif", tiff(holed, 1, sample_format=3), "nan"),
        (
            "flipped.png",
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "checksum of its IDAT",
        ),
        *((f"short{rows}.png", short_png(rows), "pixels are missing") for rows in (1, HEIGHT - 1)),
        ("short-interlaced.png", interlaced_png(len(_adam7_rows()) - 1), "pixels are missing"),
        ("no-rows.png", short_png(0), "its pixels cannot be decoded"),
        ("hole.png", content[:middle] + b"\0" * 40 + content[middle + 40 :], "damaged"),
        *damaged_jpegs(),
    ]


def damaged_jpegs() -> list[tuple[str, bytes, str]]:
    """Return JPEG files with a sound header and an end, whose decoder would fill what is lost with grey or noise."""
    noise = np.random.default_rng(4).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    files = []
    for kind, picture, options in (
        ("baseline", noise, {}),
        ("progressive", noise, {"progressive": True}),
        ("restarting", noise, {"restart_marker_blocks": 2}),
        ("grey", noise[..., 0], {}),
    ):
        whole = encoded(Image.fromarray(picture), "JPEG", quality=90, **options)
        middle = len(whole) // 2
        lost = {"cut": whole[:middle] + b"\xff\xd9", "hole": whole[:middle] + whole[middle + 500 :]}
        if kind in ("progressive", "restarting"):
            lost["zeros"] = whole[:middle] + bytes(500) + whole[middle + 500 :]
        files += [(f"{kind}-{name}.jpg", content, "cannot be decoded") for name, content in lost.items()]
    plain = encoded(Image.fromarray(noise), "JPEG", quality=90)
    inks = encoded(Image.fromarray(np.concatenate([noise, noise[..., :1]], axis=2), "CMYK"), "JPEG", quality=90)
    odd = plain.replace(b"JFIF\0\1", b"JFIF\0\2", 1)  # libjpeg remarks on the version, and then on nothing else
    for name, whole in (("inks", inks), ("odd-version", odd), ("odd-scan", odd_scan(plain))):
        files.append((f"{name}-cut.jpg", whole[: len(whole) // 2] + b"\xff\xd9", "cannot be decoded"))
    arithmetic = bytearray.fromhex(ARITHMETIC_JPEG)
    arithmetic[137] = 72  # a code that cannot be
    files.append(("odd-scan-arithmetic.jpg", odd_scan(bytes(arithmetic)), "cannot be decoded"))
    scans = separate_scans(noise)
    later = scans.rindex(b"\xff\xda")
    files.append(
        ("odd-later-scan-cut.jpg", (scans[:later] + odd_scan(scans[later:]))[:-900] + b"\xff\xd9", "cannot be")
    )
    files.append(("one-scan-of-three.jpg", scans[: scans.index(b"\xff\xda", later - 1)] + b"\xff\xd9", "cut off"))
    return files


# 16 × 16 grey noise, coded again by `jpegtran -arithmetic` (libjpeg-turbo 2.1): Pillow cannot write such a file.
ARITHMETIC_JPEG = (
    "ffd8ffe000104a46494600010100000100010000ffdb0043001b12141714111b1716171e1c1b2028422b28252528513a3d3042605565645f555d"
    "5b6a7899816a7190735b5d85b586909ea3abadab6780bcc9baa6c799a8aba4ffc9000b080010001001011100ffcc000600101005ffda00080101"
    "00003f00dd45fc477225f856cc90d9acce2b4c11dd0ecd16e76236878a9750ecf52ca7280a6a4f84455c2e94923e798aa59741e6e3f8d1109749"
    "b0954bfc139b9668aa94cfb58f9bf4e4fced9804c65e372242dd196f6ab3de7c9fdbade8b03389c360ffd9"
)


# 32 × 32 pixels with a colour for each 4 × 2 of them, by `cjpeg -sample 4x2`: Pillow cannot write such a file.
RARE_SAMPLING_JPEG = (
    "ffd8ffe000104a46494600010100000100010000ffdb004300140e0f120f0d14121012171514181e32211e1c1c1e3d2c2e243249404c4b474046"
    "45505a736250556d5645466488656d777b8182814e608d978c7d96737e817cffdb0043011517171e1a1e3b21213b7c5346537c7c7c7c7c7c7c7c"
    "7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7cffc00011080020002003014200021101"
    "031101ffc4001800000301010000000000000000000000000203040100ffc4002510000103040104020300000000000000000102030400111213"
    "21051422233151416162ffc400160101010100000000000000000000000000020004ffc4001e1100020104030100000000000000000000010200"
    "111221e10322f031ffda000c03010002110311003f0032ebb2159041cbea952c25518a146caf9b52e1c81120ed4f2ea958e3faa7263f60eef479"
    "642f59ba547919213c5ac6b9f43521bf03eefaa574b865534f742d61c0aaa6ad6efa238b914ef08954c090050f6fbad495b9bb5dcc9f0faa271e"
    "6572708c2ce11f356a12b80c6f987251e05a92c4b68be758f61e6f51989b3aa965b38a4232b51c22844953c53fcd356f29b734483b02b917fc56"
    "c45370fa976eb40528a72bd67726981d75eac7c8038bd8f84fffd9"
)


def separate_scans(picture: np.ndarray) -> bytes:
    """Return a sequential JPEG with a scan of its own for each channel: three grey ones behind one header."""
    grey = [encoded(Image.fromarray(picture[..., channel]), "JPEG", quality=90) for channel in range(3)]
    starts = [one.index(b"\xff\xda") for one in grey]  # SOS: marker, length 8, one component, its id and tables, range
    frame = grey[0].index(b"\xff\xc0")  # SOF0: marker, length, precision, height, width, components
    head = grey[0][: frame + 2] + b"\0\x11" + grey[0][frame + 4 : frame + 9]
    head += b"\3" + b"".join(bytes([channel, 0x11, 0]) for channel in (1, 2, 3)) + grey[0][frame + 13 : starts[0]]
    bodies = [one[start + 10 : -2] for one, start in zip(grey, starts, strict=True)]
    scans = [b"\xff\xda\0\x08\1" + bytes([n, 0, 0, 63, 0]) + body for n, body in enumerate(bodies, 1)]
    return head + b"".join(scans) + b"\xff\xd9"


def odd_scan(whole: bytes) -> bytes:
    """Return a sequential JPEG with a wrong spectral range, which such a file does not use."""
    scan = whole.index(b"\xff\xda")
    parameters = scan + 2 + int.from_bytes(whole[scan + 2 : scan + 4], "big") - 3
    return whole[:parameters] + b"\0\0\0" + whole[parameters + 3 :]


def doubtful_jpegs() -> dict[str, tuple[bytes, str]]:
    """Return (file, a word of the remark) of JPEG files that decode whole, though something is wrong with them."""
    noise = np.random.default_rng(4).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG", quality=90)
    middle, tables = len(whole) // 2, whole.index(b"\xff\xdb")
    progressive = encoded(Image.fromarray(noise), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xc4", 0, progressive.rindex(b"\xff\xda"))  # the tables before the last scan
    return {
        "bytes before the end": (whole[:-2] + bytes(200) + whole[-2:], "before marker 0xd9"),
        "zeros in a scan": (whole[:middle] + bytes(500) + whole[middle + 500 :], "before marker 0xd9"),
        "scan parameters": (odd_scan(whole), "SOS parameters"),
        "scan parameters of the first of three": (odd_scan(separate_scans(noise)), "SOS parameters"),
        "bytes in the header": (whole[:tables] + b"abc" + whole[tables:], "before marker 0xdb"),
        "arithmetic": (bytes.fromhex(ARITHMETIC_JPEG), "Arithmetic coding"),
        "sampling": (bytes.fromhex(RARE_SAMPLING_JPEG), "Rare chroma sampling"),
        "no last scan": (progressive[:last] + b"\xff\xd9", "without its last scans"),
        "version": (whole.replace(b"JFIF\0\1", b"JFIF\0\2", 1), "JFIF revision"),
    }


def bombs() -> dict[str, bytes]:
    """Return small files that declare huge pictures; the PNG really holds its 3.6 thousand million dots."""
    edge = 60_000
    jpeg_size, bombed_size = struct.pack(">HH", *BLOCKS.shape[:2]), struct.pack(">HH", edge, edge)
    tiff_bomb = tiff(RGB, 2)
    for tag, length in ((256, WIDTH), (257, HEIGHT)):
        tiff_bomb = tiff_bomb.replace(struct.pack("<HHII", tag, 4, 1, length), struct.pack("<HHII", tag, 4, 1, edge))
    return {
        "bomb.png": _bomb_png(edge),
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, edge, edge, 1, 24, 0, 0, 0, 0, 0, 0),
        "bomb.gif": b"GIF89a"
        + struct.pack("<HHBBBcHHHHB", edge, edge, 0, 0, 0, b",", 0, 0, edge, edge, 0)
        + b"\2\1\0\0;",
        "bomb.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (15_999).to_bytes(3, "little") * 2,
        "bomb.jpg": encoded(Image.fromarray(BLOCKS), "JPEG").replace(jpeg_size, bombed_size, 1),
        "bomb.tif": tiff_bomb,
    }


def _bomb_png(edge: int) -> bytes:
    """Return a valid PNG of edge × edge black dots of one bit."""
    length = edge * (1 + (edge + 7) // 8)
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    million = press.compress(bytes(1_000_000)) + press.flush(zlib.Z_FULL_FLUSH)  # can stand any number of times
    rest = press.compress(bytes(length % 1_000_000)) + press.flush()
    checksum = struct.pack(">I", length % 65_521 << 16 | 1)  # Adler-32 of zeros
    pixels = b"\x78\xda" + million * (length // 1_000_000) + rest + checksum
    header = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)
