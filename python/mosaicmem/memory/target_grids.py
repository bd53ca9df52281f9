"""The latent grids of a window's targets, as the core takes them."""

from __future__ import annotations

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.storage import MAX_CELLS


def camera_rows(targets: CameraTrajectory, near: float, far: float) -> F64:
    """fx, fy, cx, cy, width, height, near, far of each camera (n, 8), or of the one that all share (1, 8)."""
    cameras = targets.cameras if targets.zooms else targets.cameras[:1]
    return np.array([(*camera.params, camera.width, camera.height, near, far) for camera in cameras], dtype=np.float64)


def target_grids(targets: CameraTrajectory, stride: int, near: float, far: float) -> _core.TargetGrids:
    """Grids of ``stride`` pixels per cell; surfaces nearer than ``near`` or beyond ``far`` are not shown."""
    camera = targets.cameras[0]
    grid = camera.latent_grid(stride)
    if grid.width * grid.height > MAX_CELLS:
        raise ValueError(
            f"targets: expected at most {MAX_CELLS} cells of {stride} pixels, got {camera.width}x{camera.height} pixels"
        )
    return _core.TargetGrids(
        camera_rows(targets, near, far),
        targets.camera_from_world,
        np.array([pose.timestamp for pose in targets]),
        grid.height,
        grid.width,
        float(stride),
    )
