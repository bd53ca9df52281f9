"""Common first mistakes: an error says what to do, or a warning if the mistake can only be suspected."""

import re
import warnings

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraPose,
    MosaicMemoryStore,
    PoseCheck,
    StreamingFusion,
    SuspiciousInput,
    SyntheticWorld,
)

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def views(world, small_camera):
    path = world.leave_and_return(small_camera, 40)
    return [(world.render(small_camera, pose), pose) for pose in path[:12]]


@pytest.fixture(scope="module")
def tilted_views(world, small_camera):
    """Depth along a path that yaws, pitches, rolls and rises."""
    poses = []
    for i in range(10):
        target = [-4 + 0.1 * i, -1.2 + 0.25 * np.sin(i), 0.3 * i - 1]
        eye = [-1.0 - 0.1 * i, -1.5 + 0.3 * np.sin(1.3 * i), 0.25 * i - 1]
        pose = CameraPose.look_at(eye, target).world_from_camera
        roll = 0.2 * np.cos(i)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
        poses.append(CameraPose(pose @ turn, i / 10))
    return [(world.depth(small_camera, pose), pose) for pose in poses]


class TestPoses:
    def check(self, views, small_camera, wrong):
        check = PoseCheck()
        for view, pose in views:
            found = check.add(view.depth, small_camera, CameraPose(wrong(pose.world_from_camera)))
            if found:
                return found
        return None

    def test_right_poses_are_fine(self, views, small_camera):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.check(views, small_camera, lambda m: m) is None

    @pytest.mark.parametrize(
        ("wrong", "reading", "message"),
        [
            (
                np.linalg.inv,
                "inverse",
                "camera_from_world: invert them, or use CameraPose.from_camera_from_world",
            ),
            (lambda m: m @ FLIP, "opengl", r"OpenGL axes .* use CameraPose\.from_opengl"),
            (lambda m: np.linalg.inv(m @ FLIP), "inverse opengl", "camera_from_world with OpenGL axes"),
        ],
    )
    def test_wrong_ones_are_suspected(self, views, small_camera, wrong, reading, message):
        with pytest.warns(SuspiciousInput, match=message):
            assert self.check(views, small_camera, wrong) == reading

    @pytest.mark.parametrize("factor", [0.001, 0.2, 0.67, 0.83, 1.2, 1.5, 5.0, 1000.0])
    def test_units_that_do_not_fit_are_suspected(self, world, small_camera, factor):
        check = PoseCheck()

        def look_at_all():
            for pose in world.leave_and_return(small_camera, 60):
                check.add(factor * world.depth(small_camera, pose), small_camera, pose)

        message = "however poses are read; units of depth or of positions.* depth seems to be about"
        with pytest.warns(SuspiciousInput, match=message) as caught:
            look_at_all()
        assert len(caught) == 1
        size, direction = re.search(r"about ([\d.e+]+) times too (large|small)", str(caught[0].message)).groups()
        assert float(size) == pytest.approx(max(factor, 1 / factor), rel=0.1)
        assert direction == ("large" if factor > 1 else "small")
        assert ("millimetres" in str(caught[0].message)) == (factor in (0.001, 1000.0))

    def test_frames_that_see_different_walls_say_nothing_of_scale(self):
        """Two views that share nothing fit at some scale by chance, which is no evidence."""
        world, camera, check = SyntheticWorld(3), CameraIntrinsics(70.0, 72.0, 41.0, 23.0, 80, 48), PoseCheck()
        for pose in world.leave_and_return(camera, 6)[:3]:
            check.add(world.render(camera, pose).depth, camera, pose)
        assert not check.compared

    def test_in_a_pipeline_it_is_said_once(self, views, small_camera):
        pipeline = AutoregressivePipeline()

        def observe_all():
            for view, pose in views:
                wrong = CameraPose(pose.world_from_camera @ FLIP)
                pipeline.observe(view.image, view.depth, small_camera, wrong)

        with pytest.warns(SuspiciousInput, match=r"use CameraPose\.from_opengl") as caught:
            observe_all()
        assert len(caught) == 1
        assert caught[0].filename == __file__

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("upside down", lambda depth: depth[::-1], "images seem to be upside down .* negative fy"),
            ("mirrored", lambda depth: depth[:, ::-1], "images seem to be mirrored"),
            ("rotated", lambda depth: depth[::-1, ::-1], "images seem to be rotated by 180 degrees"),
            ("disparity", lambda depth: 1 / depth, "depth seems to be disparity or inverse depth"),
            ("disparity", lambda depth: 40 / depth, "depth seems to be disparity or inverse depth"),
            ("scale", lambda depth: 1.5 * depth, "1.5 times too large"),
        ],
    )
    def test_wrong_images_are_named(self, tilted_views, small_camera, name, change, message):
        """The path pitches and rises, so that up and down differ; one of the first pairs gives the warning."""
        check = PoseCheck()

        def look_at_all():
            return [check.add(change(depth), small_camera, pose) for depth, pose in tilted_views]

        with pytest.warns(SuspiciousInput, match=message) as caught:
            found = look_at_all()
        assert len(caught) == 1
        assert [each for each in found if each] == [name]
        assert found.index(name) <= 3
        assert check.conclusion.startswith("poses and depth do not fit")

    def test_distance_along_the_ray_is_named(self, tilted_views, small_camera):
        rows, columns = np.mgrid[:48, :80] + 0.5
        lengths = np.hypot(np.hypot((columns - 40) / small_camera.fx, (rows - 24) / small_camera.fy), 1)
        check = PoseCheck()
        with pytest.warns(SuspiciousInput, match=r"distance along the ray, not z"):
            [check.add(lengths * depth, small_camera, pose) for depth, pose in tilted_views]

    @pytest.mark.parametrize("part", ["noise", "sparse", "dynamic", "all"])
    def test_imperfect_depth_is_fine(self, rng, world, small_camera, part):
        check = PoseCheck()
        for pose in world.leave_and_return(small_camera, 60):
            depth = world.depth(small_camera, pose)
            if part in ("noise", "all"):
                depth = depth * (1 + 0.02 * rng.standard_normal(depth.shape))
            if part in ("dynamic", "all"):
                row, column = rng.integers(0, 24), rng.integers(0, 48)
                depth[row : row + 24, column : column + 32] *= rng.uniform(0.4, 0.8)
            if part in ("sparse", "all"):
                depth = np.where(rng.random(depth.shape) < 0.2, depth, 0)
            assert check.add(depth, small_camera, pose) is None
        assert check.compared > 8

    def test_one_time_for_all(self, tilted_views, small_camera):
        def check(time, **options):
            check = PoseCheck(**options)
            return [check.add(depth, small_camera, pose.at(time)) for depth, pose in tilted_views]

        assert not any(check(0.0))  # poses without times
        assert not any(check(3.0, times=False))
        for time, options in ((3.0, {}), (0.0, {"times": True})):
            with pytest.warns(SuspiciousInput, match=f"frames at different places all have the time {time:g} s"):
                assert check(time, **options).count("times") == 1

    def test_the_conclusion(self, views, tilted_views, world, small_camera):
        check = PoseCheck()
        assert "takes two frames at least, got 0" in check.conclusion
        for _ in range(3):
            check.add(views[0][0].depth, small_camera, views[0][1])
        assert "the camera hardly moves between 3 frames" in check.conclusion
        back = CameraPose(views[0][1].world_from_camera @ np.diag([-1.0, 1, -1, 1]))
        check.add(world.depth(small_camera, back), small_camera, back)
        assert "2 frames have no view in common" in check.conclusion
        assert check.compared == 0
        level, nodding = PoseCheck(), PoseCheck()
        for view, pose in views:
            level.add(view.depth, small_camera, pose)
        for depth, pose in tilted_views:
            nodding.add(depth, small_camera, pose)
        assert level.conclusion.endswith("upside down images would fit as well, as the camera moves level")
        assert nodding.conclusion.startswith("poses fit depth in ")
        assert "upside" not in nodding.conclusion

    def test_a_camera_that_stands_still_says_nothing(self, views, small_camera):
        view, pose = views[0]
        assert self.check([(view, pose)] * 5, small_camera, np.linalg.inv) is None

    def test_real_poses_are_fine(self, rgbd_scene):
        from mosaicmem.datasets import open_sequence

        sequence = open_sequence(rgbd_scene)
        frames = [sequence[i] for i in range(0, 100, 5)]

        def check(wrong):
            check = PoseCheck()
            found = [
                check.add(f.depth, sequence.intrinsics, CameraPose(wrong(f.pose.world_from_camera))) for f in frames
            ]
            return next((name for name in found if name), None)

        assert check(lambda m: m) is None
        for change, name in ((lambda d: 1.5 * d, "scale"), (lambda d: d[::-1], "upside down")):
            wrong = PoseCheck()
            with pytest.warns(SuspiciousInput):
                found = [wrong.add(change(f.depth), sequence.intrinsics, f.pose) for f in frames]
            assert name in found
        for stride in (1, 3, 8):
            right = PoseCheck()
            assert not any(right.add(f.depth, sequence.intrinsics, f.pose) for f in frames[::stride])
        with pytest.warns(SuspiciousInput):
            assert check(np.linalg.inv) == "inverse"
        with pytest.warns(SuspiciousInput):
            assert check(lambda m: m @ FLIP) == "opengl"

    def test_matrices_that_cannot_be_poses(self, small_camera):
        pose = CameraPose.look_at([1, 2, 3], [0, 0, 0]).world_from_camera
        for wrong, message in (
            (pose.T, "transposed"),
            (np.diag([1.0, -1, 1, 1]) @ pose, "determinant"),
            (np.diag([2.0, 2, 2, 1]) @ pose, "scaled by 2"),
        ):
            with pytest.raises(ValueError, match=message):
                CameraPose.from_world_from_camera(wrong)
        with pytest.raises(TypeError, match="pose: expected CameraPose, got ndarray"):
            AutoregressivePipeline().observe(np.zeros((48, 80, 3)), np.ones((48, 80)), small_camera, pose)


