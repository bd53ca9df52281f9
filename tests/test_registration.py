"""Colour and depth of two cameras: found out from frames, warned of, and made those of one camera."""

import json
import re
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cli_helpers import run, succeed
from import_helpers import write_photos
from mosaicmem import AutoregressivePipeline, CameraIntrinsics, CameraPose, PipelineConfig, SyntheticWorld
from mosaicmem.datasets import RegisteredSequence, RgbdImage, RgbdSequence, SevenScenes, SyntheticWalk, open_sequence
from mosaicmem.errors import SuspiciousInput
from mosaicmem.geometry import Registration, RegistrationCheck, estimate_registration, registered_depth
from scene_helpers import write_scene

FRAMES = range(0, 96, 3)
CAMERA = CameraIntrinsics.from_fov(256, 192, fov_x=1.0)


class TwoCameras(RgbdSequence):
    """The synthetic walk with colour from a camera of `factor` times the focal length of that of depth."""

    def __init__(self, factor, count=96):
        self._depth, self._world = SyntheticWalk(count, intrinsics=CAMERA), SyntheticWorld(0)
        self.color_camera = replace(
            self._depth.intrinsics, fx=self._depth.intrinsics.fx * factor, fy=self._depth.intrinsics.fy * factor
        )

    intrinsics = property(lambda self: self._depth.intrinsics)

    def __len__(self):
        return len(self._depth)

    def pose(self, index):
        return self._depth.pose(index)

    def _frame(self, index):
        frame = self._depth[index]
        seen = self._world.render(self.color_camera, frame.pose)
        return replace(frame, image=np.rint(seen.image * 255).astype(np.uint8))


def frames_of(sequence, numbers=FRAMES):
    return ((frame.image, frame.depth, frame.pose) for frame in (sequence[i] for i in numbers))


@cache
def recorded(factor):
    """A sequence of two cameras, and its frames, rendered once."""
    sequence = TwoCameras(factor)
    return sequence, list(frames_of(sequence))


class TestEstimate:
    @pytest.mark.parametrize("factor", [0.88, 1.1])
    def test_finds_the_other_focal_length(self, factor):
        sequence, frames = recorded(factor)
        found = estimate_registration(frames, sequence.intrinsics)
        assert found.is_off
        assert found.fx == pytest.approx(sequence.color_camera.fx, rel=0.01)
        assert found.fy == pytest.approx(sequence.color_camera.fy, rel=0.01)
        assert found.best < 0.7 * found.given
        assert found.color_camera(sequence.intrinsics).cx == sequence.intrinsics.cx

    def test_leaves_one_camera_alone(self):
        sequence = SyntheticWalk(96, intrinsics=CAMERA)
        found = estimate_registration(frames_of(sequence), sequence.intrinsics)
        assert not found.is_off
        assert found.fx == pytest.approx(sequence.intrinsics.fx, rel=0.01)
        assert found.pairs >= 6

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_too_few_frames_say_nothing(self, count):
        sequence, frames = recorded(0.88)
        if count == 0:
            with pytest.raises(ValueError, match="frames: expected at least one, got none"):
                estimate_registration([], sequence.intrinsics)
            return
        found = estimate_registration(frames[:count], sequence.intrinsics)
        assert not found.is_off
        assert found.fx == sequence.intrinsics.fx

    def test_exposure_and_noise_do_not_matter(self):
        (sequence, exact), rng = recorded(0.88), np.random.default_rng(0)
        frames = [
            (np.clip(image * rng.uniform(0.7, 1) + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8), depth, pose)
            for image, depth, pose in exact
        ]
        found = estimate_registration(frames, sequence.intrinsics)
        assert found.is_off
        assert found.fx == pytest.approx(sequence.color_camera.fx, rel=0.015)

    def test_without_texture_nothing_is_suspected(self):
        sequence, exact = recorded(0.88)
        frames = [(np.full_like(image, 128), depth, pose) for image, depth, pose in exact]
        assert not estimate_registration(frames, sequence.intrinsics).is_off

    def test_a_real_recording(self, rgbd_scene):
        """The colour camera of 7-Scenes has a focal length of about 520 pixels, that of depth 585."""
        sequence = SevenScenes(rgbd_scene)
        found = estimate_registration(frames_of(sequence, range(100)), sequence.intrinsics)
        assert found.is_off
        assert 505 < found.fx < 530
        assert 505 < found.fy < 530
        assert found.best < 0.6 * found.given


