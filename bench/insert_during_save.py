"""How long insert_keyframe takes while another thread saves a large store.

    python bench/insert_during_save.py [--gigabytes 1] [--folder DIR]

The target is 20 ms for 99 of 100 calls, because at 25 frames per second a keyframe comes every 40 ms. Also prints the
times without a concurrent save, as the machine's baseline.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore

K = CameraIntrinsics.from_fov(832, 480, fov_x=np.radians(70))
SHAPE = (60, 104, 16)  # latents of 832x480 pixels


def keyframe(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal(SHAPE, dtype=np.float32), rng.uniform(1, 4, SHAPE[:2]).astype(np.float32)


def insert(store: MosaicMemoryStore, rng: np.random.Generator, number: int) -> float:
    """Inserts a keyframe; returns the milliseconds that the call took."""
    latents, depth = keyframe(rng)
    pose = CameraPose.look_at(rng.uniform(-1, 1, 3), [0, 0, 5], timestamp=float(number))
    begin = time.perf_counter()
    store.insert_keyframe(latents, depth, K, pose)
    return 1e3 * (time.perf_counter() - begin)


def summary(milliseconds: list[float]) -> str:
    p50, p99, most = np.percentile(milliseconds, [50, 99, 100])
    return f"{len(milliseconds):5d} inserts, median {p50:6.2f} ms, p99 {p99:6.2f} ms, longest {most:6.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="on the disk to write to; default: that of temporary files")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(num_threads=1)
    count = int(arguments.gigabytes * 1e9 / (4 * SHAPE[0] * SHAPE[1] * (SHAPE[2] + 1)))
    for number in range(count):
        insert(store, rng, number)
    print(f"{len(store)} patches of {count} keyframes; inserting one keyframe every 40 ms, on one thread")

    alone = []
    for number in range(100):
        alone.append(insert(store, rng, count + number))
        time.sleep(0.04)
    print("alone:         ", summary(alone))

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        saving = threading.Thread(target=store.save, args=(Path(folder) / "store",))
        beside, begin = [], time.perf_counter()
        saving.start()
        while saving.is_alive():
            beside.append(insert(store, rng, count + 100 + len(beside)))
            time.sleep(0.01)  # faster than the frame rate, for more samples
        seconds = time.perf_counter() - begin
        nbytes = sum(path.stat().st_size for path in (Path(folder) / "store").iterdir())
    print("during a save: ", summary(beside))
    print(f"saved {nbytes / 1e9:.2f} GB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
