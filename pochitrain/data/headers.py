"""What a plain JPEG says of itself in its first bytes, read in a quarter of the time that Pillow takes to open one.

Known here is what nearly every JPEG without EXIF consists of; for anything else Pillow is asked, which also words what
is wrong. The gate before a training looks at every file: with 100 000 of them this is most of a start.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_HEAD = 4096  # bytes; the tables and the size take about 700, a colour profile 3 000
_MOST_PIXELS = 1 << 26  # far below the decoder's own limit
_END = b"\xff\xd9"

# Markers of ITU-T T.81, table B.1.
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_PROGRESSIVE = 0xC2
_QUANTIZATION, _SCAN = 0xDB, 0xDA
# What else may stand there, by how it begins and its least length: what Pillow reads of it is there.
_OTHERS = {
    0xC4: (b"", 0),  # Huffman tables
    0xDD: (b"", 0),  # restart interval
    0xFE: (b"", 0),  # comment
    0xE0: (b"JFIF\0", 14),
    0xE2: (b"ICC_PROFILE\0", 14),
    0xEE: (b"Adobe", 12),
}


class Frame(NamedTuple):
    """What the frame header of a JPEG says."""

    width: int
    height: int
    mode: str  # as Pillow names it
    progressive: bool


def inspect_plain(path: str | os.PathLike[str]) -> Frame | None:
    """Return the frame of a JPEG that is plain and ends as it should, None for any other file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # told by whoever opens it next
        return None
    try:
        head, size = os.read(file, _HEAD), os.fstat(file).st_size
        if not head.startswith(b"\xff\xd8\xff"):
            return None
        end = head[-2:] if size == len(head) else os.pread(file, 2, size - 2)
        return _frame(head, size) if end == _END else None
    except OSError:
        return None
    finally:
        os.close(file)


def plain_frame(data: bytes) -> Frame | None:
    """Return the frame of a whole file that is a plain JPEG and ends as it should, None for any other."""
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(_END)):
        return None
    return _frame(data[:_HEAD], len(data))


def _frame(head: bytes, size: int) -> Frame | None:
    """Return what the frame says, if all that stands before the first scan is known and well-formed."""
    found, at = None, 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        kind, body_at = head[at + 1], at + 4
        at += 2 + (head[at + 2] << 8 | head[at + 3])
        if kind == _SCAN:
            # One scan for all components, else the others might be missing.
            whole = found is not None and head[body_at : body_at + 1] == (b"\1" if found.mode == "L" else b"\3")
            return found if whole and at + len(_END) <= size else None
        body = head[body_at:at]
        if at - body_at != len(body):  # goes on behind what was read
            return None
        if kind in _FRAMES:
            found = _parsed(body, kind == _PROGRESSIVE) if found is None else None
            if found is None:
                return None
        elif kind == _QUANTIZATION:
            if len(body) % 65 or any(number > 15 for number in body[::65]):  # 64 values of 8 bits behind each number
                return None
        elif kind not in _OTHERS or len(body) < _OTHERS[kind][1] or not body.startswith(_OTHERS[kind][0]):
            return None
    return None


def _parsed(frame: bytes, progressive: bool) -> Frame | None:
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3) or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    mode = "L" if frame[5] == 1 else "RGB"
    return Frame(width, height, mode, progressive) if 0 < width * height <= _MOST_PIXELS else None
