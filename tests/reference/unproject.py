import numpy as np


def unproject(depth, k, world_from_camera, dtype=np.float64):
    """x_world = R (depth * K^-1 [u, v, 1]) + t; (H, W, 3) and the mask of valid pixels."""
    fx, fy, cx, cy = (dtype(x) for x in k)
    matrix = world_from_camera.astype(dtype)
    v, u = np.meshgrid(np.arange(depth.shape[0]) + 0.5, np.arange(depth.shape[1]) + 0.5, indexing="ij")  # (H, W)
    valid = np.isfinite(depth) & (depth > 0)
    z = np.where(valid, depth, 0).astype(dtype)
    camera = np.stack([z * (u.astype(dtype) - cx) / fx, z * (v.astype(dtype) - cy) / fy, z], axis=-1)  # (H, W, 3)
    world = camera @ matrix[:3, :3].T + matrix[:3, 3]
    return np.where(valid[..., None], world, 0).astype(dtype), valid


def depth_grid(depth, stride, min_valid):
    """Lower median of the valid pixels of each cell; 0 with fewer than min_valid."""
    rows, columns = depth.shape[0] // stride, depth.shape[1] // stride
    grid = np.zeros((rows, columns), dtype=np.float32)
    for r in range(rows):
        for c in range(columns):
            cell = depth[r * stride : (r + 1) * stride, c * stride : (c + 1) * stride].ravel()
            cell = np.sort(cell[np.isfinite(cell) & (cell > 0)])
            if len(cell) and len(cell) >= min_valid:
                grid[r, c] = cell[(len(cell) - 1) // 2]
    return grid


def reproject(depth, stride, source_k, world_from_source, target_k, camera_from_world, near, dtype=np.float64):
    """Eq. 2: (u', v', z') of each cell and the mask of cells that land in front of `near`."""
    rows, columns = depth.shape
    v, u = np.meshgrid((np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, indexing="ij")
    valid = np.isfinite(depth) & (depth > 0)
    z = np.where(valid, depth, 0).astype(dtype)
    fx, fy, cx, cy = (dtype(x) for x in source_k)
    point = np.stack([z * (u.astype(dtype) - cx) / fx, z * (v.astype(dtype) - cy) / fy, z, np.ones_like(z)], axis=-1)
    target_from_source = (camera_from_world @ world_from_source).astype(dtype)
    point = point @ target_from_source.T
    valid &= point[..., 2] > near
    fx, fy, cx, cy = (dtype(x) for x in target_k)
    safe = np.where(valid, point[..., 2], 1)
    projected = np.stack([fx * point[..., 0] / safe + cx, fy * point[..., 1] / safe + cy, point[..., 2]], axis=-1)
    return np.where(valid[..., None], projected, 0), valid
