"""What people get wrong at first: a message says what to do, or a warning where it can only be suspected."""

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
)

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def views(world, small_camera):
    path = world.leave_and_return(small_camera, 40)
    return [(world.render(small_camera, pose), pose) for pose in path[:12]]


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

    @pytest.mark.parametrize("factor", [0.2, 5.0])
    def test_units_that_do_not_fit_are_suspected(self, world, small_camera, factor):
        check = PoseCheck()

        def look_at_all():
            for pose in world.leave_and_return(small_camera, 60):
                check.add(factor * world.depth(small_camera, pose), small_camera, pose)

        with pytest.warns(SuspiciousInput, match="however poses are read; units of depth or of positions"):
            look_at_all()

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
    """BGR cannot be told from RGB: nothing is swapped, nothing is said."""
    view = world.render(small_camera, world.leave_and_return(small_camera, 2)[0])
    pipelines = [AutoregressivePipeline(), AutoregressivePipeline()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pipeline, image in zip(pipelines, (view.image, view.image[..., ::-1]), strict=True):
            pipeline.observe(image, view.depth, small_camera, CameraPose())
    assert len(pipelines[0].store) == len(pipelines[1].store) > 0


class TestWhereWarningsPoint:
    def test_to_the_callers_line_however_deep(self):
        with pytest.warns(SuspiciousInput) as caught:
            CameraIntrinsics(500, 500, 0.5, 0.5, 640, 480)
            CameraIntrinsics.from_matrix([[500, 0, 0.5], [0, 500, 0.5], [0, 0, 1]], 640, 480)
        assert [warning.filename for warning in caught] == [__file__] * 2
