"""A world in tiles, of which few are open: time of top-64, and what is opened, on a walk through it.

    python bench/scale/tiles.py [--patches 1e7] [--open 2e6] [--folder DIR]

The camera walks through the rooms of a building, and looks around; one store with everything is asked beside it, and
must answer the same.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import keep, quantiles  # first: it finds the modules beside this folder
from world import rooms_of

from building import COLUMNS, PATCHES, ROOM, ROWS, K, depth_of, random_pose
from mosaicmem import CameraPose, MosaicMemoryStore
from mosaicmem.memory.tiles import TiledStore

CHANNELS, STEPS = 4, 600


def walk(rooms, steps):
    """Poses along a corridor through the middle of the building, at walking pace, turning slowly."""
    for i in range(steps):
        along = ROOM[0] * (0.5 + (rooms - 1) * i / steps)
        eye, yaw = np.array([along, 1.5, ROOM[2] * (rooms // 2 + 0.5)]), 0.05 * i
        yield CameraPose.look_at(eye, eye + np.array([np.cos(yaw), 0.0, np.sin(yaw)]), timestamp=1e9 + i)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patches", type=float, default=1e7)
    parser.add_argument("--open", type=float, default=2e6)
    parser.add_argument("--folder", help="on the disk to write to")
    given = parser.parse_args()
    rng, rooms = np.random.default_rng(0), rooms_of(given.patches)
    latents = rng.standard_normal((ROWS, COLUMNS, CHANNELS), dtype=np.float32)
    whole = MosaicMemoryStore(2, latent_dtype="float16", num_threads=1)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        begin = time.perf_counter()
        tiled = TiledStore(Path(name), tile_size=2 * ROOM[0], open_patches=int(given.open), num_threads=1)
        poses = [random_pose(rng, float(i), rooms) for i in range(-(-int(given.patches) // PATCHES))]
        poses.sort(key=lambda pose: tuple(np.floor(pose.position / tiled.tile_size)))  # tile by tile, as a drone flies
        for number, pose in enumerate(poses):
            depth = depth_of(pose)
            tiled.insert_keyframe(latents, depth, K, pose, frame_id=number)
            whole.insert_keyframe(latents, depth, K, pose, frame_id=number)
        tiled.save()
        tiled.close()
        building = time.perf_counter() - begin
        tiled = TiledStore(Path(name), open_patches=int(given.open), num_threads=1)
        times, alone = [], []
        for pose in walk(rooms, STEPS):
            begin = time.perf_counter()
            found = tiled.retrieve(K, pose, top_k=64)
            times.append(1e3 * (time.perf_counter() - begin))
            begin = time.perf_counter()
            expected = whole.retrieve(K, pose, top_k=64)
            alone.append(1e3 * (time.perf_counter() - begin))
            np.testing.assert_array_equal(found.scores, expected.scores)
        stats = tiled.statistics()
        figures = {
            "patches": len(whole),
            "tiles": stats.tiles,
            "opened": stats.opened,
            "building, s": round(building, 1),
        }
        figures |= {"most open patches": int(given.open)}
        keep("tiles", {**figures, "steps": STEPS, "top-64, ms": quantiles(times), "of one store, ms": quantiles(alone)})


if __name__ == "__main__":
    main()
