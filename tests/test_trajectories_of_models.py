"""Camera files of video models: written here by each model's definition, and read as the cameras that wrote them."""

import json

import numpy as np
import pytest

from cli_helpers import run, succeed
from mosaicmem.camera import CameraTrajectory
from mosaicmem.camera.formats import detect_format, load_trajectory
from mosaicmem.camera.pose import quaternion_from_rotation
from mosaicmem.errors import FormatError, SuspiciousInput
from test_trajectories_of_tools import FRAMES, HEIGHT, WIDTH, cameras, off_centre  # noqa: F401


def relative(path):
    """Poses in the first camera, which do not depend on the world."""
    first = np.linalg.inv(path[0].world_from_camera)
    return np.stack([first @ pose.world_from_camera for pose in path])


LYRA_WRONG = [
    ({"image_width": np.array([])}, "image_width: expected a number of pixels"),
    ({"intrinsics": np.eye(3)[:2]}, r"intrinsics: expected shape \(\d+, 3, 3\)"),
    ({"w2c": np.zeros((3, 3, 4))}, r"w2c: expected shape \(N, 4, 4\), got \(3, 3, 4\)"),
    ({"w2c": 2 * np.tile(np.eye(4), (FRAMES, 1, 1))}, r"w2c\[0\]"),
]


class TestLyra:
    def write(self, tmp_path, cameras, **changes):  # noqa: F811
        k = np.stack([each.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]] for each in cameras.cameras])
        arrays = {"w2c": cameras.camera_from_world.astype(np.float32), "intrinsics": k.astype(np.float32)}
        np.savez(tmp_path / "a.npz", **{**arrays, "image_height": HEIGHT, "image_width": WIDTH, **changes})
        return tmp_path / "a.npz"

    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "lyra"
        found = load_trajectory(file)
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-5)
        for ours, theirs in zip(found.cameras, cameras.cameras, strict=True):
            np.testing.assert_allclose(ours.params, theirs.params, atol=1e-4)
            assert (ours.width, ours.height) == (WIDTH, HEIGHT)

    @pytest.mark.parametrize(("changes", "message"), LYRA_WRONG)
    def test_wrong_ones_are_named(self, tmp_path, cameras, changes, message):  # noqa: F811
        with pytest.raises(FormatError, match=message):
            load_trajectory(self.write(tmp_path, cameras, **changes))

    def test_other_arrays_are_named(self, tmp_path, cameras):  # noqa: F811
        with pytest.warns(SuspiciousInput, match="zoom_factors"):
            load_trajectory(self.write(tmp_path, cameras, zoom_factors=np.ones(4)))


def recammaster(path, extra=()):
    """Published code transposes the rows, takes columns (1, 2, 0, 3), negates the second and divides by 100; the world
    stays Unreal's, whose mirror image along z is right-handed."""
    document = {}
    for i, pose in enumerate(path):
        mirrored = np.diag([1.0, 1, -1, 1]) @ pose.world_from_camera
        right, down, forward = mirrored[:3, 0], mirrored[:3, 1], mirrored[:3, 2]
        theirs = np.eye(4)
        theirs[:3, 0], theirs[:3, 1], theirs[:3, 2] = forward, right, -down
        theirs[:3, 3] = 100 * mirrored[:3, 3]
        rows = " ".join("[" + " ".join(repr(float(v)) for v in row) + "]" for row in theirs.T)
        document[f"frame{i}"] = {"cam05": rows + " ", **dict.fromkeys(extra, rows)}
    return document


