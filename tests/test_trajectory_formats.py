"""Readers and writers of the trajectory files of others, against those others where PyPI has them."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, FormatError
from mosaicmem.camera.formats import FORMATS, detect_format, load_trajectory, save_trajectory

CAMERA = CameraIntrinsics(501.25, 498.5, 320.0, 240.0, 640, 480)
SUFFIX = {
    "mosaicmem": ".json",
    "tum": ".txt",
    "kitti": ".txt",
    "re10k": ".txt",
    "nerfstudio": ".json",
    "matrixgame": ".npz",
    "worldplay": ".json",
    "colmap": "",
    "colmap-binary": "",
}
# What a reader must be told.
OPTIONS = {
    "tum": {"intrinsics": CAMERA},
    "kitti": {"intrinsics": CAMERA},
    "re10k": {"size": (640, 480)},
    "matrixgame": {"size": (640, 480)},
}


@pytest.fixture
def path(rng):
    return CameraTrajectory([random_pose(rng, 30.0, i / 30.0) for i in range(11)], CAMERA)


def assert_same(a, b, atol=1e-9):
    assert len(a) == len(b)
    np.testing.assert_allclose(a.world_from_camera, b.world_from_camera, rtol=0, atol=atol)
    np.testing.assert_allclose(a.intrinsics.params, b.intrinsics.params, rtol=0, atol=atol)
    assert (a.intrinsics.width, a.intrinsics.height) == (b.intrinsics.width, b.intrinsics.height)


@pytest.mark.parametrize("name", FORMATS)
class TestEvery:
    def test_round_trip(self, tmp_path, path, name):
        file = tmp_path / f"a{SUFFIX[name]}"
        save_trajectory(file, path, name)
        assert detect_format(file) == name.removesuffix("-binary")
        again = load_trajectory(file, **OPTIONS.get(name, {}))
        assert_same(again, path)
        times = [pose.timestamp for pose in again]
        np.testing.assert_allclose(times, [pose.timestamp for pose in path], atol=5e-7 if name == "re10k" else 1e-9)
        assert [p.name for p in tmp_path.iterdir()] == [file.name]  # nothing half-written

    def test_one_frame_and_turned_cameras(self, tmp_path, name):
        """Half turns are where quaternions go wrong."""
        for k, axis in enumerate(np.eye(3)):
            matrix = np.eye(4)
            matrix[:3, :3] = 2 * np.outer(axis, axis) - np.eye(3)
            matrix[:3, 3] = [1e-7, 12345.678, -3]
            one = CameraTrajectory([CameraPose(matrix)], CAMERA)
            file = tmp_path / f"{k}{SUFFIX[name]}"
            save_trajectory(file, one, name)
            assert_same(load_trajectory(file, **OPTIONS.get(name, {})), one)

    def test_intrinsics_that_are_given_are_taken(self, tmp_path, path, name):
        file = tmp_path / f"a{SUFFIX[name]}"
        save_trajectory(file, path, name)
        other = CAMERA.scaled(320, 240)
        assert load_trajectory(file, intrinsics=other).intrinsics == other

    def test_what_is_no_such_file_is_named(self, tmp_path, name):
        missing = tmp_path / f"none{SUFFIX[name]}"
        with pytest.raises((FormatError, FileNotFoundError), match="none"):
            load_trajectory(missing, name, **OPTIONS.get(name, {}))
        garbage = tmp_path / f"bad{SUFFIX[name]}"
        if SUFFIX[name]:
            garbage.write_bytes(b"\x00\xff no such thing \x80" * 10)
        else:
            garbage.mkdir()
            (garbage / "images.txt").write_bytes(b"\x00\xff\n")
            (garbage / "cameras.txt").write_bytes(b"")
        with pytest.raises(FormatError, match="bad"):
            load_trajectory(garbage, name, **OPTIONS.get(name, {}))


class TestWhatIsMissing:
    @pytest.mark.parametrize("name", ["tum", "kitti"])
    def test_intrinsics(self, tmp_path, path, name):
        save_trajectory(tmp_path / "a.txt", path, name)
        with pytest.raises(FormatError, match="the file has no intrinsics: give them"):
            load_trajectory(tmp_path / "a.txt")

    def test_sizes(self, tmp_path, path):
        save_trajectory(tmp_path / "a.txt", path, "re10k")
        with pytest.raises(FormatError, match="intrinsics are parts of the image: give the image size"):
            load_trajectory(tmp_path / "a.txt")
        save_trajectory(tmp_path / "a.npz", path, "matrixgame")
        with pytest.raises(FormatError, match="no image size: give that of the anchor image"):
            load_trajectory(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["mosaicmem", "nerfstudio", "worldplay"])
    def test_a_size_that_is_not_that_of_the_file(self, tmp_path, path, name):
        save_trajectory(tmp_path / "a.json", path, name)
        assert load_trajectory(tmp_path / "a.json", size=(640, 480)).intrinsics.params == pytest.approx(CAMERA.params)
        with pytest.raises(FormatError, match="size: the file says 640x480, got 320x240"):
            load_trajectory(tmp_path / "a.json", size=(320, 240))

    def test_bad_options(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "mosaicmem")
        with pytest.raises(TypeError, match=r"size: expected \(width, height\), got 3"):
            load_trajectory(tmp_path / "a.json", size=3)
        with pytest.raises(ValueError, match=r"fps: expected more than 0\.0"):
            load_trajectory(tmp_path / "a.json", fps=0)
        with pytest.raises(ValueError, match="format: expected one of mosaicmem, tum"):
            load_trajectory(tmp_path / "a.json", "bundler")
        with pytest.raises(TypeError, match="trajectory: expected CameraTrajectory, got list"):
            save_trajectory(tmp_path / "b.json", list(path), "tum")


class TestTum:
    def test_lines(self, tmp_path):
        """world_from_camera, x y z w: a quarter turn about y looks along +x."""
        h = 0.5**0.5
        (tmp_path / "a.txt").write_text(f"# a comment\n1.5 1 2 3 0 {h!r} 0 {h!r}\n")
        pose = load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)[0]
        np.testing.assert_allclose(pose.position, [1, 2, 3])
        np.testing.assert_allclose(pose.world_from_camera[:3, 2], [1, 0, 0], atol=1e-12)
        assert pose.timestamp == 1.5

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0 0 0 0 0 0 2\n", r"a\.txt:1: wxyz: expected a unit quaternion, got norm 2"),
            ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", r"a\.txt:2: expected 8 numbers, got 7"),
            ("1 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 1\n", "timestamps that do not decrease"),
            ("0 0 0 nan 0 0 0 1\n", r"a\.txt:1: .*finite"),
            ("# only\n", "expected at least one frame, got none"),
        ],
    )
    def test_bad_files(self, tmp_path, text, message):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(FormatError, match=message):
            load_trajectory(tmp_path / "a.txt", "tum", intrinsics=CAMERA)

    def test_a_mark_of_byte_order(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf# comment\r\n0 1 2 3 0 0 0 1\r\n")
        assert len(load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)) == 1

    def test_evo_reads_what_we_write_and_the_other_way_round(self, tmp_path, path):
        interface = pytest.importorskip("evo.tools.file_interface")
        save_trajectory(tmp_path / "ours.txt", path, "tum")
        theirs = interface.read_tum_trajectory_file(tmp_path / "ours.txt")
        np.testing.assert_allclose(np.array(theirs.poses_se3), path.world_from_camera, atol=1e-9)
        interface.write_tum_trajectory_file(tmp_path / "theirs.txt", theirs)
        assert_same(load_trajectory(tmp_path / "theirs.txt", intrinsics=CAMERA), path)


class TestKitti:
    def test_lines(self, tmp_path):
        (tmp_path / "a.txt").write_text("0 0 1 7 0 1 0 8 -1 0 0 9\n")
        pose = load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)[0]
        np.testing.assert_array_equal(pose.position, [7, 8, 9])
        np.testing.assert_array_equal(pose.world_from_camera[:3, 2], [1, 0, 0])

    def test_bad_files(self, tmp_path):
        (tmp_path / "a.txt").write_text("1 0 0 0 0 1 0 0 0 0 -1 0\n")
        with pytest.raises(FormatError, match=r"a\.txt:1: world_from_camera: .*determinant"):
            load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)

    def test_evo_reads_what_we_write_and_the_other_way_round(self, tmp_path, path):
        interface = pytest.importorskip("evo.tools.file_interface")
        save_trajectory(tmp_path / "ours.txt", path, "kitti")
        theirs = interface.read_kitti_poses_file(tmp_path / "ours.txt")
        np.testing.assert_allclose(np.array(theirs.poses_se3), path.world_from_camera, atol=1e-9)
        interface.write_kitti_poses_file(tmp_path / "theirs.txt", theirs)
        assert_same(
            load_trajectory(tmp_path / "theirs.txt", intrinsics=CAMERA), path, atol=1e-6
        )  # it writes few digits


class TestColmap:
    @pytest.mark.parametrize("name", ["colmap", "colmap-binary"])
    def test_pycolmap_reads_what_we_write(self, tmp_path, path, name):
        pycolmap = pytest.importorskip("pycolmap")
        save_trajectory(tmp_path / "model", path, name)
        model = pycolmap.Reconstruction(str(tmp_path / "model"))
        assert model.num_images() == len(path)
        camera = model.cameras[1]
        np.testing.assert_allclose(camera.params, CAMERA.params)
        images = sorted(model.images.values(), key=lambda image: image.name)
        for image, pose in zip(images, path, strict=True):
            cam_from_world = image.cam_from_world()
            np.testing.assert_allclose(cam_from_world.matrix(), pose.camera_from_world[:3], atol=1e-9)
        # Its pixels are ours: the same world point lands on the same pixel.
        point = path[0].world_from_camera @ [0.3, -0.2, 2.0, 1.0]
        ours, _ = CAMERA.project((path[0].camera_from_world @ point)[None, :3])
        np.testing.assert_allclose(images[0].project_point(point[:3]), ours[0], atol=1e-6)

    @pytest.mark.parametrize("binary", [False, True])
    def test_we_read_what_pycolmap_writes(self, tmp_path, path, binary):
        pycolmap = pytest.importorskip("pycolmap")
        save_trajectory(tmp_path / "ours", path, "colmap")
        model = pycolmap.Reconstruction(str(tmp_path / "ours"))
        (tmp_path / "theirs").mkdir()
        (model.write_binary if binary else model.write_text)(str(tmp_path / "theirs"))
        assert (tmp_path / "theirs" / f"images.{'bin' if binary else 'txt'}").is_file()
        assert_same(load_trajectory(tmp_path / "theirs"), path)

    def write(self, folder, cameras, images):
        folder.mkdir()
        (folder / "cameras.txt").write_text(cameras)
        (folder / "images.txt").write_text(images)
        return folder

    PINHOLE = "1 PINHOLE 640 480 501.25 498.5 320 240\n"
    IMAGE = "1 1 0 0 0 0 0 0 1 a.png\n\n"

    def test_points_comments_and_order(self, tmp_path):
        """Every other line holds points, names are sorted, and a name may hold spaces."""
        images = (
            "# comment\n2 1 0 0 0 0 0 -2 1 b with space.png\n10 20 -1 30 40 7\n1 1 0 0 0 0 0 -1 1 a.png\n1.0 2.0 3\n"
        )
        found = load_trajectory(self.write(tmp_path / "m", self.PINHOLE, images))
        np.testing.assert_allclose([pose.position for pose in found], [[0, 0, 1], [0, 0, 2]])

    @pytest.mark.parametrize(
        ("cameras", "params"),
        [
            ("1 SIMPLE_PINHOLE 64 48 50 32 24", (50, 50, 32, 24)),
            ("1 SIMPLE_RADIAL 64 48 50 32 24 0", (50, 50, 32, 24)),
            ("1 OPENCV 64 48 50 51 32 24 0 0 0 0", (50, 51, 32, 24)),
        ],
    )
    def test_models_without_distortion(self, tmp_path, cameras, params):
        found = load_trajectory(self.write(tmp_path / "m", cameras, self.IMAGE))
        assert found.intrinsics.params == params

    @pytest.mark.parametrize(
        ("cameras", "images", "message"),
        [
            ("1 SIMPLE_RADIAL 64 48 50 32 24 0.1", IMAGE, "expected no distortion, got SIMPLE_RADIAL"),
            ("1 FISHEYE 64 48 50 32 24", IMAGE, r"cameras\.txt:1: expected a camera of model"),
            ("1 PINHOLE 64 48 50 32 24", IMAGE, "PINHOLE: expected 4 parameters, got 3"),
            (PINHOLE, "1 1 0 0 0 0 0 0 2 a.png\n\n", r"images\.txt:1: a\.png: no camera 2"),
            (PINHOLE, "1 2 0 0 0 0 0 0 1 a.png\n\n", r"images\.txt:1: a\.png: expected a unit quaternion, got norm 2"),
            (PINHOLE, "1 1 0 0 0 0 0 zero 1 a.png\n\n", r"images\.txt:1: expected IMAGE_ID QW"),
            (PINHOLE, "", "expected 1 to 1048576 images, got 0"),
            (
                PINHOLE + "2 PINHOLE 640 480 400 400 320 240\n",
                IMAGE + "2 1 0 0 0 0 0 0 2 b.png\n\n",
                r"b\.png: expected the camera of a\.png .* a trajectory has one camera",
            ),
        ],
    )
    def test_bad_models(self, tmp_path, cameras, images, message):
        with pytest.raises(FormatError, match=message):
            load_trajectory(self.write(tmp_path / "m", cameras, images))

    def test_a_mark_of_byte_order_and_other_line_ends(self, tmp_path):
        folder = self.write(tmp_path / "m", self.PINHOLE, self.IMAGE)
        for file in folder.iterdir():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
        assert len(load_trajectory(folder)) == 1

    def test_images_without_lines_of_points_are_not_halved(self, tmp_path):
        images = "".join(f"{i} 1 0 0 0 0 0 0 1 {i}.png\n" for i in range(1, 5))
        with pytest.raises(FormatError, match=r"images\.txt:2: expected the points of the image before"):
            load_trajectory(self.write(tmp_path / "m", self.PINHOLE, images))
        found = load_trajectory(self.write(tmp_path / "n", self.PINHOLE, "\n\n" + self.IMAGE))
        assert len(found) == 1

    def test_only_cameras_in_use_are_judged(self, tmp_path):
        other = "2 OPENCV_FISHEYE 64 48 50 50 32 24 0.1 0 0 0\n"
        assert load_trajectory(self.write(tmp_path / "m", self.PINHOLE + other, self.IMAGE)).intrinsics.width == 640
        used = self.write(tmp_path / "n", self.PINHOLE + other, self.IMAGE.replace(" 1 a.png", " 2 a.png"))
        with pytest.raises(FormatError, match=r"cameras\.txt:2: expected a camera of model .*, got OPENCV_FISHEYE"):
            load_trajectory(used)
        assert load_trajectory(used, intrinsics=CAMERA).intrinsics == CAMERA

    def test_binary_files_that_lie(self, tmp_path, path):
        save_trajectory(tmp_path / "m", path, "colmap-binary")
        images = tmp_path / "m" / "images.bin"
        content = images.read_bytes()
        for damaged, message in (
            (content[:-5], "ends too early"),
            (struct.pack("<Q", 2**60) + content[8:], "ends too early|without an end"),
            (content[:-8] + struct.pack("<Q", 2**60), "ends too early"),
            (content[:8], "ends too early"),
        ):
            images.write_bytes(damaged)
            with pytest.raises(FormatError, match=rf"images\.bin: damaged: .*({message})"):
                load_trajectory(tmp_path / "m")


class TestRealEstate10K:
    def test_lines(self, tmp_path):
        """camera_from_world: a camera 5 m behind the origin has z translation +5."""
        text = "https://example.org/v\n2000000 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 5\n"
        (tmp_path / "a.txt").write_text(text)
        found = load_trajectory(tmp_path / "a.txt", size=(1280, 720))
        assert found.intrinsics.params == (640.0, 648.0, 640.0, 360.0)
        np.testing.assert_allclose(found[0].position, [0, 0, -5])
        assert found[0].timestamp == 2.0

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                "0 640 648 640 360 0 0 1 0 0 0 0 1 0 0 0 0 1 5",
                ":2: expected focal lengths as parts .* 640, 648; pixels",
            ),
            ("0 .5 .9 .5 .5 .1 0 1 0 0 0 0 1 0 0 0 0 1 5", ":2: expected no distortion"),
            ("0 .5 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 5", ":2: expected 19 numbers, got 18"),
            ("0 .5 .9 .5 .5 0 0 2 0 0 0 0 2 0 0 0 0 2 5", ":2: camera_from_world: .* scaled by 2"),
        ],
    )
    def test_bad_lines(self, tmp_path, line, message):
        (tmp_path / "a.txt").write_text(f"url\n{line}\n")
        with pytest.raises(FormatError, match=message):
            load_trajectory(tmp_path / "a.txt", "re10k", size=(1280, 720))


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
        with pytest.raises(FormatError, match=r"frames\[1\]: expected the camera of frames\[0\]"):
            self.load(tmp_path, mixed)

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
        ],
    )
    def test_bad_files(self, tmp_path, changes, message):
        with pytest.raises(FormatError, match=message):
            self.load(tmp_path, self.document(**changes))


class TestMatrixGame:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "camera.npz", **arrays)
        return tmp_path / "camera.npz"

    @pytest.mark.parametrize("shape", ["(N, 4)", "(4,)", "(3, 3)", "(N, 3, 3)"])
    def test_all_that_it_takes(self, tmp_path, path, shape):
        flat = np.array(CAMERA.params, np.float32)
        intrinsics = {
            "(N, 4)": np.tile(flat, (11, 1)),
            "(4,)": flat,
            "(3, 3)": CAMERA.matrix,
            "(N, 3, 3)": np.tile(CAMERA.matrix, (11, 1, 1)),
        }[shape]
        for name in ("extrinsics_c2w", "extrinsics"):
            file = self.save(tmp_path, **{name: path.world_from_camera.astype(np.float32), "intrinsics": intrinsics})
            assert_same(load_trajectory(file, size=(640, 480)), path, atol=1e-4)

    def test_bad_files(self, tmp_path, path):
        size = {"size": (640, 480)}
        for arrays, message in (
            ({"poses": np.eye(4)}, "expected an array extrinsics_c2w, got none"),
            ({"extrinsics_c2w": np.eye(4)}, r"extrinsics_c2w: expected shape \(N, 4, 4\), got \(4, 4\)"),
            ({"extrinsics_c2w": 2 * path.world_from_camera}, r"extrinsics_c2w\[0\]: .*last row"),
            ({"extrinsics_c2w": path.world_from_camera}, "expected an array intrinsics"),
            (
                {"extrinsics_c2w": path.world_from_camera, "intrinsics": np.ones((3, 4))},
                r"intrinsics: expected shape \(11, 4\)",
            ),
            ({"extrinsics_c2w": np.array([object()])}, "not a readable npz file"),
            ({"extrinsics_c2w": np.array(["a"])}, "expected numbers"),
        ):
            with pytest.raises(FormatError, match=message):
                load_trajectory(self.save(tmp_path, **arrays), **size)

    def test_a_bomb_is_not_unpacked(self, tmp_path, monkeypatch):
        from mosaicmem.camera.formats import matrixgame

        monkeypatch.setattr(matrixgame, "_MAX_BYTES", 10_000)
        np.savez_compressed(tmp_path / "a.npz", extrinsics_c2w=np.zeros((1000, 4, 4)))
        assert (tmp_path / "a.npz").stat().st_size < 10_000
        with pytest.raises(FormatError, match="expected at most 10000 bytes, got 128"):
            load_trajectory(tmp_path / "a.npz", size=(640, 480))

    def test_arrays_that_lie(self, tmp_path):
        """Headers of sizes that there cannot be, and streams that are broken."""
        np.savez(tmp_path / "a.npz", extrinsics_c2w=np.zeros((3, 4, 4)))
        content = (tmp_path / "a.npz").read_bytes()
        for old, new in ((b"(3, 4, 4)", b"(10**12,)"), (b"(3, 4, 4), }   ", b"(999999999999,)")):
            (tmp_path / "b.npz").write_bytes(content.replace(old, new))
            with pytest.raises(FormatError, match="not a readable npz file"):
                load_trajectory(tmp_path / "b.npz", size=(640, 480))
        np.savez_compressed(tmp_path / "c.npz", extrinsics_c2w=np.arange(48.0).reshape(3, 4, 4))
        broken = bytearray((tmp_path / "c.npz").read_bytes())
        broken[70:90] = bytes(20)
        (tmp_path / "c.npz").write_bytes(broken)
        with pytest.raises(FormatError, match="not a readable npz file"):
            load_trajectory(tmp_path / "c.npz", size=(640, 480))


class TestWorldPlay:
    def test_its_own_example(self, tmp_path):
        """Its default K is that of 1920 x 1080."""
        k = [[969.6969696969696, 0.0, 960.0], [0.0, 969.6969696969696, 540.0], [0.0, 0.0, 1.0]]
        forward = np.eye(4)
        forward[2, 3] = 0.08
        entries = {str(i): {"extrinsic": m.tolist(), "K": k} for i, m in enumerate((np.eye(4), forward))}
        (tmp_path / "pose.json").write_text(json.dumps(entries))
        found = load_trajectory(tmp_path / "pose.json")
        assert (found.intrinsics.width, found.intrinsics.height) == (1920, 1080)
        np.testing.assert_allclose(found[1].position, [0, 0, 0.08])

    def test_ten_frames_are_in_the_order_of_numbers(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())
        (tmp_path / "a.json").write_text(json.dumps(dict(sorted(document.items()))))  # "10" before "2"
        assert_same(load_trajectory(tmp_path / "a.json"), path)

    def test_bad_files(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())

        def load(changed):
            (tmp_path / "b.json").write_text(json.dumps(changed))
            return load_trajectory(tmp_path / "b.json", "worldplay")

        for changed, message in (
            ({k: v for k, v in document.items() if k != "3"}, 'expected the keys "0", "1", ... without a gap'),
            ({**document, "2": {"K": document["2"]["K"]}}, '"2": extrinsic is missing'),
            ({**document, "2": 5}, '"2": expected an object, got int'),
            ({"0": {**document["0"], "K": [[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]]}}, "got 1x1; normalised?"),
        ):
            with pytest.raises(FormatError, match=message):
                load(changed)

    def test_principal_points_off_the_middle_cannot_be_written(self, tmp_path, path):
        other = CameraTrajectory(path.poses, replace(CAMERA, cx=300.0))
        with pytest.raises(ValueError, match="expected a principal point in the middle of the image"):
            save_trajectory(tmp_path / "a.json", other, "worldplay")
        assert not list(tmp_path.iterdir())


def test_unknown_files(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.txt").write_text("1 2 3\n")
    for name in ("a.json", "a.txt"):
        with pytest.raises(FormatError, match="no trajectory that is known"):
            detect_format(tmp_path / name)