class TestDepth:
    def test_integers_are_refused(self, small_camera):
        depth = np.full((48, 80), 1500, np.uint16)
        for use in (
            lambda: AutoregressivePipeline().observe(np.zeros((48, 80, 3)), depth, small_camera, CameraPose()),
            lambda: StreamingFusion().add_frame(depth, small_camera, CameraPose()),
        ):
            with pytest.raises(TypeError, match=r"expected metres .* millimetres\? divide by 1000"):
                use()

    def test_millimetres_are_suspected(self, small_camera):
        depth = np.full((48, 80), 1500.0, np.float32)
        pipeline = AutoregressivePipeline()
        with pytest.warns(SuspiciousInput, match=r"depth: half of it lies beyond 1500 m; millimetres\? divide by 1000"):
            pipeline.observe(np.zeros((48, 80, 3)), depth, small_camera, CameraPose())
        store = MosaicMemoryStore()
        with pytest.warns(SuspiciousInput, match="millimetres"):
            store.insert_keyframe(np.zeros((6, 10, 4)), depth[::8, ::8], small_camera, CameraPose())

    def test_a_street_is_fine(self, small_camera):
        store = MosaicMemoryStore()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.insert_keyframe(np.zeros((6, 10, 4)), np.full((6, 10), 200.0), small_camera, CameraPose())
        assert len(store) == 15


