import numpy as np
import pytest

from conftest import assert_within_twice, random_pose
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    depth_to_grid,
    reproject_depth_grid,
    unproject_depth,
    unproject_to_image,
)
from reference import unproject as reference

pytestmark = pytest.mark.kernel


def camera(height, width):
    return CameraIntrinsics(0.9 * width, 0.95 * width, 0.47 * width, 0.52 * height, width, height)


def nasty_depth(rng, height, width):
    """Depth with all kinds of invalid values in it."""
    depth = rng.uniform(0.2, 9, (height, width)).astype(np.float32)
    bad = np.array([0, -1, np.nan, np.inf, -np.inf], dtype=np.float32)
    holes = rng.random((height, width)) < 0.3
    depth[holes] = rng.choice(bad, holes.sum())
    return depth


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (48, 64), (31, 257), (200, 301)])
def test_dense_equals_the_formula(rng, shape):
    depth, pose, k = nasty_depth(rng, *shape), random_pose(rng), camera(*shape)
    points, valid = unproject_to_image(depth, k, pose)
    exact, exact_valid = reference.unproject(depth, k.params, pose.world_from_camera)
    single, _ = reference.unproject(depth, k.params, pose.world_from_camera, np.float32)
    np.testing.assert_array_equal(valid, exact_valid)
    assert_within_twice(points, single, exact)


@pytest.mark.usefixtures("anywhere")
def test_valid_pixels_only(rng):
    depth, pose, k = nasty_depth(rng, 61, 83), random_pose(rng), camera(61, 83)
    points, pixels = unproject_depth(depth, k, pose)
    dense, valid = unproject_to_image(depth, k, pose)
    np.testing.assert_array_equal(pixels, np.flatnonzero(valid))
    assert points.tobytes() == dense[valid].tobytes()


