"""The main job on real input."""

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, PipelineConfig, StreamingFusion
from mosaicmem.datasets import SevenScenes, open_sequence
from mosaicmem.evaluation import compare_memory, mean_score


def test_memory_of_sixty_frames_helps_the_next_views(rgbd_scene):
    sequence = open_sequence(rgbd_scene, color_focal="estimate")
    pipeline = AutoregressivePipeline(PipelineConfig(half_life=2.0, min_visibility=0.0))
    for i in range(0, 60, 2):
        seen = sequence[i]
        pipeline.observe(seen.image, seen.depth, sequence.intrinsics, seen.pose)
    targets = [60, 64, 68]
    truth = {n: sequence[i].image.astype(np.float32) / 255 for n, i in enumerate(targets)}
    scores = compare_memory(pipeline, sequence.trajectory(targets), truth).scores
    assert scores[0].coverage > 0.9
    assert scores[0].psnr_mosaic > 18
    assert mean_score(scores, "psnr_with_memory") > mean_score(scores, "psnr_without_memory") + 5


def test_fusion_of_real_frames(rgbd_scene):
    sequence = SevenScenes(rgbd_scene)
    fusion = StreamingFusion(0.05)
    for i in range(0, 32, 8):
        seen = sequence[i]
        counts = fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image)
        assert counts.points == (seen.depth > 0).sum()
        assert counts.out_of_range == 0
    low, high = fusion.point_cloud(3).bounds
    assert ((high - low) < 15).all()
    normals = fusion.point_cloud(50).normals
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-4)
