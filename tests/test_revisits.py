"""Leaving and returning: which frames are returns, and their scores."""

import math

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, MosaicMemoryStore
from mosaicmem.evaluation import (
    dynamic_degree,
    fid,
    find_revisits,
    frechet_distance,
    fvd,
    gain_per_gigabyte,
    revisits_by,
    score_revisits,
)

pytest.importorskip("skimage")

CAMERA = CameraIntrinsics.from_fov(48, 32, fov_x=1.2)


def looking(degrees, seconds=0.0, x=0.0):
    angle = math.radians(degrees)
    return CameraPose.look_at([x, 0, 0], [x + math.sin(angle), 0, math.cos(angle)], timestamp=seconds)


def path_of(*degrees):
    return CameraTrajectory([looking(d, 2.0 * i) for i, d in enumerate(degrees)], CAMERA)


class TestRevisits:
    def test_a_return_is_found_with_the_nearest_earlier_pose(self):
        assert find_revisits(path_of(0, 2, 30, 60, 30, 1.6)) == [(4, 2), (5, 1)]

    def test_without_leaving_there_is_no_return(self):
        assert find_revisits(path_of(0, 1, 2, 1, 0)) == []
        assert find_revisits(path_of(0, 30, 60, 90)) == []

    def test_a_step_aside_is_leaving_too(self):
        aside = CameraTrajectory([looking(0), looking(0, x=0.5), looking(0, x=0.01)], CAMERA)
        assert find_revisits(aside) == [(2, 0)]
        assert find_revisits(aside, distance=0.005) == []

    def test_scores(self):
        path = path_of(0, 40, 90, 40, 0)
        rng = np.random.default_rng(0)
        video = rng.uniform(size=(5, 32, 48, 3)).astype(np.float32)
        video[4] = np.clip(video[0] + 0.1, 0, 1)
        video[3] = video[1]
        first, second = score_revisits(video, path)
        assert (first.frame, first.first, second.frame, second.first) == (3, 1, 4, 0)
        assert first.psnr == math.inf
        assert 20 < second.psnr < 22
        assert second.seconds_away == 8.0
        assert second.angle_away == pytest.approx(math.radians(90))
        assert second.distance_away == 0.0
        assert first.ssim == 1.0 > second.ssim
        truth = video.copy()
        truth[4] = 0.5
        assert score_revisits(video, path, truth=truth)[1].psnr < 12

    def test_by_time_and_angle_away(self):
        video = np.random.default_rng(0).uniform(size=(5, 32, 48, 3)).astype(np.float32)
        found = score_revisits(video, path_of(0, 40, 90, 40, 0))
        bins = revisits_by(found, "seconds_away", (0, 6, 20, 60))
        assert [each.revisits for each in bins] == [1, 1, 0]
        assert bins[1].psnr == found[1].psnr
        assert math.isnan(bins[2].psnr)
        assert [each.revisits for each in revisits_by(found, "angle_away", (0, 1, 2))] == [1, 1]

    def test_errors(self):
        video = np.zeros((3, 32, 48, 3), np.float32)
        with pytest.raises(ValueError, match="expected a camera that leaves and comes back, got none of 3 frames"):
            score_revisits(video, path_of(0, 40, 90))
        with pytest.raises(ValueError, match="field: expected seconds_away"):
            revisits_by([], "minutes", (0, 1))

    def test_gain_per_gigabyte(self):
        store = MosaicMemoryStore()
        store.insert_keyframe(np.zeros((4, 6, 8), np.float32), np.ones((4, 6), np.float32), CAMERA, looking(0))
        assert gain_per_gigabyte(21.0, 15.0, store.nbytes) == pytest.approx(6e9 / store.nbytes)
        with pytest.raises(ValueError, match="was anything remembered"):
            gain_per_gigabyte(21.0, 15.0, 0)


class TestVideos:
    def test_dynamics_are_the_pixels_that_move_most(self):
        rng = np.random.default_rng(0)
        texture = np.kron(rng.uniform(size=(12, 16, 3)), np.ones((6, 6, 1))).astype(np.float32)
        still = np.stack([texture] * 3)
        moving = np.stack([np.roll(texture, shift, axis=1) for shift in (0, 1, 2)])
        part = still.copy()
        part[:, 20:40, 20:40] = moving[:, 20:40, 20:40]
        assert dynamic_degree(still) < 1e-6
        assert dynamic_degree(moving) == pytest.approx(1 / math.hypot(72, 96), rel=0.5)
        assert dynamic_degree(part) > 0.3 * dynamic_degree(moving)
        with pytest.raises(ValueError, match="expected two frames at least, got 1"):
            dynamic_degree(still[:1])

    def test_frechet_distance_of_normal_distributions(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.standard_normal((2, 200_000, 3))
        theirs = theirs * [2.0, 1.0, 0.5] + [1.0, 0.0, 0.0]
        # |m - m'|^2 + sum (s - s')^2, where both are diagonal
        assert frechet_distance(ours, theirs) == pytest.approx(1 + 1 + 0.25, rel=0.02)
        assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-9)
        with pytest.raises(ValueError, match="reference: expected two samples at least, got 1"):
            frechet_distance(ours, theirs[:1])

    def test_frechet_distance_is_that_of_scipy(self):
        linalg = pytest.importorskip("scipy.linalg")
        rng = np.random.default_rng(1)
        a, b = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((50, 6)) + 0.3
        one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * linalg.sqrtm(one @ other).real)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)

    @pytest.mark.torch
    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_fid_and_fvd_of_a_given_network(self, tmp_path):
        torch = pytest.importorskip("torch")
        images = np.random.default_rng(0).uniform(size=(20, 20, 30, 3)).astype(np.float32)

        def means(given):
            assert given.shape[2:] == (299, 299)
            assert len(given) <= 16
            assert -1 <= given.min() < -0.8 < given.max() <= 1
            return given.mean(dim=(2, 3))

        assert fid(images, images, network=means) == pytest.approx(0, abs=1e-9)
        assert fid(images, images / 2, network=means) > 0.1
        videos = images[:, None].repeat(3, axis=1)
        assert fvd(videos, videos / 2, network=lambda x: x.mean(dim=(2, 3, 4))) > 0.1
        script = torch.jit.trace(lambda x: x.mean(dim=(2, 3, 4)), torch.zeros(16, 3, 3, 20, 30))
        script.save(str(tmp_path / "means.pt"))
        assert fvd(videos, videos / 2, network=tmp_path / "means.pt") > 0.1
        with pytest.raises(FileNotFoundError, match="expected the TorchScript file of a video network such as I3D"):
            fvd(videos, videos, network=tmp_path / "i3d.pt")

    @pytest.mark.torch
    def test_fid_without_its_network_says_what_to_install(self, monkeypatch):
        pytest.importorskip("torch")
        monkeypatch.setattr("mosaicmem.evaluation.video_metrics.importlib.util.find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match="pip install torchvision, or pass network="):
            fid(np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 3)))
