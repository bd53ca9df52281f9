"""Colours of PLY files: which properties they are, and in which range."""

from __future__ import annotations

from collections.abc import Mapping
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
_ROUNDING = 1e-3  # that a float from 0 to 1 may be off by
_LEAST_OF_255 = 16.0  # the brightest float of a cloud with colours from 0 to 255 is above


def read_colors(path: Path, columns: Mapping[str, NDArray[Any]]) -> U8 | None:
    """The colours among the properties of the vertices, (N, 3), if there are any.

    Raises
    ------
    FormatError
    """
    names = next((names for names in COLOR_NAMES if set(names) <= set(columns)), None)
    if names is None:
        _suspect_others(path, columns)
        return None
    values = [columns[name] for name in names]
    if len({column.dtype.newbyteorder("=") for column in values}) > 1:
        kinds = ", ".join(f"{name} {column.dtype.name}" for name, column in zip(names, values, strict=True))
        raise FormatError(path, f"vertex: expected colours of one type, got {kinds}")
    colors = np.stack(values, axis=1)
    if colors.dtype == np.uint8 or not colors.size:
        return colors.astype(np.uint8)
    if colors.dtype.kind == "f":
        return _from_floats(path, names, colors.astype(np.float64))
    if colors.dtype == np.uint16:
        return _from_ushort(path, names, colors)
    _check_range(path, names, colors, 0, 255)
    return colors.astype(np.uint8)


def _suspect_others(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    unread = [name for names in COLOR_NAMES for name in names if name in columns]
    unread += [name for name in ("rgb", "rgba", "f_dc_0") if name in columns]
    if unread:
        causes = {"f_dc_0": "the spherical harmonics of 3D Gaussians", "rgb": "packed", "rgba": "packed"}
        cause = causes.get(unread[0], "a part of three")
        known = "; ".join(", ".join(names) for names in COLOR_NAMES)
        suspect(f"{path}: no colours are read: {', '.join(unread)} is there ({cause}), expected {known}")


def _from_ushort(path: Path, names: tuple[str, ...], colors: NDArray[Any]) -> U8:
    if colors.max() <= 255:
        suspect(
            f"{path}: {', '.join(names)} are ushort, whose full range is 65535, and none is above 255; they are read "
            "as 0 to 255"
        )
        return colors.astype(np.uint8)
    return np.asarray((colors.astype(np.uint32) + 128) // 257, np.uint8)


def _from_floats(path: Path, names: tuple[str, ...], colors: NDArray[Any]) -> U8:
    _check_range(path, names, colors, -_ROUNDING, 255 + _ROUNDING)
    brightest = colors.max()
    if brightest <= 1 + _ROUNDING:
        colors = colors * 255
    elif brightest < _LEAST_OF_255 and (colors != np.rint(colors)).any():
        vertex, channel = np.unravel_index(int(np.argmax(colors)), colors.shape)
        raise FormatError(
            path,
            f"vertex: {names[channel]}: expected floats of 0 to 1, or of 0 to 255, got at most {brightest:g} (vertex "
            f"{vertex}), which is too bright for one and too dark for the other; scale the colours first",
        )
    return np.asarray(np.clip(np.rint(colors), 0, 255), np.uint8)


def _check_range(path: Path, names: tuple[str, ...], colors: NDArray[Any], low: float, high: float) -> None:
    wrong = ~((colors >= low) & (colors <= high))  # NaN too
    if wrong.any():
        vertex, channel = np.argwhere(wrong)[0]
        kind = {"f": "floats of 0 to 1, or of 0 to 255"}.get(colors.dtype.kind, "integers of 0 to 255")
        raise FormatError(
            path,
            f"vertex: {names[channel]}: expected {kind}, got {colors[vertex, channel]} at vertex {vertex}; "
            f"{wrong.any(axis=1).sum()} of {len(colors)} vertices are so",
        )
