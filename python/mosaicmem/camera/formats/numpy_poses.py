"""``poses.npy`` (N, 4, 4) or (N, 3, 4), with ``intrinsics.npy`` (N, 3, 3) or (3, 3) beside it.

The file does not say what its matrices are, so the format is never found out: name it where they are world_from_camera
with OpenCV axes, and K is in pixels whose centres lie at half-integers. It has no image size and no times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._numpy_files import read_data, read_header
from mosaicmem._opening import errors_in, open_file
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, cameras_of, poses_of, trajectory
from mosaicmem.camera.intrinsics import params_of_matrix
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes, last rows and rotations."""
    given = _array(path)
    if given.ndim != 3 or given.shape[1:] not in ((4, 4), (3, 4)) or not 0 < len(given) <= MAX_FRAMES:
        raise FormatError(path, f"expected numbers of shape (N, 4, 4) or (N, 3, 4), got {given.shape}")
    matrices = np.tile(np.eye(4), (len(given), 1, 1))
    matrices[:, : given.shape[1]] = given
    poses = poses_of(path, matrices, options.times(path, len(given)), lambda i: f"[{i}]")
    if options.intrinsics is not None:
        return trajectory(path, poses, options.intrinsics)
    file, size = path.with_name("intrinsics.npy"), options.need_size(path)
    if not file.is_file():
        raise FormatError(path, f"expected {file.name} beside it, or intrinsics (intrinsics, --intrinsics and --size)")
    k = _array(file)
    if k.shape not in ((3, 3), (len(given), 3, 3)):
        raise FormatError(file, f"expected shape (3, 3) or ({len(given)}, 3, 3), got {k.shape}")
    with errors_in(file):
        rows = [
            (f"[{i}]", np.array(params_of_matrix(f"[{i}]", each)), size) for i, each in enumerate(k.reshape(-1, 3, 3))
        ]
    cameras = cameras_of(file, options.intrinsics_mode, rows)
    return trajectory(path, poses, cameras)


def _array(path: Path) -> Any:
    with open_file(path) as file:
        header = read_header(path, file, "not an array of NumPy")
        if header.dtype.kind not in "fiu":
            raise FormatError(path, f"expected numbers, got {header.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):  # later checks refuse values that are not finite
            return read_data(path, file, header, "not an array of NumPy").astype(np.float64)
