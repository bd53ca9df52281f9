"""Streaming fusion on the GPU: the CPU's voxels, and the same bytes in whatever order the threads run."""

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraPose, StreamingFusion
from test_fusion import K, frames, fused

pytestmark = pytest.mark.kernel


def fused_on(device, items, voxel_size=0.1):
    fusion = StreamingFusion(voxel_size)
    counts = [fusion.add_frame(device.put(depth), K, pose, device.put(color)) for depth, color, pose in items]
    return fusion, counts


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("min_count", [1, 3])
def test_voxels_are_the_cpu_s(device, rng, count, min_count):
    items = list(frames(rng, count))
    fusion, counts = fused_on(device, items)
    expected, expected_counts = fused(items)
    assert len(fusion) == len(expected)
    for one, other in zip(counts, expected_counts, strict=True):
        for name in ("points", "out_of_range", "new_voxels"):
            assert device.get(getattr(one, name)) == getattr(other, name)
    cloud, same = fusion.point_cloud(min_count), expected.point_cloud(min_count)
    np.testing.assert_allclose(cloud.points, same.points, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(cloud.colors, same.colors)
    np.testing.assert_allclose(cloud.normals, same.normals, atol=1e-4)
    for part, equal in zip(fusion.voxel_history(min_count), expected.voxel_history(min_count), strict=True):
        np.testing.assert_array_equal(part, equal)


def test_the_same_bytes_on_every_run(device, rng):
    items = list(frames(rng, 3))
    expected = fused_on(device, items)[0].point_cloud()
    for _ in range(9):
        cloud = fused_on(device, items)[0].point_cloud()
        for name in ("points", "colors", "normals"):
            assert getattr(cloud, name).tobytes() == getattr(expected, name).tobytes()


def test_a_table_grows_and_keeps_what_it_has(device, rng):
    items = list(frames(rng, 45))  # 54 000 pixels, few per voxel: the smallest table gets more than half full
    fusion, expected = fused_on(device, items, 0.01)[0], fused(items, 0.01)[0]
    assert len(fusion) == len(expected) > 40_000
    np.testing.assert_allclose(fusion.point_cloud().points, expected.point_cloud().points, rtol=1e-5, atol=1e-6)
    assert fusion.nbytes > 0


def test_edited_observations_negative_times_and_nothing(device, rng):
    """Affine maps scale normals; negative times are ordered like all others."""
    depth = (2 + 0.1 * rng.standard_normal((30, 40))).astype(np.float32)
    scaled = np.diag([2.0, 3.0, -1.0, 1.0]) @ random_pose(rng).world_from_camera
    on, off = StreamingFusion(0.1), StreamingFusion(0.1)
    assert device.get(on.add_frame(device.put(np.full((30, 40), np.nan)), K, CameraPose()).points) == 0
    assert len(on) == 0
    for matrix in (scaled, CameraPose(timestamp=-3.5), CameraPose(timestamp=-7.25)):
        on.add_frame(device.put(depth), K, matrix)
        off.add_frame(depth, K, matrix)
    np.testing.assert_allclose(on.point_cloud().normals, off.point_cloud().normals, atol=1e-4)
    np.testing.assert_array_equal(on.voxel_history()[1], off.voxel_history()[1])
    far = np.eye(4)
    far[0, 3] = 1e6
    assert device.get(on.add_frame(device.put(depth), K, far).out_of_range) == 1200


def test_a_map_stays_where_it_began(device, rng):
    depth = np.ones((30, 40), np.float32)
    on, off = StreamingFusion(), StreamingFusion()
    on.add_frame(device.put(depth), K, CameraPose())
    with pytest.raises(ValueError, match="depth: expected an array on a device, where the map is"):
        on.add_frame(depth, K, CameraPose())
    off.add_frame(depth, K, CameraPose())
    with pytest.raises(ValueError, match="depth: expected an array on the CPU, where the map is, got one on a device"):
        off.add_frame(device.put(depth), K, CameraPose())
    with pytest.raises(ValueError, match=r"depth: expected shape \(30, 40\), got \(40, 30\)"):
        on.add_frame(device.put(depth.T), K, CameraPose())
    with pytest.raises(ValueError, match=r"color: expected shape \(30, 40, 3\)"):
        on.add_frame(device.put(depth), K, CameraPose(), device.put(np.zeros((30, 40), np.uint8)))
