"""Finds files by name and reads text files; a FormatError names the file at fault."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._file_kinds import OTHER_IMAGES, advice_on, describe_file
from mosaicmem._opening import file_size, open_file
from mosaicmem.errors import FormatError, suspect

_T = TypeVar("_T")

_MAX_MATRIX_BYTES = 1 << 16
_MAX_LIST_BYTES = 1 << 26
_MAX_LINES = 1 << 18  # more than an hour at 60 Hz
_MAX_LINE_BYTES = 4096
_LONGEST_NAME, _LONGEST_PATH = 200, 2000  # bytes
_IMAGES = (".jpg", ".jpeg", ".png")
_INTEGER, _DECIMAL = re.compile(r"[0-9]+"), re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DECIMAL_NAME = re.compile(r"[0-9]+(\.[0-9]+)?(\.[A-Za-z]\w*)?")


def check_folder(folder: str | Path, advice: str | None = None) -> Path:
    """``folder`` as a path, if it exists; ``advice`` replaces the default hint for a file given in its place.

    Raises
    ------
    FileNotFoundError
        It does not exist.
    FormatError
        It is a file; the message says of what kind, and what to do with it.
    TypeError
        It is not a path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder: expected a path, got {type(folder).__name__}")
    folder = Path(folder)
    if folder.is_dir():
        return folder
    if not folder.exists():
        hint = "; ~ is not expanded here: give the whole path" if folder.parts[:1] == ("~",) else ""
        raise FileNotFoundError(f"{folder}: no such folder{hint}")
    kind = describe_file(folder)
    raise FormatError(folder, f"expected a folder, got {kind}; {advice or advice_on(kind)}")


def path_inside(folder: Path, name: object) -> Path | None:
    """The path of a file that another file names, relative to ``folder``; None if it is no name or leads outside."""
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST_PATH:
        return None
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        return None
    return folder / path


# Names


def in_name_order(items: Iterable[_T], name_of: Callable[[_T], str], where: Path) -> list[_T]:
    """Sort items by name in natural order: 2 before 10.

    A point between digits separates two numbers (``1.10`` is frame 10 of take 1), unless all names are decimal numbers:
    then ``1.10`` is less than ``1.9``. If that is ambiguous and changes the order, a warning names ``where``.
    """
    found = sorted(items, key=lambda item: _by_integers(name_of(item)))
    by_value = sorted(found, key=lambda item: _by_decimals(name_of(item)))
    different = next(((a, b) for a, b in zip(found, by_value, strict=True) if name_of(a) != name_of(b)), None)
    if different is None:
        return found
    are_decimals = all(_DECIMAL_NAME.fullmatch(name_of(item)) for item in found)
    # No counter begins with 0, so these are certainly decimals.
    if not (are_decimals and any(re.search(r"\.0[0-9]", name_of(item)) for item in found)):
        first, second = (name_of(item) for item in different)
        how = "as decimal numbers" if are_decimals else "with each number in them counted by itself"
        suspect(
            f"{where}: the order of names such as {first} and {second} is uncertain; they are taken {how}; pad numbers "
            "with zeros to the same length"
        )
    return by_value if are_decimals else found


def _by_integers(name: str) -> str:
    """A sort key that orders the digits in a name as integers, by prefixing each with its number of digits.

    A string takes a tenth of the memory of a list of parts, and no number is ever converted.
    """
    return f"{_INTEGER.sub(lambda number: _sized(number[0]), name)}\0\0{name}"


def _by_decimals(name: str) -> str:
    """The same for decimal numbers; trailing zeros of a fraction do not count."""
    return f"{_DECIMAL.sub(_sized_decimal, name)}\0\0{name}"


def _sized(digits: str) -> str:
    digits = digits.lstrip("0")
    return f"\0{len(digits):06d}{digits}"


def _sized_decimal(number: re.Match[str]) -> str:
    whole, _, fraction = number[0].partition(".")
    return f"{_sized(whole)}\0{fraction.rstrip('0')}\0"


