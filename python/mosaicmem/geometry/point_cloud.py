"""Point clouds with colours and normals, in memory and in PLY files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, I64, U8, ArrayLike, as_array, check_integer, check_number, check_threads
from mosaicmem._files import atomic_write
from mosaicmem._opening import errors_in
from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry._ply import Columns, read_vertices, write_vertices
from mosaicmem.geometry._ply_colors import COLOR_NAMES, blocks, choose_colors, read_colors, suspect_unread

_POINT_NAMES = ("x", "y", "z")
_NORMAL_NAMES = ("nx", "ny", "nz")


@dataclass(frozen=True, eq=False)
class PointCloud:
    """World points with optional colours and normals; copies its inputs unless they are read-only.

    Parameters
    ----------
    points : (N, 3) float32
        Metres, finite.
    colors : (N, 3) uint8, optional
        RGB.
    normals : (N, 3) float32, optional
        Unit vectors, or zero where unknown.
    """

    points: F32
    colors: U8 | None = None
    normals: F32 | None = None

    def __post_init__(self) -> None:
        points = as_array("points", self.points, np.float32, ("N", 3), finite=True, own=True)
        object.__setattr__(self, "points", points)
        if self.colors is not None:
            colors = as_array("colors", self.colors, np.uint8, (len(points), 3), own=True)
            object.__setattr__(self, "colors", colors)
        if self.normals is not None:
            normals = as_array("normals", self.normals, np.float32, (len(points), 3), finite=True, own=True)
            object.__setattr__(self, "normals", normals)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def bounds(self) -> tuple[F32, F32]:
        """The minimum and maximum corners of the bounding box, (3,) each.

        Raises
        ------
        ValueError
            The cloud is empty.
        """
        if not len(self):
            raise ValueError("bounds: expected at least one point, the cloud is empty")
        return self.points.min(axis=0), self.points.max(axis=0)

    def merge(self, other: PointCloud) -> PointCloud:
        """Concatenate both clouds. Colours and normals are kept if both clouds have them."""
        return PointCloud(
            np.concatenate([self.points, other.points]),
            _concatenate(self.colors, other.colors),
            _concatenate(self.normals, other.normals),
        )

    def filter_sphere(self, center: ArrayLike, radius: float) -> PointCloud:
        """The points within ``radius`` metres of ``center``."""
        center = as_array("center", center, np.float64, (3,), finite=True)
        radius = check_number("radius", radius, minimum=0.0)
        inside = ((self.points - center) ** 2).sum(axis=1) <= radius**2
        return PointCloud(
            self.points[inside],
            None if self.colors is None else self.colors[inside],
            None if self.normals is None else self.normals[inside],
        )

    def nearest(self, queries: ArrayLike, k: int = 1, *, num_threads: int = 0) -> tuple[F32, I64]:
        """The k nearest points to each query, by a kd-tree that the first call builds.

        Parameters
        ----------
        queries : (M, 3) array
            World, metres, finite.
        k : int
        num_threads : int
            For building the tree; 0 for all cores (or MOSAICMEM_NUM_THREADS).

        Returns
        -------
        distances : (M, min(k, len(cloud))) float32
            Metres, ascending; ties go to the smaller index.
        indices : (M, min(k, len(cloud))) int64
        """
        places = as_array("queries", queries, np.float32, ("M", 3), finite=True)
        count = check_integer("k", k, minimum=1, maximum=2**31 - 1)
        index = self.__dict__.get("_index")
        if index is None:
            index = _core.PointIndex(self.points, check_threads(num_threads))
            object.__setattr__(self, "_index", index)
        distances, indices = index.nearest(places, min(count, max(len(self), 1)))
        return distances, indices.astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def save_ply(self, path: str | Path, *, binary: bool = True) -> None:
        """Write a PLY file (binary little-endian, or ASCII), atomically."""
        columns = dict(zip(_POINT_NAMES, self.points.T, strict=True))
        if self.normals is not None:
            columns |= zip(_NORMAL_NAMES, self.normals.T, strict=True)
        if self.colors is not None:
            columns |= zip(COLOR_NAMES[0], self.colors.T, strict=True)
        with atomic_write(path) as file:
            write_vertices(file, columns, len(self), binary=binary)

    @classmethod
    def load_ply(cls, path: str | Path) -> PointCloud:
        """Read the vertices of a PLY file: ASCII or binary, of either byte order.

        Colours are the properties ``red``, ``green``, ``blue``, or ``diffuse_red`` and so on, or ``r``, ``g``, ``b``:
        integers of 0 to 255, ushort of 0 to 65535, or floats of 0 to 1 or of 0 to 255. Normals are normalised; those
        that are not finite become zero, which means unknown. Other elements and properties, such as faces and alpha,
        are skipped.

        Warns
        -----
        SuspiciousInput
            float32 rounds the positions noticeably; the file has colours that cannot be read, or whose range is
            unusual; normals are not finite, or lack a component; data follows the last vertex.

        Raises
        ------
        FormatError
            The file is not a PLY file or is cut short; its vertices have no x, y, z, or positions that are not finite;
            or colour values are outside the ranges named above.
        """
        path = Path(path)
        names: list[str] = []

        def choose(there: Sequence[str]) -> Sequence[str]:
            names.extend(there)
            return _choose(path, there)

        columns = read_vertices(path, choose)
        with errors_in(path):
            cloud = object.__new__(cls)  # skips __post_init__: these arrays are checked and owned
            object.__setattr__(cloud, "points", _points(path, columns))
            object.__setattr__(cloud, "colors", _colors(path, columns, names))
            object.__setattr__(cloud, "normals", _normals(path, columns, names))
        return cloud


def _choose(path: Path, there: Sequence[str]) -> Sequence[str]:
    """The vertex properties to read."""
    missing = [name for name in _POINT_NAMES if name not in there]
    if missing:
        listed = ", ".join(there) or "none"
        raise FormatError(
            path, f"vertex: expected properties x, y, z; {', '.join(missing)} missing, there are: {listed}"
        )
    normals = _NORMAL_NAMES if set(_NORMAL_NAMES) <= set(there) else ()
    return (*_POINT_NAMES, *normals, *choose_colors(there))


def _concatenate(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else np.concatenate([a, b])


def _points(path: Path, columns: Columns) -> F32:
    """Positions (N, 3); removes their columns from ``columns`` to free memory."""
    count = len(columns[_POINT_NAMES[0]])
    points = np.empty((count, 3), np.float32)
    lost = np.zeros(count, bool)
    moved, size = 0.0, 0.0
    for axis, name in enumerate(_POINT_NAMES):
        values = columns[name]
        for rows in blocks(count):
            with np.errstate(over="ignore", invalid="ignore"):
                points[rows, axis] = values[rows]
            lost[rows] |= ~np.isfinite(points[rows, axis])
        if lost.any():
            continue  # the first vertex that is not finite may be so along a later axis
        if values.dtype != np.float32 and count:
            moved = max(moved, *(float(np.abs(points[rows, axis] - values[rows]).max()) for rows in blocks(count)))
        size = max(size, float(values.max()) - float(values.min())) if count else 0.0
    if lost.any():
        vertex = int(np.argmax(lost))
        axis = int(np.argmin(np.isfinite(points[vertex])))
        raise ValueError(
            f"vertex: expected finite positions, got {_POINT_NAMES[axis]} = {columns[_POINT_NAMES[axis]][vertex]} at "
            f"vertex {vertex}, {lost.sum()} of {count} vertices are so; remove them first"
        )
    if moved > 1e-4 * size > 0:
        suspect(
            f"{path}: float32 moves points by up to {moved:.3g}, where the whole cloud measures {size:.3g}: it "
            "lies far from the origin; subtract an offset from the coordinates first"
        )
    for name in _POINT_NAMES:
        del columns[name]
    return points


def _colors(path: Path, columns: Columns, names: Sequence[str]) -> U8 | None:
    chosen = choose_colors(names)
    if not chosen:
        suspect_unread(path, names)
        return None
    return read_colors(path, {name: columns.pop(name) for name in chosen})


def _normals(path: Path, columns: Columns, names: Sequence[str]) -> F32 | None:
    there = [name for name in _NORMAL_NAMES if name in names]
    if len(there) < 3:
        if there:
            suspect(f"{path}: normals need nx, ny and nz, there is only {', '.join(there)}: no normals are read")
        return None
    normals = np.empty((len(columns[_NORMAL_NAMES[0]]), 3), np.float32)
    lost, first = 0, 0
    for rows in blocks(len(normals)):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            block = np.stack([columns[name][rows] for name in _NORMAL_NAMES], axis=1).astype(np.float32)
            length = np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)
            unknown = ~np.isfinite(length[:, 0])
            unit = (np.abs(length - 1) < 1e-3) | (length == 0)
            normals[rows] = np.where(unknown[:, None], 0, np.where(unit, block, block / length))
        if unknown.any() and not lost:
            first = rows.start + int(np.argmax(unknown))
        lost += int(unknown.sum())
    if lost:
        suspect(
            f"{path}: normals are not finite at {lost} of {len(normals)} vertices, vertex {first} first; they are read "
            "as zero, that is unknown"
        )
    return normals
