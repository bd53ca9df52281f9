"""The worth of a source cell in a target view, the blend of sources, and the choice of keyframes; in float64.

A source is a dict: latents (h, w, C), depth (h, w), confidence (h, w) or None, k (fx, fy, cx, cy), stride,
world_from_camera (3x4 or 4x4), timestamp, and optionally a weight, 0 of which excludes the source, and a subcell_depth
(n h, n w), of which `parts` makes a source of its own. A target: k, stride,
camera_from_world, rows, columns, time, near, far.
Scales are (viewing_angle, field_angle, half_life).
"""

import numpy as np

MOST_SPREAD = 3.0
LEAST_TENT = 1 / 64
FRONT_TENT = 1 / 4
WIDEST_HOLE = 2
SKIRT = 1 / 64
DOUBTFUL = 0.01


def homogeneous(matrix):
    return np.vstack([np.asarray(matrix, np.float64)[:3], [0, 0, 0, 1]])


def worth_of(points, centre, source_tangents, size, trust, scales):
    """points (..., 3) in the target's frame; size: the size of the source cell in target cells."""
    viewing_angle, field_angle, _ = scales
    with np.errstate(all="ignore"):
        field = np.linalg.norm(source_tangents - points[..., :2] / points[..., 2:], axis=-1)
        away = points - centre
        cosine = (points * away).sum(-1) / (np.linalg.norm(points, axis=-1) * np.linalg.norm(away, axis=-1))
        viewing = np.sqrt(np.maximum(2 - 2 * cosine, 0))
        worth = trust * np.exp(-viewing / viewing_angle - field / field_angle) * np.minimum(size, 1 / size)
    return np.maximum(worth, 1e-9)


def recency(source, target, half_life):
    return 0.5 ** (max(0, target["time"] - source["timestamp"]) / half_life) if half_life else 1.0


def trust_of(source, target, half_life):
    confidence = source.get("confidence")
    return (1.0 if confidence is None else confidence) * recency(source, target, half_life) * source.get("weight", 1.0)


def parts_of(source):
    """A source of the subcells, each with the latents of its cell, and how many there are along the edge of a cell."""
    if source.get("subcell_depth") is None:
        return source, 1
    n = len(source["subcell_depth"]) // len(source["depth"])

    def enlarged(values):
        return np.repeat(np.repeat(values, n, axis=0), n, axis=1)

    confidence = source.get("confidence")
    return {
        **source,
        "depth": source["subcell_depth"],
        "latents": enlarged(source["latents"]),
        "confidence": None if confidence is None else enlarged(confidence),
        "stride": source["stride"] / n,
    }, n


def land(source, target, scales, step=1, parts=1):
    """x, y in target cells, z, worth (0: nothing lands; negative: doubtful) and spread of every step-th cell, by rows.

    ``parts``: how many of the cells make a whole one, along an edge.
    """
    fx, fy, cx, cy = source["k"]
    depth = np.asarray(source["depth"], np.float64)
    rows, columns = depth.shape[0] // step, depth.shape[1] // step
    r, c = np.mgrid[:rows, :columns]
    z_source = depth[r * step + step // 2, c * step + step // 2]
    tangents = np.stack(
        [((c + 0.5) * step * source["stride"] - cx) / fx, ((r + 0.5) * step * source["stride"] - cy) / fy], axis=-1
    )
    transform = target["camera_from_world"] @ homogeneous(source["world_from_camera"])
    rays = np.concatenate([tangents, np.ones((rows, columns, 1))], axis=-1)
    points = (rays * z_source[..., None]) @ transform[:3, :3].T + transform[:3, 3]
    tfx, tfy, tcx, tcy = (v / target["stride"] for v in target["k"])
    with np.errstate(all="ignore"):
        x = tfx * points[..., 0] / points[..., 2] + tcx - 0.5
        y = tfy * points[..., 1] / points[..., 2] + tcy - 0.5
        scale = np.cbrt(abs(np.linalg.det(transform[:3, :3])))
        size = scale * step * parts * source["stride"] / fx * tfx * z_source / points[..., 2]
    trust = np.broadcast_to(trust_of(source, target, scales[2]), depth.shape)
    trust = trust[r * step + step // 2, c * step + step // 2]
    valid = np.isfinite(z_source) & (z_source > 0) & (points[..., 2] > target["near"]) & (trust > 0)
    valid &= points[..., 2] <= target["far"]
    worth = np.where(valid, worth_of(points, transform[:3, 3], tangents, size, trust, scales), 0)
    worth = np.where(trust < DOUBTFUL, -worth, worth)
    spread = np.clip(np.where(valid, size / parts, 1), 0.5 + 0.5 / parts, MOST_SPREAD)
    return [field.ravel() for field in (x, y, points[..., 2], worth, spread)]


def tents(x, y, spread, rows, columns):
    """(cell, height, whether it is a skirt) of each target cell under a landed part."""
    wide = max(1, spread)
    for r in range(max(0, int(np.floor(y - wide))), min(rows - 1, int(np.ceil(y + wide))) + 1):
        for c in range(max(0, int(np.floor(x - wide))), min(columns - 1, int(np.ceil(x + wide))) + 1):
            tent = max(0, 1 - abs(y - r) / spread) * max(0, 1 - abs(x - c) / spread)
            skirt = max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c)) if spread < 1 else 0
            if tent >= LEAST_TENT:
                yield r * columns + c, tent, False
            elif skirt >= LEAST_TENT:
                yield r * columns + c, SKIRT * skirt, True