RECAMMASTER_WRONG = [
    ({"frame0": {"cam01": "[1 0 0 0]"}}, "frame0: cam01: expected a text of four rows of four numbers"),
    ({"frame0": {"cam01": "[1 0 0 0] " * 4}}, "expected a text of four rows of four numbers"),
    ({"frame0": {"cam01": "[nan 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}}, "expected a text of four rows"),
    ({"frame0": {}, "frame2": {}}, "expected frame0, frame1 and so on without a gap"),
    ({"frame0": {"cam01": "[2 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}}, "frame0: cam01"),
]


class TestReCamMaster:
    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        (tmp_path / "a.json").write_text(json.dumps(recammaster(cameras)))
        assert detect_format(tmp_path / "a.json") == "recammaster"
        found = load_trajectory(tmp_path / "a.json", intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(relative(found), relative(cameras), atol=1e-9)

    def test_up_stays_up(self, tmp_path, cameras):  # noqa: F811
        """Unreal's up, its z, is our -y."""
        text = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [300 200 170 1] "
        (tmp_path / "a.json").write_text(json.dumps({"frame0": {"cam01": text}}))
        pose = load_trajectory(tmp_path / "a.json", intrinsics=cameras.cameras[0])[0]
        np.testing.assert_allclose(pose.position, [2, -1.7, 3], atol=1e-12)
        np.testing.assert_allclose(pose.world_from_camera[:3, :3], np.eye(3), atol=1e-12)

    def test_one_of_several_cameras_is_named(self, tmp_path, cameras):  # noqa: F811
        (tmp_path / "a.json").write_text(json.dumps(recammaster(cameras, ["cam01", "cam10"])))
        camera = {"intrinsics": cameras.cameras[0]}
        with pytest.raises(FormatError, match=r"the file has the cameras cam01, cam05, cam10: name one .* got none"):
            load_trajectory(tmp_path / "a.json", **camera)
        with pytest.raises(FormatError, match="got 'cam11'"):
            load_trajectory(tmp_path / "a.json", camera="cam11", **camera)
        found = load_trajectory(tmp_path / "a.json", camera="cam05", **camera)
        np.testing.assert_allclose(relative(found), relative(cameras), atol=1e-9)

    def test_the_command_takes_it(self, tmp_path, cameras):  # noqa: F811
        (tmp_path / "a.json").write_text(json.dumps(recammaster(cameras, ["cam01"])))
        given = ["--intrinsics", "50,51,30.5,25.25", "--size", f"{WIDTH}x{HEIGHT}"]
        assert "name one (camera, --camera)" in run("convert", tmp_path / "a.json", tmp_path / "b.json", *given).stderr
        succeed("convert", tmp_path / "a.json", tmp_path / "b.json", *given, "--camera", "cam05")
        assert len(CameraTrajectory.load(tmp_path / "b.json")) == FRAMES

    @pytest.mark.parametrize(("document", "message"), RECAMMASTER_WRONG)
    def test_wrong_ones_are_named(self, tmp_path, cameras, document, message):  # noqa: F811
        (tmp_path / "a.json").write_text(json.dumps(document))
        with pytest.raises(FormatError, match=message):
            load_trajectory(tmp_path / "a.json", intrinsics=cameras.cameras[0])


class TestMotionCtrl:
    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        rows = [matrix[:3].ravel().tolist() for matrix in cameras.camera_from_world]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        assert detect_format(tmp_path / "a.json") == "motionctrl"
        found = load_trajectory(tmp_path / "a.json", intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-9)

    def test_wrong_ones_are_named(self, tmp_path, cameras):  # noqa: F811
        file = tmp_path / "a.json"
        for document, message in (
            ([[1] * 11], r"\[0\]: expected"),
            ([[1] * 12], r"\[0\]"),
            ([], "expected a list of 1"),
        ):
            file.write_text(json.dumps(document))
            with pytest.raises(FormatError, match=message):
                load_trajectory(file, "motionctrl", intrinsics=cameras.cameras[0])
        file.write_text(json.dumps([np.eye(4)[:3].ravel().tolist()]))
        with pytest.raises(FormatError, match="the file has no intrinsics"):
            load_trajectory(file)


class TestRust:
    def write(self, tmp_path, cameras, **changes):  # noqa: F811
        poses = []
        for i, matrix in enumerate(cameras.camera_from_world):
            w, x, y, z = (float(v) for v in quaternion_from_rotation(matrix[:3, :3]))
            tx, ty, tz = (float(v) for v in matrix[:3, 3])
            pose = {"tx": tx, "ty": ty, "tz": tz, "qx": x, "qy": y, "qz": z, "qw": w, **changes}
            poses.append({"timestamp": 0.1 * i, "world_to_camera": pose})
        (tmp_path / "a.json").write_text(json.dumps({"poses": poses}))
        return tmp_path / "a.json"

    def test_is_read(self, tmp_path, cameras):  # noqa: F811
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "rust"
        found = load_trajectory(file, intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-6)
        np.testing.assert_allclose([pose.timestamp for pose in found], 0.1 * np.arange(len(found)), atol=1e-12)

    def test_wrong_ones_are_named(self, tmp_path, cameras):  # noqa: F811
        camera = {"intrinsics": cameras.cameras[0]}
        with pytest.raises(FormatError, match=r"poses\[0\]: world_to_camera"):
            load_trajectory(self.write(tmp_path, cameras, qw=9.0), **camera)
        with pytest.raises(FormatError, match=r"poses\[0\]: tx: expected"):
            load_trajectory(self.write(tmp_path, cameras, tx="near"), **camera)
        with pytest.warns(SuspiciousInput, match="roll"):
            load_trajectory(self.write(tmp_path, cameras, roll=1.0), **camera)
        (tmp_path / "a.json").write_text('{"poses": [{"timestamp": 1}]}')
        with pytest.raises(FormatError, match=r"poses\[0\]: world_to_camera is missing"):
            load_trajectory(tmp_path / "a.json", **camera)


class TestViewCrafter:
    def read(self, tmp_path, text, cameras):  # noqa: F811
        (tmp_path / "loop.txt").write_text(text)
        with pytest.warns(SuspiciousInput, match="units of the distance to what the middle of the image shows"):
            return load_trajectory(tmp_path / "loop.txt", "viewcrafter", intrinsics=cameras.cameras[0])

    def test_it_begins_at_the_given_image(self, tmp_path, cameras):  # noqa: F811
        path = self.read(tmp_path, "0 40\n0 -10\n0 -0.5\n", cameras)
        assert len(path) == 25
        np.testing.assert_allclose(path[0].world_from_camera, np.eye(4), atol=1e-12)

    @pytest.mark.parametrize("text", ["0 30\n0\n0\n", "0\n0 15\n0\n", "0 20\n0 -10\n0\n"])
    def test_it_stays_on_a_sphere_and_looks_at_its_centre(self, tmp_path, cameras, text):  # noqa: F811
        for pose in self.read(tmp_path, text, cameras):
            centre = pose.camera_from_world @ [0, 0, 1, 1]
            np.testing.assert_allclose(centre[:3], [0, 0, 1], atol=1e-9)

    def test_phi_turns_by_its_angle(self, tmp_path, cameras):  # noqa: F811
        path = self.read(tmp_path, "0 30\n0\n0\n", cameras)
        turned = path[-1].world_from_camera[:3, :3]
        assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(30)
        assert path[-1].position[0] > 0.4, "towards +x of the world, which is to the right of the image"

    def test_r_moves_away(self, tmp_path, cameras):  # noqa: F811
        far = self.read(tmp_path, "0\n0\n0 1\n", cameras)[-1]
        near = self.read(tmp_path, "0\n0\n0 -0.5\n", cameras)[-1]
        assert far.position[2] == pytest.approx(-(np.cos(np.radians(5)) ** 2), abs=1e-9)
        assert near.position[2] > 0.4

    def test_many_keys_are_smoothed_as_scipy_does(self, tmp_path, cameras):  # noqa: F811
        interpolate = pytest.importorskip("scipy.interpolate")
        keys = [0, 3, 10, 20, 17, 10, 0]
        path = self.read(tmp_path, f"{' '.join(map(str, keys))}\n0\n0\n", cameras)
        smooth = interpolate.UnivariateSpline(np.linspace(0, 1, 7), keys, k=3)(np.linspace(0, 1, 25))
        turned = path[12].world_from_camera[:3, :3]
        assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(smooth[12], abs=1e-6)
        np.testing.assert_allclose(path[-1].world_from_camera, np.eye(4), atol=1e-9)

    def test_wrong_ones_are_named(self, tmp_path, cameras):  # noqa: F811
        file = tmp_path / "loop.txt"
        for text, message in (
            ("0\n1\n", "expected three lines"),
            ("a\n0\n0\n", "expected numbers"),
            ("inf\n0\n0\n", "fin"),
        ):
            file.write_text(text)
            with pytest.raises(FormatError, match=message):
                load_trajectory(file, "viewcrafter", intrinsics=cameras.cameras[0])
