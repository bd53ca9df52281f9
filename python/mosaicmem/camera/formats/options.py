"""What a reader is told where its format is silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64, check_instance, check_integer, check_number
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

MAX_FRAMES = 1 << 20


@dataclass(frozen=True)
class ReadOptions:
    """For formats that do not say it themselves.

    Parameters
    ----------
    intrinsics : CameraIntrinsics, optional
        In place of those of the file, if it has any.
    size : (int, int), optional
        (width, height) of the images, pixels.
    fps : float
        Frames a second, where frames have no time.
    """

    intrinsics: CameraIntrinsics | None = None
    size: tuple[int, int] | None = None
    fps: float = 30.0

    def __post_init__(self) -> None:
        if self.intrinsics is not None:
            check_instance("intrinsics", self.intrinsics, CameraIntrinsics)
        if self.size is not None:
            if not isinstance(self.size, tuple) or len(self.size) != 2:
                raise TypeError(f"size: expected (width, height), got {self.size!r}")
            for name, value in zip(("width", "height"), self.size, strict=True):
                check_integer(f"size: {name}", value, minimum=1)
        check_number("fps", self.fps, above=0.0)

    def times(self, count: int) -> list[float]:
        """Of frames that have none."""
        return [i / self.fps for i in range(count)]

    def check_size(self, size: tuple[int, int]) -> None:
        """The size that was given, if any, must be that of the file."""
        if self.size is not None and self.size != size:
            raise ValueError(
                f"size: the file says {size[0]}x{size[1]}, got {self.size[0]}x{self.size[1]}; give none, and scale the "
                "intrinsics that it has"
            )

    def need_intrinsics(self, path: Path) -> CameraIntrinsics:
        """What was given; an error where nothing was."""
        if self.intrinsics is None:
            raise FormatError(path, "the file has no intrinsics: give them, with the image size (--intrinsics, --size)")
        return self.intrinsics


def trajectory(path: Path, poses: Iterable[CameraPose], intrinsics: CameraIntrinsics) -> CameraTrajectory:
    """A path of one pose or more; its errors are the file's."""
    found = list(poses)
    if not found:
        raise FormatError(path, "expected at least one frame, got none")
    try:
        return CameraTrajectory(found, intrinsics)
    except ValueError as error:
        raise FormatError(path, str(error)) from None


def one_camera(path: Path, cameras: Sequence[tuple[str, F64, tuple[int, int]]]) -> CameraIntrinsics:
    """The intrinsics that all frames share, from (where, (fx, fy, cx, cy), (width, height)) of each."""
    where, params, size = cameras[0]
    for other, theirs, their_size in cameras[1:]:
        if their_size != size or not np.allclose(theirs, params, rtol=1e-6, atol=1e-6):
            raise FormatError(
                path,
                f"{other}: expected the camera of {where} ({_text(params, size)}), got {_text(theirs, their_size)}; "
                "a trajectory has one camera",
            )
    fx, fy, cx, cy = (float(x) for x in params)
    try:
        return CameraIntrinsics(fx, fy, cx, cy, *size)
    except (TypeError, ValueError) as error:
        raise FormatError(path, f"{where}: {error}") from None


def _text(params: F64, size: tuple[int, int]) -> str:
    return f"fx, fy, cx, cy = {', '.join(f'{x:g}' for x in params)} of {size[0]}x{size[1]}"
