"""Generates a walk that leaves a room and comes back, with a prompt that changes and a run that is interrupted.

Shows the whole loop with synthetic parts: observed frames are remembered, windows are streamed as they are done, the
prompt changes midway, and an interrupted run resumes from its checkpoint. Takes a few seconds on two cores.

    pip install . && python examples/come_back.py --output come-back
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    PipelineConfig,
    SyntheticDepthEstimator,
    SyntheticWorld,
)
from mosaicmem.media import save_mp4
from mosaicmem.metrics import psnr


def begin(world, camera, path):
    """A pipeline that has observed the first views."""
    config = PipelineConfig(prompt="a flat by day", events=[{"window": 2, "prompt": "a flat at night"}])
    pipeline = AutoregressivePipeline(config, depth_estimator=SyntheticDepthEstimator(world))
    for pose in path[:10:2]:
        view = world.render(camera, pose)
        pipeline.observe(view.image, view.depth, camera, pose)
    return pipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("come-back"))
    parser.add_argument("--frames", type=int, default=48)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    world = SyntheticWorld()
    camera = CameraIntrinsics.from_fov(320, 192, fov_x=np.radians(75))
    path = world.leave_and_return(camera, arguments.frames)

    with tempfile.TemporaryDirectory() as checkpoint:
        # Two windows, then the run is interrupted.
        for window in islice(begin(world, camera, path).stream(path, checkpoint=checkpoint), 2):
            print(f"window {window.statistics.window}: {100 * window.statistics.coverage:.0f} % known")
        # The same call again reads those two from the checkpoint and generates the others.
        frames = []
        for window in begin(world, camera, path).stream(path, checkpoint=checkpoint):
            print(f"window {window.statistics.window}: {window.context.prompt}")
            frames.append(window.final_video)
    video = np.concatenate(frames)

    save_mp4(arguments.output / "video.mp4", video)
    truth = world.render(camera, path[-1]).image
    print(f"the last view is the first again: {psnr(video[-1], truth):.1f} dB; {arguments.output / 'video.mp4'}")


if __name__ == "__main__":
    main()
