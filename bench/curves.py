"""Draws time against size beside peers: measured/*.svg, which BENCHMARKS.md shows. One thread; takes some minutes.

python bench/curves.py && python bench/report.py
"""

import datetime
import json
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from building import COLUMNS, PATCHES, ROWS, K, depth_of, random_pose
from conftest import QUICK, peer_or_none
from machines import this_machine
from mosaicmem import CameraPose, CameraTrajectory, KeyframeRetrieval, MosaicMemoryStore
from report import MEASURED

SIZES = [10_000, 30_000] if QUICK else [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
KEYFRAMES = [10, 30] if QUICK else [10, 30, 100, 300, 1000, 3000]
STRIDE = K.width // COLUMNS


def median_ms(function, rounds):
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def frames(count, rooms=20, channels=4, seed=0):
    rng = np.random.default_rng(seed)
    latents = np.zeros((ROWS, COLUMNS, channels), np.float32)
    for i in range(count):
        pose = random_pose(rng, float(i), rooms)
        yield latents, depth_of(pose), K, pose


def store_of(count, **options):
    store = MosaicMemoryStore(2, num_threads=1)
    for frame in frames(count, **options):
        store.insert_keyframe(*frame, copy=False)
    return store


def retrieval():
    """Top-64 of one view, against a scan of all patches in torch."""
    found = {"mosaicmem": [], "torch, a scan": []}
    torch = peer_or_none("torch")
    for size in SIZES:
        store = store_of(size // PATCHES)
        poses = [frame[3] for frame in frames(40, seed=1)]
        views = iter(poses * 10)
        found["mosaicmem"].append(median_ms(lambda s=store, v=views: s.retrieve(K, next(v), top_k=64), 100))
        if torch is None:
            continue
        torch.set_num_threads(1)
        centres = torch.from_numpy(store.describe_patches(store.patch_ids)["centre"].astype(np.float32))
        matrix = torch.from_numpy(poses[0].camera_from_world.astype(np.float32))
        found["torch, a scan"].append(median_ms(lambda c=centres, m=matrix: scan(torch, c, m), 5))
    return SIZES, found, "patches", "top-64 of a view, ms"


def scan(torch, centres, matrix):
    points = centres @ matrix[:3, :3].T + matrix[:3, 3]
    z = points[:, 2]
    u, v = K.fx * points[:, 0] / z + K.cx, K.fy * points[:, 1] / z + K.cy
    seen = (z > 0.05) & (u >= 0) & (u < K.width) & (v >= 0) & (v < K.height)
    far = torch.sqrt(((u - K.cx) / K.width) ** 2 + ((v - K.cy) / K.height) ** 2)
    score = torch.where(seen, torch.clamp(1 - far, min=0) / (1 + 0.1 * z), 0)
    return torch.topk(score, min(64, len(score)))


def insertion():
    """One more keyframe, in the mean over the last tenth, against building SciPy's tree anew."""
    found = {"mosaicmem": [], "scipy, built anew": []}
    scipy = peer_or_none("scipy.spatial")
    for size in SIZES:
        store, times = MosaicMemoryStore(2, num_threads=1), []
        for frame in frames(size // PATCHES):
            began = time.perf_counter()
            store.insert_keyframe(*frame, copy=False)
            times.append(time.perf_counter() - began)
        found["mosaicmem"].append(1e3 * statistics.mean(times[-max(1, len(times) // 2) :]))
        if scipy is not None:
            centres = store.describe_patches(store.patch_ids)["centre"]
            found["scipy, built anew"].append(median_ms(lambda c=centres: scipy.cKDTree(c), 1 if size > 10**6 else 3))
    return SIZES, found, "patches", "one more keyframe, ms"


def composing():
    """Choosing keyframes and composing a canvas of 44x80x16 for one view, against pixels of the five nearest frames."""
    found = {"mosaicmem": [], "numpy, 5 nearest frames": []}
    for count in KEYFRAMES:
        store = store_of(count, rooms=1, channels=16)
        views = [frame[3] for frame in frames(21, rooms=1, seed=1)]
        target = CameraTrajectory([CameraPose(view.world_from_camera, 1e4) for view in views], K)
        compose = KeyframeRetrieval()
        whole = median_ms(lambda s=store, t=target, c=compose: c.retrieve(s, t, STRIDE), 5)
        found["mosaicmem"].append(whole / len(views))
        held = list(frames(count, rooms=1, channels=16))
        found["numpy, 5 nearest frames"].append(median_ms(lambda held=held, view=views[0]: warp(held, view), 5))
    return KEYFRAMES, found, "keyframes", "a canvas of 44x80x16, ms"


def warp(held, view):
    """Cells of the nearest frames by a z-buffer, without weights."""
    grid = K.latent_grid(STRIDE)
    distance = [np.linalg.norm(pose.position - view.position) for *_, pose in held]
    rows, columns = np.mgrid[:ROWS, :COLUMNS].reshape(2, -1)
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=1)
    front, canvas = np.full(len(rows), np.inf), np.zeros((len(rows), 16), np.float32)
    for i in np.argsort(distance)[:5]:
        latents, depth, _, pose = held[i]
        matrix = view.camera_from_world @ pose.world_from_camera
        points = grid.unproject(pixels, depth.ravel()) @ matrix[:3, :3].T + matrix[:3, 3]
        z = points[:, 2]
        safe = np.where(z > 0.05, z, 1)
        u, v = (np.floor(f * points[:, k] / safe + c) for k, f, c in ((0, grid.fx, grid.cx), (1, grid.fy, grid.cy)))
        seen = (z > 0.05) & (u >= 0) & (u < COLUMNS) & (v >= 0) & (v < ROWS)
        cell = (v[seen] * COLUMNS + u[seen]).astype(int)
        order = np.argsort(-z[seen], kind="stable")
        closer = z[seen][order] < front[cell[order]]
        front[cell[order][closer]] = z[seen][order][closer]
        canvas[cell[order][closer]] = latents.reshape(-1, 16)[seen][order][closer]
    return canvas


def draw(name, sizes, found, across, up):
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for label, values in found.items():
        if values:
            axes.loglog(sizes, values, marker="o", label=label)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(MEASURED / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main():
    measured = {"date": datetime.date.today().isoformat(), "machine": this_machine()}
    for name, measure in (("retrieval", retrieval), ("insertion", insertion), ("composing", composing)):
        sizes, found, across, up = measure()
        measured[name] = {"sizes": sizes, "milliseconds": found}
        draw(name, sizes, found, across, up)
        print(name, sizes, {label: [round(x, 3) for x in values] for label, values in found.items()}, flush=True)
    (MEASURED / "curves.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
