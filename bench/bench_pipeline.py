"""One run through all stages: 10 generated views of 640x480 from a memory of 8 keyframes."""

import pytest

from mosaicmem import AutoregressivePipeline, CameraTrajectory, PipelineConfig


@pytest.mark.benchmark(group="generate 10 frames 640x480")
def test_generate(benchmark, rgbd_frames):
    def prepare():
        pipeline = AutoregressivePipeline(PipelineConfig())
        for depth, color, intrinsics, pose in rgbd_frames[::4]:
            pipeline.observe(color, depth, intrinsics, pose)
        poses = [pose for _, _, _, pose in rgbd_frames[1:31:3]]
        return (pipeline, CameraTrajectory(poses, rgbd_frames[0][2])), {}

    result = benchmark.pedantic(lambda pipeline, path: pipeline.generate(path), setup=prepare, rounds=3)
    for stage in ("retrieve", "denoise", "decode", "remember"):
        benchmark.extra_info[f"{stage}_ms"] = round(1000 * sum(w.seconds[stage] for w in result.windows))
