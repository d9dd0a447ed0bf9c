"""PNG by the chunks that make its picture: damage there is refused, and damage in the others never reaches Pillow."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from pochitrain.data.completeness import Refusal
from pochitrain.locale import _

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = (b"IHDR", b"PLTE", b"tRNS")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNING = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # the texts in which Pillow looks for an orientation
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type (PNG specification, table 11.1)
_ADAM7 = (  # the passes of an interlaced picture: first column and row, step to the next (section 8.2)
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_PIECE = 1 << 14  # bytes inflated at once, to 16 MB at most
_NO_PIXELS_YET = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))


class _Chunk(NamedTuple):
    kind: bytes
    offset: int  # of its data, which its length and kind precede and its checksum follows
    length: int


def open_png(file: BinaryIO) -> Any:
    """Return Pillow's image of a PNG, with no pixel read.

    Refuses a file without its end, or with damage in what it says of its picture.
    """
    chunks = _chunks(file)
    pixels_at = next((at for at, chunk in enumerate(chunks) if chunk.kind == b"IDAT"), None)
    if pixels_at is None:
        raise Refusal(_("damaged: it holds no pixels"))
    header = [_sound(_whole(file, chunk)) for chunk in chunks[:pixels_at] if chunk.kind in _HEADER]
    turning = [_whole(file, chunk) for chunk in chunks if _turns(file, chunk)]  # may stand after the pixels
    try:
        image = _opened(header + turning)
    except (SyntaxError, ValueError):  # a text of another compression, or of many megabytes: it turns nothing
        image = _opened(header)
    image.pixel_chunks = [chunk for chunk in chunks if chunk.kind == b"IDAT"]
    if image.mode == "P" and image.palette is None:
        raise Refusal(_("damaged: its palette is missing"))
    # Pillow widens grey of 2 and 4 bits to 8, but leaves the transparent value as it is stored.
    if (widened := {"L;2": 85, "L;4": 17}.get(_raw_mode(image))) and "transparency" in image.info:
        image.info["transparency"] *= widened
    return image


def load_png(image: Any, file: BinaryIO) -> None:
    """Decode the pixels of an opened PNG; refuse them where a checksum is wrong, or some are missing."""
    content = image.fp
    pixels = b"".join(_sound(_whole(file, chunk))[8:-4] for chunk in image.pixel_chunks)
    content.seek(0, io.SEEK_END)
    content.write(struct.pack(">I4s", len(pixels), b"IDAT"))
    content.write(pixels)
    hidden = _hidden(image) if _raw_mode(image) == "RGB;16B" and "transparency" in image.info else None
    try:
        image.load()
    except OSError as error:
        raise Refusal(_("damaged: its pixels cannot be decoded ({detail})", detail=error)) from None
    # Where the compressed pixels have an end of their own, but too early, Pillow leaves the rest zero.
    if image.info.get("interlace") or not np.asarray(image.crop((0, image.height - 1, *image.size))).any():
        _check_length(content.getvalue()[16:29], pixels)
    if hidden is not None:
        image.paste("white", mask=Image.fromarray(hidden))
        del image.info["transparency"]


def _opened(chunks: list[memoryview]) -> Any:
    return PngImagePlugin.PngImageFile(io.BytesIO(_SIGNATURE + b"".join(chunks) + _NO_PIXELS_YET))


def _check_length(header: bytes, pixels: bytes) -> None:
    """Refuse compressed pixels that are fewer than the header (IHDR) says."""
    width, height, bits, colour, interlaced = struct.unpack(">IIBBxxB", header)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = math.ceil((width - left) / across), math.ceil((height - top) / down)
        if columns > 0:
            missing += rows * (
                1 + math.ceil(columns * bits * _CHANNELS[colour] / 8)
            )  # each row has a byte for its filter
    inflater, missing = zlib.decompressobj(), missing - 1
    # But for the last byte: with it comes the stream's checksum, and what lies behind, which Pillow leaves alone.
    for start in range(0, len(pixels), _PIECE):
        if missing <= 0 or inflater.eof:
            break
        missing -= len(inflater.decompress(pixels[start : start + _PIECE], missing))
    if missing > 0:
        raise Refusal(_("damaged: some of its pixels are missing"))


def _hidden(image: Any) -> npt.NDArray[np.bool_]:
    """Return where (H, W) a picture of 16 bits per channel has its transparent colour: Pillow keeps high bytes only."""
    key = np.array(image.info["transparency"])
    same: list[npt.NDArray[np.bool_]] = []
    for raw_mode, wanted in (("RGB;16B", key >> 8), ("RGB;16L", key & 255)):  # the other byte order: the low bytes
        half: Any = PngImagePlugin.PngImageFile(io.BytesIO(image.fp.getvalue()))
        half.tile = [half.tile[0]._replace(args=raw_mode)]
        same.append((np.asarray(half) == wanted).all(axis=2))
    return same[0] & same[1]


def _raw_mode(image: Any) -> str:
    return str(image.tile[0].args)


def _chunks(file: BinaryIO) -> list[_Chunk]:
    """Return the chunks up to IEND; EOFError for a file that ends before."""
    size = file.seek(0, io.SEEK_END)
    chunks: list[_Chunk] = []
    position = len(_SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        file.seek(position)
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head) if len(head) == 8 else (size, b"")
        chunks.append(_Chunk(kind, position + 8, length))
        position += 12 + length
        if position > size:
            file.seek(size)
            raise EOFError("a chunk reaches beyond the end of the file")
    return chunks


def _whole(file: BinaryIO, chunk: _Chunk) -> memoryview:
    file.seek(chunk.offset - 8)
    return memoryview(file.read(chunk.length + 12))


def _is_sound(whole: memoryview) -> bool:
    return zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")


def _sound(whole: memoryview) -> memoryview:
    """Return a chunk without damage."""
    if not _is_sound(whole):
        raise Refusal(_("damaged: the checksum of its {part} is wrong", part=bytes(whole[4:8]).decode()))
    return whole


def _turns(file: BinaryIO, chunk: _Chunk) -> bool:
    """Tell whether a chunk may say how the picture is turned; what is damaged says nothing."""
    if chunk.kind != b"eXIf" and chunk.kind not in _TEXTS:
        return False
    whole = _whole(file, chunk)
    return _is_sound(whole) and (chunk.kind == b"eXIf" or bytes(whole[8:]).partition(b"\0")[0] in _TURNING)