class TestFieldAngle:
    """The worse colours agree, the nearer to the same place in both images a view must have seen a surface."""

    @pytest.mark.parametrize(
        ("given", "pairs", "angle"),
        [(0.05, 24, 0.2), (0.25, 24, 0.114), (0.36, 24, 0.055), (0.7, 24, 0.055), (0.05, 3, 0.055)],
    )
    def test_follows_the_quality(self, given, pairs, angle):
        assert Registration(500.0, 500.0, given, given, pairs, False).field_angle == pytest.approx(angle, abs=1e-3)

    def test_exact_worlds_ask_for_a_wide_one(self):
        sequence = SyntheticWalk(96, intrinsics=CAMERA)
        assert estimate_registration(frames_of(sequence), sequence.intrinsics).field_angle == 0.2
        two, frames = recorded(0.88)
        assert estimate_registration(frames, two.intrinsics).field_angle < 0.1

    def test_evaluate_uses_it_unless_told(self):
        options = (
            "--scene",
            "synthetic",
            "--memory-frames",
            "0:60:3",
            "--frames",
            "66:90:8",
            "--repeats",
            "1",
            "--json",
        )
        found, told = (
            json.loads(succeed("evaluate", *options, *more).stdout) for more in ((), ("--set", "field_angle=0.07"))
        )
        assert found["options"]["field_angle"] == 0.2
        assert told["options"]["field_angle"] == 0.07
        assert found["runs"][0]["psnr_all"] > told["runs"][0]["psnr_all"]


class TestCheck:
    def test_warns_once_with_both_numbers(self):
        sequence, frames = recorded(0.88)
        check, own = RegistrationCheck(), sequence.color_camera
        with pytest.warns(SuspiciousInput, match="two cameras, not registered to each other") as caught:
            warned = [check.add(*frame[:2], sequence.intrinsics, frame[2]) for frame in frames]
        assert sum(warned) == len(caught) == 1
        numbers = [float(each) for each in re.findall(r"fx = ([0-9.]+)", str(caught[0].message))]
        assert numbers == [pytest.approx(sequence.intrinsics.fx, rel=1e-3), pytest.approx(own.fx, rel=0.01)]

    def test_the_pipeline_says_so(self):
        sequence, frames = recorded(0.88)
        pipeline = AutoregressivePipeline(PipelineConfig(latent_channels=4))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for image, depth, pose in frames:
                pipeline.observe(image, depth, sequence.intrinsics, pose)
        assert ["two cameras" in str(each.message) for each in caught] == [True]

    def test_evaluate_says_so_and_mends_it(self, rgbd_scene):
        options = (
            "--scene",
            rgbd_scene,
            "--memory-frames",
            "0:60:2",
            "--frames",
            "61:100:6",
            "--repeats",
            "1",
            "--json",
        )
        given, mended = (succeed("evaluate", *options, *more) for more in ((), ("--color-focal", "estimate")))
        assert "two cameras" in given.stderr
        assert "two cameras" not in mended.stderr
        before, after = (float(re.search(r'"psnr": ([0-9.]+)', each.stdout).group(1)) for each in (given, mended))
        assert after > before + 1

    @pytest.mark.parametrize("focal", ["wide", "0", "1,2,3", "nan", ""])
    def test_other_options_are_refused(self, rgbd_scene, focal):
        done = run("evaluate", "--scene", rgbd_scene, "--color-focal", focal)
        assert done.returncode == 2
        assert "--color-focal: expected F, FX,FY or estimate" in done.stderr


class TestRegisteredDepth:
    def test_is_what_the_colour_camera_would_measure(self):
        sequence = TwoCameras(1.2)
        depth_camera, color_camera = sequence.intrinsics, sequence.color_camera
        world = SyntheticWorld(0)
        pose = sequence.pose(0)
        seen = registered_depth(world.render(depth_camera, pose).depth, depth_camera, color_camera)
        truth = world.render(color_camera, pose).depth
        assert (seen > 0).mean() > 0.99
        assert np.median(np.abs(seen - truth) / truth) < 0.01

    def test_beyond_the_depth_image_there_is_none(self):
        depth_camera = CameraIntrinsics(100.0, 100.0, 40.0, 30.0, 80, 60)
        color_camera = CameraIntrinsics(50.0, 50.0, 40.0, 30.0, 80, 60)
        seen = registered_depth(np.ones((60, 80), np.float32), depth_camera, color_camera)
        assert seen.shape == (60, 80)
        np.testing.assert_array_equal(seen[15:45, 20:60], 1)
        assert seen.sum() == 30 * 40

    def test_one_camera_changes_nothing(self, rng):
        camera = CameraIntrinsics(100.3, 99.0, 40.2, 30.7, 80, 60)
        depth = rng.uniform(1, 2, (60, 80)).astype(np.float32)
        np.testing.assert_array_equal(registered_depth(depth, camera, camera), depth)


