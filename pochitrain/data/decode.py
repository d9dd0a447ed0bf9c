"""The one decoder: every command turns a file into pixels here, so that all of them see the same picture.

A file's kind is read from its first bytes, never from its name. Not applied: colour profiles (ICC), gamma chunks.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pochitrain.data.completeness import Refusal, check_container, check_end, cut_off
from pochitrain.data.headers import inspect_plain
from pochitrain.data.jpeg import decode_jpeg, decode_plain
from pochitrain.data.png import load_png, open_png
from pochitrain.errors import DataError, file_reason
from pochitrain.locale import _

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.uint8]

# Twice Pillow's own MAX_IMAGE_PIXELS, the point where Pillow refuses too (13 377 × 13 377, 0.5 GB as RGB).
MAX_PIXELS = 178_956_970

# Pillow's classes themselves, not Image.open: it warns for large pictures and odd second frames, and warnings cannot be
# silenced for one thread only. Other formats (EPS starts Ghostscript) are never tried.
_KINDS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", open_png),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"II+\0", TiffImagePlugin.TiffImageFile),  # BigTIFF
    (b"MM\0+", TiffImagePlugin.TiffImageFile),
)

# How a whole file ends: when its header asks for more, that is wrong.
_ENDS = {JpegImagePlugin.JpegImageFile: b"\xff\xd9", open_png: b"IEND\xaeB`\x82", GifImagePlugin.GifImageFile: b";"}

# What Pillow raises for damaged files, found by flipping bytes in every format.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_PLUGINS = r"PIL\.(Tiff|Png)ImagePlugin"
_SILENT = ("ignore", None, Warning, re.compile(_PLUGINS), 0)

# Pillow's own conversion goes through a coarse table: up to 5.5 levels off.
_LAB_TO_RGB = ImageCms.buildTransform(
    ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE
)

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, tag Orientation: how the stored picture is turned to stand upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANAR, _TIFF_FORMAT = 256, 257, 258, 262, 284, 339

_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *range(32), *range(127, 160), 0x2028, 0x2029,  # C0, DEL, C1, line and paragraph separator
        0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # what reorders text (Unicode, UAX 9)
    )
}  # fmt: skip


class BrokenImage(DataError):
    """A file that cannot be used as an image: the problem's `what` is the reason, its `where` the file."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about its picture; width and height are those of the upright picture."""

    width: int
    height: int
    format: str  # as Pillow names it: JPEG, PNG, GIF, BMP, TIFF, WEBP
    mode: str  # as Pillow names it, before the conversion to RGB


def display_name(path: str | Path) -> str:
    """Return a path as one line of text that any UTF-8 file can hold; different paths give different texts.

    Bytes that are no UTF-8, control characters, line separators and what reorders text are written as `\\xe3`, `\\n`,
    `\\u2028`, `\\u202e`, a backslash is doubled.
    """
    text = os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.translate(_ESCAPES)


def decode_image(path: str | Path) -> Image.Image:
    """Return the picture in a file: RGB, upright, as a viewer shows it on a white page.

    Transparency lies over white; of several frames it is the first. 12 and 16 bits per channel are scaled to 8: grey
    is rounded, colour keeps the high byte (less than 1/255 off; 2/255 where it is half transparent). Floats are read
    as 0 (black) to 1 (white); other ranges, signed and 32-bit integers are refused, because nothing in the file says
    what white is. The result carries no metadata: nothing can turn it a second time. Safe in threads.

    Raises:
        BrokenImage: the file cannot be read, is no image, is cut off or damaged, has a kind of pixels that is
            refused, or declares more than MAX_PIXELS (told by the header, before any pixel is decoded).
    """
    pixels = decode_pixels(path)
    return decode_with_remark(path)[0] if pixels is None else Image.fromarray(pixels)


