import numpy as np
import pytest

from mosaicmem import CameraPose, DepthCompletion, DepthEstimator, SyntheticDepthEstimator

IMAGE = np.zeros((48, 80, 3), dtype=np.float32)


def test_synthetic_depth_is_that_of_the_world(world, small_camera):
    pose = CameraPose.look_at([-1, -1.5, 0], [-4, -1.5, 0])
    known = np.zeros((48, 80), dtype=np.float32)
    estimator = SyntheticDepthEstimator(world)
    assert isinstance(estimator, DepthEstimator)
    exact = estimator.estimate(IMAGE, small_camera, pose, known)
    np.testing.assert_array_equal(exact, world.render(small_camera, pose).depth)
    noisy = SyntheticDepthEstimator(world, relative_noise=0.1, seed=3).estimate(IMAGE, small_camera, pose, known)
    assert np.std(noisy / exact - 1) == pytest.approx(0.1, rel=0.1)


class TestCompletion:
    def test_known_depth_is_kept_and_holes_stay_within_its_range(self, small_camera, rng):
        known = rng.uniform(1, 3, (48, 80)).astype(np.float32)
        known[rng.random(known.shape) < 0.7] = 0
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        np.testing.assert_array_equal(filled[known > 0], known[known > 0])
        assert filled.min() >= 1 - 1e-5
        assert filled.max() <= 3 + 1e-5

    def test_one_known_pixel_fills_everything(self, small_camera):
        known = np.zeros((48, 80), dtype=np.float32)
        known[3, 77] = 2.5
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        np.testing.assert_allclose(filled, 2.5, rtol=1e-6)

    def test_a_slope_is_continued_smoothly_over_a_hole(self, small_camera):
        slope = np.tile(np.linspace(1, 3, 80, dtype=np.float32), (48, 1))
        known = slope.copy()
        known[20:28, 30:38] = 0
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        assert np.abs(filled - slope).max() < 0.1

    def test_nothing_known_gives_a_plane(self, small_camera):
        filled = DepthCompletion(4.0).estimate(IMAGE, small_camera, CameraPose(), np.zeros((48, 80), np.float32))
        assert (filled == 4.0).all()
