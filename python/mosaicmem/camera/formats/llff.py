"""``poses_bounds.npy`` of LLFF and its successors: (N, 17), a 3x5 matrix and two depths for each image.

The matrix is [down, right, backwards, position | height, width, focal length]: world_from_camera with these axes, and
the size of the images that the focal length belongs to, whose middle is the principal point. Images are those of the
folder, in the order of their names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._numpy_files import read_data, read_header
from mosaicmem._opening import errors_in, open_file
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

COLUMNS = 17
_MOST_SIDE = 2**31


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the shape, rotations and sizes."""
    with open_file(path) as file:
        header = read_header(path, file, "not an array of NumPy")
        frames = header.shape[0] if header.shape else 0
        if header.shape != (frames, COLUMNS) or not 0 < frames <= MAX_FRAMES or header.dtype.kind not in "fiu":
            raise FormatError(path, f"expected numbers of shape (N, {COLUMNS}), got {header.dtype} {header.shape}")
        rows = read_data(path, file, header, "not an array of NumPy").astype(np.float64)[:, :15].reshape(-1, 3, 5)
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    down, right, backwards = rows[:, :, 0], rows[:, :, 1], rows[:, :, 2]
    matrices[:, :3] = np.stack([right, down, -backwards, rows[:, :, 3]], axis=2)
    poses = poses_of(path, matrices, options.times(path, frames), lambda i: f"[{i}]")
    if options.intrinsics is not None:
        return trajectory(path, poses, options.intrinsics)
    cameras = FrameCameras(path, options.intrinsics_mode)
    for i, (height, width, focal) in enumerate(rows[:, :, 4]):
        if not (1 <= height < _MOST_SIDE and 1 <= width < _MOST_SIDE and height % 1 == width % 1 == 0):
            raise FormatError(path, f"[{i}]: expected height and width in whole pixels, got {height:g} and {width:g}")
        size = (int(width), int(height))
        with errors_in(path):
            options.check_size(size)
        cameras.add(f"[{i}]", np.array([focal, focal, width / 2, height / 2]), size)
    return trajectory(path, poses, cameras.intrinsics())
