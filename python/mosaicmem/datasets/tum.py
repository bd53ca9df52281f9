"""The layout of the TUM RGB-D benchmark."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F64, Bool
from mosaicmem._reading import check_folder, errors_in, image_size, read_lines, read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.camera.formats.options import suspect_coarse
from mosaicmem.camera.pose import can_be_unit, is_coarse
from mosaicmem.camera.times import to_seconds
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError

_MAX_APART = 0.02  # seconds
_ROUNDING = 1e-6  # float64 resolves times since 1970 to a quarter of this
_LATEST = 1e19  # of nanoseconds
_SIZE = (640, 480)
_DEFAULT = (525.0, 525.0, 319.5, 239.5)
_CALIBRATED = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}


class TumRgbd(FolderSequence):
    """A sequence in the layout of the TUM RGB-D benchmark; images are read when asked for.

    ``rgb.txt`` and ``depth.txt`` list images (a line: timestamp, path in the folder), ``groundtruth.txt`` poses
    (timestamp, tx ty tz, qx qy qz qw: world_from_camera); # begins a comment. Seconds and metres; times that can only
    be of another unit, nanoseconds since 1970 say, are taken as such with a `SuspiciousInput`. Depth images are
    16-bit, 5000 a metre, 0 invalid.

    Each colour image goes with the depth image and with the pose that are nearest to it in time; one that has none of
    either within 0.02 seconds is left out. A frame's number is its place among all colour images, and its time is its
    timestamp less that of the first of them.

    Intrinsics are the published ones of the camera that the folder's name tells (``freiburg1``, ``freiburg2``,
    ``freiburg3``; else the driver's default), scaled to the size of the first image. Lens distortion is ignored.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        No colour image has a depth image and a pose, a list names a file outside the folder, or a file is not what it
        should be; the message names the file and, where there is one, the line.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = check_folder(folder)
        color_times, colors = _read_list(folder, "rgb.txt")
        depth_times, depths = _read_list(folder, "depth.txt")
        self._poses_path = folder / "groundtruth.txt"
        poses, lines = read_numbers(self._poses_path, 8)
        order = _order(self._poses_path, poses[:, 0], lines)
        poses = poses[order]
        with errors_in(self._poses_path):
            poses[:, 0] = to_seconds(self._poses_path, poses[:, 0])

        depth, has_depth = _nearest(depth_times, color_times)
        pose, has_pose = _nearest(poses[:, 0], color_times)
        kept = np.flatnonzero(has_depth & has_pose)
        if not len(kept):
            raise FormatError(
                folder / "rgb.txt", f"expected images within {_MAX_APART} s of a depth image and a pose, found none"
            )
        frames = (FrameFiles(int(i), colors[i], depths[depth[i]]) for i in kept)
        super().__init__(folder, frames, units_per_metre=5000)
        self._times = color_times[kept] - color_times[0]
        self._poses = poses[pose[kept], 1:]
        self._lines = [lines[order[i]] for i in pose[kept]]
        self._normalise()

    def _normalise(self) -> None:
        """Makes unit quaternions of those that can be, and says once how coarse they are; `pose` refuses the others."""
        norms = np.linalg.norm(self._poses[:, 3:], axis=1)
        close = np.flatnonzero(can_be_unit(norms))
        self._poses[close, 3:] /= norms[close, None]
        coarse = close[is_coarse(norms[close])]
        suspect_coarse(self._poses_path, [(f"line {self._lines[i]}", float(norms[i])) for i in coarse])

    @cached_property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames; the image size is that of the first."""
        first = self._frames[0].color
        width, height = image_size(first)
        if width * _SIZE[1] != height * _SIZE[0]:
            raise FormatError(
                first, f"expected an image of 4:3, as its intrinsics are for, got {width}x{height} pixels"
            )
        name = os.path.basename(os.path.abspath(self.folder))  # Path(".") has no name
        fx, fy, cx, cy = next((values for camera, values in _CALIBRATED.items() if camera in name), _DEFAULT)
        camera = CameraIntrinsics.from_opencv([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], *_SIZE)
        return camera.scaled(width, height)

    def pose(self, index: int) -> CameraPose:
        """Where a frame was taken, by the pose nearest in time, and when; metres, seconds."""
        x, y, z, qx, qy, qz, qw = self._poses[index]
        with errors_in(self._poses_path, self._lines[index]):
            return CameraPose.from_quaternion([qw, qx, qy, qz], [x, y, z], float(self._times[index]))


def _read_list(folder: Path, name: str) -> tuple[F64, list[Path]]:
    """Timestamps (N,), ascending, and the images taken then."""
    path = folder / name
    inside = folder.resolve()
    times, images, lines = [], [], []
    for line, text in read_lines(path):
        try:
            timestamp, image = text.split(maxsplit=1)
            times.append(float(timestamp))
        except ValueError:
            raise FormatError(path, f"expected a timestamp and a path, got {text[:80]!r}", line) from None
        if not _is_inside(inside, image):
            raise FormatError(path, f"expected a path inside the folder, got {image[:80]!r}", line)
        images.append(folder / image)
        lines.append(line)
    stamps = np.array(times, dtype=np.float64)
    order = _order(path, stamps, lines)
    with errors_in(path):
        return to_seconds(path, stamps[order]), [images[i] for i in order]


def _is_inside(folder: Path, image: str) -> bool:
    """Whether a path in ``folder``, links followed, ends in it."""
    try:
        return "\0" not in image and (folder / image).resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # too long a name, links in a circle
        return False


def _order(path: Path, times: F64, lines: list[int]) -> NDArray[np.intp]:
    """The indices that sort the timestamps of a list."""
    if not len(times):
        raise FormatError(path, "expected at least one line with a timestamp, found none")
    bad = np.flatnonzero(~(np.abs(times) <= _LATEST))
    if len(bad):
        raise FormatError(path, f"expected a timestamp in seconds, got {times[bad[0]]}", lines[bad[0]])
    return np.argsort(times, kind="stable")


def _nearest(times: F64, wanted: F64) -> tuple[NDArray[np.intp], Bool]:
    """For each time the index of the nearest of ascending ``times`` (the earlier of two), and if it is near enough."""
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - times[before] <= times[after] - wanted, before, after)
    return nearest, np.abs(times[nearest] - wanted) <= _MAX_APART + _ROUNDING
