"""Paths that come back, and whether a video agrees with itself on them."""

import json
import math

import numpy as np
import pytest

from cli_helpers import run, succeed
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, SyntheticWorld
from mosaicmem.camera import RETURNS, return_path
from mosaicmem.evaluation import (
    is_mirrored,
    least_in_view,
    mirror_consistency,
    score_revisits,
    warp_consistency,
)
from mosaicmem.media import save_mp4

pytest.importorskip("skimage")

K = CameraIntrinsics.from_fov(64, 48, fov_x=math.radians(60))
START = CameraPose.look_at([0.3, -1.4, -0.6], [0.8, -1.3, 2.0], timestamp=5.0)


def path_of(template, frames=13, **options):
    return return_path(template, K, frames, start=START, **options)


@pytest.fixture(scope="module")
def world():
    return SyntheticWorld(0)


def rendered(world, path):
    views = [world.render(camera, pose) for camera, pose in zip(path.cameras, path, strict=True)]
    return np.stack([view.image for view in views]).astype(np.float32), np.stack([view.depth for view in views])


class TestReturnPath:
    @pytest.mark.parametrize("template", RETURNS)
    @pytest.mark.parametrize("frames", [3, 12, 13])
    def test_ends_where_it_begins(self, template, frames):
        path = path_of(template, frames)
        assert len(path) == frames
        np.testing.assert_allclose(path[-1].world_from_camera, START.world_from_camera, atol=1e-9)
        np.testing.assert_allclose(path[0].world_from_camera, START.world_from_camera, atol=1e-12)
        assert [round(30 * (pose.timestamp - 5)) for pose in path] == list(range(frames))
        assert is_mirrored(path) == (template != "orbit" or frames == 3)
        if template != "orbit":
            away = max(path, key=lambda pose: pose.distance_to(START) + pose.angle_to(START))
            assert away.distance_to(START) + away.angle_to(START) > 0.5

    def test_how_far_they_go(self):
        middle = {template: path_of(template, distance=0.7, angle=0.5)[6] for template in RETURNS}
        right, ahead = START.world_from_camera[:3, 0], START.world_from_camera[:3, 2]
        np.testing.assert_allclose(middle["forward-back"].position, START.position + 0.7 * ahead)
        np.testing.assert_allclose(middle["lateral"].position, START.position + 0.7 * right)
        for template in ("yaw", "peek"):
            np.testing.assert_allclose(middle[template].position, START.position)
            assert middle[template].angle_to(START) == pytest.approx(0.5, rel=0.02)
            assert right @ middle[template].world_from_camera[:3, 2] > 0  # to the right
        centre = START.position + 0.7 * ahead
        for template in ("arc", "orbit"):
            for pose in path_of(template, distance=0.7, angle=0.5):
                towards = centre - pose.position
                assert np.linalg.norm(towards) == pytest.approx(0.7, rel=0.02)
                assert towards @ pose.world_from_camera[:3, 2] > 0.68
        assert (middle["arc"].position - START.position) @ right > 0

    def test_peeking_is_quick(self):
        turned = [pose.angle_to(START) for pose in path_of("peek", 13)]
        assert turned[2] == pytest.approx(turned[6])
        assert turned[1] == pytest.approx(turned[6] / 2, rel=0.05)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"template": "spiral"}, "template: expected one of forward-back, lateral"),
            ({"num_frames": 2}, "num_frames: expected at least 3, got 2"),
            ({"distance": 0.0}, "distance: expected more than 0"),
            ({"fps": 0.0}, "fps: expected more than 0"),
        ],
    )
    def test_nonsense_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            return_path(**{"template": "yaw", "intrinsics": K, "num_frames": 9, **options})

    @pytest.mark.parametrize("template", RETURNS)
    def test_as_a_command(self, tmp_path, template):
        file = tmp_path / "path.json"
        succeed(*("path", "return", "--template", template, "--frames", "9", "--size", "64x48", "--output", file))
        made = CameraTrajectory.load(file)
        assert len(made) == 9
        np.testing.assert_allclose(made[-1].world_from_camera, np.eye(4), atol=1e-9)
        refused = run("path", "return", "--template", "spiral", "--output", tmp_path / "other.json")
        assert refused.returncode == 2
        assert "--template: expected forward-back, lateral" in refused.stderr


