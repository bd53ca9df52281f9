"""RotErr and TransErr, and the poses that they are of."""

import math

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, SyntheticWorld
from mosaicmem.evaluation import camera_errors, locate_frames, recover_path

CAMERA = CameraIntrinsics.from_fov(160, 96, fov_x=1.3)


def turned(pose, angle, move=(0, 0, 0)):
    c, s = math.cos(angle), math.sin(angle)
    change = np.eye(4)
    change[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    change[:3, 3] = move
    return CameraPose(pose.world_from_camera @ change, pose.timestamp)


@pytest.fixture(scope="module")
def path():
    return SyntheticWorld().leave_and_return(CAMERA, 24)


@pytest.fixture(scope="module")
def seen(path):
    pytest.importorskip("pycolmap")
    return [SyntheticWorld().render(CAMERA, pose) for pose in path]


class TestErrors:
    def test_by_the_formula(self, path):
        rng = np.random.default_rng(0)
        angles, moves = rng.uniform(0, 1.0, 24), rng.uniform(-1, 1, (24, 3))
        found = camera_errors(
            CameraTrajectory([turned(p, a, m) for p, a, m in zip(path, angles, moves, strict=True)], CAMERA),
            path,
            align="none",
        )
        np.testing.assert_allclose(found.rotation, angles, atol=1e-9)
        np.testing.assert_allclose(found.translation, np.linalg.norm(moves, axis=1), atol=1e-9)
        assert found.rot_err == pytest.approx(angles.sum())
        assert found.trans_err == pytest.approx(np.linalg.norm(moves, axis=1).sum())
        assert found.mean_rotation == pytest.approx(angles.mean())

    @pytest.mark.parametrize("angle", [1e-7, 3e-5, 1.0, math.pi - 1e-6])
    def test_angles_keep_their_precision(self, path, angle):
        found = camera_errors({3: turned(path[3], angle)}, path, align="none")
        assert found.rotation[0] == pytest.approx(angle, rel=1e-6)

    def test_another_world_and_scale_change_nothing(self, path):
        """Structure from motion knows neither."""
        world = turned(CameraPose(), 0.7, (3, -2, 5)).world_from_camera
        moved = []
        for pose in path:
            matrix = world @ pose.world_from_camera
            matrix[:3, 3] *= 0.2
            moved.append(CameraPose(matrix, pose.timestamp))
        found = camera_errors(CameraTrajectory(moved, CAMERA), path)
        assert found.scale == pytest.approx(5.0)
        assert found.rot_err < 1e-6
        assert found.trans_err < 1e-6

    def test_a_path_backwards_is_wrong(self, path):
        start = path[0].world_from_camera
        back = []
        for pose in path:
            matrix = np.linalg.inv(start) @ pose.world_from_camera
            matrix[:3, 3] *= -1
            back.append(CameraPose(start @ matrix, pose.timestamp))
        assert camera_errors(CameraTrajectory(back, CAMERA), path).trans_err > 1

    def test_missing_frames_are_counted(self, path):
        found = camera_errors({i: path[i] for i in (2, 5, 7)}, path)
        assert (found.frames, found.asked) == ((2, 5, 7), 24)
        assert found.rot_err < 1e-6
        none = camera_errors({}, path)
        assert math.isnan(none.rot_err)
        assert math.isnan(none.mean_translation)

    def test_input_errors(self, path):
        with pytest.raises(ValueError, match="expected 24 poses, one per frame of the path, got 3"):
            camera_errors(path[:3], path)
        with pytest.raises(ValueError, match="recovered: frame"):
            camera_errors({24: path[0]}, path)
        with pytest.raises(ValueError, match="align: expected one of first, none"):
            camera_errors({}, path, align="last")


class TestRecovery:
    """Poses from pixels alone."""

    def test_frames_are_located_in_the_scene(self, path, seen):
        known = range(0, 24, 2)
        video = np.stack([view.image for view in seen])
        video[4] = np.random.default_rng(0).uniform(size=video[4].shape)  # shows something else
        video[6] = video[8]  # from where frame 8 is
        images, depth = ({i: getattr(seen[i], name) for i in known} for name in ("image", "depth"))
        found = locate_frames(video, images, depth, path)
        assert set(found) == {*known} - {4}
        errors = camera_errors({i: pose for i, pose in found.items() if i != 6}, path, align="none")
        assert errors.rotation.max() < 0.005
        assert errors.translation.max() < 0.02
        assert found[6].distance_to(path[8]) < 0.02

    def test_a_path_by_structure_from_motion(self, path, seen):
        found = recover_path(np.stack([view.image for view in seen[:6]]), CAMERA)
        errors = camera_errors(found, path)
        assert len(errors.frames) >= 4
        assert errors.mean_rotation < 0.03

    def test_input_errors(self, path, seen):
        video, image, depth = np.zeros((24, 96, 160, 3)), seen[0].image, seen[0].depth
        with pytest.raises(ValueError, match=r"depth: expected that of the frames of images, \[0\], got that of \[1\]"):
            locate_frames(video, {0: image}, {1: depth}, path)
        with pytest.raises(ValueError, match="images: frame"):
            locate_frames(video, {24: image}, {24: depth}, path)
        with pytest.raises(TypeError, match="intrinsics"):
            recover_path(video, 3)

    def test_nothing_to_see(self, path, seen):
        assert recover_path(np.full((3, 96, 160, 3), 0.5, np.float32), CAMERA) == {}
