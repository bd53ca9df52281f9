import numpy as np


def cells_of(x, y, mode, rows, columns):
    """The (row, column, bilinear weight) that a token at (x, y) touches."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return []
    if mode == "nearest":
        cells = [(int(np.floor(y + 0.5)), int(np.floor(x + 0.5)), 1.0)]
    else:
        left, top = int(np.floor(x)), int(np.floor(y))
        cells = [
            (top + dy, left + dx, (x - left if dx else 1 - (x - left)) * (y - top if dy else 1 - (y - top)))
            for dy in (0, 1)
            for dx in (0, 1)
        ]
    if mode == "bilinear":
        cells = [cell for cell in cells if cell[2] >= 1 / 64]
    return [cell for cell in cells if 0 <= cell[0] < rows and 0 <= cell[1] < columns]


def splat(latents, positions, depth, rows, columns, mode, weights=None, depth_tolerance=0.05):
    """Positions are (y, x). Canvas, coverage, depth and source index; the front token is least by (depth, index)."""
    n, channels = latents.shape
    weights = np.ones(n) if weights is None else weights.astype(np.float64)
    usable = [i for i in range(n) if np.isfinite(depth[i]) and depth[i] > 0]
    front: dict[tuple, tuple] = {}
    for i in usable:
        for r, c, _ in cells_of(positions[i, 1], positions[i, 0], mode, rows, columns):
            front[r, c] = min(front.get((r, c), (np.inf, n)), (depth[i], i))
    canvas = np.zeros((rows, columns, channels))
    coverage = np.zeros((rows, columns), dtype=bool)
    front_depth = np.zeros((rows, columns), dtype=np.float32)
    source = np.full((rows, columns), -1, dtype=np.int32)
    for cell, (z, i) in front.items():
        coverage[cell], front_depth[cell], source[cell] = True, z, i
        canvas[cell] = latents[i]
    if mode == "bilinear":
        total = np.zeros((rows, columns))
        canvas[:] = 0
        for i in usable:
            for r, c, w in cells_of(positions[i, 1], positions[i, 0], mode, rows, columns):
                if depth[i] <= front_depth[r, c] * np.float32(1 + depth_tolerance):
                    canvas[r, c] += w * weights[i] * latents[i]
                    total[r, c] += w * weights[i]
        canvas[coverage] /= total[coverage][:, None]
    return canvas, coverage, front_depth, source


def bilinear_sample(grid, positions, dtype=np.float64):
    """grid (h, w, C) at (y, x); the nearest centre counts up to half a cell beyond the outermost centres."""
    rows, columns, _ = grid.shape
    y, x = positions.astype(np.float32).T
    inside = (y >= -0.5) & (y <= rows - 0.5) & (x >= -0.5) & (x <= columns - 0.5)
    y, x = (np.clip(np.where(inside, a, 0), 0, n - 1) for a, n in ((y, rows), (x, columns)))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, rows - 1), np.minimum(left + 1, columns - 1)
    wy, wx = (y - top).astype(dtype)[:, None], (x - left).astype(dtype)[:, None]
    g = grid.astype(dtype)
    above = (1 - wx) * g[top, left] + wx * g[top, right]
    below = (1 - wx) * g[bottom, left] + wx * g[bottom, right]
    return np.where(inside[:, None], (1 - wy) * above + wy * below, 0), inside
