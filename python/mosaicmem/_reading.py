"""Files of a sequence: whatever is wrong with one is a FormatError that names it.

Only regular files are read, and none before its size is known to be within limits.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, F64, U8
from mosaicmem.errors import FormatError

_MAX_MATRIX_BYTES = 1 << 16
_MAX_LIST_BYTES = 1 << 26
_MAX_LINES = 1 << 18  # more than an hour at 60 Hz
_MAX_LINE_BYTES = 4096
_MAX_PIXELS = 1 << 26
_IMAGE_ERRORS = (  # what Pillow's decoders raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@contextmanager
def errors_in(path: Path, line: int | None = None) -> Iterator[None]:
    """Whatever the block finds wrong is wrong with this file."""
    try:
        yield
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FormatError(path, str(error), line) from None


def check_folder(folder: str | Path) -> Path:
    """``folder`` as a path, if there is one.

    Raises
    ------
    FileNotFoundError
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    return folder


def numbered_files(folder: Path, pattern: str, named: str) -> dict[int, Path]:
    """Files of a folder by the number that is the first group of ``pattern``, in its order.

    Raises
    ------
    FormatError
        There is no such folder, no such file in it (the message says how they are ``named``), or a number comes twice.
    """
    if not folder.is_dir():
        raise FormatError(folder, "expected a folder" if folder.exists() else "missing")
    matches = (re.fullmatch(pattern, path.name) for path in folder.iterdir())
    found = sorted((int(match[1]), match[0]) for match in matches if match)
    for (number, name), (next_number, next_name) in pairwise(found):
        if number == next_number:
            raise FormatError(folder / next_name, f"expected one colour image a frame, got {name} too")
    if not found:
        raise FormatError(folder, f"expected frames named {named}, found none")
    return {number: folder / name for number, name in found}


@contextmanager
def open_file(path: Path, beside: Path | None = None) -> Iterator[IO[bytes]]:
    """A regular file. ``beside`` is a file that calls for this one: the message says so when this one is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    except FileNotFoundError:
        raise FormatError(path, f"missing, though {beside.name} is there" if beside else "missing") from None
    except OSError as error:
        raise FormatError(path, f"not readable: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(path, "not a file")
    with open(descriptor, "rb") as file:
        yield file


# Text


def read_lines(path: Path, max_bytes: int = _MAX_LIST_BYTES, beside: Path | None = None) -> list[tuple[int, str]]:
    """The lines of a text with their numbers, from 1, but for empty ones and comments (#)."""
    lines: list[tuple[int, str]] = []
    with open_file(path, beside) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FormatError(path, f"expected at most {max_bytes} bytes, got {size}")
        for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), start=1):
            if len(raw) > _MAX_LINE_BYTES:
                raise FormatError(path, f"expected lines of at most {_MAX_LINE_BYTES} bytes, got a longer one", number)
            if number > _MAX_LINES:
                raise FormatError(path, f"expected at most {_MAX_LINES} lines, got more")
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
            if line and not line.startswith("#"):
                lines.append((number, line))
    return lines


def read_numbers(
    path: Path, columns: int, max_bytes: int = _MAX_LIST_BYTES, beside: Path | None = None
) -> tuple[F64, list[int]]:
    """A table (N, columns) float64, not necessarily finite, and the line that each row is on."""
    values, lines = array("d"), []
    for number, line in read_lines(path, max_bytes, beside):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            raise FormatError(path, f"expected numbers, got {line[:80]!r}", number) from None
        if len(row) != columns:
            raise FormatError(path, f"expected {columns} numbers, got {len(row)}", number)
        values.extend(row)
        lines.append(number)
    return np.array(values, dtype=np.float64).reshape(-1, columns), lines


def read_matrix(path: Path, shape: tuple[int, int], beside: Path | None = None) -> F64:
    """A matrix of ``shape``, float64, not necessarily finite."""
    matrix, lines = read_numbers(path, shape[1], _MAX_MATRIX_BYTES, beside)
    if len(lines) != shape[0]:
        raise FormatError(path, f"expected {shape[0]} lines of numbers, got {len(lines)}")
    return matrix


# Images


@contextmanager
def _open_image(path: Path, size: tuple[int, int] | None, beside: Path | None) -> Iterator[Image.Image]:
    with open_file(path, beside) as file:
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise FormatError(path, f"expected at most {_MAX_PIXELS} pixels, got {image.width}x{image.height}")
                if size is not None and image.size != size:
                    expected, got = (f"{width}x{height}" for width, height in (size, image.size))
                    raise FormatError(path, f"expected {expected} pixels, got {got}")
                yield image
        except FormatError:
            raise
        except _IMAGE_ERRORS as error:
            raise FormatError(path, f"not a readable image: {error}") from None


def image_size(path: Path, beside: Path | None = None) -> tuple[int, int]:
    """(width, height), pixels."""
    with _open_image(path, None, beside) as image:
        return image.size


def read_color(path: Path, size: tuple[int, int], resized: tuple[int, int] | None = None) -> U8:
    """An image of ``size`` (width, height) as (H, W, 3) uint8, ``resized`` by averaging areas if that is given."""
    with _open_image(path, size, None) as image:
        rgb = image.convert("RGB")
        if resized not in (None, size):
            rgb = rgb.resize(resized, Image.Resampling.BOX)
        return np.array(rgb)


def read_depth(
    path: Path,
    size: tuple[int, int],
    units_per_metre: float,
    invalid: int = 0,
    beside: Path | None = None,
) -> F32:
    """A 16-bit image of ``size`` (width, height) as (H, W) float32 metres; 0 stays 0, and so becomes ``invalid``."""
    with _open_image(path, size, beside) as image:
        units = np.array(image)
    if units.ndim != 2 or units.dtype.kind not in "iu" or units.dtype.itemsize < 2:
        raise FormatError(path, f"expected a 16-bit grey image, got {units.dtype} of shape {units.shape}")
    depth: F32 = units.astype(np.float32) / np.float32(units_per_metre)
    depth[units == invalid] = 0
    return depth