class TestSequence:
    def test_frames_are_those_of_the_colour_camera(self):
        source = TwoCameras(0.9, 4)
        sequence = RegisteredSequence(source, source.color_camera)
        assert len(sequence) == 4
        assert sequence.intrinsics == source.color_camera
        np.testing.assert_array_equal(sequence[1].image, source[1].image)
        moved = registered_depth(source[1].depth, source.intrinsics, source.color_camera)
        np.testing.assert_array_equal(sequence[1].depth, moved)
        assert sequence.trajectory([0, 1]).intrinsics == source.color_camera

    def test_moving_pixels_of_the_image_have_no_depth(self):
        class Moving(TwoCameras):
            def _frame(self, index):
                frame = super()._frame(index)
                moving = np.zeros(frame.depth.shape, np.bool_)
                moving[:10] = True
                return replace(frame, moving=moving, confidence=np.ones(frame.depth.shape, np.float32))

        source = Moving(0.9, 2)
        frame = RegisteredSequence(source, source.color_camera)[0]
        assert not frame.depth[:10].any()
        assert frame.confidence.shape == frame.depth.shape

    def test_open_sequence_estimates_or_takes_it(self, rgbd_scene):
        estimated = open_sequence(rgbd_scene, color_focal="estimate")
        assert isinstance(estimated, RegisteredSequence)
        assert 505 < estimated.intrinsics.fx < 530
        given = open_sequence(rgbd_scene, color_focal=(517.0, 526.0))
        assert (given.intrinsics.fx, given.intrinsics.fy) == (517, 526)
        assert given.number(1) == 4
        assert isinstance(given[0], RgbdImage)

    @pytest.mark.parametrize(
        ("focal", "message"),
        [("guess", "color_focal: expected"), (0.0, "color_focal"), ((1.0, 2.0, 3.0), "color_focal")],
    )
    def test_nonsense_is_refused(self, rgbd_scene, focal, message):
        with pytest.raises(ValueError, match=message):
            open_sequence(rgbd_scene, color_focal=focal)

    def test_another_size_is_refused(self):
        source = TwoCameras(0.9, 2)
        with pytest.raises(ValueError, match="color_camera: expected one of"):
            RegisteredSequence(source, CameraIntrinsics(100, 100, 40, 30, 80, 60))
        with pytest.raises(TypeError, match="source: expected RgbdSequence"):
            RegisteredSequence([CameraPose(np.eye(4))], source.color_camera)


def test_import_says_so(rgbd_scene, tmp_path):
    pytest.importorskip("pycolmap")
    pytest.importorskip("cv2")
    scene = tmp_path / "scene"
    scene.mkdir()
    for file in sorted(rgbd_scene.iterdir()):
        number = re.search(r"frame-([0-9]+)", file.name)
        if number is None or int(number[1]) < 120:
            (scene / file.name).symlink_to(file)
    done = succeed("import", scene, "--output", tmp_path / "made")
    assert "two cameras, not registered to each other" in done.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The synthetic walk on disk."""
    walk = SyntheticWalk(48, intrinsics=CameraIntrinsics.from_fov(96, 72, fov_x=1.0))
    folder = tmp_path_factory.mktemp("walk") / "scene"
    return write_scene(folder, SyntheticWorld(0), walk.trajectory(range(0, 48, 2)))


class TestGenerate:
    @pytest.mark.parametrize("told", [None, 0.07])
    def test_the_field_angle_follows_what_is_remembered_unless_told(self, scene, tmp_path, told):
        more = () if told is None else ("--set", f"field_angle={told}")
        choice = ("--memory-frames", "0:20", "--frames", "20:22", "--steps", "1", *more)
        succeed("generate", "--scene", scene, "--output", tmp_path / "out", *choice)
        sequence = open_sequence(scene)
        found = estimate_registration(frames_of(sequence, range(20)), sequence.intrinsics).field_angle
        assert found > 1.05 * PipelineConfig().field_angle
        assert PipelineConfig.load(tmp_path / "out" / "config.json").field_angle == (told or found)

    def test_a_run_resumes_with_it(self, scene, tmp_path):
        choice = ("--memory-frames", "0:20", "--frames", "20:24", "--window-size", "2", "--window-overlap", "0")
        for name in ("one", "two"):
            succeed(
                "generate", "--scene", scene, "--output", tmp_path / name, "--checkpoint", tmp_path / "kept", *choice
            )
        assert (tmp_path / "one" / "video.mp4").read_bytes() == (tmp_path / "two" / "video.mp4").read_bytes()


class TestImport:
    def test_depth_becomes_that_of_the_colour_camera(self, scene, tmp_path):
        pytest.importorskip("pycolmap")
        pytest.importorskip("cv2")
        focal = open_sequence(scene).intrinsics.fx * 0.9
        succeed("import", scene, "--output", tmp_path / "made", "--color-focal", f"{focal}")
        made, source = open_sequence(tmp_path / "made"), open_sequence(scene, color_focal=focal)
        assert made.intrinsics.fx == pytest.approx(focal)
        np.testing.assert_allclose(made[2].depth, source[2].depth, atol=2e-3)
        np.testing.assert_array_equal(made[2].image, source[2].image)

    def test_it_is_refused_where_there_is_no_depth_camera(self, tmp_path):
        pytest.importorskip("pycolmap")
        write_photos(tmp_path / "photos")
        failed = run("import", tmp_path / "photos", "--output", tmp_path / "made", "--color-focal", "500")
        assert failed.returncode == 2
        assert "--color-focal: expected a data set with depth" in failed.stderr
