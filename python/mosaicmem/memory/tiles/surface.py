"""Where the surfaces are that a keyframe shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64
from mosaicmem.camera import CameraIntrinsics, CameraPose


def surface_bounds(keyframe: dict[str, Any], intrinsics: CameraIntrinsics, pose: CameraPose) -> F64:
    """The smallest and largest world coordinates (2, 3), metres, of the whole cells, and of the parts of cells, of a
    keyframe as the core takes it; infinite if it has no depth.
    """
    points = [_corners(grid, intrinsics) for grid in (keyframe["depth"], keyframe["subcell_depth"]) if grid is not None]
    seen = np.concatenate(points)
    world = seen @ pose.world_from_camera[:3, :3].T + pose.world_from_camera[:3, 3]
    return np.stack([world.min(axis=0, initial=np.inf), world.max(axis=0, initial=-np.inf)])


def _corners(depth: F32, intrinsics: CameraIntrinsics) -> F64:
    """The corners of cells with depth, each at the cell's depth, (N, 3), camera frame."""
    stride = intrinsics.height / depth.shape[0]
    row, column = np.nonzero(np.isfinite(depth) & (depth > 0))
    z = depth[row, column].astype(np.float64)
    corners = [np.stack([(column + i) * stride, (row + j) * stride], axis=1) for i in (0, 1) for j in (0, 1)]
    return np.concatenate([intrinsics.unproject(pixels, z) for pixels in corners])
