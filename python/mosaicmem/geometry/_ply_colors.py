"""Colours of PLY files: which properties hold them, and in which range."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import U8
from mosaicmem.errors import FormatError, suspect

COLOR_NAMES = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)
_BLOCK = 1 << 16  # vertices
_ROUNDING = 1e-3  # tolerance at the bounds of float ranges
_LEAST_OF_255 = 16.0  # fractional floats with a maximum below this are too dark for a range of 0 to 255


def choose_colors(names: Collection[str]) -> tuple[str, ...]:
    """The names of the red, green and blue vertex properties; empty if any of the three is missing."""
    return next((chosen for chosen in COLOR_NAMES if set(chosen) <= set(names)), ())


def suspect_unread(path: Path, names: Collection[str]) -> None:
    """Warn that no colours are read, if some properties look like colours in an unsupported form."""
    unread = [name for chosen in COLOR_NAMES for name in chosen if name in names]
    unread += [name for name in ("rgb", "rgba", "f_dc_0") if name in names]
    if unread:
        causes = {"f_dc_0": "the spherical harmonics of 3D Gaussians", "rgb": "packed", "rgba": "packed"}
        cause = causes.get(unread[0], "a part of three")
        known = "; ".join(", ".join(chosen) for chosen in COLOR_NAMES)
        suspect(f"{path}: no colours are read: {', '.join(unread)} is there ({cause}), expected {known}")


def read_colors(path: Path, values: Mapping[str, NDArray[Any]]) -> U8:
    """Colours (N, 3) from three vertex properties by name, in the order red, green, blue.

    Raises
    ------
    FormatError
    """
    columns = list(values.values())
    if len({column.dtype for column in columns}) > 1:
        kinds = ", ".join(f"{name} {column.dtype.name}" for name, column in values.items())
        raise FormatError(path, f"vertex: expected colours of one type, got {kinds}")
    dtype = columns[0].dtype
    convert = _plain
    if dtype.kind == "f" and len(columns[0]):
        _check_range(path, values, -_ROUNDING, 255 + _ROUNDING)
        convert = _scaled if _is_from_0_to_1(path, values) else _rounded
    elif dtype == np.uint16 and len(columns[0]):
        convert = _of_ushort
        if max(column.max() for column in columns) <= 255:
            suspect(
                f"{path}: {', '.join(values)} are ushort, whose full range is 65535, and none is above 255; they are "
                "read as 0 to 255"
            )
            convert = _plain
    elif dtype != np.uint8:
        _check_range(path, values, 0, 255)
    colors = np.empty((len(columns[0]), 3), np.uint8)
    for channel, column in enumerate(columns):
        for rows in blocks(len(column)):
            colors[rows, channel] = convert(column[rows])
    return colors


def blocks(count: int) -> Iterator[slice]:
    """Slices that cover ``count`` rows, short enough that temporaries take little memory."""
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.uint8)


def _of_ushort(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((values.astype(np.uint32) + 128) // 257)


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.clip(np.rint(values.astype(np.float64)), 0, 255))


def _scaled(values: NDArray[Any]) -> NDArray[Any]:
    return _rounded(values.astype(np.float64) * 255)


def _is_from_0_to_1(path: Path, values: Mapping[str, NDArray[Any]]) -> bool:
    """Whether floats range from 0 to 1 rather than 255; raises FormatError if that is ambiguous."""
    brightest = max(float(column.max()) for column in values.values())
    if brightest <= 1 + _ROUNDING:
        return True
    whole = (column[rows] == np.rint(column[rows]) for column in values.values() for rows in blocks(len(column)))
    if brightest < _LEAST_OF_255 and not all(bool(block.all()) for block in whole):
        vertex, name = min(
            (int(np.argmax(column == brightest)), name) for name, column in values.items() if brightest in column
        )
        raise FormatError(
            path,
            f"vertex: {name}: expected floats of 0 to 1, or of 0 to 255, got at most {brightest:g} (vertex "
            f"{vertex}), which is too bright for one and too dark for the other; scale the colours first",
        )
    return False


def _check_range(path: Path, values: Mapping[str, NDArray[Any]], low: float, high: float) -> None:
    count, first = 0, None
    for rows in blocks(len(next(iter(values.values())))):
        block = np.stack([column[rows] for column in values.values()], axis=1)
        wrong = ~((block >= low) & (block <= high))  # NaN too
        count += int(wrong.any(axis=1).sum())
        if first is None and wrong.any():
            vertex, channel = np.argwhere(wrong)[0]
            first = (rows.start + int(vertex), list(values)[channel], block[vertex, channel])
    if first is not None:
        kind = {"f": "floats of 0 to 1, or of 0 to 255"}.get(block.dtype.kind, "integers of 0 to 255")
        raise FormatError(
            path,
            f"vertex: {first[1]}: expected {kind}, got {first[2]} at vertex {first[0]}; {count} of "
            f"{len(next(iter(values.values())))} vertices are so",
        )
