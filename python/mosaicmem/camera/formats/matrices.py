"""Lines of 4x4 matrices: world_from_camera in 16 numbers, row by row, in metres, as Replica's ``traj.txt`` has them.

With 17 numbers the first is that of the frame, as in KITTI-360's ``cam0_to_world.txt``. Axes are OpenCV's. There are no
intrinsics and no times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._reading import read_lines, table_of
from mosaicmem.camera.formats.options import ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

COLUMNS = (16, 17)


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for as many numbers in each line, last rows and rotations."""
    intrinsics = options.need_intrinsics(path)
    first = next(iter(read_lines(path)), None)
    columns = 0 if first is None else len(first[1].split())
    if columns not in COLUMNS:
        raise FormatError(path, f"expected lines of 16 numbers, or of 17 with that of the frame, got {columns}")
    rows, lines = table_of(path, read_lines(path), columns)
    check_frames(path, len(lines), path.stat().st_size, rows.itemsize * 16)
    if columns == 17:
        numbers = rows[:, 0]
        if not (np.isfinite(numbers).all() and (np.diff(numbers) > 0).all()):
            raise FormatError(path, "expected numbers of frames that increase in the first column")
        if (numbers % 1).any():
            odd = numbers[np.flatnonzero(numbers % 1)[0]]
            raise FormatError(
                path, f"expected whole numbers of frames in the first column, got {odd:g}; are they seconds?"
            )
        options.times(path, len(lines))
        times = list((numbers / options.fps).tolist())
    else:
        times = options.times(path, len(lines))
    matrices = rows[:, -16:].reshape(-1, 4, 4)
    return trajectory(path, poses_of(path, matrices, times, lambda i: lines[i]), intrinsics)