def decode_pixels(path: str | Path) -> Pixels | None:
    """Return the picture in a plain, sound JPEG as an array (H, W, 3), None for any other file.

    For these it is `decode_image` in half the time at 32 px; what is odd about a file is left to that.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(3)
            return decode_plain(head + file.read()) if head == b"\xff\xd8\xff" else None
    except OSError:
        return None


def decode_with_remark(path: str | Path) -> tuple[Image.Image, str]:
    """Return the picture as `decode_image` does, and what the decoder found odd about a file that it could decode."""
    with _reading(path) as file:
        image, remark = _open(file), ""
        frame = image.tile[0].extents if image.format == "GIF" else None
        if image.format == "JPEG":
            image, remark = decode_jpeg(image, file)
        elif image.format == "PNG":
            load_png(image, file)
        else:
            image.load()
        image = _to_rgb(image)
        return _upright(_on_page(image, frame) if frame else image), remark


def inspect_image(path: str | Path) -> ImageHeader:
    """Return what a file's header says, after checking that the end of the file is there. Decodes no pixel.

    What it refuses, `decode_image` refuses for the same reason. It cannot see damage between header and end: flipped
    bits, a missing middle, or floats outside 0 to 1.

    Raises:
        BrokenImage: as `decode_image`, for everything that header and end tell.
    """
    if plain := inspect_plain(path):
        return ImageHeader(plain.width, plain.height, "JPEG", plain.mode)
    with _reading(path) as file:
        image = _open(file)
        width, height = _stored_size(image)
        if _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
        return ImageHeader(width, height, image.format, image.mode)


@contextmanager
def _reading(path: str | Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except Refusal as refusal:
        raise BrokenImage(str(refusal), display_name(path)) from None
    except _DAMAGE as error:
        raise BrokenImage(_reason(error), display_name(path)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return _("cannot be read: {detail}", detail=file_reason(error))
    if "unknown pixel mode" in str(error):  # how Pillow names a TIFF with 64 bits, or with floats in colour
        return _("a kind of pixels that Pillow cannot read; save it as PNG")
    if "not identified by this driver" in str(error):
        return _("damaged: its header gives no size, or no kind of pixels")
    return _("damaged, or of a kind that Pillow cannot read: {detail}", detail=str(error) or type(error).__name__)


def _open(file: BinaryIO) -> Any:
    """Return Pillow's image of a file, checked as far as its header and its end tell, with no pixel decoded."""
    head = file.read(32)
    if not head:
        raise Refusal(_("the file is empty"))
    kind = next((kind for signature, kind in _KINDS if head.startswith(signature)), None)
    if kind is None or (head.startswith(b"RIFF") and head[8:12] != b"WEBP"):
        raise Refusal(_("no JPEG, PNG, BMP, GIF, TIFF or WebP image"))
    try:
        return _opened(kind, file, head)
    except _DAMAGE as error:
        short = isinstance(error.__cause__ or error, struct.error | EOFError | IndexError)
        asks_for_more = (short or "truncated" in str(error).lower()) and not file.read(1)
        file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
        if asks_for_more and not (kind in _ENDS and file.read().endswith(_ENDS[kind])):
            raise Refusal(cut_off()) from error
        raise


def _opened(kind: Callable[..., Any], file: BinaryIO, head: bytes) -> Any:
    size = os.fstat(file.fileno()).st_size
    check_container(file, head, size)
    if kind is WebPImagePlugin.WebPImageFile:  # Pillow takes the memory for the whole picture when it opens one
        _check_pixels(*_webp_size(head))
    _silence_pillow()
    file.seek(0)
    image = kind(file)
    _check_pixels(*_stored_size(image))
    stopped = file.tell()
    check_end(image, file, size)
    if image.format == "TIFF":
        _read_ahead_tiff(image)
    file.seek(stopped)
    return image


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd metadata from the user, in every thread.

    The filter is one of the process, but for two modules of Pillow's only. It is looked for each time, because whoever
    leaves a `warnings.catch_warnings` may take it away; adding it each time would make every other warning repeat.
    """
    if not warnings.filters or warnings.filters[0] != _SILENT:
        warnings.filterwarnings("ignore", module=_PLUGINS)


def _stored_size(image: Any) -> tuple[int, int]:
    # Pillow turns the size of a TIFF by its orientation when it opens it, but not that of other formats.
    if image.format == "TIFF":
        return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    width, height = image.size
    return width, height


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Refusal(
            _(
                "{width} × {height} pixels, more than the limit of {limit} million",
                width=width,
                height=height,
                limit=MAX_PIXELS // 1_000_000,
            )
        )


def _webp_size(head: bytes) -> tuple[int, int]:
    """Return (width, height) from the first 30 bytes of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _read_ahead_tiff(image: Any) -> None:
    """Refuse pixels whose meaning is unclear, and correct what Pillow thinks of the others before it decodes them."""
    tags = image.tag_v2
    if image.info["compression"] == "webp":
        raise Refusal(_("WebP inside a TIFF, which Pillow cannot read; save it with another compression"))
    bits = max(tags.get(_TIFF_BITS, (1,)))
    if image.mode == "I" or 2 in tags.get(_TIFF_FORMAT, ()):
        raise Refusal(_("signed or {bits}-bit integers: what is white is unknown; save it as 8 or 16 bits", bits=bits))
    if bits > 8 and tags.get(_TIFF_PLANAR, 1) == 2:  # Pillow reads the planes as bytes: noise
        raise Refusal(_("{bits} bits per channel in separate planes; save it with interleaved channels", bits=bits))
    tile = image.tile[0]
    if tile.codec_name == "libtiff" and tile.args[0] == "F;32BF":  # libtiff has put the bytes in order: not once more
        image.tile = [tile._replace(args=("F;32NF", *tile.args[1:]))]


