"""The rules of the published patch memory.

Poses are camera_from_world (N, 4, 4), K (N, 3, 3), depth (N, H, W) metres.
"""

import numpy as np

STRIDE = 16
PICKS = 5


def nearest_samples(depth, rows, columns):
    height, width = depth.shape[-2:]
    r = np.floor(np.arange(rows) * height / rows).astype(int)
    c = np.floor(np.arange(columns) * width / columns).astype(int)
    return depth[..., r[:, None], c[None]]


def centres(poses):
    return -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])


def pose_nearest(memory, query):
    memory, query = memory.astype(np.float64), query.astype(np.float64)
    where, ahead = centres(memory), memory[:, 2, :3] / np.linalg.norm(memory[:, 2, :3], axis=1, keepdims=True)
    pool_size = min(round(max(PICKS, min(10, len(memory))) * 2), len(memory))
    answer = []
    for pose in query:
        angles = np.degrees(np.arccos(np.clip(ahead @ (pose[2, :3] / np.linalg.norm(pose[2, :3])), -1, 1)))
        pool = np.argsort(angles, kind="stable")[:pool_size]
        away = np.linalg.norm(where[pool] - centres(pose[None])[0], axis=1)
        ranked = pool[np.lexsort((pool, away))].tolist()
        picks = []
        for i in ranked:
            if len(picks) < PICKS and all(np.linalg.norm(where[i] - where[j]) >= 0.1 for j in picks):
                picks.append(i)
        picks += [i for i in ranked if i not in picks][: PICKS - len(picks)]
        answer.append(picks + [-1] * (PICKS - len(picks)))
    return np.array(answer)


def coverage(memory, memory_k, depth, query, query_k, rows, columns):
    """rows and columns of the latent grid."""
    coarse_rows, coarse_columns = rows // 4, columns // 4
    pool = np.arange(0, len(memory), 2)
    z = nearest_samples(depth[pool], coarse_rows, coarse_columns).astype(np.float64).reshape(len(pool), -1)
    v, u = np.mgrid[:coarse_rows, :coarse_columns].reshape(2, -1) * 4.0 * STRIDE
    rays = np.linalg.inv(memory_k[pool].astype(np.float64)) @ np.stack([u, v, np.ones_like(u)])
    poses = memory[pool].astype(np.float64)
    finite = np.where(np.isfinite(z), z, 0)
    world = poses[:, :3, :3].transpose(0, 2, 1) @ (rays * finite[:, None] - poses[:, :3, 3:])
    answer = []
    for pose, k in zip(query.astype(np.float64), query_k.astype(np.float64), strict=True):
        seen = k @ (pose[:3, :3] @ world + pose[:3, 3:])
        valid = (seen[:, 2] > 1e-2) & (z > 1e-3) & np.isfinite(z)
        with np.errstate(all="ignore"):
            cells = np.rint(seen[:, 1::-1] / seen[:, 2:] / STRIDE)
        valid &= np.isfinite(cells).all(axis=1)
        r, c = np.where(valid[:, None], cells, -1).astype(int).transpose(1, 0, 2) // 4
        valid &= (r >= 0) & (r < coarse_rows) & (c >= 0) & (c < coarse_columns)
        masks = np.zeros((len(pool), coarse_rows * coarse_columns), bool)
        frame, point = np.nonzero(valid)
        masks[frame, (r * coarse_columns + c)[frame, point]] = True
        answer.append(greedy_cover(masks, pool))
    return np.array(answer)


def greedy_cover(masks, pool):
    taken, picks = np.zeros(masks.shape[1], bool), []
    while len(picks) < PICKS:
        gain = (masks & ~taken).sum(axis=1)
        gain[picks] = 0
        if gain.max(initial=0) == 0:
            break
        picks.append(int(gain.argmax()))
        taken |= masks[picks[-1]]
    areas = masks.sum(axis=1)
    order = [i for i in np.argsort(-areas, kind="stable") if areas[i] > 0 and i not in picks]
    ids = [int(pool[i]) for i in (picks + order)[:PICKS]] or [-1]
    return ids + ids[-1:] * (PICKS - len(ids))


def splat(depth, k, pose, query_k, query_pose):
    """The source cell (h w,) that is nearest in each target cell, -1 for none, and its depth; all in float32."""
    rows, columns = depth.shape
    v, u = np.mgrid[:rows, :columns].reshape(2, -1).astype(np.float32) * np.float32(STRIDE)
    rays = np.einsum("ij,jn->in", np.linalg.inv(k), np.stack([u, v, np.ones_like(u)]))
    world = np.einsum("ji,jn->in", pose[:3, :3], rays * depth.ravel() - pose[:3, 3:])
    seen = np.einsum("ij,jn->in", query_pose[:3, :3], world) + query_pose[:3, 3:]
    with np.errstate(all="ignore"):
        projected = np.einsum("ij,jn->in", query_k, seen / seen[2])
    column, row = np.rint(projected[:2] / np.float32(STRIDE))
    valid = np.isfinite(seen[2]) & (seen[2] > 1e-2)
    valid &= (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    cell = np.where(valid, row * columns + column, 0).astype(int)
    source, front = np.full(rows * columns, -1), np.full(rows * columns, np.inf, np.float32)
    np.minimum.at(front, cell[valid], seen[2, valid])
    winners = np.flatnonzero(valid & (seen[2] == front[cell]))
    source[cell[winners]] = winners  # among equals, the last one
    return source, front


def fuse(latents, memory_k, memory, depth, query_k, query, candidates, keep):
    """latents (C, N, h, w); candidates: a list of ids per query. The mosaic (C, G, h, w) and its filled cells."""
    channels, _, rows, columns = latents.shape
    grid = nearest_samples(depth, rows, columns)
    mosaic = np.zeros((channels, len(query), rows * columns), np.float32)
    filled = np.zeros((len(query), rows * columns), bool)
    for g, ids in enumerate(candidates):
        best = np.full(rows * columns, np.inf if keep == "near" else -np.inf, np.float32)
        for i in list(dict.fromkeys(i for i in ids if i >= 0)) or [0]:
            source, z = splat(grid[i], memory_k[i], memory[i], query_k[g], query[g])
            wins = (source >= 0) & ((z < best) if keep == "near" else (z > best))
            best[wins] = z[wins]
            mosaic[:, g, wins] = latents[:, i].reshape(channels, -1)[:, source[wins]]
            filled[g] |= wins
            if float(np.float32(filled[g].mean())) >= 0.95:  # float32(0.95) is less than 0.95
                break
    return mosaic.reshape(channels, -1, rows, columns), filled.reshape(-1, rows, columns)
