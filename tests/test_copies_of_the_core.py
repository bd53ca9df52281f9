"""Copies of objects whose content the compiled core holds."""

import copy

import numpy as np
import pytest

import mosaicmem as mm
from memory_helpers import K


@pytest.mark.parametrize("way", ["copy", "deepcopy"])
class TestObjectsOfTheCore:
    """A copy holds the same content, and later additions to one do not show in the other."""

    def test_patch_memory(self, way):
        camera = np.tile(np.float32([[300, 0, 32], [0, 300, 24], [0, 0, 1]]), (4, 1, 1))

        def append(frames, x):
            w2c = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
            w2c[:, 0, 3] = x
            frames.append(np.full((2, 4, 3, 4), x, np.float32), w2c, camera, np.ones((4, 48, 64), np.float32))

        first = mm.PatchMemory()
        append(first, 1.0)
        second = getattr(copy, way)(first)
        append(first, 7.0)
        assert (first.num_frames, second.num_frames) == (8, 4)
        aligned = [each.align_query_trajectory(np.eye(4), np.eye(4)[None])[0, 0, 3] for each in (first, second)]
        assert aligned == [7.0, 1.0]
        append(second, 3.0)
        ids = second.select_candidate_frame_ids(np.eye(4)[None].repeat(4, axis=0))
        assert np.max(ids) < second.num_frames
        assert first.num_frames == 8

    def test_streaming_fusion(self, way):
        first = mm.StreamingFusion(0.1)
        depth = np.full((48, 80), 2.0, np.float32)
        first.add_frame(depth, K, mm.CameraPose())
        second = getattr(copy, way)(first)
        before = first.point_cloud().points
        first.add_frame(depth, K, mm.CameraPose.look_at([9.0, 0, 0], [9.0, 0, 1]))
        np.testing.assert_array_equal(second.point_cloud().points, before)
        assert len(first) > len(second)