def closed_holes(front, tolerance):
    closed = np.full(front.shape, np.inf)
    for r, c in zip(*np.nonzero(np.isinf(front)), strict=True):
        for line, at in ((front[r], c), (front[:, c], r)):
            before = [i for i in range(at - 1, max(at - WIDEST_HOLE, 0) - 1, -1) if np.isfinite(line[i])][:1]
            after = [i for i in range(at + 1, min(at + WIDEST_HOLE, len(line) - 1) + 1) if np.isfinite(line[i])][:1]
            if not before or not after or after[0] - before[0] > WIDEST_HOLE + 1:
                continue
            a, b = line[before[0]], line[after[0]]
            if abs(a - b) <= tolerance * min(a, b):
                t = (at - before[0]) / (after[0] - before[0])
                closed[r, c] = 1 / ((1 - t) / a + t / b)
                break
    return closed


def depth_at(source, i, j, x, y, z):
    """The depth of a cell, or of its subcell nearest to (x, y): the one closer to z."""
    depth = source["depth"][i, j]
    if source.get("subcell_depth") is None:
        return depth
    n = len(source["subcell_depth"]) // len(source["depth"])
    row, column = (int(np.clip((offset + 0.5) * n, 0, n - 1)) for offset in (y - i, x - j))
    own = source["subcell_depth"][i * n + row, j * n + column]
    return own if own > 0 and abs(own - z) < abs(depth - z) else depth


def look_up(source, target, scales, tolerance, cell, depth):
    """The (latent, weight) of the source cells around the point of a target cell whose depth agrees with it."""
    r, c = divmod(cell, target["columns"])
    fx, fy, cx, cy = target["k"]
    s = target["stride"]
    point = depth * np.array([((c + 0.5) * s - cx) / fx, ((r + 0.5) * s - cy) / fy, 1])
    transform = target["camera_from_world"] @ homogeneous(source["world_from_camera"])
    p = np.linalg.inv(transform)[:3] @ [*point, 1]
    if p[2] <= 0:
        return
    fx, fy, cx, cy = source["k"]
    rows, columns = source["depth"].shape
    x = (fx * p[0] / p[2] + cx) / source["stride"] - 0.5
    y = (fy * p[1] / p[2] + cy) / source["stride"] - 0.5
    if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
        return
    x, y = np.clip(x, 0, columns - 1), np.clip(y, 0, rows - 1)
    centre = transform[:3, 3]
    away = np.linalg.norm(point - centre) / np.sqrt(1 + (p[0] / p[2]) ** 2 + (p[1] / p[2]) ** 2)
    size = source["stride"] / fx * target["k"][0] / s * away / point[2]
    trust = np.broadcast_to(trust_of(source, target, scales[2]), (rows, columns))
    for i in range(int(y), min(int(y) + 1, rows - 1) + 1):
        for j in range(int(x), min(int(x) + 1, columns - 1) + 1):
            z, tent = depth_at(source, i, j, x, y, p[2]), (1 - abs(x - j)) * (1 - abs(y - i))
            if not (np.isfinite(z) and z > 0 and trust[i, j] > 0 and tent >= LEAST_TENT):
                continue
            if abs(z - p[2]) <= tolerance * p[2]:
                worth = worth_of(point, centre, p[:2] / p[2], size, trust[i, j], scales)
                yield source["latents"][i, j], tent * worth


