"""Counts the parts of PNG and JPEG files (chunks, segments, scans) before a decoder sees them.

A decoder takes memory for each part of a file, and time for each pass over the image: a small file may have thousands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

from mosaicmem._opening import file_size
from mosaicmem.errors import FormatError

_MAX_BYTES = 1 << 28
_CHUNK = 1 << 20
_MOST_PARTS = 1 << 16
_MOST_SCANS = 512  # of a progressive JPEG, each a pass over the image; a dozen is usual
_MOST_PACKED = 16  # compressed text chunks of a PNG, each of which may unpack to as much as Pillow allows
_PACKED_BYTES = 1 << 21
_SEGMENT, _SCAN = re.compile(rb"\xff[\xe0-\xef\xfe]"), b"\xff\xda"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PACKED = (b"zTXt", b"iTXt", b"iCCP")


def check_parts(path: Path, file: IO[bytes]) -> int:
    """Reject an image with too many parts; return the memory that parts other than pixels take. Rewinds ``file``."""
    size = file_size(file)
    if size > _MAX_BYTES:
        raise FormatError(path, f"expected an image of at most {_MAX_BYTES} bytes, got {size}")
    head = file.read(8)
    needed = 0
    if head == _PNG:
        needed = _check_png(path, file, size)
    elif head.startswith(_JPEG):
        _check_jpeg(path, file)
    file.seek(0)
    return needed


def _check_png(path: Path, file: IO[bytes], size: int) -> int:
    parts = packed = 0
    while file.tell() < size:
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            break
        parts += 1
        packed += head[4:] in _PACKED
        if parts > _MOST_PARTS or packed > _MOST_PACKED:
            raise FormatError(
                path,
                f"not a readable image: expected at most {_MOST_PARTS} chunks, and {_MOST_PACKED} of packed text, got "
                "more",
            )
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return packed * _PACKED_BYTES


def _check_jpeg(path: Path, file: IO[bytes]) -> None:
    segments = scans = 0
    last = b""
    while chunk := file.read(_CHUNK):
        both = last + chunk
        segments += sum(1 for _ in _SEGMENT.finditer(both))
        scans += both.count(_SCAN)
        last = both[-1:]
    if segments > _MOST_PARTS or scans > _MOST_SCANS:
        raise FormatError(
            path,
            f"not a readable image: expected at most {_MOST_PARTS} segments and {_MOST_SCANS} scans, got {segments} "
            f"and {scans}",
        )