@pytest.mark.usefixtures("anywhere")
def test_projection_undoes_it(rng):
    k = camera(48, 64)
    depth = rng.uniform(0.5, 5, (48, 64)).astype(np.float32)
    points, pixels = unproject_depth(depth, k)
    uv, z = k.project(points)
    expected = np.stack([pixels % 64 + 0.5, pixels // 64 + 0.5], axis=1)
    np.testing.assert_allclose(uv, expected, atol=1e-4)
    np.testing.assert_allclose(z, depth.ravel(), rtol=1e-6)


@pytest.mark.usefixtures("anywhere")
def test_no_valid_pixel(rng):
    points, pixels = unproject_depth(np.zeros((5, 7)), camera(5, 7))
    assert points.shape == (0, 3)
    assert pixels.shape == (0,)


@pytest.mark.usefixtures("anywhere")
def test_far_from_the_origin_keeps_single_precision(rng):
    matrix = np.eye(4)
    matrix[:3, 3] = [1e6, -2e6, 3e6]
    pose = CameraPose(matrix)
    depth, k = nasty_depth(rng, 20, 30), camera(20, 30)
    points, valid = unproject_to_image(depth, k, pose)
    exact, _ = reference.unproject(depth, k.params, matrix)
    assert np.abs(points[valid] - exact[valid]).max() <= 0.26  # one unit in the last place of 3e6


@pytest.mark.usefixtures("anywhere")
def test_any_layout_and_thread_count_give_the_same_bytes(rng):
    depth, pose, k = nasty_depth(rng, 500, 700), random_pose(rng), camera(500, 700)
    expected = unproject_depth(depth, k, pose, num_threads=1)
    strided = np.asfortranarray(depth)
    for threads in (1, 2, 5):
        for values in (depth, strided, depth.astype(np.float64)):
            for a, b in zip(expected, unproject_depth(values, k, pose, num_threads=threads), strict=True):
                assert a.tobytes() == b.tobytes()


def test_wrong_size_is_explained():
    with pytest.raises(ValueError, match=r"depth: expected shape \(5, 7\), got \(7, 5\)"):
        unproject_depth(np.ones((7, 5)), camera(5, 7))
    with pytest.raises(TypeError, match="millimetres"):
        unproject_depth(np.full((5, 7), 1500, dtype=np.uint16), camera(5, 7))
    with pytest.raises(TypeError, match="pose: expected CameraPose, got ndarray"):
        unproject_depth(np.ones((5, 7)), camera(5, 7), np.eye(4))
    for threads in (-1, 1.5, 2**40):
        with pytest.raises((TypeError, ValueError), match="num_threads: expected"):
            unproject_depth(np.ones((5, 7)), camera(5, 7), num_threads=threads)
    with pytest.raises(TypeError, match="depth: expected dtype float32, got bool"):
        unproject_depth(np.ones((5, 7), dtype=bool), camera(5, 7))


@pytest.mark.usefixtures("anywhere")
class TestDepthGrid:
    @pytest.mark.parametrize(("shape", "stride"), [((8, 8), 8), ((30, 50), 5), ((12, 9), 1), ((64, 48), 16)])
    @pytest.mark.parametrize("fraction", [0.0, 0.25, 0.8])
    def test_equals_the_formula(self, rng, shape, stride, fraction):
        depth = nasty_depth(rng, *shape)
        expected = reference.depth_grid(depth, stride, max(1, np.ceil(fraction * stride**2)))
        np.testing.assert_array_equal(depth_to_grid(depth, stride, min_valid_fraction=fraction), expected)

    def test_a_cell_over_an_edge_stays_on_one_surface(self):
        depth = np.full((8, 8), 1.0, dtype=np.float32)
        depth[:, 5:] = 4.0
        assert depth_to_grid(depth, 8)[0, 0] == 1.0

    def test_stride_must_divide(self):
        with pytest.raises(
            ValueError, match=r"depth: expected height and width in multiples of stride = 8, got shape \(8, 9\)"
        ):
            depth_to_grid(np.ones((8, 9)), 8)


class TestReprojection:
    @pytest.mark.parametrize("shape", [(1, 1), (6, 10), (37, 53)])
    def test_equals_the_formula_within_a_thousandth_of_a_cell(self, rng, shape):
        stride = 8
        k = camera(shape[0] * stride, shape[1] * stride)
        target_k = camera(300, 400)
        depth, source, target = nasty_depth(rng, *shape), random_pose(rng, 0.3), random_pose(rng, 0.3)
        projected, valid = reproject_depth_grid(depth, stride, k, source, target_k, target, near=0.2)
        arguments = (depth, stride, k.params, source.world_from_camera, target_k.params, target.camera_from_world, 0.2)
        exact, exact_valid = reference.reproject(*arguments)
        np.testing.assert_array_equal(valid, exact_valid)
        near_image = exact_valid & (np.abs(exact[..., :2]) < 4000).all(axis=-1)
        assert np.abs(projected - exact)[near_image].max(initial=0) < 1e-3 * stride

    def test_a_view_lands_on_itself(self, rng):
        k = camera(96, 128)
        pose = random_pose(rng, 1e4)
        depth = rng.uniform(0.5, 8, (12, 16)).astype(np.float32)
        projected, valid = reproject_depth_grid(depth, 8, k, pose, k, pose)
        v, u = np.meshgrid((np.arange(12) + 0.5) * 8, (np.arange(16) + 0.5) * 8, indexing="ij")
        assert valid.all()
        np.testing.assert_allclose(projected[..., 0], u, atol=8e-3)
        np.testing.assert_allclose(projected[..., 1], v, atol=8e-3)
        np.testing.assert_allclose(projected[..., 2], depth, rtol=1e-6)

    def test_a_rigid_motion_of_the_world_changes_nothing(self, rng):
        k, source, target, move = camera(48, 64), random_pose(rng), random_pose(rng), random_pose(rng)
        depth = rng.uniform(0.5, 8, (6, 8)).astype(np.float32)
        before = reproject_depth_grid(depth, 8, k, source, k, target)
        moved = [CameraPose(move.world_from_camera @ pose.world_from_camera) for pose in (source, target)]
        after = reproject_depth_grid(depth, 8, k, moved[0], k, moved[1])
        np.testing.assert_array_equal(before[1], after[1])
        np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-3)

    def test_behind_the_target_is_invalid(self):
        k = camera(8, 8)
        back = CameraPose.look_at([0, 0, 0], [0, 0, -1])
        projected, valid = reproject_depth_grid(np.ones((1, 1)), 8, k, CameraPose(), k, back)
        assert not valid.any()
        assert (projected == 0).all()
