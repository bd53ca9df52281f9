"""Remembers a few views of a synthetic flat, moves its table, and draws what memory holds before and after.

pip install '.[plot]' && python examples/draw_a_memory.py --output drawings
"""

import argparse
from pathlib import Path

import numpy as np

from mosaicmem import (
    CameraIntrinsics,
    KeyframeRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    SyntheticVAE,
    SyntheticWorld,
    depth_to_grid,
)
from mosaicmem.memory import Box
from mosaicmem.plots import plot_coverage, plot_retrieved, plot_top_down

TABLE = Box([-3.45, -1.1, -1.45], [-2.55, -0.02, -0.35])  # with the objects on it


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("drawings"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)

    world, vae = SyntheticWorld(), SyntheticVAE()
    camera = CameraIntrinsics.from_fov(320, 192, fov_x=np.radians(75))
    path = world.leave_and_return(camera, 64)
    store = MosaicMemoryStore()
    for pose in path[:24:3]:
        view = world.render(camera, pose)
        store.insert_keyframe(vae.encode_image(view.image), depth_to_grid(view.depth, vae.stride), camera, pose)

    plot_top_down(store, path).savefig(folder / "from-above.png")
    composed = KeyframeRetrieval().retrieve(store, path, vae.stride)
    plot_coverage(composed.coverage, np.array([pose.timestamp for pose in path])).savefig(folder / "coverage.png")
    plot_retrieved(store, path, 60, vae.stride).savefig(folder / "view.png")

    edited = store.fork()  # shares tensors; the store stays unchanged
    moved = SpatialManipulation(edited).translate([0.0, 0.0, 0.9], TABLE)
    plot_retrieved(edited, path, 60, vae.stride).savefig(folder / "view-with-the-table-moved.png")
    print(f"{moved} patches of the table moved; four pictures in {folder}")


if __name__ == "__main__":
    main()
