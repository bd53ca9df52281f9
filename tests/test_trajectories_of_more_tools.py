"""EuRoC, openMVG and bare arrays: written here by each format's definition, and read as the cameras that wrote them."""

import json

import numpy as np
import pytest

from mosaicmem.camera.formats import detect_format, load_trajectory
from mosaicmem.camera.pose import quaternion_from_rotation
from mosaicmem.errors import FormatError, SuspiciousInput
from test_trajectories_of_tools import FRAMES, HEIGHT, WIDTH, assert_reads, cameras, off_centre  # noqa: F401


class TestEuroc:
    BODY_FROM_CAMERA = np.array([[0, -1.0, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]])

    def write(self, tmp_path, cameras, sensor=True):  # noqa: F811
        """The camera's pose is that of the body times that of the camera in it; times are nanoseconds since 1970."""
        folder = tmp_path / "mav0" / "state_groundtruth_estimate0"
        folder.mkdir(parents=True)
        lines = ["#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], b"]
        for i, pose in enumerate(cameras):
            body = pose.world_from_camera @ np.linalg.inv(self.BODY_FROM_CAMERA)
            numbers = [*body[:3, 3], *quaternion_from_rotation(body[:3, :3]), 0.5]
            lines.append(",".join([str(1403636579763555584 + i * 50_000_000), *(repr(float(x)) for x in numbers)]))
        (folder / "data.csv").write_text("\n".join([*lines, ""]))
        if sensor:
            text = "sensor_type: camera\nT_BS:\n  cols: 4\n  rows: 4\n  data: [{}]\nrate_hz: 20\n"
            (tmp_path / "mav0" / "cam0").mkdir()
            numbers = ", ".join(map(str, self.BODY_FROM_CAMERA.ravel()))
            (tmp_path / "mav0" / "cam0" / "sensor.yaml").write_text(text.format(numbers))
        return folder / "data.csv"

    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "euroc"
        found = load_trajectory(file, intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-9)
        np.testing.assert_allclose(np.diff([pose.timestamp for pose in found]), 0.05, atol=1e-6)

    def test_without_the_cameras_place_the_body_is_said(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras, sensor=False)
        with pytest.warns(SuspiciousInput, match="poses are those of the body, not of a camera"):
            found = load_trajectory(file, intrinsics=cameras.cameras[0])
        body = cameras[0].world_from_camera @ np.linalg.inv(self.BODY_FROM_CAMERA)
        np.testing.assert_allclose(found[0].world_from_camera, body, atol=1e-9)

    def test_wrong_ones_are_named(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras)
        with pytest.raises(FormatError, match="the file has no intrinsics"):
            load_trajectory(file)
        sensor = tmp_path / "mav0" / "cam0" / "sensor.yaml"
        sensor.write_text("T_BS:\n  data: [1, 2, x]\n")
        with pytest.raises(FormatError, match=r"sensor\.yaml: T_BS: expected data of 16 numbers"):
            load_trajectory(file, intrinsics=cameras.cameras[0])
        file.write_text("1403636579763555584,1,2,3\n")
        with pytest.raises(FormatError, match="expected lines of at least 8 numbers with commas, got 4"):
            load_trajectory(file, "euroc", intrinsics=cameras.cameras[0])


