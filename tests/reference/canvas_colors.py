"""Canvases in the colours of the scene, as formulas in float64."""

import numpy as np

SMOOTH = 1.2


def color_canvas(target, depth, source, others, sources, stride, scale):
    """What `_core.color_canvases` writes for one target: (scale h, scale w, 3).

    ``target`` is (fx, fy, cx, cy, world_from_camera); a source is (image or None, its pixels for each pixel
    of the camera, (fx, fy, cx, cy), camera_from_world).
    """
    fine = [np.repeat(np.repeat(each, scale, axis=0), scale, axis=1) for each in (source, others)]
    points = surface(target, depth, stride, scale)
    colors = np.zeros(fine[1].shape)
    for k, (image, per_pixel, intrinsics, camera_from_world) in enumerate(sources):
        at = fine[0] == k
        if image is None:
            colors[at] = fine[1][at]
        elif at.any():
            local = points[at] @ camera_from_world[:, :3].T + camera_from_world[:, 3]
            colors[at] = looked_up(local, intrinsics, image, per_pixel)
    return colors


def surface(target, depth, stride, scale):
    """The world point that each pixel sees, (scale h, scale w, 3)."""
    fx, fy, cx, cy, world_from_camera = target
    rows, columns = (scale * size for size in depth.shape)
    near = np.repeat(np.repeat(depth, scale, axis=0), scale, axis=1).astype(np.float64)
    v, u = (np.arange(rows) + 0.5) / scale, (np.arange(columns) + 0.5) / scale
    (top, bottom, down), (left, right, across) = between(v, depth.shape[0]), between(u, depth.shape[1])
    corners = np.stack([depth[np.ix_(r, c)] for r in (top, bottom) for c in (left, right)]).astype(np.float64)
    is_smooth = (corners.min(axis=0) > 0) & (corners.max(axis=0) < np.float32(SMOOTH) * corners.min(axis=0))
    inverse = 1 / np.where(corners > 0, corners, 1)
    upper, lower = ((1 - across) * inverse[i] + across * inverse[i + 1] for i in (0, 2))
    z = np.where(is_smooth, 1 / ((1 - down[:, None]) * upper + down[:, None] * lower), near)
    local = np.stack([(u * stride - cx) / fx * z, ((v * stride - cy) / fy)[:, None] * z, z], axis=-1)
    return local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]


def between(position, count):
    """The cells on both sides of each position, and how far it is towards the second; clamped at borders."""
    at = np.clip(position - 0.5, 0, count - 1)
    first = np.minimum(at.astype(np.int64), max(0, count - 2))
    return first, np.minimum(first + 1, count - 1), at - first


def looked_up(local, intrinsics, image, per_pixel):
    """The colours (N, 3) of points (N, 3) in a camera's frame, bilinear; clamped at the image's borders."""
    fx, fy, cx, cy = intrinsics
    z = np.where(local[:, 2] > 0, local[:, 2], np.inf)
    left, right, across = between((local[:, 0] / z * fx + cx) * per_pixel, image.shape[1])
    top, bottom, down = between((local[:, 1] / z * fy + cy) * per_pixel, image.shape[0])
    across, down = across[:, None], down[:, None]
    upper = (1 - across) * image[top, left] + across * image[top, right]
    lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
    return ((1 - down) * upper + down * lower) / 255
