"""Draws docs/overview.png: what mosaicmem does, from a run of its own.

pip install '.[plot]' && python docs/overview.py
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    PipelineConfig,
    SyntheticDepthEstimator,
    SyntheticWorld,
)
from mosaicmem.memory.contents import observed_keyframes

CAMERA = CameraIntrinsics.from_fov(320, 192, fov_x=np.radians(75))
OBSERVED, SHOWN, TARGET = range(0, 24, 2), (0, 6, 12, 20), 60


def show(axes, image, title):
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def main():
    world = SyntheticWorld()
    path = world.leave_and_return(CAMERA, 64)
    config = PipelineConfig(prompt="a flat with pictures on the walls")
    pipeline = AutoregressivePipeline(config, depth_estimator=SyntheticDepthEstimator(world))
    views = {i: world.render(CAMERA, path[i]) for i in OBSERVED}
    for i, view in views.items():
        pipeline.observe(view.image, view.depth, CAMERA, path[i])
    keyframes = list(observed_keyframes(pipeline.store))
    context = pipeline.align(path[TARGET : TARGET + 1])
    canvas = pipeline.vae.decode_image(context.canvas[0])
    seen = np.kron(context.coverage[0], np.ones((8, 8), bool))[..., None]
    without = pipeline.varied(use_memory=False).generate(path)
    with_memory = pipeline.generate(path)

    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1.25, 1.75])
    left.suptitle("1. what was seen", weight="bold")
    for axes, i in zip(left.subplots(4, 1), SHOWN, strict=True):
        show(axes, views[i].image, f"frame {i}, with depth and camera")

    middle.suptitle("2. patches of latents, in 3D", weight="bold")
    axes = middle.subplots()
    for keyframe in keyframes:
        colors = pipeline.vae.decode_image(keyframe.latents)
        rows, columns, _ = keyframe.latents.shape
        cells = colors.reshape(rows, 8, columns, 8, 3).mean(axis=(1, 3))[keyframe.depth > 0]
        points = keyframe.points
        axes.scatter(points[:, 0], points[:, 2], c=cells, s=9, linewidths=0)
    centres = path.world_from_camera[:, :3, 3]
    axes.plot(centres[:, 0], centres[:, 2], color="#888888", linewidth=1)
    for index, color in [*((i, "#333333") for i in OBSERVED), (TARGET, "#d62728")]:
        matrix = path[index].world_from_camera
        wedge = np.array([[0, 0, 0], [-0.77, 0, 1], [0.77, 0, 1], [0, 0, 0]]) * 0.45 @ matrix[:3, :3].T + matrix[:3, 3]
        axes.plot(wedge[:, 0], wedge[:, 2], color=color, linewidth=1.6)
    axes.set_aspect("equal")
    axes.set_title("from above; red: a camera that comes back", fontsize=10)
    axes.axis("off")

    right.suptitle("3. aligned to a new camera, handed to the model", weight="bold")
    (known, generated), (forgotten, truth) = right.subplots(2, 2)
    show(known, np.where(seen, canvas, 1), f"what memory shows: {100 * context.coverage.mean():.0f} %")
    show(generated, with_memory.frames[TARGET], "generated with memory")
    show(forgotten, without.frames[TARGET], "generated without")
    show(truth, world.render(CAMERA, path[TARGET]).image, "the true view")
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