class TestIntrinsics:
    @pytest.mark.parametrize("size", [(1280, 960), (320, 240)])
    def test_of_another_resolution(self, size):
        k = [[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]]
        message = rf"intrinsics of an image of about 640x480\? .* \.scaled\({size[0]}, {size[1]}\)"
        with pytest.warns(SuspiciousInput, match=message):
            CameraIntrinsics.from_opencv(k, *size)

    def test_parts_of_an_image(self):
        with pytest.warns(SuspiciousInput, match="are parts of an image, not pixels; multiply fx"):
            CameraIntrinsics(0.65, 1.09, 0.5, 0.5, 320, 192)

    @pytest.mark.parametrize(("cx", "cy"), [(320, 240), (300, 260), (100, 240), (365.0, 202.0)])
    def test_off_centre_is_fine(self, cx, cy):
        """Cropped images have principal points that are off, along one axis or the other."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            camera = CameraIntrinsics(500, 500, cx, cy, 640, 480)
        assert (camera.cx, camera.cy) == (cx, cy)

    def test_depth_of_another_size_is_named(self, small_camera):
        with pytest.raises(ValueError, match=r"depth: expected shape \(48, 80\), got \(96, 160\)"):
            AutoregressivePipeline().observe(np.zeros((48, 80, 3)), np.ones((96, 160)), small_camera, CameraPose())


def test_colours_are_left_alone(world, small_camera):
    """BGR cannot be told from RGB: nothing is swapped, and no warning is given."""
    view = world.render(small_camera, world.leave_and_return(small_camera, 2)[0])
    pipelines = [AutoregressivePipeline(), AutoregressivePipeline()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pipeline, image in zip(pipelines, (view.image, view.image[..., ::-1]), strict=True):
            pipeline.observe(image, view.depth, small_camera, CameraPose())
    assert len(pipelines[0].store) == len(pipelines[1].store) > 0


class TestWhereWarningsPoint:
    def test_to_the_callers_line_however_deep(self):
        k = [[500, 0, 0.5], [0, 500, 0.5], [0, 0, 1]]
        with pytest.warns(SuspiciousInput) as caught:
            CameraIntrinsics.from_matrix(k, 640, 480)
        assert [warning.filename for warning in caught] == [__file__]
