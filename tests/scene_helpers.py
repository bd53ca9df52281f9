"""Scenes for tests: a posed RGB-D sequence on disk, and a pipeline that has seen a synthetic world."""

import numpy as np
from PIL import Image

from mosaicmem import AutoregressivePipeline, SyntheticDepthEstimator


def write_scene(folder, world, path):
    folder.mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", path.intrinsics.matrix)
    for i, pose in enumerate(path):
        view = world.render(path.intrinsics, pose)
        name = f"frame-{4 * i:06d}"
        Image.fromarray(view.image_uint8).save(folder / f"{name}.color.png")
        Image.fromarray(np.rint(view.depth * 1000).astype(np.uint16)).save(folder / f"{name}.depth.png")
        np.savetxt(folder / f"{name}.pose.txt", pose.world_from_camera)
    return folder


def observed(world, config, path, frames):
    pipeline = AutoregressivePipeline(config, depth_estimator=SyntheticDepthEstimator(world))
    for i in frames:
        view = world.render(path.intrinsics, path[i])
        pipeline.observe(view.image, view.depth, path.intrinsics, path[i])
    return pipeline
