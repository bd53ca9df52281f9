"""nerfstudio and instant-ngp files."""

import json
import warnings

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
from mosaicmem.camera.formats import load_trajectory
from test_trajectory_formats import CAMERA, random_path


@pytest.fixture
def path(rng):
    return random_path(rng)


class TestNerfstudio:
    def document(self, **changes):
        frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
        return {"w": 64, "h": 48, "fl_x": 50, "fl_y": 51, "cx": 32, "cy": 24, "frames": [frame], **changes}

    def load(self, tmp_path, document, **options):
        (tmp_path / "transforms.json").write_text(json.dumps(document))
        return load_trajectory(tmp_path / "transforms.json", **options)

    def test_opengl_axes(self, tmp_path):
        """The identity looks along -z with +y up."""
        pose = self.load(tmp_path, self.document())[0]
        np.testing.assert_array_equal(pose.world_from_camera[:3, 2], [0, 0, -1])
        np.testing.assert_array_equal(pose.world_from_camera[:3, 1], [0, -1, 0])

    def test_cameras_of_frames_and_fields_of_view(self, tmp_path):
        frame = {"transform_matrix": np.eye(4).tolist()}
        angle = {"w": 64, "h": 48, "camera_angle_x": 2 * np.arctan(0.5), "frames": [frame, frame]}
        np.testing.assert_allclose(self.load(tmp_path, angle).intrinsics.params, (64, 64, 32, 24))
        mine = {"fl_x": 70, "fl_y": 71, "cx": 30, "cy": 20, "w": 60, "h": 40}
        each = {"frames": [{**frame, **mine}, {**frame, **mine}]}
        assert self.load(tmp_path, each).intrinsics == CameraIntrinsics(70, 71, 30, 20, 60, 40)
        mixed = {"frames": [{**frame, **mine}, {**frame, **mine, "fl_x": 75}]}
        assert [camera.fx for camera in self.load(tmp_path, mixed).cameras] == [70, 75]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"k1": 0.1}, r"frames\[0\]: expected no distortion, got {'k1': 0\.1}"),
            ({"camera_model": "OPENCV_FISHEYE"}, "camera_model: expected one of"),
            ({"frames": []}, "frames: expected a list of 1 to"),
            ({"frames": [{}]}, r"frames\[0\]: transform_matrix is missing"),
            ({"frames": [3]}, r"frames\[0\]: expected an object, got int"),
            ({"frames": [{"transform_matrix": "no"}]}, r"frames\[0\]: transform_matrix: expected four rows"),
            ({"w": -1}, r"frames\[0\]: w: expected at least 1"),
            ({"w": 64.6}, r"w: expected whole pixels, got 64\.6"),
            ({"h": 47.5}, r"h: expected whole pixels, got 47\.5"),
            ({"camera_angle_x": 1.0}, r"fl_x, camera_angle_x: expected the same focal length, got 50 and 58\.57"),
            ({"y_fov": 90}, r"fl_y, y_fov: expected the same focal length, got 51 and 24 pixels"),
            ({"from_na": True}, "from_na: expected poses with OpenGL axes"),
        ],
    )
    def test_bad_files(self, tmp_path, changes, message):
        with pytest.raises(FormatError, match=message):
            self.load(tmp_path, self.document(**changes))

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ({"is_fisheye": True}, r"expected a pinhole camera, got {'is_fisheye': True}"),
            ({"ftheta_p1": 0.3}, "expected a pinhole camera"),
            ({"ftheta": {"p0": 1}}, "expected a pinhole camera"),
            ({"orthographic": True}, "expected a pinhole camera"),
            ({"equirectangular": "yes"}, "expected a pinhole camera"),
            ({"camera_type": "ORTHO"}, "camera_type: expected one of PINHOLE"),
            ({"camera_model": ["OPENCV"]}, "camera_model: expected one of PINHOLE"),
            ({"distortion_params": [0.1, 0, 0, 0, 0, 0]}, "expected no distortion"),
            ({"k6": -1e-4}, "expected no distortion"),
            ({"p2": "0.1"}, "expected no distortion"),
            ({"sk_x": 0.5}, "expected no skew"),
            ({"sk_y": -0.5}, "expected no skew"),
            ({"rolling_shutter": [0, 0, 0.5, 0]}, "stands still while a frame is taken"),
            ({"transform_matrix_start": np.eye(4).tolist()}, "stands still while a frame is taken"),
        ],
    )
    def test_what_bends_the_image_is_refused_wherever_it_stands(self, tmp_path, field, message):
        with pytest.raises(FormatError, match=rf"frames\[0\]: .*{message}"):
            self.load(tmp_path, self.document(**field))
        frame = self.document()["frames"][0]
        with pytest.raises(FormatError, match=rf"frames\[1\]: .*{message}"):
            self.load(tmp_path, self.document(frames=[frame, {**frame, **field}]))

    def test_fields_of_real_exports_say_nothing(self, tmp_path):
        """Of ns-process-data, instant-ngp's colmap2nerf, Neuralangelo, Blender: zero lenses, and what others need."""
        nothing = {
            **dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2", "sk_x", "sk_y"), 0.0),
            **{"is_fisheye": False, "distortion_params": [0] * 6, "camera_model": "OPENCV", "orthographic": None},
            **{"aabb_scale": 16, "ply_file_path": "a.ply", "integer_depth_scale": 1e-3, "orientation_override": "none"},
            **{
                "applied_transform": np.eye(4)[[0, 2, 1, 3]][:3].tolist(),
                "applied_scale": 1.0,
                "sphere_center": [0, 0, 0],
            },
            **{"sphere_radius": 1.0, "centered": False, "scaled": False, "camera_angle_x": 2 * np.arctan(32 / 50)},
        }
        frame = {
            **{
                "file_path": "a.png",
                "mask_path": "m.png",
                "depth_file_path": "d.png",
                "colmap_im_id": 3,
                "sharpness": 9.5,
            },
            **{"rotation": 0.01, "transform_matrix": np.eye(4).tolist()},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = self.load(tmp_path, self.document(frames=[frame] * 3, **nothing))
        assert found.intrinsics.params == (50, 51, 32, 24)

    def test_unknown_fields_are_named_once(self, tmp_path):
        frame = {**self.document()["frames"][0], "lens_heat": 3}
        document = self.document(frames=[frame] * 5, shutter={"speed": 1})
        with pytest.warns(
            SuspiciousInput, match=r"skipped: shutter, lens_heat \(frames\[0\] and 4 more\); if"
        ) as caught:
            assert len(self.load(tmp_path, document)) == 5
        assert len(caught) == 1
        assert caught[0].filename == __file__
        many = self.document(**{f"field_{i:02}": i for i in range(20)})
        with pytest.warns(SuspiciousInput, match="field_07, and 12 more; if"):
            self.load(tmp_path, many)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"applied_scale": 0.25}, r"applied_scale 0\.25 was applied to them: depth must be scaled alike"),
            ({"applied_transform": (0.5 * np.eye(4)[:3]).tolist()}, r"applied_transform scaled them by 0\.5"),
            ({"applied_transform": "no"}, "applied_transform is no matrix"),
            ({"scale": 0.33, "offset": [0.5, 0.5, 0.5]}, "scale and offset, by which instant-ngp places the scene"),
            ({"scaled": True}, "scaled is set"),
        ],
    )
    def test_units_of_positions_are_named_once(self, tmp_path, fields, message):
        with pytest.warns(SuspiciousInput, match=message) as caught:
            self.load(tmp_path, self.document(**fields))
        assert len(caught) == 1

    def test_fields_of_view_of_both_axes(self, tmp_path):
        def params(**fields):
            return self.load(
                tmp_path, {"w": 64, "h": 48, "frames": self.document()["frames"], **fields}
            ).intrinsics.params

        half = 2 * np.arctan(0.5)
        assert params(camera_angle_x=half, camera_angle_y=half) == pytest.approx((64, 48, 32, 24))
        assert params(fl_x=70, camera_angle_y=half) == pytest.approx((70, 48, 32, 24))
        assert params(camera_angle_y=half) == pytest.approx((48, 48, 32, 24))
        assert params(fl_y=70) == pytest.approx((70, 70, 32, 24))
        assert params(x_fov=np.degrees(half)) == pytest.approx((64, 64, 32, 24))
        assert params(fl_x=64.1, camera_angle_x=half) == pytest.approx((64.1, 64.1, 32, 24))
        with pytest.raises(FormatError, match="expected a focal length fl_x or a field of view camera_angle_x"):
            params()

    def test_files_of_blender_need_a_size(self, tmp_path):
        document = {"camera_angle_x": 2 * np.arctan(0.5), "frames": self.document()["frames"]}
        with pytest.raises(
            FormatError, match=r"w and h are missing, as in files of Blender: give the image size .*--size"
        ):
            self.load(tmp_path, document)
        assert self.load(tmp_path, document, size=(800, 800)).intrinsics.fx == pytest.approx(800)
        with pytest.raises(FormatError, match="the file says 800x600, got 800x800"):
            self.load(tmp_path, {**document, "h": 600}, size=(800, 800))

    def test_times_of_all_frames_or_of_none(self, tmp_path):
        frame = self.document()["frames"][0]
        for frames in ([frame, {**frame, "time": 0.5}], [{**frame, "time": 0.5}, frame]):
            with pytest.raises(FormatError, match=r"expected a time in every frame or in none, got 1 of 2"):
                self.load(tmp_path, self.document(frames=frames))
        with pytest.raises(FormatError, match=r"frames\[1\]: time: expected a number, got NoneType"):
            self.load(tmp_path, self.document(frames=[{**frame, "time": 0.5}, {**frame, "time": None}]))

    def test_intrinsics_that_are_given_take_the_place_of_a_lens(self, tmp_path):
        assert self.load(tmp_path, self.document(is_fisheye=True), intrinsics=CAMERA).intrinsics == CAMERA
