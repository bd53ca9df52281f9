"""Readers of posed RGB-D sequences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from mosaicmem._arrays import F32, F64, U8
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.errors import FormatError

_MAX_TEXT_BYTES = 1 << 16
_MAX_PIXELS = 1 << 26
_INVALID_DEPTH = (0, 65535)  # millimetres
_FPS = 30.0


@dataclass(frozen=True, eq=False)
class RgbdImage:
    """One observed frame.

    Attributes
    ----------
    image : (H, W, 3) uint8
        RGB.
    depth : (H, W) float32
        Metres; 0 where not measured.
    pose : CameraPose
    number : int
        The frame's number in its sequence.
    """

    image: U8
    depth: F32
    pose: CameraPose
    number: int


class SevenScenes(Sequence[RgbdImage]):
    """A sequence in the layout of the 7-Scenes data set; frames are read when asked for.

    ``frame-NNNNNN.color.jpg`` (or .png), ``frame-NNNNNN.depth.png`` (16-bit millimetres; 0 and 65535 invalid),
    ``frame-NNNNNN.pose.txt`` (4x4 world_from_camera, metres) and, if it is there, ``camera-intrinsics.txt`` (3x3; else
    focal length 585 and the centre of 640x480). The principal point is taken in this library's pixel frame. Time is the
    frame number at 30 frames a second.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames, or a file in it is not what it should be; the message names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder")
        names = (path for path in self.folder.iterdir() if re.fullmatch(r"frame-\d+\.color\.(jpg|jpeg|png)", path.name))
        self._colors = sorted(names, key=self._number)
        for first, second in pairwise(self._colors):
            if self._number(first) == self._number(second):
                raise FormatError(second, f"expected one colour image a frame, got {first.name} too")
        if not self._colors:
            raise FormatError(self.folder, "expected frames named frame-NNNNNN.color.jpg or .png, found none")

    def __len__(self) -> int:
        return len(self._colors)

    @overload
    def __getitem__(self, index: int) -> RgbdImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[RgbdImage]: ...
    def __getitem__(self, index: int | slice) -> RgbdImage | list[RgbdImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        color = self._colors[index]
        depth_path = self._sibling(color, "depth.png")
        millimetres = _read_image(depth_path)
        if millimetres.ndim != 2 or millimetres.dtype.kind not in "iu" or millimetres.dtype.itemsize < 2:
            raise FormatError(
                depth_path, f"expected a 16-bit grey image, got {millimetres.dtype} of shape {millimetres.shape}"
            )
        depth = millimetres.astype(np.float32) / 1000
        depth[np.isin(millimetres, _INVALID_DEPTH)] = 0
        image = _read_image(color, mode="RGB")
        size = (self.intrinsics.height, self.intrinsics.width)
        for path, array in ((color, image), (depth_path, depth)):
            if array.shape[:2] != size:
                raise FormatError(path, f"expected {size[1]}x{size[0]} pixels, got {array.shape[1]}x{array.shape[0]}")
        return RgbdImage(image, depth, self.pose(index), self._number(color))

    @cached_property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames; the image size is that of the first."""
        with _open_image(self._colors[0]) as first:
            width, height = first.size
        path = self.folder / "camera-intrinsics.txt"
        if path.is_file():
            try:
                return CameraIntrinsics.from_matrix(_read_matrix(path, (3, 3)), width, height)
            except FormatError:
                raise
            except ValueError as error:
                raise FormatError(path, str(error)) from None
        return CameraIntrinsics(585.0, 585.0, 320.0, 240.0, 640, 480).scaled(width, height)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken."""
        color = self._colors[index]
        path = self._sibling(color, "pose.txt")
        matrix = _read_matrix(path, (4, 4))
        try:
            return CameraPose.from_world_from_camera(matrix, self._number(color) / _FPS)
        except ValueError as error:
            raise FormatError(path, str(error)) from None

    def trajectory(self, frames: Sequence[int]) -> CameraTrajectory:
        """The cameras of some frames, by position in the sequence."""
        return CameraTrajectory([self.pose(i) for i in frames], self.intrinsics)

    @staticmethod
    def _number(color: Path) -> int:
        return int(color.name.split(".")[0].removeprefix("frame-"))

    def _sibling(self, color: Path, ending: str) -> Path:
        path = self.folder / f"{color.name.split('.')[0]}.{ending}"
        if not path.is_file():  # a pipe would wait for ever
            raise FormatError(path, f"missing, though {color.name} is there" if not path.exists() else "not a file")
        return path


def _open_image(path: Path) -> Any:
    try:
        image = Image.open(path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise FormatError(path, f"not a readable image: {error}") from None
    if image.width * image.height > _MAX_PIXELS:
        image.close()
        raise FormatError(path, f"expected at most {_MAX_PIXELS} pixels, got {image.width}x{image.height}")
    return image


def _read_image(path: Path, mode: str | None = None) -> Any:
    with _open_image(path) as image:
        try:
            return np.ascontiguousarray(image.convert(mode) if mode else image)
        except (OSError, ValueError, SyntaxError) as error:
            raise FormatError(path, f"not a readable image: {error}") from None


def _read_matrix(path: Path, shape: tuple[int, int]) -> F64:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise FormatError(path, f"expected at most {_MAX_TEXT_BYTES} bytes, got {path.stat().st_size}")
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append([float(word) for word in line.split()])
        except ValueError:
            raise FormatError(path, f"expected numbers, got {line.strip()[:80]!r}", number) from None
        if len(rows[-1]) != shape[1]:
            raise FormatError(path, f"expected {shape[1]} numbers, got {len(rows[-1])}", number)
    if len(rows) != shape[0]:
        raise FormatError(path, f"expected {shape[0]} lines of numbers, got {len(rows)}")
    return np.array(rows)
