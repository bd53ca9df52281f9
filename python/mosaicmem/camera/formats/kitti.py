"""KITTI odometry: a 3x4 world_from_camera per line, twelve numbers in row-major order, metres.

There are no intrinsics and no times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._files import atomic_write
from mosaicmem._reading import read_numbers
from mosaicmem.camera.formats.options import ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for twelve numbers per line and valid rotations."""
    intrinsics = options.need_intrinsics(path)
    rows, lines = read_numbers(path, 12)
    check_frames(path, len(lines), path.stat().st_size, rows.itemsize * 12)
    times = options.times(path, len(lines))
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = rows.reshape(-1, 3, 4)

    return trajectory(path, poses_of(path, matrices, times, lambda i: lines[i]), intrinsics)


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Intrinsics and times are not kept."""
    rows = (" ".join(repr(float(x)) for x in pose.world_from_camera[:3].ravel()) for pose in path_of_camera)
    with atomic_write(path) as file:
        file.write("".join(f"{row}\n" for row in rows).encode())
