"""Clouds of points with colours and normals, in memory and in PLY files."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F32, U8, ArrayLike, as_array, check_number
from mosaicmem._files import atomic_write
from mosaicmem.errors import FormatError

_NORMAL_NAMES = ("nx", "ny", "nz")
_COLOR_NAMES = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points in the world with optional colours and normals, copied from what it is given unless that is read-only.

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
        """The lowest and highest corner of the box around all points, (3,) each.

        Raises
        ------
        ValueError
            The cloud is empty.
        """
        if not len(self):
            raise ValueError("bounds: expected at least one point, the cloud is empty")
        return self.points.min(axis=0), self.points.max(axis=0)

    def merge(self, other: PointCloud) -> PointCloud:
        """Both clouds. Colours and normals are kept if both have them."""
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

    def save_ply(self, path: str | Path, *, binary: bool = True) -> None:
        """Write a PLY file (binary little-endian, or ASCII), atomically."""
        from plyfile import PlyData, PlyElement

        fields: list[tuple[str, str]] = [(name, "<f4") for name in "xyz"]
        if self.normals is not None:
            fields += [(name, "<f4") for name in _NORMAL_NAMES]
        if self.colors is not None:
            fields += [(name, "u1") for name in _COLOR_NAMES]
        vertices = np.empty(len(self), dtype=fields)
        _set_columns(vertices, ("x", "y", "z"), self.points)
        if self.normals is not None:
            _set_columns(vertices, _NORMAL_NAMES, self.normals)
        if self.colors is not None:
            _set_columns(vertices, _COLOR_NAMES, self.colors)
        document = PlyData([PlyElement.describe(vertices, "vertex")], text=not binary, byte_order="<")
        with atomic_write(path) as file:
            document.write(file)

    @classmethod
    def load_ply(cls, path: str | Path) -> PointCloud:
        """Read the vertices of a PLY file; other elements and properties are passed over.

        Raises
        ------
        FormatError
            The file is not a PLY file, is cut short, or its vertices have no x, y, z.
        """
        from plyfile import PlyData, PlyParseError

        path = Path(path)
        content = BytesIO(path.read_bytes())  # plyfile leaves a file of text open
        try:
            vertices = PlyData.read(content, mmap=False)["vertex"].data
        except KeyError:
            raise FormatError(path, "expected an element 'vertex', there is none") from None
        except (PlyParseError, ValueError, MemoryError, OverflowError) as error:
            raise FormatError(path, f"not a readable PLY file: {error}") from None
        names = vertices.dtype.names or ()
        missing = [name for name in "xyz" if name not in names]
        if missing:
            raise FormatError(path, f"vertex: expected properties x, y, z; {', '.join(missing)} missing")
        try:
            return cls(
                _columns(vertices, ("x", "y", "z"), np.float32),
                _columns(vertices, _COLOR_NAMES, np.uint8) if set(_COLOR_NAMES) <= set(names) else None,
                _columns(vertices, _NORMAL_NAMES, np.float32) if set(_NORMAL_NAMES) <= set(names) else None,
            )
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"vertex: {error}") from None


def _concatenate(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else np.concatenate([a, b])


def _set_columns(vertices: np.ndarray, names: tuple[str, ...], values: np.ndarray) -> None:
    for i, name in enumerate(names):
        vertices[name] = values[:, i]


def _columns(vertices: np.ndarray, names: tuple[str, ...], dtype: type) -> np.ndarray:
    columns = [vertices[name] for name in names]
    if dtype is np.uint8 and any(column.dtype.kind == "f" for column in columns):
        columns = [np.clip(np.rint(column * 255), 0, 255) for column in columns]  # colours in [0, 1]
    return np.stack(columns, axis=1).astype(dtype)
