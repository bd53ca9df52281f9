import numpy as np


def score_patches(patches, intrinsics, camera_from_world, time, near, far, half_life, min_visibility, stride):
    """(id, score, u, v, z) of each visible patch. `patches` holds dicts with id, centre, timestamp, k,
    world_from_camera, cells: a list of (row, column, depth) of all cells of the tile, and maybe a weight; those of
    weight 0 are left out."""
    fx, fy, cx, cy = intrinsics.params
    width, height = intrinsics.width, intrinsics.height

    def project(point):
        x, y, z = camera_from_world[:3, :3] @ point + camera_from_world[:3, 3]
        return (fx * x / z + cx, fy * y / z + cy, z) if z > 0 else (np.nan, np.nan, z)

    def inside(u, v):
        return 0 <= u < width and 0 <= v < height

    found = []
    for patch in patches:
        u, v, z = project(patch["centre"])
        if not (near <= z <= far and inside(u, v)):
            continue
        centrality = max(0.0, 1 - np.hypot((u - cx) / width, (v - cy) / height))
        proximity = 1 / (1 + 0.1 * z)
        age = max(0.0, time - patch["timestamp"])
        recency = 0.5 ** (age / half_life) if half_life else 1.0
        visible = 0
        sfx, sfy, scx, scy = patch["k"]
        for row, column, depth in patch["cells"]:
            if not (np.isfinite(depth) and depth > 0):
                continue
            ray = np.array([((column + 0.5) * stride - scx) / sfx, ((row + 0.5) * stride - scy) / sfy, 1.0])
            world = patch["world_from_camera"][:3, :3] @ (depth * ray) + patch["world_from_camera"][:3, 3]
            tu, tv, tz = project(world)
            visible += near < tz <= far and inside(tu, tv)
        footprint = max(0.25, visible / len(patch["cells"]))
        weight = patch.get("weight", 1.0)
        score = centrality * proximity * footprint * recency * weight
        if weight > 0 and score >= min_visibility:
            found.append((patch["id"], score, u, v, z))
    return found


def select(found, top_k, radius, penalty):
    """Greedy by penalised score, ties to the smaller id; then sorted front to back."""
    remaining, taken = list(found), []
    while remaining and len(taken) < top_k:

        def penalised(patch):
            near = sum((patch[2] - t[2]) ** 2 + (patch[3] - t[3]) ** 2 <= radius**2 for t in taken) if radius else 0
            return patch[1] * penalty**near

        best = min(remaining, key=lambda patch: (-penalised(patch), patch[0]))
        taken.append(best)
        remaining.remove(best)
    return sorted(taken, key=lambda patch: (patch[4], patch[0]))
