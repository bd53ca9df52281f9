"""How fast a store of a million patches is saved, beside what the disk writes in the same run.

    python bench/scale/saving.py [--channels 16 48] [--folder DIR]

The disk: as many bytes in files of 64 MB, each written by parts of 1 MB and synced.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import keep  # first: it finds the modules beside this folder

from building import COLUMNS, PATCHES, ROWS, K, depth_of, random_pose
from mosaicmem import MosaicMemoryStore

REPEATS, FILE, CHUNK = 5, 64 << 20, 1 << 20


def filled(channels):
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(2)
    for i in range(-(-(10**6) // PATCHES)):
        pose = random_pose(rng, float(i))
        store.insert_keyframe(rng.standard_normal((ROWS, COLUMNS, channels), dtype=np.float32), depth_of(pose), K, pose)
    return store


def saved(store, folder):
    """Seconds and bytes."""
    begin = time.perf_counter()
    copy = store.fork()
    copy.save(folder / "store")
    seconds = time.perf_counter() - begin
    copy.close()
    return seconds, sum(path.stat().st_size for path in (folder / "store").iterdir())


def written(nbytes, folder):
    content = memoryview(np.random.default_rng(1).integers(0, 255, FILE, dtype=np.uint8).tobytes())
    begin = time.perf_counter()
    for number, rest in enumerate(range(nbytes, 0, -FILE)):
        with open(folder / f"raw{number}", "wb") as file:
            for at in range(0, min(rest, FILE), CHUNK):
                file.write(content[at : min(at + CHUNK, rest)])
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--folder", help="on the disk to write to")
    given = parser.parse_args()
    rows = []
    for channels in given.channels:
        store, own, disk = filled(channels), [], []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory(dir=given.folder) as name:
                seconds, nbytes = saved(store, Path(name))
                own.append(nbytes / seconds)
                disk.append(nbytes / written(nbytes, Path(name)))
        rates = {"saved, bytes a second": float(np.median(own)), "written, bytes a second": float(np.median(disk))}
        rows.append({"patches": len(store), "channels": channels, "nbytes": nbytes, **rates})
    keep("saving", {"rows": rows})


if __name__ == "__main__":
    main()