def numbered_files(folder: Path, stem: str, named: str) -> dict[int, Path]:
    """JPEG and PNG files of a folder by number, ascending; the number is the first group of the pattern ``stem``.

    Raises
    ------
    FormatError
        There is no such folder, no such file in it (the message says how they are ``named``), a number occurs twice, or
        a frame exists only in another image format.
    """
    if not folder.is_dir():
        raise FormatError(folder, "expected a folder" if folder.exists() else "missing")
    matches = [(re.fullmatch(stem, path.stem), path) for path in folder.iterdir()]
    frames = sorted((int(match[1]), path.name) for match, path in matches if match and path.suffix.lower() in _IMAGES)
    for (number, name), (next_number, next_name) in pairwise(frames):
        if number == next_number:
            raise FormatError(
                folder / next_name,
                f"expected one colour image a frame, got {name} too, which is also of frame {number}; keep one of them",
            )
    numbers = {number for number, _ in frames}
    others = sorted(
        (int(match[1]), path.name)
        for match, path in matches
        if match and path.suffix.lower() in OTHER_IMAGES and int(match[1]) not in numbers
    )
    if others:
        raise FormatError(
            folder / others[0][1],
            f"expected JPEG or PNG, got {describe_file(folder / others[0][1])}; convert it, and the {len(others)} "
            f"frames that are not {named}",
        )
    if not frames:
        raise FormatError(folder, f"expected frames named {named}, found none; {_holds(folder)}")
    return {number: folder / name for number, name in frames}


def _holds(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {len(names)} files, such as {names[0]}" if names else "it is empty"


# Text


def read_lines(
    path: Path, max_bytes: int = _MAX_LIST_BYTES, beside: Path | None = None, *, max_lines: int = _MAX_LINES
) -> Iterator[tuple[int, str]]:
    """Iterate over the lines of a text file with their numbers, from 1; skips empty lines and comments (#)."""
    with open_file(path, beside) as file:
        size = file_size(file)
        if size > max_bytes:
            raise FormatError(path, f"expected at most {max_bytes} bytes, got {size}")
        for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b""), start=1):
            if len(raw) > _MAX_LINE_BYTES:
                raise FormatError(path, f"expected lines of at most {_MAX_LINE_BYTES} bytes, got a longer one", number)
            if number > max_lines:
                raise FormatError(path, f"expected at most {max_lines} lines, got more")
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
            if line and not line.startswith("#"):
                yield number, line


def parse_numbers(path: Path, line: str, columns: int, number: int) -> list[float]:
    """The ``columns`` numbers of a line."""
    words = line.split()
    try:
        row = [float(word) for word in words]
    except ValueError:
        raise FormatError(path, f"expected numbers, got {line[:80]!r}", number) from None
    if len(row) != columns:
        raise FormatError(path, f"expected {columns} numbers, got {len(row)}", number)
    return row


def read_numbers(
    path: Path, columns: int, max_bytes: int = _MAX_LIST_BYTES, beside: Path | None = None
) -> tuple[F64, Sequence[int]]:
    """A table (N, columns) float64, not necessarily finite, and the line number of each row."""
    return table_of(path, read_lines(path, max_bytes, beside), columns)


def table_of(path: Path, lines: Iterable[tuple[int, str]], columns: int) -> tuple[F64, Sequence[int]]:
    """`read_numbers` from numbered lines, some of which the caller may have consumed."""
    values, numbers = array("d"), array("q")
    for number, line in lines:
        values.extend(parse_numbers(path, line, columns, number))
        numbers.append(number)
    return np.frombuffer(values, np.float64).reshape(-1, columns), numbers


def read_matrix(path: Path, shape: tuple[int, int], beside: Path | None = None) -> F64:
    """A matrix of ``shape``, float64, not necessarily finite."""
    matrix, lines = read_numbers(path, shape[1], _MAX_MATRIX_BYTES, beside)
    if len(lines) != shape[0]:
        raise FormatError(path, f"expected {shape[0]} lines of numbers, got {len(lines)}")
    return matrix
