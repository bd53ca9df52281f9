"""Options for what a file does not say, and checks that readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64, check_choice, check_instance, check_integer, check_number
from mosaicmem._opening import check_growth, errors_in
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.pose_stacks import make_poses
from mosaicmem.camera.times import TIME_UNITS, to_seconds
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

MAX_FRAMES = 1 << 20
INTRINSICS_MODES = ("per_frame", "first_frame", "mean")
_FRAME_BYTES = 560  # in memory, of a pose and its metadata


@dataclass(frozen=True)
class ReadOptions:
    """Values from the caller for what a file does not say.

    Parameters
    ----------
    intrinsics : CameraIntrinsics, optional
        Used instead of those of the file, if it has any.
    size : (int, int), optional
        (width, height) of the images, pixels.
    fps : float
        Frames per second, for frames that have no times, or frame numbers instead.
    time_unit : str, optional
        One of `TIME_UNITS`: the unit of the times in the file, instead of that of its format.
    intrinsics_mode : {"per_frame", "first_frame", "mean"}
        What to make of frames whose intrinsics differ.
    camera : str, optional
        Which one, in a file of several cameras.
    """

    intrinsics: CameraIntrinsics | None = None
    size: tuple[int, int] | None = None
    fps: float = 30.0
    time_unit: str | None = None
    intrinsics_mode: str = "per_frame"
    camera: str | None = None

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
        check_choice("intrinsics_mode", self.intrinsics_mode, INTRINSICS_MODES)

    def times(self, path: Path, count: int) -> list[float]:
        """Times in seconds for ``count`` frames that have none in the file."""
        if self.time_unit not in (None, "frames"):
            raise FormatError(
                path, "the file has no times that could have a unit (time_unit, --time-unit): give fps (--fps) instead"
            )
        return [i / self.fps for i in range(count)]

    def seconds(self, path: Path, times: F64, native: str = "s") -> list[float]:
        """Convert times (N,) in the unit ``native``, or in ``time_unit`` if given, to seconds."""
        with errors_in(path):
            return list(to_seconds(path, times, self.time_unit, native, self.fps).tolist())

    def check_size(self, size: tuple[int, int]) -> None:
        """Check that the size that the caller gave, if any, is that of the file."""
        if self.size is not None and self.size != size:
            raise ValueError(
                f"size: the file says {size[0]}x{size[1]}, got {self.size[0]}x{self.size[1]}; give none, and scale the "
                "intrinsics that it has"
            )

    def need_size(self, path: Path) -> tuple[int, int]:
        """(width, height) of the images, that the caller gave; FormatError if not."""
        if self.size is not None:
            return self.size
        if self.intrinsics is None:
            raise FormatError(path, "the file has no image size: give it (size, --size)")
        return self.intrinsics.width, self.intrinsics.height

    def need_intrinsics(self, path: Path) -> CameraIntrinsics:
        """The intrinsics that the caller gave; FormatError if none."""
        if self.intrinsics is None:
            raise FormatError(
                path, "the file has no intrinsics: give them, with the image size (intrinsics, --intrinsics and --size)"
            )
        return self.intrinsics


def check_frames(path: Path, count: int, size: int, each: int = 0) -> None:
    """Refuse a file of ``size`` bytes with too many frames for memory, before any of them is processed.

    ``each`` is the memory in bytes that a frame takes while the file is read, besides its pose.
    """
    if count > MAX_FRAMES:
        raise FormatError(path, f"expected at most {MAX_FRAMES} frames, got {count}")
    check_growth(path, size, count * (_FRAME_BYTES + each), f"{count} frames")


def trajectory(
    path: Path, poses: Iterable[CameraPose], intrinsics: CameraIntrinsics | Sequence[CameraIntrinsics]
) -> CameraTrajectory:
    """A trajectory of at least one pose; a ValueError becomes a FormatError of the file."""
    found = list(poses)
    if not found:
        raise FormatError(path, "expected at least one frame, got none")
    try:
        return CameraTrajectory(found, intrinsics)
    except ValueError as error:
        raise FormatError(path, str(error)) from None


_MAKE = {
    "world_from_camera": CameraPose.from_world_from_camera,
    "camera_from_world": CameraPose.from_camera_from_world,
    "opengl": CameraPose.from_opengl,
}


def poses_of(
    path: Path,
    matrices: F64,
    times: Sequence[float],
    where: Callable[[int], str | int],
    kind: str = "world_from_camera",
) -> list[CameraPose]:
    """Poses of matrices (N, 4, 4) of a kind; ``where`` names a frame that is wrong, or gives its line in the file."""

    def one(i: int) -> CameraPose:
        try:
            return _MAKE[kind](matrices[i], times[i])
        except ValueError as error:
            place = where(i)
            if isinstance(place, int):
                raise FormatError(path, str(error), place) from None
            raise FormatError(path, f"{place}: {error}") from None

    return make_poses(matrices, times, one, are_inverse=kind == "camera_from_world", are_opengl=kind == "opengl")


class FrameCameras:
    """Collects the cameras of frames, in the order of the file, and makes intrinsics of them.

    Cameras that differ from the first by rounding alone count as equal to it.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._path, self._mode = path, mode
        self._where: list[str] = []
        self._params: list[F64] = []
        self._size: tuple[int, int] = (0, 0)
        self._other: FormatError | None = None

    def add(self, where: str, params: F64, size: tuple[int, int]) -> None:
        """The (fx, fy, cx, cy) and (width, height) of a frame."""
        if not self._params:
            self._size = size
        elif size != self._size and self._other is None:
            self._other = FormatError(
                self._path,
                f"{where}: expected the image size of {self._where[0]}, {self._size[0]}x{self._size[1]}, got "
                f"{size[0]}x{size[1]}; a trajectory has images of one size",
            )
        first = self._params[0] if self._params else params
        with np.errstate(over="ignore", invalid="ignore"):  # values may be huge
            is_close = bool((params == first).all()) or np.allclose(params, first, rtol=1e-6, atol=1e-6)
        self._where.append(where)
        self._params.append(first if is_close else params)

    def intrinsics(self) -> CameraIntrinsics | list[CameraIntrinsics]:
        """The intrinsics of all frames, after at least one was added: one for all, or one for each."""
        first = self._made(0, self._params[0])
        if self._other is not None:
            raise self._other
        if all(params is self._params[0] for params in self._params) or self._mode == "first_frame":
            return first
        made: dict[tuple[float, ...], CameraIntrinsics] = {first.params: first}
        for i, params in enumerate(self._params):
            key = tuple(float(x) for x in params)
            if key not in made:
                made[key] = self._made(i, params)
        cameras = [made[tuple(float(x) for x in params)] for params in self._params]
        if self._mode == "mean":
            return self._made(0, np.mean([camera.params for camera in cameras], axis=0))
        return cameras

    def _made(self, frame: int, params: F64) -> CameraIntrinsics:
        try:
            fx, fy, cx, cy = (float(x) for x in params)
            make = CameraIntrinsics if frame == 0 else CameraIntrinsics._derived  # one warning a file is enough
            return make(fx, fy, cx, cy, *self._size)
        except (TypeError, ValueError) as error:
            raise FormatError(self._path, f"{self._where[frame]}: {error}") from None


def cameras_of(
    path: Path, mode: str, cameras: Iterable[tuple[str, F64, tuple[int, int]]]
) -> CameraIntrinsics | list[CameraIntrinsics]:
    """Intrinsics from (where, (fx, fy, cx, cy), (width, height)) of each frame."""
    collected = FrameCameras(path, mode)
    for where, params, size in cameras:
        collected.add(where, params, size)
    return collected.intrinsics()