def _orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 (upright) when there is none or it cannot be read."""
    if image.format != "TIFF" and image.info.keys().isdisjoint(
        ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
    ):
        return 1
    try:
        # Not the PNG class's own method, which decodes the pixels first.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _DAMAGE:  # damaged metadata does not make a picture unusable
        return 1
    return value if value in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    if orientation != 1:
        image = image.transpose(_UPRIGHT[orientation])
    plain = image._new(image.im)  # without the file's metadata, as one that comes out of a cache
    plain.info = {}
    return plain


def _to_rgb(image: Any) -> Image.Image:
    """Return a loaded image as RGB, with its metadata still on it."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # type: ignore[no-any-return]
    if image.mode == "F":
        return _from_grey(image, _grey_of_floats(np.asarray(image)))
    if image.mode.startswith("I"):  # "I;16", "I;16B"; Pillow before 11 has "I" for 16-bit PNG
        return _from_grey(image, _grey_of_integers(image))
    # Many programs leave the alpha of a BMP unset: viewers show its colours.
    unset = image.format == "BMP" and image.mode == "RGBA" and image.getextrema()[3] == (0, 0)
    if image.has_transparency_data and not unset:
        if image.mode == "La":  # grey multiplied by its alpha, which Pillow turns into nothing but this
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        white.info = image.info
        return white
    if image.mode == "LAB":
        return _LAB_TO_RGB.apply(image)
    return image.convert("RGB")  # type: ignore[no-any-return]


def _on_page(image: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """Return a picture with white around the frame (left, top, right, bottom) that alone was drawn."""
    if frame == (0, 0, *image.size):
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image.crop(frame), frame)
    return page


def _grey_of_integers(image: Any) -> Grey:
    """Return (H, W) of 0 to 255 from a grey image of 16 bits, or of 12 in a TIFF; the transparent value is white."""
    white = 2 ** image.tag_v2[_TIFF_BITS][0] - 1 if image.format == "TIFF" else 65535
    values = np.asarray(image).astype(np.uint32)
    grey: Grey = ((values * 255 + white // 2) // white).astype(np.uint8)  # at most 65535 · 255 + 32767 < 2³²
    if (key := image.info.get("transparency")) is not None:
        grey[values == key] = 255
    return grey


def _grey_of_floats(values: npt.NDArray[np.float32]) -> Grey:
    """Return (H, W) of 0 to 255 from values of 0 to 1."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise Refusal(
            _(
                "floating-point values from {low:.4g} to {high:.4g}: scale them to 0 to 1, or save as 8 or 16 bits",
                low=low,
                high=high,
            )
        )
    grey: Grey = np.rint(values * np.float32(255)).astype(np.uint8)
    return grey


def _from_grey(image: Any, grey: Grey) -> Image.Image:
    # Pillow inverts TIFFs whose zero is white (PhotometricInterpretation 0) only up to 8 bits.
    if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey
    turned = Image.fromarray(grey).convert("RGB")
    turned.info = image.info
    return turned
