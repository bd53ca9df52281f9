"""What `mosaicmem import` makes of the colour frames of a real sequence alone, beside its given poses and depth.

    python bench/import_footage.py [--scene FOLDER] [--every N]

Colour is imported without anything else (structure from motion, depth interpolated between its points), then with the
sequence's depth files, then depth is made for the given poses. Poses are compared with the given ones after the best
similarity (ATE: the root mean square of the distances). PSNR and coverage are those of `mosaicmem evaluate`: memory of
the even frames, seen by the odd ones. Last, a hand-sized disc is pasted into some frames, near the camera, and what
memory shows of it to the other frames is counted, with and without ``moving_by_depth``.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mosaicmem.datasets import open_sequence
from mosaicmem.evaluation import Composer, evaluate_composition, grid_frames
from mosaicmem.evaluation.frames import cropped
from mosaicmem.importing import ImportOptions, import_footage

STRIDE = 16
DISC = (0.15, 0.45)  # radius as a part of the width, depth in metres
VISIT = 0.12  # fraction of the frames that show it
GREEN = (20, 220, 40)  # no such colour is in the scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("MOSAICMEM_TEST_DATA", "")
    parser.add_argument("--scene", type=Path, default=Path(data) / "rgbd_scene")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    given = open_sequence(arguments.scene)
    frames = range(0, len(given), arguments.every)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_frames(given, frames, work)
        compare(given, frames, work)
        intruder(given, frames, work)


def write_frames(given, frames, work):
    """The colour images as they are stored, and depth in millimetres, under the same names."""
    for name in ("color", "depth"):
        (work / name).mkdir()
    for i in frames:
        seen = given[i]
        Image.fromarray(seen.image).save(work / "color" / f"{i:06d}.png")
        Image.fromarray(np.rint(seen.depth * 1000).astype(np.uint16)).save(work / "depth" / f"{i:06d}.png")
    given.trajectory(frames).save(work / "path.json")


def compare(given, frames, work):
    ways = {
        "colour alone": ImportOptions(max_frames=10_000),
        "colour and depth": ImportOptions(max_frames=10_000, depth=work / "depth"),
        "colour and poses": ImportOptions(max_frames=10_000, trajectory=work / "path.json"),
    }
    print(f"{'':20}{'frames':>8}{'px':>6}{'ATE cm':>8}{'deg':>6}{'PSNR dB':>9}{'cover %':>9}{'f px':>7}{'s':>6}")
    row("given", len(frames), np.nan, (0.0, 0.0), score(given, frames), given.intrinsics.fx, np.nan)
    for name, options in ways.items():
        start = time.perf_counter()
        report = import_footage(work / "color", work / "made" / name, options)
        seconds = time.perf_counter() - start
        made = open_sequence(work / "made" / name)
        error = report.reprojection_error or np.nan
        row(
            name,
            len(made),
            error,
            errors(given, frames, made),
            score(made, range(len(made))),
            made.intrinsics.fx,
            seconds,
        )
        print(f"{'':4}{report.poses}; {report.unit}, by {report.scale}; depth: {report.depth}")


def row(name, count, error, poses, result, focal, seconds):
    ate, degrees = poses
    psnr, cover = float(np.mean(result.psnr)), 100 * float(np.mean(result.coverage))
    figures = f"{error:6.2f}{100 * ate:8.2f}{degrees:6.2f}{psnr:9.2f}{cover:9.1f}{focal:7.1f}{seconds:6.0f}"
    print(f"{name:20}{count:8}{figures}", flush=True)


def errors(given, frames, made):
    """ATE in metres after the best similarity, and the median angle between rotations after the best one, degrees."""
    chosen = [frames[made.number(i)] for i in range(len(made))]
    truth = np.stack([given.pose(i).world_from_camera for i in chosen])
    found = np.stack([made.pose(i).world_from_camera for i in range(len(made))])
    a, b = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0) for poses in (truth, found))
    u, values, v = np.linalg.svd(a.T @ b)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    turn, scale = u @ flip @ v, np.trace(np.diag(values) @ flip) / (b**2).sum()
    apart = np.linalg.norm(a - scale * b @ turn.T, axis=1)
    u, _, v = np.linalg.svd((truth[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1)).sum(axis=0))
    mean = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    relative = truth[:, :3, :3].transpose(0, 2, 1) @ mean @ found[:, :3, :3]
    cosine = np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return float(np.sqrt(np.mean(apart**2))), float(np.degrees(np.median(np.arccos(cosine))))


def score(sequence, frames):
    camera = cropped(sequence.intrinsics, STRIDE)
    memory = grid_frames(sequence, frames[::2], STRIDE)
    targets = grid_frames(sequence, frames[1::2], STRIDE)
    return evaluate_composition(Composer(memory, camera, STRIDE), targets, camera, repeats=1)


def intruder(given, frames, work):
    """How much of a disc that some frames show near the camera memory shows to the frames that do not."""
    from mosaicmem.camera import CameraTrajectory

    scene = work / "scene"
    scene.mkdir()
    height, width = given.intrinsics.height, given.intrinsics.width
    v, u = np.indices((height, width))
    visited = set(frames[len(frames) // 3 : len(frames) // 3 + max(2, round(VISIT * len(frames)))])
    np.savetxt(scene / "camera-intrinsics.txt", given.intrinsics.matrix)
    for n, i in enumerate(frames):
        seen = given[i]
        if i in visited:
            x = width * (0.3 + 0.4 * np.sin(n) ** 2)
            disc = (u - x) ** 2 + (v - height * 0.65) ** 2 < (DISC[0] * width) ** 2
            seen.image[disc], seen.depth[disc] = GREEN, DISC[1]
        Image.fromarray(seen.image).save(scene / f"frame-{i:06d}.color.png")
        Image.fromarray(np.rint(seen.depth * 1000).astype(np.uint16)).save(scene / f"frame-{i:06d}.depth.png")
        np.savetxt(scene / f"frame-{i:06d}.pose.txt", seen.pose.world_from_camera)
    print(f"\n{'what moves':20}{'masked %':>9}{'cells that float':>18}")
    for name, by_depth in (("remembered", False), ("by depth", True)):
        options = ImportOptions(moving_by_depth=by_depth, max_frames=10_000)
        report = import_footage(scene, work / "moving" / name, options)
        made = open_sequence(work / "moving" / name)
        camera = cropped(made.intrinsics, STRIDE)
        memory = grid_frames(made, range(len(made)), STRIDE)
        others = [n for n, i in enumerate(frames) if i not in visited][::3]
        shown = Composer(memory, camera, STRIDE)(CameraTrajectory([made.pose(n) for n in others], camera))
        green = np.abs(np.asarray(shown.colors) - np.array(GREEN) / 255).max(axis=-1) < 0.2
        print(f"{name:20}{100 * report.moving:9.2f}{int((green & np.asarray(shown.coverage)).sum()):18}")


if __name__ == "__main__":
    main()
