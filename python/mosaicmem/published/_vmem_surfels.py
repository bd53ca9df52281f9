"""Surfels, as VMem renders and merges them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_NEAR, _FAR = 0.1, 1000.0
_MARGIN = 50  # pixels around the image, in which a surfel's centre may lie
_STEEP = 0.9  # |n_z| above which a normal counts as along z
_PAIRS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Surfels:
    """Discs: positions (N, 3), normals (N, 3) away from the camera that saw them, radii (N,)."""

    positions: np.ndarray
    normals: np.ndarray
    radii: np.ndarray

    @classmethod
    def of(cls, surfels: Sequence[Any]) -> Surfels:
        """Of objects with ``position``, ``normal`` and ``radius``."""
        return cls(
            np.array([surfel.position for surfel in surfels]).reshape(-1, 3),
            np.array([surfel.normal for surfel in surfels]).reshape(-1, 3),
            np.array([surfel.radius for surfel in surfels]),
        )


def render(
    surfels: Surfels, pose: np.ndarray, camera: Sequence[float], size: tuple[int, int], corners: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, index and cosine (rows, columns) of the nearest disc at each pixel; of equals the first.

    ``pose`` is world_from_camera, ``camera`` fx, fy, cx, cy with pixel centres at integers.
    """
    depth = np.full(size, np.inf, dtype=np.float32)
    index, cosine = np.full(size, -1, dtype=np.int32), np.zeros(size, dtype=np.float32)
    rotation = np.linalg.inv(pose[:3, :3])
    offset = -rotation @ pose[:3, 3]
    for i, towards, disc in _discs(surfels, pose, rotation, offset, camera, size, corners):
        seen = disc[disc[:, 2] > 0]
        if len(seen) < 3:
            continue
        corner = _projected(seen, camera)
        low = np.maximum(np.floor(corner.min(axis=0)), 0).astype(int)
        high = np.minimum(np.ceil(corner.max(axis=0)) + 1, size[::-1]).astype(int)
        if (low >= high).any():
            continue
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        z = np.float32(seen[:, 2].mean())
        ahead = _inside(corner, low, high) & (z < depth[box])
        depth[box][ahead], index[box][ahead], cosine[box][ahead] = z, i, towards
    depth[np.isinf(depth)] = 0
    return depth, index, cosine


def _discs(
    surfels: Surfels,
    pose: np.ndarray,
    rotation: np.ndarray,
    offset: np.ndarray,
    camera: Sequence[float],
    size: tuple[int, int],
    corners: int,
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Index, cosine to the ray, and corners (n, 3) in the camera of each surfel that may be seen from in front."""
    positions = surfels.positions.astype(np.float64)
    at = positions @ rotation.T + offset
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = _projected(at, camera)
        normals = surfels.normals / np.linalg.norm(surfels.normals.astype(np.float64), axis=1, keepdims=True)
        rays = positions - pose[:3, 3]
        towards = np.einsum("ij,ij->i", rays / np.linalg.norm(rays, axis=1, keepdims=True), normals)
    inside = ((pixel >= -_MARGIN) & (pixel < np.array(size[::-1]) + _MARGIN)).all(axis=1)
    facing = inside & (at[:, 2] > _NEAR) & (at[:, 2] < _FAR) & (towards >= 0)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    for i in np.flatnonzero(facing):
        normal = normals[i]
        up = np.array([0.0, 1.0, 0.0] if abs(normal[2]) > _STEEP else [0.0, 0.0, 1.0])
        x = np.cross(normal, up)
        x /= np.linalg.norm(x)
        y = np.cross(normal, x)
        around = float(surfels.radii[i]) * (np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * y)
        yield int(i), float(towards[i]), (positions[i] + around) @ rotation.T + offset


def _projected(points: np.ndarray, camera: Sequence[float]) -> np.ndarray:
    fx, fy, cx, cy = camera
    return np.stack([fx * (points[:, 0] / points[:, 2]) + cx, fy * (points[:, 1] / points[:, 2]) + cy], axis=1)


def _inside(corner: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which pixels of a box lie in a polygon: a ray to the right crosses an odd number of its edges."""
    x, y = np.arange(low[0], high[0])[None, :, None], np.arange(low[1], high[1])[:, None]
    (x1, y1), (x0, y0) = corner.T, np.roll(corner, 1, axis=0).T
    crosses = (y1 > y) != (y0 > y)  # (rows, edges)
    at = (x0 - x1) * (y - y1) / (y0 - y1 + 1e-15) + x1
    return np.asarray((crosses[:, None] & (x < at[:, None])).sum(axis=2) % 2 == 1)


def first_neighbours(new: Surfels, existing: Surfels, distance: float, cosine: float, per_node: int) -> np.ndarray:
    """For each new surfel the existing one that it merges with, -1 if none: the first in the order of an octree."""
    order = octree_order(existing.positions, per_node)
    positions, normals = existing.positions[order], existing.normals[order]
    found = np.full(len(new.positions), -1)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(positions)))
    for begin in range(0, len(found), step):
        part = slice(begin, begin + step)
        apart = np.linalg.norm(positions[None] - new.positions[part, None], axis=2)
        same = (apart <= distance) & (new.normals[part] @ normals.T > cosine)
        found[part] = np.where(same.any(axis=1), order[same.argmax(axis=1)], -1)
    return found


def octree_order(points: np.ndarray, per_node: int) -> np.ndarray:
    """The order in which an octree's leaves list points: children by x, then y, then z, the lower half first.

    A point on the face between two children belongs to the first; one that rounding puts in none is not listed.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    listed: list[np.ndarray] = []
    nodes = [(np.arange(len(points)), (low + high) / 2, np.max(high - low) / 2)]
    while nodes:
        inside, centre, half = nodes.pop()
        if len(inside) <= per_node or (points[inside] == points[inside[0]]).all():
            listed.append(inside)
            continue
        quarter = half / 2
        children = []
        for offset in np.ndindex(2, 2, 2):
            middle = centre + np.where(offset, quarter, -quarter).astype(points.dtype)
            of_child = inside[(np.abs(points[inside] - middle) <= quarter).all(axis=1)]
            if len(of_child):
                children.append((of_child, middle, quarter))
        nodes += reversed(children)
    flat = np.concatenate(listed)
    _, first = np.unique(flat, return_index=True)
    return np.asarray(flat[np.sort(first)])
