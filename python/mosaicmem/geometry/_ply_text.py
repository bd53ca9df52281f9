"""Rows of ASCII PLY files, read a block of lines at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._opening import foreign_parser
from mosaicmem.errors import FormatError
from mosaicmem.geometry._ply_header import Element, Header, cut_short

_LONGEST = 1 << 20  # characters per line
_BLOCK = 1 << 19  # characters per block


def read_text(
    path: Path, file: IO[bytes], header: Header, before: list[Element], vertex: Element, columns: dict[str, Any]
) -> bool:
    """Read the vertex rows into ``columns``; return whether more data follows."""
    file.seek(header.size)
    with io.TextIOWrapper(file, "latin-1", newline=None) as text:
        return _read_rows(path, _filled_lines(path, text, header.lines), before, vertex, columns)


def _read_rows(
    path: Path, lines: Iterator[tuple[int, str]], before: list[Element], vertex: Element, columns: dict[str, Any]
) -> bool:
    for _ in range(sum(element.count for element in before if element.types)):
        next(lines, None)
    done = 0
    while done < vertex.count:
        numbers, texts = _block(lines, vertex.count - done)
        if not texts:
            raise cut_short(path, f"expected {vertex.count} vertices, got {done}")
        if vertex.lists:
            texts = [_without_lists(path, number, text, vertex) for number, text in zip(numbers, texts, strict=True)]
        table = _table(path, numbers, texts, vertex.scalars)
        for i, name in enumerate(vertex.scalars):
            if name in columns:
                values = _typed(path, numbers, name, table[:, i], vertex.types[name])
                columns[name][done : done + len(texts)] = values
        done += len(texts)
    return next(lines, None) is not None


def _filled_lines(path: Path, text: IO[str], number: int) -> Iterator[tuple[int, str]]:
    """The non-blank lines with their numbers; any newline convention is accepted."""
    while line := text.readline(_LONGEST + 1):
        number += 1
        if len(line) > _LONGEST:
            raise FormatError(path, f"expected lines of at most {_LONGEST} letters, got a longer one", number)
        if not line.isspace():
            yield number, line


def _block(lines: Iterator[tuple[int, str]], most: int) -> tuple[list[int], list[str]]:
    numbers: list[int] = []
    texts: list[str] = []
    letters = 0
    while len(texts) < most and letters < _BLOCK:
        number, text = next(lines, (0, ""))
        if not text:
            break
        numbers.append(number)
        texts.append(text)
        letters += len(text) + 32  # short lines too take memory
    return numbers, texts


def _table(path: Path, numbers: list[int], texts: list[str], names: list[str]) -> NDArray[np.float64]:
    """Parse lines into a table (N, P); a FormatError names the first bad line."""
    table: NDArray[np.float64] | None = None
    failure: FormatError | None = None
    try:
        with foreign_parser(path, "expected numbers"):
            table = np.loadtxt(texts, np.float64, comments=None, ndmin=2)
    except FormatError as error:
        failure = error
    if table is not None and table.shape == (len(texts), len(names)):
        return table
    for number, text in zip(numbers, texts, strict=True):
        _check_row(path, number, text, names)
    raise failure or FormatError(path, f"expected {len(names)} numbers a line", numbers[0])


def _without_lists(path: Path, number: int, text: str, vertex: Element) -> str:
    words, kept, position = text.split(), list[str](), 0
    for name in vertex.types:
        word = words[position] if position < len(words) else ""
        if name in vertex.lists:
            if not (word.isascii() and word.isdigit()):
                raise FormatError(path, f"{name}: expected the length of a list, got {word!r}", number)
            position += int(word[:9])
        else:
            kept.append(word)
        position += 1
    if position != len(words):
        raise FormatError(path, f"expected {position} numbers, got {len(words)}", number)
    return " ".join(kept)


def _check_row(path: Path, number: int, text: str, names: list[str]) -> None:
    words = text.split()
    if len(words) != len(names):
        there = ", ".join(names[:16])
        raise FormatError(path, f"expected {len(names)} numbers ({there}), got {len(words)}", number)
    for name, word in zip(names, words, strict=True):
        try:
            float(word)
        except ValueError:
            raise FormatError(path, f"{name}: expected a number, got {word[:80]!r}", number) from None


def _typed(path: Path, numbers: list[int], name: str, values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind != "f":
        limits = np.iinfo(kind)
        wrong = ~((values >= limits.min) & (values <= limits.max) & (values == np.rint(values)))
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = f"an integer from {limits.min} to {limits.max}, as its type is"
            raise FormatError(path, f"{name}: expected {expected}, got {values[row]:g}", numbers[row])
    with np.errstate(over="ignore", invalid="ignore"):  # float32 overflow gives inf, which callers check
        return values.astype(kind)
