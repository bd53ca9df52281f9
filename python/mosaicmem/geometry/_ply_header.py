"""Headers of PLY files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from mosaicmem.errors import FormatError

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"},
}
_FORMATS: dict[str, Literal["<", ">"] | None] = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 1 << 20
_MOST_PROPERTIES = 4096  # per element


@dataclass
class Element:
    """An element as the header declares it. ``lists`` maps each list property to the type of its length."""

    name: str
    count: int
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)
    lists: dict[str, np.dtype[Any]] = field(default_factory=dict)

    @property
    def scalars(self) -> list[str]:
        """The properties that are not lists."""
        return [name for name in self.types if name not in self.lists]

    @property
    def least_bytes(self) -> int:
        """Size of a row whose lists are all empty."""
        return sum(self.lists.get(name, dtype).itemsize for name, dtype in self.types.items())


@dataclass
class Header:
    """The declared elements, and the length of the header: the data starts after ``size`` bytes or ``lines`` lines."""

    byte_order: Literal["<", ">"] | None  # None for ASCII
    elements: list[Element]
    lines: int
    size: int


def read_header(path: Path, file: IO[bytes]) -> Header:
    """Parse the header of an open file.

    Raises
    ------
    FormatError
    """
    head = file.read(_MAX_HEADER_BYTES)
    start = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head)
    if not start:
        raise FormatError(path, "not a PLY file: expected a first line 'ply'")
    end = re.compile(rb"(?:\r\n|\n|\r)end_header[ \t]*" + start[1]).search(head)
    if not end:
        raise FormatError(path, f"expected 'end_header' in the first {_MAX_HEADER_BYTES} bytes; is the file cut short?")
    lines = head[: end.start()].decode("utf-8", "replace").splitlines()
    byte_order: Literal["<", ">"] | None = None
    elements = list[Element]()
    has_format = False
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                byte_order, has_format = _parse_format(words), True
            elif words[0] == "element":
                elements.append(_parse_element(words))
            elif words[0] == "property":
                _add_property(elements, words)
            else:
                raise ValueError(f"expected 'format', 'element', 'property' or 'comment', got {words[0]!r}")
        except ValueError as error:
            raise FormatError(path, str(error), number) from None
    if not has_format:
        raise FormatError(path, "the header has no line 'format'")
    return Header(byte_order, elements, len(lines) + 1, end.end())


def _parse_format(words: list[str]) -> Literal["<", ">"] | None:
    if len(words) != 3 or words[1] not in _FORMATS or words[2] != "1.0":
        raise ValueError(
            f"expected 'format' and one of {', '.join(_FORMATS)} with version 1.0, got {' '.join(words)!r}"
        )
    return _FORMATS[words[1]]


def _parse_element(words: list[str]) -> Element:
    if len(words) != 3 or not re.fullmatch("[0-9]{1,18}", words[2]):
        raise ValueError(f"expected 'element', a name and a count, got {' '.join(words)!r}")
    return Element(words[1], int(words[2]))


def _add_property(elements: list[Element], words: list[str]) -> None:
    if not elements:
        raise ValueError("a property comes before the first element")
    *types, name = words[1:] if len(words) > 2 else [""]
    length = types[1:2] if types[:1] == ["list"] else []
    if len(types) != (3 if length else 1) or types[-1] not in _TYPES or not set(length) <= set(_TYPES):
        raise ValueError(f"expected 'property', a type ({', '.join(_TYPES)}) and a name, got {' '.join(words)!r}")
    element = elements[-1]
    if name in element.types:
        raise ValueError(f"the element {element.name!r} has two properties {name!r}")
    if len(element.types) == _MOST_PROPERTIES:
        raise ValueError(f"expected at most {_MOST_PROPERTIES} properties of {element.name!r:.80}, got more")
    element.types[name] = np.dtype(_TYPES[types[-1]])
    if length:
        element.lists[name] = np.dtype(_TYPES[length[0]])
        if element.lists[name].kind == "f":
            raise ValueError(f"{name}: expected a length of an integer type, got {length[0]}")


def cut_short(path: Path, message: str) -> FormatError:
    """The error for a file that ends before the data that its header promises."""
    return FormatError(path, f"{message}; is the file cut short?")
