"""Canvases in the colours of the scene, from the thumbnails of the keyframes that they were composed from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mosaicmem._arrays import F32, F64, U8, Bool, check_instance, check_integer
from mosaicmem._border import to_host
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory.selection import ComposedMosaic
from mosaicmem.memory.storage import THUMBNAIL_PIXELS
from mosaicmem.memory.store import MosaicMemoryStore

_SMOOTH = 1.2  # neighbouring cells are one surface if their depths differ by less than this factor


def canvas_colors(
    store: MosaicMemoryStore,
    composed: ComposedMosaic,
    targets: CameraTrajectory,
    stride: int,
    *,
    scale: int = 2,
    of_latents: Callable[[F32], F32] | None = None,
) -> F32:
    """What memory shows to its targets, in colour.

    Each pixel takes the colour of the surface point that it sees, from the thumbnail of the keyframe that has the most
    weight in its cell. This previews a canvas; models are given its latents.

    Parameters
    ----------
    store, targets, stride
        As the canvases were composed from them.
    composed : ComposedMosaic
    scale : int
        Pixels along the edge of a cell.
    of_latents : callable, optional
        Colours (N, 3) of latents (N, C), for cells whose keyframe has no thumbnail; mid-grey if not given. See
        `mosaicmem.latent_colors.LatentColors`.

    Returns
    -------
    (T, scale h, scale w, 3) float32
        In [0, 1]; zero where memory shows nothing.
    """
    check_instance("store", store, MosaicMemoryStore)
    check_instance("composed", composed, ComposedMosaic)
    check_instance("targets", targets, CameraTrajectory)
    check_integer("scale", scale, minimum=1, maximum=64)
    coverage, depth, source, latents = (
        to_host(name, getattr(composed, name)) for name in ("coverage", "depth", "source", "latents")
    )
    count, rows, columns = coverage.shape
    if count != len(targets):
        raise ValueError(f"targets: expected those of the {count} canvases, got {len(targets)}")
    used = np.unique(source[coverage])
    images = dict(zip(used.tolist(), store._thumbnails(composed.observations[used]), strict=True))
    colors = np.zeros((count, scale * rows, scale * columns, 3), np.float32)
    for t in range(count):
        which = np.where(coverage[t], source[t], -1).repeat(scale, axis=0).repeat(scale, axis=1)
        points = _surface(depth[t], targets.cameras[t], targets[t], stride, scale)
        for k in np.unique(which[which >= 0]).tolist():
            at, known = which == k, images[k]
            if known is not None and known[0] is not None:
                place = composed.world_from_camera[k], composed.intrinsics[k]
                colors[t][at] = _looked_up(points[at], *place, known[0], known[1])
            else:
                own = (source[t] == k) & coverage[t]
                shown = np.full((int(own.sum()), 3), 0.5, np.float32)
                shown = shown if of_latents is None else np.asarray(of_latents(latents[t][own]), np.float32)
                colors[t][at] = _spread(shown, own, scale)
    return colors


def _spread(colors: F32, cells: Bool, scale: int) -> F32:
    """Colours of some cells as those of their pixels, both in rows."""
    grid = np.zeros((*cells.shape, 3), np.float32)
    grid[cells] = colors
    fine = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.asarray(fine[cells.repeat(scale, axis=0).repeat(scale, axis=1)])


def _surface(depth: F32, camera: CameraIntrinsics, pose: CameraPose, stride: int, scale: int) -> F64:
    """The world point that each pixel sees, (scale h, scale w, 3), for depths of cells (h, w), 0 where there is none.

    Between neighbouring cells of one surface, inverse depth is interpolated, which is exact for planes.
    """
    rows, columns = (scale * size for size in depth.shape)
    near = np.repeat(np.repeat(depth, scale, axis=0), scale, axis=1).astype(np.float64)
    v, u = (np.arange(rows) + 0.5) / scale, (np.arange(columns) + 0.5) / scale
    (top, bottom, down), (left, right, across) = _between(v, depth.shape[0]), _between(u, depth.shape[1])
    corners = np.stack([depth[np.ix_(r, c)] for r in (top, bottom) for c in (left, right)]).astype(np.float64)
    is_smooth = (corners.min(axis=0) > 0) & (corners.max(axis=0) < _SMOOTH * corners.min(axis=0))
    inverse = 1 / np.where(corners > 0, corners, 1)
    upper, lower = ((1 - across) * inverse[i] + across * inverse[i + 1] for i in (0, 2))
    z = np.where(is_smooth, 1 / ((1 - down[:, None]) * upper + down[:, None] * lower), near)
    x = (u * stride - camera.cx) / camera.fx * z
    y = ((v * stride - camera.cy) / camera.fy)[:, None] * z
    local = np.stack([x, y, z], axis=-1)
    return np.asarray(local @ pose.world_from_camera[:3, :3].T + pose.world_from_camera[:3, 3])


def _between(position: F64, count: int) -> tuple[np.ndarray, np.ndarray, F64]:
    """The cells on both sides of each position, and how far it is towards the second, 0 to 1; clamped at borders."""
    at = np.clip(position - 0.5, 0, count - 1)
    first = np.minimum(at.astype(np.int64), max(0, count - 2))
    return first, np.minimum(first + 1, count - 1), at - first


def _looked_up(points: F64, world_from_camera: F64, intrinsics: F64, image: U8, stride: float) -> F32:
    """The colours (N, 3) of world points (N, 3) in a keyframe's thumbnail, bilinear; clamped at its borders."""
    linear, offset = world_from_camera[:, :3], world_from_camera[:, 3]
    local = np.linalg.solve(linear, (points - offset).T)
    fx, fy, cx, cy = intrinsics
    z = np.where(local[2] > 0, local[2], np.inf)
    pixel = THUMBNAIL_PIXELS / stride  # of the thumbnail for each pixel of the image
    left, right, across = _between((local[0] / z * fx + cx) * pixel, image.shape[1])
    top, bottom, down = _between((local[1] / z * fy + cy) * pixel, image.shape[0])
    across, down = across[:, None], down[:, None]
    upper = (1 - across) * image[top, left] + across * image[top, right]
    lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
    return np.asarray(((1 - down) * upper + down * lower) / 255, np.float32)
