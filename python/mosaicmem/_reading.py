"""Files by name, and texts: whatever is wrong with one is a FormatError that names it.

Only regular files are read, and none before its size is known to be within limits.
"""

from __future__ import annotations

import os
import re
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._file_kinds import OTHER_IMAGES, advice_on, describe_file
from mosaicmem.errors import FormatError, suspect

_T = TypeVar("_T")

_MAX_MATRIX_BYTES = 1 << 16
_MAX_LIST_BYTES = 1 << 26
_MAX_LINES = 1 << 18  # more than an hour at 60 Hz
_MAX_LINE_BYTES = 4096
_IMAGES = (".jpg", ".jpeg", ".png")
_DECIMAL_NAME = re.compile(r"[0-9]+(\.[0-9]+)?(\.[A-Za-z]\w*)?")


@contextmanager
def errors_in(path: Path, line: int | None = None) -> Iterator[None]:
    """Whatever the block finds wrong is wrong with this file."""
    try:
        yield
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FormatError(path, str(error), line) from None


def check_folder(folder: str | Path, advice: str | None = None) -> Path:
    """``folder`` as a path, if there is one; ``advice`` is for whoever gives a file, if it is no sequence's folder.

    Raises
    ------
    FileNotFoundError
        There is nothing of that name.
    FormatError
        It is a file; the message says of what kind, and what to do with it.
    TypeError
        It is no path.
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


# Names


def in_name_order(items: Iterable[_T], name_of: Callable[[_T], str], where: Path) -> list[_T]:
    """Items by their names, in which numbers count as numbers: 2 before 10.

    A point between digits begins another number, frame 10 of take 1 in ``1.10``, unless all names are decimal numbers:
    ``1.10`` is then less than ``1.9``. Where that is uncertain and makes a difference, it is said of ``where``.
    """
    found = sorted(items, key=lambda item: (_integers(name_of(item)), name_of(item)))
    names = [name_of(item) for item in found]
    by_value = sorted(range(len(names)), key=lambda i: (_decimals(names[i]), names[i]))
    if by_value == list(range(len(names))):
        return found
    are_decimals = all(_DECIMAL_NAME.fullmatch(name) for name in names)
    if not (are_decimals and any(re.search(r"\.0[0-9]", name) for name in names)):  # no counter begins with 0
        first, second = next((names[i], names[j]) for i, j in enumerate(by_value) if i != j)
        how = "as decimal numbers" if are_decimals else "with each number in them counted by itself"
        suspect(
            f"{where}: the order of names such as {first} and {second} is uncertain; they are taken {how}; pad numbers "
            "with zeros to the same length"
        )
    return [found[i] for i in by_value] if are_decimals else found


def _integers(name: str) -> list[str | int]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _decimals(name: str) -> list[str | tuple[int, str]]:
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", name)
    return [_decimal(part) if i % 2 else part for i, part in enumerate(parts)]


def _decimal(text: str) -> tuple[int, str]:
    whole, _, fraction = text.partition(".")
    return int(whole), fraction.rstrip("0")


def numbered_files(folder: Path, stem: str, named: str) -> dict[int, Path]:
    """JPEG and PNG files of a folder by the number that is the first group of the pattern ``stem``, in its order.

    Raises
    ------
    FormatError
        There is no such folder, no such file in it (the message says how they are ``named``), a number comes twice, or
        a frame is only there as an image of another format.
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


@contextmanager
def open_file(path: Path, beside: Path | None = None) -> Iterator[IO[bytes]]:
    """A regular file. ``beside`` is a file that calls for this one: the message says so when this one is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    except FileNotFoundError:
        raise FormatError(path, _missing(path, beside)) from None
    except OSError as error:
        raise FormatError(path, f"not readable: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(path, "not a file")
    with open(descriptor, "rb") as file:
        yield file


def _missing(path: Path, beside: Path | None) -> str:
    """Why a file is called for, and what is there in its place."""
    others = [other.name for other in path.parent.iterdir() if other.stem == path.stem] if path.parent.is_dir() else []
    wrong = min((name for name in others if name != path.name and (beside is None or name != beside.name)), default="")
    though = f", though {beside.name} is there" if beside else ""
    hint = f"; {wrong} is there: convert it to {path.suffix}, or rename it" if wrong else ""
    return f"missing{though}{hint}"


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