class TestOpenMvg:
    def write(self, tmp_path, cameras, missing=(), **changes):  # noqa: F811
        """X in the camera is R (X - C)."""
        views, lenses, places = [], [], []
        for i, (pose, k) in enumerate(zip(cameras, cameras.cameras, strict=True)):
            view = {"filename": f"frame_{i}.jpg", "width": WIDTH, "height": HEIGHT, "id_view": i, "id_intrinsic": i}
            views.insert(0, {"key": i, "value": {"ptr_wrapper": {"id": 1, "data": {**view, "id_pose": i}}}})
            lens = {"width": WIDTH, "height": HEIGHT, "focal_length": k.fx, "principal_point": [k.cx, k.cy], **changes}
            lenses.append({"key": i, "value": {"polymorphic_name": "pinhole", "ptr_wrapper": {"data": lens}}})
            rotation = pose.camera_from_world[:3, :3].tolist()
            if i not in missing:
                places.append({"key": i, "value": {"rotation": rotation, "center": pose.position.tolist()}})
        document = {"sfm_data_version": "0.3", "views": views, "intrinsics": lenses, "extrinsics": places}
        (tmp_path / "sfm_data.json").write_text(json.dumps({**document, "structure": []}))
        return tmp_path / "sfm_data.json"

    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "openmvg"
        assert_reads(load_trajectory(file), cameras)

    def test_views_without_a_pose_are_left_out(self, tmp_path, cameras):  # noqa: F811
        with pytest.warns(SuspiciousInput, match="2 of 5 views have no pose and are left out"):
            found = load_trajectory(self.write(tmp_path, cameras, missing=(0, 3)))
        assert_reads(found, cameras.taken([1, 2, 4]))
        with pytest.raises(FormatError, match="expected views with a pose, got none of 5"):
            load_trajectory(self.write(tmp_path, cameras, missing=range(5)))

    def test_wrong_ones_are_named(self, tmp_path, cameras):  # noqa: F811
        with pytest.raises(FormatError, match=r"frame_0\.jpg: expected no distortion, got disto_k1 = \[0.1\]"):
            load_trajectory(self.write(tmp_path, cameras, disto_k1=[0.1]))
        assert load_trajectory(self.write(tmp_path, cameras, disto_k3=[0.0, 0, 0])).zooms
        document = json.loads(self.write(tmp_path, cameras).read_text())
        for changes, message in (
            ({"views": 3}, "views: expected a list"),
            ({"views": [{"key": 0, "value": {}}]}, "expected ptr_wrapper with data"),
            ({"extrinsics": [{"key": "a", "value": {}}]}, "extrinsics: key: expected an integer"),
            ({"extrinsics": [{**place, "value": {"rotation": 1}} for place in document["extrinsics"]]}, "rotation: "),
            ({"intrinsics": []}, r"frame_0\.jpg: 0 is missing"),
        ):
            (tmp_path / "sfm_data.json").write_text(json.dumps({**document, **changes}))
            with pytest.raises(FormatError, match=message):
                load_trajectory(tmp_path / "sfm_data.json")


class TestArrays:
    def test_are_read_when_named(self, tmp_path, off_centre):  # noqa: F811
        np.save(tmp_path / "poses.npy", off_centre.world_from_camera.astype(np.float32)[:, :3])
        np.save(tmp_path / "intrinsics.npy", np.array([k.matrix for k in off_centre.cameras]))
        assert_reads(load_trajectory(tmp_path / "poses.npy", "numpy", size=(WIDTH, HEIGHT)), off_centre, 1e-6)
        np.save(tmp_path / "intrinsics.npy", off_centre.cameras[0].matrix)
        found = load_trajectory(tmp_path / "poses.npy", "numpy", size=(WIDTH, HEIGHT))
        assert found.intrinsics == off_centre.cameras[0]
        with pytest.raises(FormatError, match="an array of NumPy, which does not say its convention"):
            load_trajectory(tmp_path / "poses.npy", size=(WIDTH, HEIGHT))

    def test_wrong_ones_are_named(self, tmp_path, off_centre):  # noqa: F811
        file = tmp_path / "poses.npy"
        np.save(file, off_centre.world_from_camera)
        with pytest.raises(FormatError, match="the file has no image size"):
            load_trajectory(file, "numpy")
        with pytest.raises(FormatError, match=r"expected intrinsics\.npy beside it"):
            load_trajectory(file, "numpy", size=(WIDTH, HEIGHT))
        np.save(tmp_path / "intrinsics.npy", np.eye(3)[None])
        with pytest.raises(FormatError, match=r"intrinsics\.npy: expected shape \(3, 3\) or \(5, 3, 3\), got"):
            load_trajectory(file, "numpy", size=(WIDTH, HEIGHT))
        np.save(file, np.zeros((FRAMES, 7)))
        with pytest.raises(FormatError, match=r"expected numbers of shape \(N, 4, 4\) or \(N, 3, 4\), got \(5, 7\)"):
            load_trajectory(file, "numpy")
        np.save(file, np.tile(np.diag([2.0, 2, 2, 1]), (2, 1, 1)))
        with pytest.raises(FormatError, match=r"\[0\]: .*scale"):
            load_trajectory(file, "numpy", intrinsics=off_centre.cameras[0])
