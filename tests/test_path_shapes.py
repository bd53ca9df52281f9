"""Camera paths that are made, in Python and by the command: straight ahead, through poses, by the keys of a game."""

import json
from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.cli import app

CAMERA = CameraIntrinsics.from_fov(64, 48, fov_x=1.2)


def ahead(pose):
    return pose.world_from_camera[:3, 2]


class TestDolly:
    @pytest.mark.parametrize("distance", [2.0, -1.5])
    def test_goes_where_it_looks_without_turning(self, rng, distance):
        start = random_pose(rng, 1.0, 0.0)
        path = CameraTrajectory.dolly(start, distance, 5, CAMERA)
        np.testing.assert_allclose(path[-1].position, start.position + distance * ahead(start))
        np.testing.assert_allclose(path.world_from_camera[:, :3, :3], np.stack([start.world_from_camera[:3, :3]] * 5))
        assert path.length == pytest.approx(abs(distance))


class TestSpline:
    def test_passes_through_its_poses(self, rng):
        keys = [random_pose(rng, 2.0, 0.0) for _ in range(5)]
        path = CameraTrajectory.spline(keys, CAMERA, fps=400, metres_per_second=0.7, degrees_per_second=40)
        for key in keys:
            near = min(path, key=lambda pose: pose.distance_to(key) + pose.angle_to(key))
            assert near.distance_to(key) < 0.01
            assert near.angle_to(key) < 0.01
        assert path[0].distance_to(keys[0]) < 1e-12

    def test_a_line_at_constant_speed(self):
        keys = [CameraPose.look_at([x, 0, 0], [x, 0, 5]) for x in (0.0, 1.0, 3.0, 4.0)]
        path = CameraTrajectory.spline(keys, CAMERA, fps=10, metres_per_second=2.0)
        assert len(path) == 21
        np.testing.assert_allclose([pose.position[0] for pose in path], np.linspace(0, 4, 21), atol=1e-9)
        np.testing.assert_allclose([pose.timestamp for pose in path], np.arange(21) / 10)

    def test_turns_by_the_shorter_way_and_as_slowly_as_asked(self):
        keys = [CameraPose.look_at([0, 0, 0], [np.sin(a), 0, np.cos(a)]) for a in np.radians([170, 190, 210])]
        path = CameraTrajectory.spline(keys, CAMERA, fps=10, degrees_per_second=10)
        assert path.duration == pytest.approx(4.0)
        turns = [np.degrees(a.angle_to(b)) for a, b in pairwise(path)]
        np.testing.assert_allclose(turns, 1.0, atol=1e-2)

    def test_is_smooth(self, rng):
        keys = [random_pose(rng, 2.0, 0.0) for _ in range(4)]
        path = CameraTrajectory.spline(keys, CAMERA, fps=200, metres_per_second=1.0)
        speed = np.diff([pose.position for pose in path], axis=0) * 200
        assert np.abs(np.diff(speed, axis=0)).max() < 0.2  # a polyline's jumps by about 1

    def test_wrong_ones_are_named(self):
        with pytest.raises(ValueError, match="poses: expected at least two to pass through, got 1"):
            CameraTrajectory.spline([CameraPose()], CAMERA)
        with pytest.raises(ValueError, match="metres_per_second: expected more than 0"):
            CameraTrajectory.spline([CameraPose()] * 2, CAMERA, metres_per_second=0)
        far = [CameraPose(), CameraPose.look_at([9e9, 0, 0], [9e9, 0, 1])]
        with pytest.raises(ValueError, match=r"expected a path of at most 1048576 frames, .* are the speeds too low"):
            CameraTrajectory.spline(far, CAMERA)


class TestKeys:
    def by(self, keys, **options):
        return CameraTrajectory.by_keys(keys, CAMERA, fps=10, metres_per_second=2, degrees_per_second=90, **options)

    @pytest.mark.parametrize(
        ("keys", "place"),
        [("w-5", [0, 0, 1]), ("s-5", [0, 0, -1]), ("a-5", [-1, 0, 0]), ("d-5", [1, 0, 0]), ("wd-5", [0.707, 0, 0.707])],
    )
    def test_move_in_the_horizontal_plane(self, keys, place):
        path = self.by(keys)
        assert len(path) == 6
        np.testing.assert_allclose(path[-1].position, place, atol=1e-3)
        np.testing.assert_allclose(ahead(path[-1]), [0, 0, 1], atol=1e-12)
        np.testing.assert_allclose([pose.timestamp for pose in path], np.arange(6) / 10)

    @pytest.mark.parametrize(
        ("keys", "direction"),
        [("right-10", [1, 0, 0]), ("left-10", [-1, 0, 0]), ("up-5", [0, -0.707, 0.707]), ("down-5", [0, 0.707, 0.707])],
    )
    def test_turn(self, keys, direction):
        path = self.by(keys)
        np.testing.assert_allclose(ahead(path[-1]), direction, atol=1e-3)
        np.testing.assert_allclose(path[-1].position, 0, atol=1e-12)

    def test_go_where_the_camera_looks(self):
        np.testing.assert_allclose(self.by("right-10, w-5").world_from_camera[-1, :3, 3], [1, 0, 0], atol=1e-9)
        np.testing.assert_allclose(self.by("up-5,w-5").world_from_camera[-1, :3, 3], [0, 0, 1], atol=1e-9)  # level
        both = self.by("w+right-10")
        assert both[5].position[2] > 0 < both[5].position[0]

    def test_pitch_and_roll_are_limited(self, rng):
        assert ahead(self.by("up-99")[-1])[1] == pytest.approx(-np.sin(np.radians(85)))
        start = random_pose(rng, 1.0, 3.0)
        path = self.by("w-1", start=start)
        np.testing.assert_allclose(ahead(path[0]), ahead(start), atol=1e-9)
        assert path[0].world_from_camera[1, 0] == pytest.approx(0, abs=1e-12)  # right is level
        assert path[1].timestamp == pytest.approx(3.1)

    @pytest.mark.parametrize("keys", ["", "w", "w-", "w5", "x-3", "w-3,,a-2", "up left-3", "w+-3", "W-3", "w--3"])
    def test_wrong_ones_are_named(self, keys):
        with pytest.raises(ValueError, match="keys: expected keys that are held, of w, a, s, d"):
            self.by(keys)

    def test_too_many_frames(self):
        with pytest.raises(ValueError, match="keys: expected at most 1048576 frames"):
            self.by("w-9999999")


