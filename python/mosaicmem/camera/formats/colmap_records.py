"""The records of COLMAP's models: cameras, of which only pinholes can be used, and images."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem.errors import FormatError


class _Model(NamedTuple):
    name: str
    parameters: int
    focals: int  # how many parameters are focal lengths; 0 if the model is no pinhole even without distortion


MODELS = {  # by COLMAP's model id
    0: _Model("SIMPLE_PINHOLE", 3, 1),
    1: _Model("PINHOLE", 4, 2),
    2: _Model("SIMPLE_RADIAL", 4, 1),
    3: _Model("RADIAL", 5, 1),
    4: _Model("OPENCV", 8, 2),
    5: _Model("OPENCV_FISHEYE", 8, 0),
    6: _Model("FULL_OPENCV", 12, 2),
    7: _Model("FOV", 5, 0),
    8: _Model("SIMPLE_RADIAL_FISHEYE", 4, 0),
    9: _Model("RADIAL_FISHEYE", 5, 0),
    10: _Model("THIN_PRISM_FISHEYE", 12, 0),
    11: _Model("RAD_TAN_THIN_PRISM_FISHEYE", 16, 0),
    12: _Model("SIMPLE_DIVISION", 4, 1),
    13: _Model("DIVISION", 5, 2),
    14: _Model("SIMPLE_FISHEYE", 3, 0),
    15: _Model("FISHEYE", 4, 0),
    16: _Model("EUCM", 6, 0),
    17: _Model("EQUIRECTANGULAR", 2, 0),
}
_PINHOLES = {model.name: model for model in MODELS.values() if model.focals}


@dataclass(frozen=True, eq=False)
class Image:
    """An image and its camera_from_world, as stored in the file."""

    key: int
    name: str
    quaternion: F64
    translation: F64
    camera: int
    line: int | None


class Images(Sequence[Image]):
    """All images of a model, as columns: hundreds of thousands of objects would take ten times the memory.

    Attributes
    ----------
    names : list of str
    keys : array of int
    order : list of int
        Column indices in the order of iteration.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.keys = array("q")
        self.order: Sequence[int] = range(0)
        self._cameras = array("q")
        self._lines = array("q")
        self._poses = array("d")

    def append(self, image: Image) -> None:
        """Add an image at the end."""
        self.names.append(image.name)
        self.keys.append(image.key)
        self._cameras.append(image.camera)
        self._lines.append(-1 if image.line is None else image.line)
        self._poses.extend(image.quaternion)
        self._poses.extend(image.translation)
        self.order = range(len(self.names))

    def poses(self) -> F64:
        """Quaternions and translations (N, 7) in the order of the images."""
        return np.frombuffer(self._poses, np.float64).reshape(-1, 7)[self.order]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = self.order[index]
        pose = np.array(self._poses[7 * i : 7 * i + 7])
        line = self._lines[i]
        return Image(self.keys[i], self.names[i], pose[:4], pose[4:], self._cameras[i], line if line >= 0 else None)


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera as stored in the file."""

    model: str
    params: F64
    size: tuple[int, int]
    line: int | None

    def judged(self, path: Path) -> tuple[F64, tuple[int, int]]:
        """(fx, fy, cx, cy) and size; FormatError if the camera is not an undistorted pinhole."""
        if self.model not in _PINHOLES:
            raise FormatError(
                path,
                f"expected a camera of model {', '.join(_PINHOLES)}, got {self.model:.40}; use "
                "colmap image_undistorter",
                self.line,
            )
        count, focals = _PINHOLES[self.model][1:]
        if len(self.params) != count:
            raise FormatError(path, f"{self.model}: expected {count} parameters, got {len(self.params)}", self.line)
        rest = self.params[focals + 2 :]
        if rest.any():
            raise FormatError(
                path,
                f"expected no distortion, got {self.model} with {rest.tolist()}; use colmap image_undistorter",
                self.line,
            )
        p = self.params
        return np.array([p[0], p[focals - 1], p[focals], p[focals + 1]]), self.size