class TestMirror:
    def test_the_truth_agrees_with_itself(self, world):
        path = path_of("arc", 7)
        video, _ = rendered(world, path)
        scores = mirror_consistency(video, path)
        assert [(each.frame, each.first) for each in scores] == [(4, 2), (5, 1), (6, 0)]
        assert min(each.psnr for each in scores) > 40
        forgotten = 0.8 * video
        forgotten[5] += 0.1
        assert mirror_consistency(forgotten, path)[1].psnr == pytest.approx(20, abs=0.01)

    def test_other_paths_are_refused(self, world):
        path = path_of("orbit", 7)
        with pytest.raises(ValueError, match="path: expected one that goes back as it came"):
            mirror_consistency(np.zeros((7, 48, 64, 3)), path)


class TestGate:
    def test_what_leaves_the_view_counts_as_left(self, world):
        for template, angle, least, most in (
            ("yaw", 2.0, 0, 0),
            ("yaw", 0.2, 0.6, 0.95),
            ("forward-back", 0, 0.2, 0.99),
        ):
            path = path_of(template, 9, angle=angle, distance=0.5)
            _, depth = rendered(world, path)
            assert least <= least_in_view(path, depth[0], 0, 8) <= most

    def test_nothing_moves(self, world):
        path = CameraTrajectory([CameraPose(START.world_from_camera, float(i)) for i in range(4)], K)
        _, depth = rendered(world, path)
        assert least_in_view(path, depth[0], 0, 3) == 1
        assert math.isnan(least_in_view(path, np.zeros_like(depth[0]), 0, 3))

    def test_only_real_returns_are_scored(self, world):
        path = path_of("yaw", 13, angle=0.6)
        video, depth = rendered(world, path)
        limits = {"distance": 0.1, "angle": 0.05}
        every = score_revisits(video, path, depth=depth, **limits)
        assert min(each.least_in_view for each in every) < 0.6 < max(each.least_in_view for each in every)
        gated = score_revisits(video, path, depth=depth, gate=0.6, **limits)
        assert [each.frame for each in gated] == [each.frame for each in every if each.least_in_view <= 0.6]
        with pytest.raises(ValueError, match="gate: expected at least"):
            score_revisits(video, path, depth=depth, gate=0.0, **limits)
        with pytest.raises(ValueError, match="gate: expected depth with it"):
            score_revisits(video, path, gate=0.5, **limits)
        assert math.isnan(score_revisits(video, path, **limits)[0].least_in_view)


class TestWarp:
    def test_the_truth_agrees_and_noise_does_not(self, world):
        path = path_of("lateral", 5, distance=0.2)
        video, depth = rendered(world, path)
        exact = warp_consistency(video, path, depth)
        assert exact.psnr > 25
        assert 0.7 < exact.shared < 1
        assert exact.sharpness == pytest.approx(1, abs=0.1)
        rng = np.random.default_rng(0)
        noisy = np.clip(video + rng.normal(0, 0.1, video.shape), 0, 1).astype(np.float32)
        assert warp_consistency(noisy, path, depth).psnr < exact.psnr - 5

    def test_blur_flatters_it_and_the_sharpness_says_so(self, world):
        path = path_of("lateral", 5, distance=0.2)
        video, depth = rendered(world, path)
        blurred = video.copy()
        blurred[1:] = video[1:].mean(axis=(1, 2), keepdims=True)
        found = warp_consistency(blurred[1:], CameraTrajectory(list(path)[1:], K), depth[1:])
        assert found.psnr > warp_consistency(video, path, depth).psnr
        assert warp_consistency(blurred, path, depth).sharpness < 0.5

    def test_nonsense_is_refused(self, world):
        path = path_of("lateral", 3)
        video, depth = rendered(world, path)
        with pytest.raises(ValueError, match="step: expected less than the 3 frames, got 3"):
            warp_consistency(video, path, depth, step=3)


def test_a_video_on_its_way_back_is_reported(tmp_path, world):
    pytest.importorskip("pycolmap")
    path = path_of("lateral", 9, distance=0.4)
    video, _ = rendered(world, path)
    save_mp4(tmp_path / "video.mp4", (255 * video).astype(np.uint8), 30.0)
    path.save(tmp_path / "path.json")
    done = succeed(*("evaluate", "--video", tmp_path / "video.mp4", "--trajectory", tmp_path / "path.json", "--json"))
    assert len(json.loads(done.stdout)["mirror"]) == 4