def blend(sources, target, scales, tolerance, composition):
    """The canvas (h, w, C), coverage, depth, source and weight (h, w)."""
    rows, columns = target["rows"], target["columns"]
    landed, over = [], []
    for source in sources:
        of_parts, n = parts_of(source)
        landed.append(land(of_parts, target, scales, parts=n))
        x, y, _, worth, spread = landed[-1]
        over.append(
            [
                (i, cell, tent, is_skirt or worth[i] < 0)
                for i in np.flatnonzero(worth)
                for cell, tent, is_skirt in tents(x[i], y[i], spread[i], rows, columns)
            ]
        )
    front, fringe = np.full(rows * columns, np.inf), np.full(rows * columns, np.inf)
    for (_, _, z, _, _), touched in zip(landed, over, strict=True):
        for i, cell, tent, is_skirt in touched:
            to = front if tent >= FRONT_TENT and not is_skirt else fringe
            to[cell] = min(to[cell], z[i])
    has_front = np.isfinite(front)
    front = np.where(has_front, front, fringe)
    closed = closed_holes(front.reshape(rows, columns), tolerance).ravel()
    found = [[] for _ in front]  # (latent, weight, source)
    if composition == "blend":
        for s, (source, (_, _, z, worth, _), touched) in enumerate(zip(sources, landed, over, strict=True)):
            of_parts, n = parts_of(source)
            latents, width = of_parts["latents"].reshape(len(z), -1), of_parts["depth"].shape[1]
            of_cells = {}  # weight by target cell and source cell, as long as all parts of one have the same latents
            for i, cell, tent, is_skirt in touched:
                if abs(z[i] - front[cell]) <= tolerance * front[cell] and not (is_skirt and has_front[cell]):
                    key = cell, i // width // n, i % width // n
                    weight = of_cells.get(key, (0, 0))[0] + tent * abs(worth[i])
                    of_cells[key] = weight, i
            for (cell, _, _), (weight, i) in of_cells.items():
                found[cell].append((latents[i], weight, s))
    filled = np.minimum(front, closed)
    for cell in np.flatnonzero(np.isfinite(filled if composition == "backward" else closed)):
        for s, source in enumerate(sources):
            found[cell] += [
                (latent, weight, s) for latent, weight in look_up(source, target, scales, tolerance, cell, filled[cell])
            ]
    channels = sources[0]["latents"].shape[2]
    canvas, weights = np.zeros((rows * columns, channels)), np.zeros(rows * columns)
    chosen = np.full(rows * columns, -1)
    for cell, entries in enumerate(found):
        if entries:
            latents, each, which = (np.array(part) for part in zip(*entries, strict=True))
            weights[cell] = each.sum()
            canvas[cell] = each @ latents / weights[cell]
            chosen[cell] = which[each.argmax()]
    covered = weights > 0
    shape = (rows, columns)
    depth = np.where(covered, filled, 0)
    return canvas.reshape(*shape, -1), *(a.reshape(shape) for a in (covered, depth, chosen, weights))


def coarse_step(rows, columns):
    step = 1
    while (rows // step) * (columns // step) > 320:
        step += 1
    return step


def choose(sources, targets, scales, tolerance, per_view, per_window):
    """Indices of the sources that greedy selection takes per target, among those it takes for the whole window.

    Also the worth (sources, targets, cells) by which it takes them.
    """
    step = coarse_step(targets[0]["rows"], targets[0]["columns"])
    targets = [
        {**t, "rows": -(-t["rows"] // step), "columns": -(-t["columns"] // step), "stride": step * t["stride"]}
        for t in targets
    ]
    cells = targets[0]["rows"] * targets[0]["columns"]
    worth = np.zeros((len(sources), len(targets), cells))
    depth = np.full(worth.shape, np.inf)
    for s, source in enumerate(sources):
        for t, target in enumerate(targets):
            landed = land(source, target, scales, coarse_step(*source["depth"].shape))
            for x, y, z, value, spread in np.transpose(landed):
                half = (spread - 1) / 2
                left, right = np.floor([x - half + 0.5, x + half + 0.5])
                top, bottom = np.floor([y - half + 0.5, y + half + 0.5])
                r, c = np.mgrid[: target["rows"], : target["columns"]].reshape(2, -1)
                under = (value > 0) & (left <= c) & (c <= right) & (top <= r) & (r <= bottom) & (z < depth[s, t])
                depth[s, t, under], worth[s, t, under] = z, value
    in_front = (worth > 0) & (depth <= depth.min(axis=0) * (1 + tolerance))
    worth = np.where(in_front, worth + 0.05, 0)
    shared = greedy(worth.reshape(len(sources), -1), range(len(sources)), per_window, 1e-5 * cells)
    further = 5e-4 * cells
    return [greedy(worth[:, t], shared, per_view, 1e-5 * cells, further) for t in range(len(targets))], worth


def greedy(worth, among, most, least_gain, least_further=None):
    """The first adds more than ``least_gain``, the others more than ``least_further``."""
    least_further = least_gain if least_further is None else least_further
    best, taken = np.zeros(worth.shape[1]), []
    while len(taken) < most:
        gains = [np.maximum(worth[i] - best, 0).sum() if i not in taken else -1 for i in among]
        if not gains or max(gains) <= (least_further if taken else least_gain):
            break
        taken.append(list(among)[int(np.argmax(gains))])
        best = np.maximum(best, worth[taken[-1]])
    return taken
