"""Builds of many sequences: sequences an hour, and how that scales from one process to two.

    python bench/scale/build.py [--sequences 24] [--frames 98] [--folder DIR]

Sequences are rooms of the synthetic world at 640x352, written as PNG files, and encoded by the synthetic VAE, which
costs little: what is measured is everything around a real one.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import keep  # first: it finds the modules beside this folder
from PIL import Image

from mosaicmem import CameraIntrinsics, SyntheticWorld
from mosaicmem.scale import BuildConfig, build

K = CameraIntrinsics.from_fov(640, 352, fov_x=1.2)
CONFIG = BuildConfig(window=17, dtype="float16", top_k=256, remembered="around", gap=4)


def write_sequence(folder, seed, frames):
    """In the layout of 7-Scenes."""
    folder.mkdir(parents=True)
    world = SyntheticWorld(seed)
    np.savetxt(folder / "camera-intrinsics.txt", K.matrix)
    for i, pose in enumerate(world.leave_and_return(K, frames)):
        view, name = world.render(K, pose), f"frame-{i:06d}"
        Image.fromarray(view.image_uint8).save(folder / f"{name}.color.png", compress_level=1)
        Image.fromarray(np.rint(view.depth * 1000).astype(np.uint16)).save(folder / f"{name}.depth.png")
        np.savetxt(folder / f"{name}.pose.txt", pose.world_from_camera)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--frames", type=int, default=98)
    parser.add_argument("--folder", help="on the disk to write to")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder, rows = Path(name), []
        sources = [folder / "scenes" / f"{i:03d}" for i in range(given.sequences)]
        for seed, source in enumerate(sources):
            write_sequence(source, seed, given.frames)
        for workers in (1, 2, 1, 2):
            shutil.rmtree(folder / "out", ignore_errors=True)
            began = time.perf_counter()
            report = build(sources, folder / "out", CONFIG, workers=workers)
            seconds = time.perf_counter() - began
            assert not report.failed
            rows.append((workers, seconds))
        best = {workers: min(seconds for other, seconds in rows if other == workers) for workers in (1, 2)}
        hourly = {f"sequences an hour, {n} processes": round(3600 * given.sequences / s) for n, s in best.items()}
        figures = {"sequences": given.sequences, "frames": given.frames, "size": [K.width, K.height]}
        figures |= {"samples": report.samples, "nbytes": report.nbytes, "seconds": [round(s, 2) for _, s in rows]}
        keep("build", {**figures, **hourly, "two processes to one": round(best[1] / best[2], 2)})


if __name__ == "__main__":
    main()
