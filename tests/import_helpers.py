"""Footage of a synthetic room, and how near an imported data set comes to it."""

import numpy as np
from PIL import Image

from mosaicmem import CameraIntrinsics, SyntheticWorld
from mosaicmem.media import save_mp4

CAMERA = CameraIntrinsics(260.0, 260.0, 160.0, 120.0, 320, 240)
WORLD = SyntheticWorld(3)
PATH = WORLD.leave_and_return(CAMERA, 120)[40:60]  # 2.9 m


def views(path=PATH, world=WORLD, camera=CAMERA):
    return [world.render(camera, pose) for pose in path]


def write_photos(folder, path=PATH, world=WORLD):
    folder.mkdir(parents=True)
    for i, view in enumerate(views(path, world)):
        Image.fromarray(view.image_uint8).save(folder / f"photo {i}.png")
    return folder


def write_depth(folder, path=PATH, world=WORLD):
    """16-bit millimetres."""
    folder.mkdir(parents=True)
    for i, view in enumerate(views(path, world)):
        Image.fromarray(np.rint(view.depth * 1000).astype(np.uint16)).save(folder / f"photo {i}.png")
    return folder


def write_video(file, path, worlds=(WORLD,), fps=30.0):
    save_mp4(file, np.stack([view.image_uint8 for world in worlds for view in views(path, world)]), fps)
    return file


def aligned(sequence, path=PATH):
    """The similarity that maps the sequence's positions to the true ones: scale, and the error of each in metres."""
    numbers = [sequence.number(i) for i in range(len(sequence))]
    truth = np.stack([path[n].position for n in numbers])
    found = np.stack([sequence.pose(i).position for i in range(len(sequence))])
    a, b = truth - truth.mean(axis=0), found - found.mean(axis=0)
    u, values, v = np.linalg.svd(a.T @ b)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    scale = np.trace(np.diag(values) @ flip) / (b**2).sum()
    return scale, np.linalg.norm(a - scale * b @ (u @ flip @ v).T, axis=1)


def depth_error(sequence, scale, path=PATH, world=WORLD):
    """Median relative error of depth, of the pixels that have some."""
    errors = []
    for i in range(0, len(sequence), 4):
        seen = sequence[i]
        truth = world.depth(sequence.intrinsics, path[sequence.number(i)])
        known = (seen.depth > 0) & (truth > 0)
        errors.append(np.abs(seen.depth[known] * scale / truth[known] - 1))
    return float(np.median(np.concatenate(errors)))


def at_stage(stage, step, error):
    """A ``track`` that raises ``error`` at a step of a stage."""

    def track(items, description, length):
        for i, item in enumerate(items):
            if description == stage and i == step:
                raise error
            yield item

    return track
