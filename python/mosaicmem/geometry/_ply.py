"""Reads and writes the vertices of PLY files as named columns.

We have our own reader because permissively licensed libraries silently accept truncated files and rows that lack a
number. It allocates nothing before it knows that the file is large enough, and keeps only the requested properties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaicmem._opening import check_growth, file_size, open_regular
from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry._ply_header import Element, cut_short, read_header
from mosaicmem.geometry._ply_lists import row_of_lists, skip_rows
from mosaicmem.geometry._ply_text import read_text

Columns = dict[str, NDArray[Any]]

_BLOCK = 1 << 20  # bytes per read
_CLOUD_BYTES = 27  # per vertex with colour and normal


def read_vertices(path: Path, choose: Callable[[Sequence[str]], Sequence[str]]) -> Columns:
    """Read properties of the element "vertex", each in the type that the header declares.

    ``choose`` takes the names of the scalar properties and returns those to read.

    Raises
    ------
    FormatError
    """
    with open_regular(path) as file:
        header = read_header(path, file)
        names = [element.name for element in header.elements]
        if names.count("vertex") != 1:
            there = ", ".join(names[:8]) or "no element"
            raise FormatError(path, f"expected one element 'vertex', the header has {there}")
        size = file_size(file)
        left = size - header.size
        position = names.index("vertex")
        before, vertex = header.elements[:position], header.elements[position]
        for element in (*before, vertex):
            if not element.types:  # rows without properties take no bytes
                continue
            # A text row takes at least a digit and a newline, which the last row may lack.
            least = element.count * element.least_bytes if header.byte_order else max(0, 2 * element.count - 1)
            if least > left:
                raise cut_short(
                    path, f"{element.count} of {element.name!r} need {least} bytes or more, {left} are left"
                )
            left -= least
        wanted = choose(vertex.scalars)
        row = sum(vertex.types[name].itemsize for name in wanted)
        check_growth(path, size, vertex.count * (row + _CLOUD_BYTES), f"{vertex.count} vertices")
        columns: Columns = {name: np.empty(vertex.count, vertex.types[name]) for name in wanted}
        if header.byte_order is None:
            has_more = read_text(path, file, header, before, vertex, columns)
        else:
            file.seek(header.size)
            skip_rows(path, file, before, header.byte_order)
            has_more = _read_rows(path, file, vertex, header.byte_order, columns)
    if has_more and position == len(names) - 1:
        suspect(
            f"{path}: data follows after the last of {vertex.count} vertices; does the header lack vertices or "
            "properties?"
        )
    return columns


def _read_rows(path: Path, file: IO[bytes], vertex: Element, order: Literal["<", ">"], columns: Columns) -> bool:
    """Read the vertex rows into ``columns``; return whether more data follows."""
    if vertex.lists:
        row_of_lists(path, file, vertex, order, columns)
        return bool(file.read(1 << 16).strip())
    sizes = [kind.itemsize for kind in vertex.types.values()]
    offsets = dict(zip(vertex.types, np.cumsum([0, *sizes]).tolist(), strict=False))
    layout: Any = {
        "names": list(columns),
        "formats": [vertex.types[name].newbyteorder(order) for name in columns],
        "offsets": [offsets[name] for name in columns],
        "itemsize": sum(sizes),
    }
    dtype = np.dtype(layout)
    rows = max(1, _BLOCK // dtype.itemsize)
    for first in range(0, vertex.count, rows):
        count = min(rows, vertex.count - first)
        data = file.read(count * dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise cut_short(path, f"expected {vertex.count} vertices, got {first + len(data) // dtype.itemsize}")
        table = np.frombuffer(data, dtype)
        for name, column in columns.items():
            column[first : first + count] = table[name]
    return bool(file.read(1 << 16).strip())


def write_vertices(file: IO[bytes], columns: Columns, count: int, *, binary: bool) -> None:
    """Write a complete PLY file from float32 and uint8 columns of length ``count``."""
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
