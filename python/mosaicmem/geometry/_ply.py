"""Vertices of PLY files, as columns by name.

Our own reader, because libraries with a permissive licence read a file that is cut short, or a row that lacks a number,
without a word. Nothing is allocated before the file is known to be large enough for it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry._ply_header import Element, Header, read_header

Columns = dict[str, NDArray[Any]]


def read_vertices(path: Path) -> Columns:
    """The properties of the element "vertex" that are no lists, each of the type that the header declares.

    Raises
    ------
    FormatError
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise FormatError(path, "expected a regular file")
    with open(path, "rb") as file:
        header = read_header(path, file)
        names = [element.name for element in header.elements]
        if names.count("vertex") != 1:
            raise FormatError(path, f"expected one element 'vertex', the header has {', '.join(names) or 'no element'}")
        file.seek(header.size)
        left = os.fstat(file.fileno()).st_size - header.size
        position = names.index("vertex")
        for element in header.elements[: position + 1]:
            # Text has a digit and the end of a line in each row, but for the last.
            least = element.count * element.least_bytes if header.byte_order else 2 * element.count - 1
            if least > left:
                raise _cut_short(
                    path, f"{element.count} of {element.name!r} need {least} bytes or more, {left} are left"
                )
            left -= max(0, least)
        read = _read_binary if header.byte_order else _read_text
        columns, more = read(path, file, header, header.elements[:position], header.elements[position])
    if more and position == len(names) - 1:
        count = header.elements[position].count
        suspect(
            f"{path}: data follows after the last of {count} vertices; does the header lack vertices or properties?"
        )
    return columns


def _cut_short(path: Path, message: str) -> FormatError:
    return FormatError(path, f"{message}; is the file cut short?")


def _read_binary(
    path: Path, file: IO[bytes], header: Header, before: list[Element], vertex: Element
) -> tuple[Columns, bool]:
    order = header.byte_order
    assert order is not None
    data = memoryview(file.read() if any(element.lists for element in (*before, vertex)) else b"")
    offset = 0
    for element in before:
        if element.lists:
            offset = _walk(path, data, offset, element, order, {})
        else:
            offset += element.count * element.least_bytes
    if vertex.lists:
        columns: Columns = {name: np.empty(vertex.count, vertex.types[name]) for name in vertex.scalars}
        offset = _walk(path, data, offset, vertex, order, columns)
        return columns, offset < len(data)
    file.seek(header.size + offset)
    dtype = np.dtype([(name, kind.newbyteorder(order)) for name, kind in vertex.types.items()])
    table = np.fromfile(file, dtype, vertex.count) if vertex.types else np.empty(vertex.count, dtype)
    if len(table) != vertex.count:
        raise _cut_short(path, f"expected {vertex.count} vertices, got {len(table)}")
    return {name: table[name] for name in vertex.types}, bool(file.read(1 << 16).strip())


def _walk(
    path: Path, data: memoryview, offset: int, element: Element, order: Literal["<", ">"], columns: Columns
) -> int:
    """Where an element with lists ends, row by row; properties that are no lists go to ``columns``."""
    properties = [
        (name, kind.newbyteorder(order), element.lists[name].newbyteorder(order) if name in element.lists else None)
        for name, kind in element.types.items()
    ]
    for row in range(element.count):
        for name, kind, length in properties:
            first = kind if length is None else length
            if offset + first.itemsize > len(data):
                raise _cut_short(path, f"the data ends in {element.name} {row} of {element.count}")
            value = np.frombuffer(data, first, 1, offset)[0]
            offset += first.itemsize
            if length is not None:
                if value < 0:
                    raise FormatError(path, f"{element.name} {row}: {name}: expected the length of a list, got {value}")
                offset += int(value) * kind.itemsize
            elif name in columns:
                columns[name][row] = value
    if offset > len(data):
        raise _cut_short(path, f"the data ends in {element.name} {element.count - 1} of {element.count}")
    return offset


def _read_text(
    path: Path, file: IO[bytes], header: Header, before: list[Element], vertex: Element
) -> tuple[Columns, bool]:
    lines = file.read().splitlines()
    filled = [number for number, line in enumerate(lines) if line.strip()]
    skipped = sum(element.count for element in before)
    rows = filled[skipped : skipped + vertex.count]
    if len(rows) != vertex.count:
        raise _cut_short(path, f"expected {vertex.count} vertices, got {len(rows)}")
    numbers = [header.lines + row + 1 for row in rows]
    texts = [lines[row] for row in rows]
    if vertex.lists:
        texts = [_without_lists(path, number, text, vertex) for number, text in zip(numbers, texts, strict=True)]
    names = vertex.scalars
    try:
        table = np.loadtxt(texts, np.float64, comments=None, ndmin=2) if rows else np.empty((0, len(names)))
    except ValueError:
        table = np.empty((0, 0))
    if table.shape != (len(rows), len(names)):
        for number, text in zip(numbers, texts, strict=True):
            _check_row(path, number, text, names)
    columns = {
        name: _typed(path, numbers, name, table[:, i], vertex.types[name]) for i, name in enumerate(vertex.scalars)
    }
    return columns, len(filled) > skipped + vertex.count


def _without_lists(path: Path, number: int, text: bytes, vertex: Element) -> bytes:
    words, kept, position = text.split(), list[bytes](), 0
    for name in vertex.types:
        word = words[position] if position < len(words) else b""
        if name in vertex.lists:
            if not word.isdigit():
                raise FormatError(
                    path, f"{name}: expected the length of a list, got {word.decode('latin-1')!r}", number
                )
            position += int(word[:9])
        else:
            kept.append(word)
        position += 1
    if position != len(words):
        raise FormatError(path, f"expected {position} numbers, got {len(words)}", number)
    return b" ".join(kept)


def _check_row(path: Path, number: int, text: bytes, names: list[str]) -> None:
    words = text.decode("latin-1").split()
    if len(words) != len(names):
        raise FormatError(path, f"expected {len(names)} numbers ({', '.join(names)}), got {len(words)}", number)
    for name, word in zip(names, words, strict=True):
        try:
            float(word)
        except ValueError:
            raise FormatError(path, f"{name}: expected a number, got {word!r}", number) from None


def _typed(path: Path, numbers: list[int], name: str, values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind != "f":
        limits = np.iinfo(kind)
        wrong = ~((values >= limits.min) & (values <= limits.max) & (values == np.rint(values)))
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = f"an integer from {limits.min} to {limits.max}, as its type is"
            raise FormatError(path, f"{name}: expected {expected}, got {values[row]:g}", numbers[row])
    with np.errstate(over="ignore"):  # inf where beyond float32, which whoever asked for the column finds
        return values.astype(kind)


def write_vertices(file: IO[bytes], columns: Columns, count: int, *, binary: bool) -> None:
    """A whole PLY file of columns of float32 and uint8, each ``count`` long."""
    kinds = {"f4": "float", "u1": "uchar"}
    types = {name: column.dtype.str[1:] for name, column in columns.items()}
    lines = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", f"element vertex {count}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in types.items()]
    file.write(("\n".join([*lines, "end_header"]) + "\n").encode())
    table = np.empty(count, [(name, f"<{kind}") for name, kind in types.items()])
    for name, column in columns.items():
        table[name] = column
    if binary:
        file.write(table.tobytes())
    else:
        np.savetxt(file, table, ["%.9g" if kind == "f4" else "%d" for kind in types.values()])
