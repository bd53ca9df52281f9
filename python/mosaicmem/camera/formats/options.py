"""What a reader is told where its format is silent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64, check_choice, check_instance, check_integer, check_number
from mosaicmem._reading import errors_in
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose, describe_coarse
from mosaicmem.camera.times import TIME_UNITS, to_seconds
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

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
        Frames a second, where frames have no time, or numbers in its place.
    time_unit : str, optional
        One of `TIME_UNITS`: of the times in the file, in place of that of its format.
    """

    intrinsics: CameraIntrinsics | None = None
    size: tuple[int, int] | None = None
    fps: float = 30.0
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if self.intrinsics is not None:
            check_instance("intrinsics", self.intrinsics, CameraIntrinsics)
        if self.size is not None:
            if not isinstance(self.size, tuple) or len(self.size) != 2:
                raise TypeError(f"size: expected (width, height), got {self.size!r}")
            for name, value in zip(("width", "height"), self.size, strict=True):
                check_integer(f"size: {name}", value, minimum=1)
            theirs = None if self.intrinsics is None else (self.intrinsics.width, self.intrinsics.height)
            if theirs not in (None, self.size):
                raise ValueError(f"size: expected that of the intrinsics, {theirs}, or none, got {self.size}")
        check_number("fps", self.fps, above=0.0)
        if self.time_unit is not None:
            check_choice("time_unit", self.time_unit, TIME_UNITS)

    def times(self, path: Path, count: int) -> list[float]:
        """Seconds, of frames that have no times."""
        if self.time_unit not in (None, "frames"):
            raise FormatError(
                path, "the file has no times that could have a unit (time_unit, --time-unit): give fps (--fps) instead"
            )
        return [i / self.fps for i in range(count)]

    def seconds(self, path: Path, times: F64, native: str = "s") -> list[float]:
        """Seconds, of frames that have times (N,) in the unit ``native``, or in that which was given."""
        with errors_in(path):
            return list(to_seconds(path, times, self.time_unit, native, self.fps).tolist())

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
            raise FormatError(
                path, "the file has no intrinsics: give them, with the image size (intrinsics, --intrinsics and --size)"
            )
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
    try:
        fx, fy, cx, cy = (float(x) for x in params)
        camera = CameraIntrinsics(fx, fy, cx, cy, *size)
    except (TypeError, ValueError) as error:
        raise FormatError(path, f"{where}: {error}") from None
    for other, theirs, their_size in cameras[1:]:
        if their_size != size or not np.allclose(theirs, params, rtol=1e-6, atol=1e-6):
            raise FormatError(
                path,
                f"{other}: expected the camera of {where} ({_text(params, size)}), got {_text(theirs, their_size)}; "
                "a trajectory has one camera",
            )
    return camera


def _text(params: F64, size: tuple[int, int]) -> str:
    return f"fx, fy, cx, cy = {', '.join(f'{x:g}' for x in params)} of {size[0]}x{size[1]}"


def suspect_coarse(path: Path, coarse: Sequence[tuple[str, float]]) -> None:
    """Names the first of the quaternions, (where, norm), that rounding to three decimals does not explain."""
    if coarse:
        where, norm = coarse[0]
        more = f" and {len(coarse) - 1} more" if len(coarse) > 1 else ""
        suspect(f"{path}: {where}{more}: {describe_coarse(norm)}")
