from dataclasses import dataclass, field

import numpy as np

from .unproject import unproject


@dataclass
class Voxel:
    points: list = field(default_factory=list)
    colors: list = field(default_factory=list)
    normals: list = field(default_factory=list)


def normal_at(points, valid, depth, i, j, eye):
    """Cross product towards the right and lower neighbour (left and upper at the border), facing the camera."""
    height, width = valid.shape
    if height == 1 or width == 1:
        return None
    ni, nj = (i + 1 if i + 1 < height else i - 1), (j + 1 if j + 1 < width else j - 1)
    for other in ((i, nj), (ni, j)):
        if not valid[other] or abs(depth[other] - depth[i, j]) >= 0.05 * depth[i, j]:
            return None
    normal = np.cross(points[i, nj] - points[i, j], points[ni, j] - points[i, j])
    length = np.linalg.norm(normal)
    if length == 0:
        return None
    return normal / length * (1 if normal @ (eye - points[i, j]) >= 0 else -1)


def fuse(frames, voxel_size):
    """A dict from voxel (x, y, z) to what fell into it; frames are (depth, color, k, world_from_camera)."""
    voxels: dict[tuple, Voxel] = {}
    for depth, color, k, world_from_camera in frames:
        points, valid = unproject(depth, k, world_from_camera)
        for i, j in np.argwhere(valid):
            voxel = voxels.setdefault(tuple(np.floor(points[i, j] / voxel_size).astype(int)), Voxel())
            voxel.points.append(points[i, j])
            voxel.colors.append(color[i, j])
            normal = normal_at(points, valid, depth, i, j, world_from_camera[:3, 3])
            if normal is not None:
                voxel.normals.append(normal)
    return voxels
