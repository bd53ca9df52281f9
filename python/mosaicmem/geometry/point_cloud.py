"""Point clouds with colours and normals, in memory and in PLY files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, F64, I64, U8, ArrayLike, as_array, check_integer, check_number, check_threads
from mosaicmem._files import atomic_write, read_json_object, write_json
from mosaicmem._opening import errors_in
from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry._ply import Columns, read_vertices, write_vertices
from mosaicmem.geometry._ply_colors import COLOR_NAMES, blocks, choose_colors, read_colors, suspect_unread

_POINT_NAMES = ("x", "y", "z")
_NORMAL_NAMES = ("nx", "ny", "nz")
_SCHEMA = "mosaicmem.point_cloud"
_MOST_JSON = 1 << 30  # bytes of a file


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

    @property
    def centroid(self) -> F64:
        """The mean of all points, (3,) float64.

        Raises
        ------
        ValueError
            The cloud is empty.
        """
        if not len(self):
            raise ValueError("centroid: expected at least one point, the cloud is empty")
        return np.asarray(self.points.mean(axis=0, dtype=np.float64))

    def voxel_downsample(self, voxel_size: float, *, num_threads: int = 0) -> PointCloud:
        """One point per occupied voxel: the mean position, colour and normal of the points in it.

        Parameters
        ----------
        voxel_size : float
            Edge of a voxel, metres.
        num_threads : int
            0 for all cores (or MOSAICMEM_NUM_THREADS). No result depends on it.

        Raises
        ------
        ValueError
            Points lie further than 2^20 voxels from the origin along an axis.
        """
        size = check_number("voxel_size", voxel_size, above=0.0)
        voxels, counts, threads = _core.VoxelMap(size), np.empty(3, np.int64), check_threads(num_threads)
        voxels.add_points(self.points, self.colors, self.normals, 0.0, counts, threads)
        if counts[1]:
            raise ValueError(
                f"voxel_size: expected points within 2^20 voxels of the origin, {counts[1]} of {len(self)} are "
                "further; use a larger one, or move the cloud first"
            )
        means = voxels.export(1, threads)
        normals = None if self.normals is None else means["normals"]
        return PointCloud(means["points"], None if self.colors is None else means["colors"], normals)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: schema, version, points, and colors and normals if there are any, as nested lists."""
        arrays = {"points": self.points, "colors": self.colors, "normals": self.normals}
        lists = {name: array.tolist() for name, array in arrays.items() if array is not None}
        return {"schema": _SCHEMA, "schema_version": 1, **lists}

    def save_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, atomically. PLY files are smaller and faster."""
        write_json(path, self.to_dict())

    @classmethod
    def load_json(cls, path: str | Path) -> PointCloud:
        """Read what `save_json` writes.

        Raises
        ------
        FormatError
            It is anything else; the message names the field.
        """
        path = Path(path)
        fields = read_json_object(path, _MOST_JSON)
        if fields.get("schema") != _SCHEMA or fields.get("schema_version") != 1:
            raise FormatError(path, f"schema: expected {_SCHEMA!r} of version 1, got {fields.get('schema')!r:.80}")
        unknown = sorted(fields.keys() - {"schema", "schema_version", "points", "colors", "normals"})
        if unknown:
            raise FormatError(path, f"{unknown[0]!r:.80}: no such field")
        with errors_in(path):
            return cls(*(_array_of(fields, name) for name in ("points", "colors", "normals")))

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
        distances, indices = self._tree(num_threads).nearest(places, min(count, max(len(self), 1)))
        return distances, indices.astype(np.int64)

    def within(self, queries: ArrayLike, radius: float, *, num_threads: int = 0) -> tuple[I64, F32, I64]:
        """All points within ``radius`` metres of each query, by the kd-tree of `nearest`.

        Parameters
        ----------
        queries : (M, 3) array
            World, metres, finite.
        radius : float
        num_threads : int
            As for `nearest`.

        Returns
        -------
        offsets : (M + 1,) int64
            The points of query i are ``[offsets[i]:offsets[i + 1]]`` of the other two.
        distances : (P,) float32
            Metres, ascending for each query; ties go to the smaller index.
        indices : (P,) int64
        """
        places = as_array("queries", queries, np.float32, ("M", 3), finite=True)
        radius = check_number("radius", radius, minimum=0.0, maximum=1e18)
        offsets, distances, indices = self._tree(num_threads).within(places, radius)
        return offsets, distances, indices.astype(np.int64)

    def _tree(self, num_threads: int) -> _core.PointIndex:
        """The kd-tree, built on first use."""
        index: _core.PointIndex | None = self.__dict__.get("_index")
        if index is None:
            index = _core.PointIndex(self.points, check_threads(num_threads))
            object.__setattr__(self, "_index", index)
        return index

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


def _array_of(fields: dict[str, Any], name: str) -> Any:
    """A list of rows of three numbers as an array; None if there is none. An empty list is an empty cloud's."""
    rows = fields.get(name)
    if rows is None and name != "points":
        return None
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 3 for row in rows):
        raise ValueError(f"{name}: expected a list of rows of three numbers")
    if not all(type(value) in (int, float) for row in rows for value in row):
        raise ValueError(f"{name}: expected numbers")
    if name != "colors":
        with np.errstate(over="ignore"):  # what overflows is not finite, and refused as such
            return np.array(rows, np.float64).astype(np.float32).reshape(-1, 3)
    if not all(type(value) is int and 0 <= value <= 255 for row in rows for value in row):
        raise ValueError(f"{name}: expected integers of 0 to 255")
    return np.array(rows, np.uint8).reshape(-1, 3)


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
