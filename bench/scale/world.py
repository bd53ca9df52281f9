"""One large world, from 10^4 to 10^8 patches: time and bytes against size.

    python bench/scale/world.py [--patches 1e4 1e5 1e6 1e7 1e8] [--channels 16] [--folder DIR]

Builds a store keyframe by keyframe in a building whose size grows with it, saving as it goes, so that latents and depth
lie on disk; then opens it in a new process, and asks and inserts there, on one thread. All of it runs for each size in
processes of their own.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import FILE, keep, quantiles  # first: it finds the modules beside this folder

from building import COLUMNS, PATCHES, ROWS, K, depth_of, random_pose
from mosaicmem import MosaicMemoryStore

A_ROOM = 25_000  # patches, so that memory is equally dense at all sizes
SAVED = 2**30  # bytes of keyframes between saves
QUERIES, INSERTS = 300, 300


def rooms_of(patches):
    return max(1, round((patches / A_ROOM) ** 0.5))


def own_memory():
    """Bytes of this process alone, without mapped files, which the system drops when it needs room."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def build(folder, patches, channels):
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(2, latent_dtype="float16", num_threads=1)
    latents = rng.standard_normal((ROWS, COLUMNS, channels), dtype=np.float32)
    every = max(1, SAVED // (ROWS * COLUMNS * (2 * channels + 4)))
    times, saving, most = [], 0.0, 0
    for i in range(-(-patches // PATCHES)):
        pose = random_pose(rng, float(i), rooms_of(patches))
        depth = depth_of(pose)
        begin = time.perf_counter()
        store.insert_keyframe(latents, depth, K, pose)
        times.append(1e3 * (time.perf_counter() - begin))
        if (i + 1) % every == 0:
            most = max(most, own_memory())
            begin = time.perf_counter()
            store.save(folder, release=True)
            saving += time.perf_counter() - begin
    begin = time.perf_counter()
    store.save(folder, release=True)
    saving += time.perf_counter() - begin
    seconds = sum(times) / 1e3
    return {"inserting, s": round(seconds, 2), "saving, s": round(saving, 2), "insert, ms": quantiles(times)} | {
        "own memory while building": max(most, own_memory())
    }


def use(folder, patches, channels):
    rng = np.random.default_rng(1)
    begin = time.perf_counter()
    store = MosaicMemoryStore.open(folder)
    seconds = time.perf_counter() - begin
    store.num_threads = 1
    rooms, now = rooms_of(patches), float(patches)
    latents, asked, inserted = rng.standard_normal((ROWS, COLUMNS, channels), dtype=np.float32), [], []
    opened = own_memory()
    for _ in range(QUERIES):
        pose = random_pose(rng, now, rooms)
        begin = time.perf_counter()
        store.retrieve(K, pose, top_k=64)
        asked.append(1e3 * (time.perf_counter() - begin))
    for i in range(INSERTS):
        pose = random_pose(rng, now + i, rooms)
        depth = depth_of(pose)
        begin = time.perf_counter()
        store.insert_keyframe(latents, depth, K, pose)
        inserted.append(1e3 * (time.perf_counter() - begin))
    return {"patches": len(store) - INSERTS * PATCHES, "open, s": round(seconds, 3), "own memory": opened} | {
        "top-64, ms": quantiles(asked),
        "insert into it, ms": quantiles(inserted),
    }


def measured(folder, patches, channels):
    """Of one size, in a process for each part."""
    figures = {}
    for part in ("build", "use"):
        command = [sys.executable, __file__, "--part", part, "--patches", str(patches)]
        command += ["--channels", str(channels), "--folder", str(folder)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        figures |= json.loads(run.stdout.splitlines()[-1])
    files = [path.stat().st_size for path in folder.iterdir()]
    return figures | {"on disk": sum(files)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patches", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="on the disk to write to")
    parser.add_argument("--part", choices=("build", "use"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps({"build": build, "use": use}[given.part](given.folder, int(given.patches[0]), given.channels)))
        return
    rows = []
    for patches in given.patches:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name, "store")
            rows.append(measured(folder, int(patches), given.channels))
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    keep("world", {"channels": given.channels, "rows": rows})
    draw(rows)


def draw(rows):
    """Time and bytes against size."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "world"  # the same figures give the same file
    figure, (time_axes, byte_axes) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    patches = [row["patches"] for row in rows]
    for name in ("insert, ms", "top-64, ms"):
        for quantile, style in (("p50", "-"), ("p99", "--")):
            values = [row[name][quantile] for row in rows]
            time_axes.loglog(patches, values, style, marker="o", label=f"{name.removesuffix(', ms')}, {quantile}")
    time_axes.loglog(patches, [1e3 * row["open, s"] for row in rows], marker="o", label="open")
    time_axes.set_ylabel("ms")
    for name in ("on disk", "own memory while building", "own memory"):
        byte_axes.loglog(patches, [row[name] for row in rows], marker="o", label=name)
    byte_axes.set_ylabel("bytes")
    for axes in (time_axes, byte_axes):
        axes.set_xlabel("patches")
        axes.grid(True, which="major", alpha=0.3)
        axes.legend()
    figure.savefig(FILE.with_name("world.svg"), metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
