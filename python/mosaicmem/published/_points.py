"""Points of depth maps and where cameras see them, as Lyra and GEN3C define it. Needs torch.

w2c is camera_from_world with OpenCV axes, intrinsics count pixel centres as integers. Sums run from left to right, so
that all devices agree.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unprojected(depth: Tensor, w2c: Tensor, intrinsics: Tensor, *, z_depth: bool = True) -> Tensor:
    """Points (B, H W, 3) of the world of depth (B, H, W); those without depth lie at the world's origin.

    ``z_depth`` False: the depth is the length of the ray.
    """
    rays = pixel_rays(intrinsics, *depth.shape[1:])
    if not z_depth:
        rays = rays / (rays.norm(dim=-1, keepdim=True) + 1e-8)
    flat = depth.flatten(1)[..., None]
    points = moved(torch.linalg.inv(w2c), flat * rays)
    return torch.where(flat > 0, points, torch.zeros_like(points))


def pixel_rays(intrinsics: Tensor, rows: int, columns: int) -> Tensor:
    """K^-1 (column, row, 1) of each pixel, (B, rows columns, 3)."""
    y, x = (torch.arange(n, dtype=intrinsics.dtype, device=intrinsics.device) for n in (rows, columns))
    row, column = (grid.flatten() for grid in torch.meshgrid(y, x, indexing="ij"))
    return _products(torch.linalg.inv(intrinsics), column, row, torch.ones_like(row))


def moved(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (B, N, 3) moved by matrices (B, 4, 4)."""
    return _products(matrix[:, :3, :3], *points.unbind(-1)) + matrix[:, None, :3, 3]


def projected(intrinsics: Tensor, points: Tensor) -> Tensor:
    """K times the points (B, N, 3) of a camera: (x z, y z, z)."""
    return _products(intrinsics, *points.unbind(-1))


def _products(matrix: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    rows = [matrix[:, i, 0, None] * x + matrix[:, i, 1, None] * y + matrix[:, i, 2, None] * z for i in range(3)]
    return torch.stack(rows, dim=-1)
