"""Rows with lists in binary PLY files: each must be read to know where the next one begins."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from mosaicmem._opening import file_size
from mosaicmem.errors import FormatError
from mosaicmem.geometry._ply_header import Element, cut_short

_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f4": "f", "f8": "d"}
_MOST_ROWS = 1 << 22  # read one by one


def skip_rows(path: Path, file: IO[bytes], elements: list[Element], order: str) -> None:
    """Skip all rows of ``elements``."""
    for element in elements:
        if element.lists:
            row_of_lists(path, file, element, order, {})
        else:
            file.seek(element.count * element.least_bytes, os.SEEK_CUR)


def row_of_lists(path: Path, file: IO[bytes], element: Element, order: str, columns: dict[str, NDArray[Any]]) -> None:
    """Read an element with lists row by row, storing those scalar properties that ``columns`` contains."""
    if element.count > _MOST_ROWS:
        raise FormatError(
            path,
            f"expected at most {_MOST_ROWS} of {element.name!r}, which has lists, up to the vertices, got "
            f"{element.count}; write the vertices first, without lists",
        )
    properties = []
    for name, kind in element.types.items():
        first = element.lists.get(name, kind)
        layout = struct.Struct(order + _CODES[first.str[1:]])
        properties.append((name, layout, kind.itemsize if name in element.lists else 0, columns.get(name)))
    end = file_size(file)
    offset = file.tell()
    for row in range(element.count):
        for name, layout, size, column in properties:
            data = file.read(layout.size)
            offset += layout.size
            if len(data) < layout.size:
                raise cut_short(path, f"the data ends in {element.name} {row} of {element.count}")
            (value,) = layout.unpack(data)
            if size:
                if value < 0:
                    raise FormatError(path, f"{element.name} {row}: {name}: expected the length of a list, got {value}")
                offset += value * size
                if offset > end:
                    raise cut_short(path, f"the data ends in {element.name} {row} of {element.count}")
                file.seek(value * size, os.SEEK_CUR)
            elif column is not None:
                column[row] = value