class TestCommand:
    def run(self, tmp_path, *arguments):
        return CliRunner().invoke(app, ["path", *arguments, "--output", str(tmp_path / "path.json")])

    @pytest.mark.parametrize(
        ("arguments", "frames"),
        [
            (("orbit", "--radius", "2", "--height", "1", "--target", "0,0,3", "--turns", "0.5"), 90),
            (("dolly", "--distance", "-1", "--frames", "12"), 12),
            (("look-around", "--angle", "90", "--frames", "4", "--fov", "60", "--size", "64x48"), 4),
            (("keys", "--keys", "w-10,left-5", "--speed", "2", "--turn-speed", "30"), 16),
        ],
    )
    def test_writes_what_python_makes(self, tmp_path, arguments, frames):
        done = self.run(tmp_path, *arguments, "--json")
        assert done.exit_code == 0, done.output
        path, figures = CameraTrajectory.load(tmp_path / "path.json"), json.loads(done.stdout)
        assert len(path) == figures["frames"] == frames
        assert figures["metres"] == pytest.approx(path.length)
        if arguments[0] == "orbit":
            expected = CameraTrajectory.orbit([0, 0, 3], 2, 90, path.intrinsics, height=1, turns=0.5)
            np.testing.assert_allclose(path.camera_from_world, expected.camera_from_world)
        if arguments[0] == "keys":
            assert figures["metres_per_second"] == pytest.approx(2)
            assert figures["degrees_per_second"] == pytest.approx(30, rel=1e-3)
        if arguments[0] == "look-around":
            assert path.intrinsics == CameraIntrinsics.from_fov(64, 48, fov_x=np.radians(60))

    def test_continues_and_passes_through_another_path(self, tmp_path):
        self.run(tmp_path, "keys", "--keys", "w-30,right-30")
        (tmp_path / "path.json").rename(tmp_path / "first.json")
        first = CameraTrajectory.load(tmp_path / "first.json")
        assert self.run(tmp_path, "dolly", "--distance", "2", "--start", str(tmp_path / "first.json")).exit_code == 0
        path = CameraTrajectory.load(tmp_path / "path.json")
        assert path[0].distance_to(first[-1]) < 1e-9
        arguments = ("spline", "--through", str(tmp_path / "first.json"), "--speed", "0.5", "--turn-speed", "20")
        done = self.run(tmp_path, *arguments, "--force")
        assert done.exit_code == 0
        assert "0.5" in done.stdout
        assert CameraTrajectory.load(tmp_path / "path.json")[-1].distance_to(first[-1]) < 0.02

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("spin",), "SHAPE: expected orbit, dolly"),
            (("orbit",), "--radius: expected it for the shape orbit"),
            (
                ("dolly", "--distance", "1", "--radius", "2"),
                "--radius: expected none, as the shape dolly has",
            ),
            (("orbit", "--radius", "-1"), "--radius: expected more than 0"),
            (("orbit", "--radius", "1", "--target", "1,2"), "--target: expected X,Y,Z in metres, got '1,2'"),
            (("keys", "--keys", "q-3"), "--keys: expected keys that are held"),
            (("keys", "--keys", "w-3", "--speed", "0"), "--speed: expected more than 0"),
            (("dolly", "--distance", "nan"), "--distance: expected a finite number"),
            (("dolly", "--distance", "1", "--fov", "200"), "--fov: expected degrees between 0 and 180, got 200"),
            (("spline", "--through", "none.json"), "none.json"),
        ],
    )
    def test_wrong_ones_are_named(self, tmp_path, arguments, message):
        done = self.run(tmp_path, *arguments)
        assert done.exit_code != 0
        assert message in done.output
        assert not (tmp_path / "path.json").exists()
