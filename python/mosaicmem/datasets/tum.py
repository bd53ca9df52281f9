"""The layout of the TUM RGB-D benchmark."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F64, Bool
from mosaicmem._images import image_size
from mosaicmem._opening import check_growth, errors_in
from mosaicmem._reading import check_folder, read_lines, read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.camera.pose import can_be_unit, is_coarse
from mosaicmem.camera.pose_stacks import Coarse
from mosaicmem.camera.times import to_seconds
from mosaicmem.datasets.cameras import assumed_intrinsics, given_intrinsics, intrinsics_in
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError, suspect

_MAX_APART = 0.02  # seconds
_ROUNDING = 1e-6  # float64 resolves times since 1970 to a quarter of this
_LATEST = 1e19  # nanoseconds
_LEFT_OUT = 0.2  # fraction of all images left out that is worth a warning
_UNITS_PER_METRE = 5000.0
_LINE_BYTES, _POSE_BYTES, _FRAME_BYTES = 150, 250, 1200  # bytes in memory of each
_SIZE = (640, 480)
_DEFAULT = (525.0, 525.0, 319.5, 239.5)
_CALIBRATED = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
_CAMERA_NAME = re.compile(r"(?:.*freiburg|(?:^|.*[^a-z])fr)([123])(?![0-9]).*", re.IGNORECASE)


class TumRgbd(FolderSequence):
    """A sequence in the layout of the TUM RGB-D benchmark; images are read on access.

    ``rgb.txt`` and ``depth.txt`` list images (per line: timestamp, path in the folder), ``groundtruth.txt`` lists poses
    (timestamp, tx ty tz, qx qy qz qw: world_from_camera); # begins a comment. Units are seconds and metres; times that
    can only be in another unit, such as nanoseconds since 1970, are read in that unit with a `SuspiciousInput`. Depth
    images are 16-bit, 5000 units per metre, 0 invalid.

    Each colour image is paired with the depth image and the pose nearest in time; one that lacks either within 0.02
    seconds is left out, with a warning if there are many. A frame's number is its position among all colour images, and
    its time is its timestamp minus that of the first of them.

    Intrinsics come from a file in the folder that `find_intrinsics` reads, with pixel centres at integers. Without one
    they are the published ones of the camera in the folder's name (``freiburg1`` or ``fr1``, 2 and 3), or else, with a
    warning, the driver's default; both are scaled to the image size. Lens distortion is ignored.

    Parameters
    ----------
    folder : path
    intrinsics : CameraIntrinsics, optional
        Used instead of those of the folder; for images of the same size.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        No colour image has a depth image and a pose, a list names a file outside the folder, or a file is missing or
        invalid; the message names the file and, where there is one, the line.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        Intrinsics are assumed, many images are left out, or times repeat.
    """

    def __init__(self, folder: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> None:
        folder = check_folder(folder)
        color_times, colors = _read_list(folder, "rgb.txt")
        depth_times, depths = _read_list(folder, "depth.txt")
        self._poses_path = folder / "groundtruth.txt"
        poses, lines = read_numbers(self._poses_path, 8)
        in_lists = _LINE_BYTES * (len(colors) + len(depths)) + _POSE_BYTES * len(poses)
        check_growth(folder, _size_of_lists(folder), in_lists, f"{len(poses)} poses, {len(colors)} images")
        order = _order(self._poses_path, poses[:, 0], lines)
        poses = poses[order]
        _suspect_doubles(self._poses_path, poses[:, 0], poses[:, 1:], np.array(lines)[order])
        with errors_in(self._poses_path):
            poses[:, 0] = to_seconds(self._poses_path, poses[:, 0])

        depth, has_depth = _nearest(depth_times, color_times)
        pose, has_pose = _nearest(poses[:, 0], color_times)
        kept = np.flatnonzero(has_depth & has_pose)
        if not len(kept):
            apart = [
                float(np.abs(times[near] - color_times).min())
                for times, near in ((depth_times, depth), (poses[:, 0], pose))
            ]
            raise FormatError(
                folder / "rgb.txt",
                f"expected images within {_MAX_APART} s of a depth image and a pose, found none; the nearest depth "
                f"image is {apart[0]:g} s away, the nearest pose {apart[1]:g} s: another clock, or another unit?",
            )
        _suspect_lost(folder / "rgb.txt", has_depth, has_pose)
        check_growth(folder, _size_of_lists(folder), in_lists + _FRAME_BYTES * len(kept), f"{len(kept)} frames")
        frames = [FrameFiles(int(i), folder / colors[i], folder / depths[depth[i]]) for i in kept]
        camera = _camera(folder, frames[0].color, intrinsics)
        super().__init__(folder, frames, camera, units_per_metre=_UNITS_PER_METRE)
        self._times = color_times[kept] - color_times[0]
        self._poses = poses[pose[kept], 1:]
        self._lines = [lines[order[i]] for i in pose[kept]]
        self._normalise()

    def _normalise(self) -> None:
        """Normalise near-unit quaternions, and warn once of coarse ones; `pose` refuses the others."""
        with np.errstate(over="ignore"):  # an infinite norm fails can_be_unit
            norms = np.linalg.norm(self._poses[:, 3:], axis=1)
        close = np.flatnonzero(can_be_unit(norms))
        self._poses[close, 3:] /= norms[close, None]
        coarse = Coarse()
        for i in close[is_coarse(norms[close])]:
            coarse.add(f"line {self._lines[i]}", float(norms[i]))
        coarse.say(self._poses_path)

    def pose(self, index: int) -> CameraPose:
        """The pose nearest in time to a frame, at the time of the frame; metres, seconds."""
        x, y, z, qx, qy, qz, qw = self._poses[index]
        with errors_in(self._poses_path, self._lines[index]):
            return CameraPose.from_quaternion([qw, qx, qy, qz], [x, y, z], float(self._times[index]))


def _camera(folder: Path, first: Path, given: CameraIntrinsics | None) -> CameraIntrinsics:
    size = image_size(first)
    if given is not None:
        return given_intrinsics(given, first, size)
    found = intrinsics_in(folder, size, _UNITS_PER_METRE, CameraIntrinsics.from_opencv)
    if found is not None:
        return found
    name = _CAMERA_NAME.fullmatch(os.path.basename(os.path.abspath(folder)))  # Path(".") has no name
    camera = f"freiburg{name[1]}" if name else "default"
    fx, fy, cx, cy = _CALIBRATED.get(camera, _DEFAULT)
    whose = (
        f"the {camera} camera of TUM RGB-D ({fx:g}, {fy:g}, {cx:g}, {cy:g} of 640x480 pixels; 5000 a metre of depth)"
    )
    default = CameraIntrinsics.from_opencv([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], *_SIZE)
    unless = None if name else "write fx fy cx cy to calibration.txt there, or name the folder after freiburg1, 2 or 3"
    return assumed_intrinsics(folder, first, size, default, whose=whose, unless=unless)


def _size_of_lists(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def _read_list(folder: Path, name: str) -> tuple[F64, list[str]]:
    """Ascending times (N,) in seconds, and the paths in the folder of the images taken then."""
    path = folder / name
    inside = folder.resolve()
    times, images, lines = array("d"), list[str](), array("q")
    for line, text in read_lines(path):
        try:
            timestamp, image = text.split(maxsplit=1)
            times.append(float(timestamp))
        except ValueError:
            raise FormatError(path, f"expected a timestamp and a path, got {text[:80]!r}", line) from None
        if not _is_inside(inside, image):
            raise FormatError(path, f"expected a path inside the folder, got {image[:80]!r}", line)
        images.append(image)
        lines.append(line)
    stamps = np.array(times, dtype=np.float64)
    order = _order(path, stamps, lines)
    stamps, ordered = stamps[order], [images[i] for i in order]
    ordered_lines = np.array(lines)[order]
    _suspect_doubles(path, stamps, ordered_lines, ordered_lines)
    with errors_in(path):
        return to_seconds(path, stamps), ordered


def _suspect_lost(path: Path, has_depth: Bool, has_pose: Bool) -> None:
    lost = np.flatnonzero(~(has_depth & has_pose))
    if len(lost) > _LEFT_OUT * len(has_depth):
        suspect(
            f"{path}: {len(lost)} of {len(has_depth)} images are left out, number {lost[0]} first: "
            f"{(~has_depth).sum()} have no depth image within {_MAX_APART} s, {(~has_pose).sum()} no pose"
        )


def _suspect_doubles(path: Path, times: F64, values: NDArray[Any], lines: NDArray[np.int64]) -> None:
    """Warn where one of the ascending ``times`` has two different ``values`` (N, ...)."""
    same = np.flatnonzero(np.diff(times) == 0)
    doubles = [i + 1 for i in same.tolist() if not np.array_equal(values[i], values[i + 1])]
    if doubles:
        suspect(
            f"{path}:{lines[doubles[0]]}: the time {times[doubles[0]]:.6f} is in the list before; {len(doubles)} lines "
            "repeat a time, and what was where then is uncertain; remove one of each two"
        )


def _is_inside(folder: Path, image: str) -> bool:
    """Whether a path relative to ``folder`` stays inside it with links resolved."""
    try:
        return "\0" not in image and (folder / image).resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # the name is too long, or links are circular
        return False


def _order(path: Path, times: F64, lines: Sequence[int]) -> NDArray[np.intp]:
    """The indices that sort the timestamps of a list."""
    if not len(times):
        raise FormatError(path, "expected at least one line with a timestamp, found none")
    bad = np.flatnonzero(~(np.abs(times) <= _LATEST))
    if len(bad):
        raise FormatError(path, f"expected a timestamp in seconds, got {times[bad[0]]}", lines[bad[0]])
    return np.argsort(times, kind="stable")


def _nearest(times: F64, wanted: F64) -> tuple[NDArray[np.intp], Bool]:
    """For each ``wanted``, the index of the nearest of ascending ``times`` (ties: the earlier), and if it is close."""
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(wanted - times[before] <= times[after] - wanted, before, after)
    return nearest, np.abs(times[nearest] - wanted) <= _MAX_APART + _ROUNDING
