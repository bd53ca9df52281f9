"""MotionCtrl's camera poses: a JSON list of 12 numbers for each frame, the rows of camera_from_world (3, 4).

Axes are OpenCV's; positions are in the unit of RealEstate10K, on whose poses the model was trained. The file has
neither intrinsics nor times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import as_array
from mosaicmem._files import read_json
from mosaicmem._opening import errors_in
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

NUMBERS = 12


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks lengths, numbers and rotations."""
    intrinsics = options.need_intrinsics(path)
    rows = read_json(path)
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_FRAMES:
        raise FormatError(path, f"expected a list of 1 to {MAX_FRAMES} frames")
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    with errors_in(path):
        for i, row in enumerate(rows):
            matrices[i, :3] = as_array(f"[{i}]", row, np.float64, (NUMBERS,), finite=True).reshape(3, 4)
    times = options.times(path, len(rows))
    return trajectory(path, poses_of(path, matrices, times, lambda i: f"[{i}]", "camera_from_world"), intrinsics)
