import threading

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, StreamingFusion
from reference.voxel_map import fuse

pytestmark = pytest.mark.kernel

K = CameraIntrinsics.from_fov(40, 30, fov_x=1.2)


def frames(rng, count):
    for i in range(count):
        depth = (2 + 0.1 * rng.standard_normal((30, 40))).astype(np.float32)
        depth[rng.random(depth.shape) < 0.1] = np.nan
        yield depth, rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), random_pose(rng, 0.5, timestamp=float(i))


def fused(items, voxel_size=0.1, **options):
    fusion = StreamingFusion(voxel_size, **options)
    counts = [fusion.add_frame(depth, K, pose, color) for depth, color, pose in items]
    return fusion, counts


@pytest.mark.parametrize("count", [1, 3])
def test_equals_the_formula(rng, count):
    items = list(frames(rng, count))
    fusion, counts = fused(items)
    expected = fuse([(d, c, K.params, p.world_from_camera) for d, c, p in items], 0.1)
    # Points within rounding of a voxel's face may fall to either side.
    assert abs(len(fusion) - len(expected)) <= 0.005 * len(expected)
    assert sum(c.points for c in counts) == sum(len(v.points) for v in expected.values())
    assert sum(c.new_voxels for c in counts) == len(fusion)
    cloud = fusion.point_cloud()
    compared = 0
    for point, color, normal in zip(cloud.points, cloud.colors, cloud.normals, strict=True):
        voxel = expected.get(tuple(np.floor(point.astype(np.float64) / 0.1).astype(int)))
        if voxel is None or np.abs(np.mean(voxel.points, axis=0) - point).max() > 1e-5:
            continue
        compared += 1
        assert np.abs(np.mean(voxel.colors, axis=0) - color).max() <= 0.5001
        total = np.sum(voxel.normals, axis=0) if voxel.normals else np.zeros(3)
        if np.linalg.norm(total) > 0.1:
            np.testing.assert_allclose(normal, total / np.linalg.norm(total), atol=5e-3)
    assert compared >= 0.99 * len(cloud)


def test_a_plane_becomes_one_layer_with_normals_to_the_camera():
    fusion = StreamingFusion(0.05)
    fusion.add_frame(np.full((30, 40), 2.01), K, CameraPose())
    cloud = fusion.point_cloud()
    np.testing.assert_allclose(cloud.points[:, 2], 2.01, rtol=1e-6)
    np.testing.assert_allclose(cloud.normals, np.tile([0, 0, -1], (len(cloud), 1)), atol=1e-5)


def test_same_bytes_for_any_thread_count(rng):
    items = list(frames(rng, 4))
    clouds = [fused(items, num_threads=n)[0].point_cloud() for n in (1, 2, 3, 7)]
    for cloud in clouds[1:]:
        for name in ("points", "colors", "normals"):
            assert getattr(cloud, name).tobytes() == getattr(clouds[0], name).tobytes()


def test_points_out_of_range_are_counted_and_dropped():
    fusion = StreamingFusion(1e-4)  # 2^20 voxels reach 105 m
    depth = np.full((30, 40), 50.0)
    depth[:10] = 500.0
    counts = fusion.add_frame(depth, K, CameraPose())
    assert counts.out_of_range == 400
    assert counts.points == 800
    assert (fusion.point_cloud().points[:, 2] < 60).all()


def test_history(rng):
    """Each voxel knows how many points fell into it, and when the first and the last came."""
    fusion = StreamingFusion(0.1)
    plane = np.full((30, 40), 2.01)
    half = plane.copy()
    half[:, :20] = 0
    for depth, time in ((plane, 5.0), (half, 9.0), (plane, 7.0)):
        fusion.add_frame(depth, K, CameraPose(timestamp=time))
    counts, times = fusion.voxel_history()
    points = fusion.point_cloud().points
    assert counts.sum() == 1200 + 600 + 1200
    left, right = points[:, 0] < -0.1, points[:, 0] > 0.1
    np.testing.assert_array_equal(times[left], np.tile([5.0, 7.0], (left.sum(), 1)))
    np.testing.assert_array_equal(times[right], np.tile([5.0, 9.0], (right.sum(), 1)))
    assert len(fusion.voxel_history(5)[0]) == len(fusion.point_cloud(5)) < len(counts)


def test_min_count(rng):
    fusion, _ = fused(frames(rng, 2))
    assert 0 < len(fusion.point_cloud(3)) < len(fusion.point_cloud(1)) == len(fusion)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (16, 1), (17, 3)])
def test_thin_frames(shape):
    fusion = StreamingFusion(0.05)
    counts = fusion.add_frame(np.ones(shape), CameraIntrinsics(50, 50, 0.5, 0.5, shape[1], shape[0]), CameraPose())
    assert counts.points == shape[0] * shape[1]


def test_bad_input_changes_nothing(rng):
    fusion, _ = fused(frames(rng, 1))
    before = fusion.point_cloud().points.tobytes()
    with pytest.raises(ValueError, match=r"color: expected shape \(30, 40, 3\), got \(30, 40\)"):
        fusion.add_frame(np.ones((30, 40)), K, CameraPose(), np.zeros((30, 40), dtype=np.uint8))
    with pytest.raises(TypeError, match="color: expected dtype uint8, got float64"):
        fusion.add_frame(np.ones((30, 40)), K, CameraPose(), np.zeros((30, 40, 3)))
    with pytest.raises(ValueError, match="voxel_size: expected more than 0"):
        StreamingFusion(0.0)
    assert fusion.point_cloud().points.tobytes() == before


def test_normals_far_from_the_origin():
    """100 km away, where float32 resolves only 8 mm, an exact plane still has exact normals."""
    matrix = np.eye(4)
    matrix[:3, 3] = [1e5, 0, -1e5]
    fusion = StreamingFusion(0.5)
    fusion.add_frame(np.full((30, 40), 2.0), K, CameraPose(matrix))
    normals = fusion.point_cloud().normals
    np.testing.assert_allclose(normals, np.tile([0, 0, -1], (len(normals), 1)), atol=1e-5)


def test_several_threads_may_add_and_read(rng):
    items = list(frames(rng, 40))
    fusion = StreamingFusion(0.1)
    failures = []

    def work(part):
        try:
            for depth, color, pose in part:
                fusion.add_frame(depth, K, pose, color)
                assert len(fusion.point_cloud()) <= len(fusion)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(items[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(fusion) == len(fused(items)[0])
