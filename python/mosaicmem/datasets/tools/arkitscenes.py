"""ARKitScenes' raw scans: lowres_wide, lowres_depth, lowres_wide_intrinsics and lowres_wide.traj.

Files are named ``SCAN_TIME.png`` and ``SCAN_TIME.pincam`` (width height fx fy cx cy), with seconds to three decimals.
The trajectory has a line for each of its own times, between which poses are interpolated: seconds, the rotation vector
and the translation of camera_from_world, in metres, with OpenCV axes. Depth is in millimetres; confidence is 0, 1 or 2.
Images are stored as the sensor has them, often turned from upright.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames
from mosaicmem.errors import FormatError, suspect

MARKS = ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics", "lowres_wide.traj")

_MOST_APART = 0.1  # seconds between an image and its pose
_LARGEST = 1e12
_ROUNDING = 0.0025  # seconds


def read(folder: Path) -> PosedFrames:
    """Frames without a pose within a tenth of a second are left out, with a warning."""
    trajectory = folder / "lowres_wide.traj"
    rows, lines = read_numbers(trajectory, 7)
    images = _by_time(folder / "lowres_wide", ".png")
    cameras, depths = _by_time(folder / "lowres_wide_intrinsics", ".pincam"), _by_time(folder / "lowres_depth", ".png")
    confidences = _by_time(folder / "confidence", ".png") if (folder / "confidence").is_dir() else {}
    wrong = np.flatnonzero(~(np.abs(rows) < _LARGEST).all(axis=1))
    if len(wrong):
        raise FormatError(trajectory, "expected finite numbers, and positions in metres", lines[wrong[0]])
    if (np.diff(rows[:, 0]) <= 0).any():
        raise FormatError(trajectory, "expected times that increase")
    if not len(rows) or not images or not cameras:
        raise FormatError(folder, "expected images, intrinsics and poses of frames, got none of one of these")
    frames, left = [], 0
    start = min(images)
    for number, (time, color) in enumerate(sorted(images.items())):
        after = int(np.searchsorted(rows[:, 0], time))
        ends = [i for i in (after - 1, after) if 0 <= i < len(rows) and abs(rows[i, 0] - time) <= _MOST_APART]
        if not ends:
            left += 1
            continue
        with errors_in(trajectory, lines[ends[0]]):
            poses = [CameraPose.from_camera_from_world(_matrix(rows[i, 1:]), time - start) for i in ends]
        pose = poses[0]
        if len(ends) == 2:
            apart = rows[ends[1], 0] - rows[ends[0], 0]
            pose = pose.interpolate(poses[1], float((time - rows[ends[0], 0]) / apart)).at(time - start)
        camera = _near(cameras, time)
        if camera is None:
            raise FormatError(color, "expected intrinsics of its time in lowres_wide_intrinsics, found none")
        frames.append(
            PosedFrame(number, color, _lens(camera, color), pose, _near(depths, time), None, _near(confidences, time))
        )
    if left:
        suspect(f"{trajectory}: {left} of {len(images)} images have no pose within {_MOST_APART} s, and are left out")
    if not frames:
        raise FormatError(trajectory, "expected poses at the times of images, found none")
    return PosedFrames(folder, frames, DepthCoding(1000.0), most_confidence=2.0)


def _by_time(folder: Path, suffix: str) -> dict[float, Path]:
    found = {}
    for path in folder.iterdir():
        if path.suffix == suffix and not path.name.startswith("."):
            try:
                found[float(path.stem.rsplit("_", 1)[-1])] = path
            except ValueError:
                raise FormatError(path, "expected a name of SCAN_TIME with a time in seconds") from None
    return found


def _near(files: dict[float, Path], time: float) -> Path | None:
    if not files:
        return None
    times = np.fromiter(files, np.float64)
    nearest = float(times[np.abs(times - time).argmin()])
    return files[nearest] if abs(nearest - time) <= _ROUNDING else None


def _lens(path: Path, color: Path) -> Lens:
    row, _ = read_numbers(path, 6)
    if len(row) != 1:
        raise FormatError(path, f"expected one line of width height fx fy cx cy, got {len(row)}")
    width, height, fx, fy, cx, cy = row[0]
    if (width, height) != image_size(color):
        raise FormatError(path, f"expected the size of {color.name}, got {width:g}x{height:g}")
    with errors_in(path):
        return Lens.of(CameraIntrinsics(fx, fy, cx, cy, int(width), int(height)))


def _matrix(row: F64) -> F64:
    """A rigid transform of a rotation vector and a translation, by Rodrigues' formula."""
    angle = float(np.linalg.norm(row[:3]))
    x, y, z = row[:3] / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = row[3:]
    return matrix
