"""``cameras_sphere.npz`` of IDR, NeuS and their successors: a projection ``world_mat_i`` (4, 4) for each image.

Its upper three rows are K times camera_from_world; axes are OpenCV's, and integer coordinates are pixel centres.
``scale_mat_i``, which scales the scene into a unit sphere, is not applied. The file has no image size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import open_file
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

PREFIX = "world_mat_"
_MAX_BYTES = 256 * 2**20
_SKEW = 1e-3  # of the focal length; the decomposition of rounded numbers leaves some
_INVERSE = f"{PREFIX}inv_"


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks names and shapes, and that each matrix is a projection without skew."""
    size = options.need_size(path)
    with open_file(path) as file:
        arrays, _ = read_npz(path, file, _is_projection, _MAX_BYTES)
    names = [f"{PREFIX}{i}" for i in range(len(arrays))]
    if not names or len(names) > MAX_FRAMES or set(names) != set(arrays):
        there = ", ".join(sorted(arrays)[:8]) or "none"
        raise FormatError(path, f"expected {PREFIX}0, {PREFIX}1 and so on without a gap, got {there}")
    matrices, cameras = np.tile(np.eye(4), (len(names), 1, 1)), FrameCameras(path, options.intrinsics_mode)
    for i, name in enumerate(names):
        projection = np.asarray(arrays[name])
        if projection.shape != (4, 4) or projection.dtype.kind not in "fiu" or not np.isfinite(projection).all():
            got = f"{projection.dtype} {projection.shape}"
            raise FormatError(path, f"{name}: expected finite numbers (4, 4), got {got}")
        try:
            k, matrices[i, :3] = _decomposed(projection[:3].astype(np.float64))
        except ValueError as error:
            raise FormatError(path, f"{name}: {error}") from None
        cameras.add(name, np.array([k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5]), size)
    times = options.times(path, len(names))
    poses = poses_of(path, matrices, times, lambda i: names[i], "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())


def _is_projection(name: str) -> bool:
    return name.startswith(PREFIX) and not name.startswith(_INVERSE)


def _decomposed(projection: F64) -> tuple[F64, F64]:
    """K (3, 3) and camera_from_world (3, 4) of a projection (3, 4), by an RQ decomposition."""
    flipped, scale = np.linalg.qr(projection[::-1, :3].T)
    k, rotation = scale.T[::-1, ::-1], flipped.T[::-1]
    sign = np.sign(np.diag(k))
    if not sign.all() or abs(k[2, 2]) < 1e-12:
        raise ValueError("expected a projection of rank 3, got a singular one")
    k, rotation = k * sign, sign[:, None] * rotation
    if np.linalg.det(rotation) < 0:
        rotation, projection = -rotation, -projection
    normalised = k / k[2, 2]
    if abs(normalised[0, 1]) > _SKEW * normalised[0, 0]:
        focal = normalised[0, 0]
        raise ValueError(f"expected K without skew, got {normalised[0, 1]:g} beside a focal length of {focal:g}")
    return normalised, np.column_stack([rotation, np.linalg.solve(k, projection[:, 3])])
