"""Whole calls of generate, at small sizes and at that of real frames; and memory at the size of a real model."""

import math

import pytest
from threadpoolctl import threadpool_limits

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraTrajectory,
    PipelineConfig,
    SyntheticWorld,
)
from mosaicmem.evaluation.throughput import measure_memory

STAGES = ("retrieve", "denoise", "decode", "remember")


def stages_of(windows):
    return {f"{stage}_ms": round(1000 * sum(w.seconds[stage] for w in windows), 1) for stage in STAGES}


@pytest.mark.parametrize(
    ("size", "frames", "steps", "wanted"), [(64, 32, 5, 0.05), (128, 32, 5, 0.2), (256, 16, 50, 0.8)]
)
@pytest.mark.parametrize("fusion", [None, 0.05], ids=["without a fused map", "with one"])
def test_mosaicmem(benchmark, size, frames, steps, wanted, fusion):
    """The pipeline's own synthetic parts, after observing four frames of a synthetic world."""
    benchmark.extra_info["fused map"] = "none" if fusion is None else f"of {fusion} m"
    benchmark.group = f"generate {frames} frames {size}x{size}, {steps} steps, one thread (wanted: {wanted} s)"
    world = SyntheticWorld(0)
    camera = CameraIntrinsics.from_fov(size, size, fov_x=math.radians(75))
    path = world.leave_and_return(camera, frames)
    views = [world.render(camera, pose) for pose in path[:4]]

    def prepare():
        config = PipelineConfig(num_threads=1, num_inference_steps=steps, fusion_voxel_size=fusion)
        pipeline = AutoregressivePipeline(config)
        for view, pose in zip(views, path, strict=False):
            pipeline.observe(view.image, view.depth, camera, pose)
        return (pipeline,), {}

    with threadpool_limits(1):  # NumPy's own threads
        result = benchmark.pedantic(lambda pipeline: pipeline.generate(path), setup=prepare, rounds=7, warmup_rounds=1)
    assert result.frames.shape == (frames, size, size, 3)
    assert result.windows[0].coverage > 0.2
    benchmark.extra_info.update(stages_of(result.windows))


@pytest.mark.benchmark(
    group="memory for 21 latents at 1280x704, all threads (a step of a 5-billion-parameter model: 1 s)"
)
def test_memory(benchmark):
    """Memory's work for one window with one keyframe: insert, select and compose keyframes, retrieve patches."""
    result = benchmark.pedantic(lambda: measure_memory(PipelineConfig(), (1280, 704), repeats=5), rounds=1)
    for name, seconds in result.parts.items():
        benchmark.extra_info[f"{name}, ms"] = round(1000 * seconds, 2)
    benchmark.extra_info["together, part of a step of 1 s"] = f"{100 * result.seconds:.1f} %"


@pytest.mark.benchmark(group="generate 10 frames 640x480 from a memory of 8 keyframes")
def test_generate(benchmark, rgbd_frames):
    def prepare():
        pipeline = AutoregressivePipeline(PipelineConfig())
        for depth, color, intrinsics, pose in rgbd_frames[::4]:
            pipeline.observe(color, depth, intrinsics, pose)
        poses = [pose for _, _, _, pose in rgbd_frames[1:31:3]]
        return (pipeline, CameraTrajectory(poses, rgbd_frames[0][2])), {}

    result = benchmark.pedantic(lambda pipeline, path: pipeline.generate(path), setup=prepare, rounds=3)
    benchmark.extra_info.update(stages_of(result.windows))
