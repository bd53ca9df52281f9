"""Lyra-2's trajectory.npz: ``w2c`` (N, 4, 4) camera_from_world, ``intrinsics`` (N, 3, 3) and the image's size.

The size is in ``image_height`` and ``image_width``. Axes are OpenCV's; pixel centres are integers. Positions are in
metres as far as the depth is that the path was made for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import errors_in, open_file
from mosaicmem.camera.fields import Unread
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, cameras_of, check_frames, poses_of, trajectory
from mosaicmem.camera.intrinsics import params_of_matrix
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

POSES = "w2c"
_NAMES = (POSES, "intrinsics", "image_height", "image_width")
_MAX_BYTES = 256 * 2**20


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes, K and rotations."""
    with open_file(path) as file:
        arrays, others = read_npz(path, file, lambda name: name in _NAMES, _MAX_BYTES)
    missing = [name for name in _NAMES if name not in arrays]
    if missing:
        raise FormatError(path, f"expected the arrays {', '.join(_NAMES)}, of which {missing[0]} is missing")
    matrices, k = arrays[POSES], arrays["intrinsics"]
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or not 0 < len(matrices) <= MAX_FRAMES:
        raise FormatError(path, f"{POSES}: expected shape (N, 4, 4), got {matrices.shape}")
    check_frames(path, len(matrices), path.stat().st_size, 3 * matrices[0].nbytes)
    if k.shape not in ((len(matrices), 3, 3), (3, 3)) or k.dtype.kind not in "fiu":
        raise FormatError(path, f"intrinsics: expected shape ({len(matrices)}, 3, 3), got {k.dtype} {k.shape}")
    if matrices.dtype.kind not in "fiu":
        raise FormatError(path, f"{POSES}: expected numbers, got {matrices.dtype}")
    unread = Unread(_NAMES)
    unread.check("", others)
    size = _side(path, arrays["image_width"], "image_width"), _side(path, arrays["image_height"], "image_height")
    poses = poses_of(
        path,
        matrices.astype(np.float64),
        options.times(path, len(matrices)),
        lambda i: f"{POSES}[{i}]",
        "camera_from_world",
    )
    if options.intrinsics is None:
        with errors_in(path):
            options.check_size(size)
            each = np.broadcast_to(k, (len(poses), 3, 3))
            rows = [(f"intrinsics[{i}]", _params(i, one), size) for i, one in enumerate(each)]
        found = trajectory(path, poses, cameras_of(path, options.intrinsics_mode, rows))
    else:
        found = trajectory(path, poses, options.intrinsics)
    unread.say(path)
    return found


def _params(i: int, matrix: F64) -> F64:
    fx, fy, cx, cy = params_of_matrix(f"intrinsics[{i}]", matrix)
    return np.array([fx, fy, cx + 0.5, cy + 0.5])


def _side(path: Path, value: F64, name: str) -> int:
    if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.ravel()[0]) < 1e6:
        raise FormatError(path, f"{name}: expected a number of pixels, got {str(value)[:40]}")
    return int(value.ravel()[0])
