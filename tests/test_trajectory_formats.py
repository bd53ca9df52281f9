"""Readers and writers of other tools' trajectory files, against those tools where PyPI has them."""

import json
import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, FormatError, SuspiciousInput
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
# What a reader needs besides the file.
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
        with pytest.raises(
            ValueError, match=r"size: expected that of the intrinsics, \(640, 480\), or none, got \(32, 24\)"
        ):
            load_trajectory(tmp_path / "a.json", intrinsics=CAMERA, size=(32, 24))
        with pytest.raises(ValueError, match="time_unit: expected one of s, ms, us, ns, frames"):
            load_trajectory(tmp_path / "a.json", time_unit="minutes")
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
        )  # evo writes few digits


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

    def test_lines_of_points_may_be_missing_and_empty_lines_anywhere(self, tmp_path):
        """Names of several words make a line as long as one of points."""
        names = ("a.png", "b 2 3.png", "c c c.png", "d.png")
        lines = [f"{i} 1 0 0 0 0 0 -{i} 1 {name}\n" for i, name in enumerate(names, 1)]
        points = "10.5 20 -1 30 40.25 7\n"
        for i, images in enumerate(
            (
                "".join(lines),
                "\n\n" + "\n".join(lines),
                "\n\n\n".join(lines) + "\n\n",
                points.join(lines) + points,
                ("\n" + points).join(lines) + "\n",
                lines[0] + points + lines[1] + lines[2] + "\n" + points + lines[3],
            )
        ):
            found = load_trajectory(self.write(tmp_path / f"m{i}", "\n\n" + self.PINHOLE + "\n", images))
            np.testing.assert_allclose([pose.position[2] for pose in found], [1, 2, 3, 4])

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ("1.5 2.5 3 4.5\n", r":2: expected the points of the image before, x y id of each, or IMAGE_ID"),
            ("1 2 3\n4 5 6\n", r":3: expected IMAGE_ID"),
            ("2 1 0 0 0 0 0 0 1 7 8 9\n", r":2: expected an image or the points of one, got what may be either"),
            ("1 1 0 0 0 0 0 0 1 b.png\n", r":2: b\.png: expected each IMAGE_ID once, got 1 again"),
        ],
    )
    def test_lines_that_may_be_either_or_are_neither(self, tmp_path, second, message):
        with pytest.raises(FormatError, match=r"images\.txt" + message):
            load_trajectory(self.write(tmp_path / "m", self.PINHOLE, self.IMAGE.rstrip() + "\n" + second))

    def test_numbers_in_names_sort_as_numbers(self, tmp_path):
        names = ("f2.png", "f10.png", "f010b.png", "f11.png", "g1.png")
        images = "".join(f"{9 - i} 1 0 0 0 0 0 -{i} 1 {name}\n\n" for i, name in enumerate(names))
        found = load_trajectory(self.write(tmp_path / "m", self.PINHOLE, images))
        np.testing.assert_allclose([pose.position[2] for pose in found], [0, 1, 2, 3, 4])

    def test_quaternions_off_norm_are_divided_by_it(self, tmp_path):
        def load(name, *quaternions):
            lines = [f"{i} {q} 0 0 0 1 {i}.png\n\n" for i, q in enumerate(quaternions)]
            return load_trajectory(self.write(tmp_path / name, self.PINHOLE, "".join(lines)))

        found = load("fine", "0.707 0.707 0 0", "0.5 0.5 0.5 0.5005")
        np.testing.assert_allclose(found[0].camera_from_world[:3, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
        with pytest.warns(
            SuspiciousInput, match=r"images\.txt: 0\.png and 1 more: a quaternion of norm 1\.005"
        ) as caught:
            found = load("coarse", "1.005 0 0 0", "0.994 0 0 0", "1 0 0 0")
        assert len(caught) == 1
        np.testing.assert_array_equal(found[0].world_from_camera, np.eye(4))
        with pytest.raises(FormatError, match=r"0\.png: expected a unit quaternion, got norm 1\.02"):
            load("wrong", "1.02 0 0 0")

    def test_the_model_is_found_in_the_folders_above_it(self, tmp_path, path):
        for place in ("sparse/0", "0", "sparse", "colmap/sparse/0"):
            root = tmp_path / place.replace("/", "_")
            (root / "images").mkdir(parents=True)
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            save_trajectory(root / place, path, "colmap")
            assert detect_format(root) == "colmap"
            assert_same(load_trajectory(root), path)
        save_trajectory(root / "colmap" / "sparse" / "1", path, "colmap")
        with pytest.raises(FormatError, match=r"expected one model, got 2: colmap/sparse/0, colmap/sparse/1; give one"):
            load_trajectory(root)

    @pytest.mark.parametrize("name", ["colmap", "colmap-binary"])
    def test_a_file_stands_for_its_folder(self, tmp_path, path, name):
        save_trajectory(tmp_path / "m", path, name)
        for file in (tmp_path / "m").iterdir():
            assert_same(load_trajectory(file), path)

    def test_cameras_are_looked_at_before_images(self, tmp_path, path):
        folder = self.write(tmp_path / "m", "1 OPENCV_FISHEYE 64 48 50 50 32 24 0 0 0 0\n", "no image\n" * 10)
        with pytest.raises(FormatError, match=r"cameras\.txt:1: .* got OPENCV_FISHEYE"):
            load_trajectory(folder)
        (folder / "cameras.txt").unlink()
        with pytest.raises(FormatError, match=r"cameras\.txt: missing"):
            load_trajectory(folder)
        with pytest.raises(FormatError, match="the file says 640x480, got 320x240"):
            load_trajectory(self.write(tmp_path / "n", self.PINHOLE, self.IMAGE), size=(320, 240))

    MODELS = (
        *(("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8)),
        *(("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5)),
        *(("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16), ("SIMPLE_DIVISION", 4), ("DIVISION", 5)),
        *(("SIMPLE_FISHEYE", 3), ("FISHEYE", 4), ("EUCM", 6), ("EQUIRECTANGULAR", 2)),
    )

    @pytest.mark.parametrize(("number", "name", "count"), [(i, *model) for i, model in enumerate(MODELS)])
    def test_binary_models_are_read_past_and_named(self, tmp_path, path, number, name, count):
        """Each model stands before the pinhole that is used, and is then used itself."""
        save_trajectory(tmp_path / "m", path, "colmap-binary")
        cameras = tmp_path / "m" / "cameras.bin"
        content = cameras.read_bytes()
        other = struct.pack(f"<iiQQ{count}d", 7, number, 640, 480, *[0.1] * count)
        cameras.write_bytes(struct.pack("<Q", 2) + other + content[8:])
        assert_same(load_trajectory(tmp_path / "m"), path)
        cameras.write_bytes(struct.pack("<Q", 1) + struct.pack("<i", 1) + other[4:])
        if "PINHOLE" not in name:
            with pytest.raises(FormatError, match=rf"cameras\.bin: expected .* got {name}\b"):
                load_trajectory(tmp_path / "m")
        cameras.write_bytes(struct.pack("<Q", 1) + struct.pack("<iiQQ", 1, 18, 640, 480))
        with pytest.raises(FormatError, match=r"SIMPLE_PINHOLE to EQUIRECTANGULAR \(0 to 17\), got number 18; .*newer"):
            load_trajectory(tmp_path / "m")

    @pytest.mark.parametrize("camera", ["SIMPLE_DIVISION 64 48 50 32 24 0", "FULL_OPENCV 64 48 50 50 32 24" + " 0" * 8])
    def test_models_whose_distortion_is_nothing(self, tmp_path, camera):
        assert load_trajectory(self.write(tmp_path / "m", f"1 {camera}", self.IMAGE)).intrinsics.fx == 50

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

    def test_a_size_whose_sides_are_swapped_is_suspected_once(self, tmp_path):
        lines = [f"{i * 50_000} 0.5 0.889 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 {i}\n" for i in range(3)]
        (tmp_path / "a.txt").write_text("".join(lines))
        with pytest.warns(SuspiciousInput, match="in one of 1280x720 they are; width and height swapped") as caught:
            load_trajectory(tmp_path / "a.txt", size=(720, 1280))
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for size in ((1280, 720), (500, 500), (640, 480)):
                load_trajectory(tmp_path / "a.txt", size=size)


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
        """Of ns-process-data, instant-ngp's colmap2nerf, Neuralangelo, Blender: no distortion, and data for others."""
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
            (
                {"poses": np.eye(4), "b": [1]},
                r"expected an array extrinsics_c2w .* got the arrays b, poses; rename them",
            ),
            ({"extrinsics_c2w": np.eye(4)}, r"extrinsics_c2w: expected shape \(N, 4, 4\), got \(4, 4\)"),
            ({"extrinsics_c2w": 2 * path.world_from_camera, "intrinsics": CAMERA.matrix}, r"_c2w\[0\]: .*last row"),
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
        """Headers with impossible sizes, and broken streams."""
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

    def test_every_k_is_checked(self, tmp_path, path):
        k = CAMERA.matrix
        for wrong, message in (
            (k.T, "transposed"),
            (k @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]), "skew"),
            (2 * k, "scaled by 2"),
            (k * [[1], [-1], [1]], "fy: expected more than 0|expected the camera of"),
        ):
            stack = np.stack([k, wrong, k])
            for intrinsics in (wrong, stack):
                file = self.save(tmp_path, extrinsics_c2w=path.world_from_camera[:3], intrinsics=intrinsics)
                with pytest.raises(FormatError, match=message):
                    load_trajectory(file, size=(640, 480))

    def test_numbers_that_are_none_are_named(self, tmp_path, path):
        params = np.tile(np.array(CAMERA.params), (11, 1))
        params[:, 1] = np.nan
        file = self.save(tmp_path, extrinsics_c2w=path.world_from_camera, intrinsics=params)
        with pytest.raises(FormatError, match=r"intrinsics\[0\]: fy: expected a finite number, got nan"):
            load_trajectory(file, size=(640, 480))

    def test_other_arrays(self, tmp_path, path):
        arrays = {"extrinsics_c2w": path.world_from_camera, "intrinsics": CAMERA.matrix}
        size = {"size": (640, 480)}
        file = self.save(tmp_path, **arrays, dist_coeffs=np.zeros(5), camera_model=np.array("PINHOLE"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_same(load_trajectory(file, **size), path)
        with pytest.raises(FormatError, match="expected no distortion"):
            load_trajectory(self.save(tmp_path, **arrays, dist_coeffs=np.array([0, 0.1])), **size)
        with pytest.raises(FormatError, match="camera_model: expected one of"):
            load_trajectory(self.save(tmp_path, **arrays, camera_model=np.array("FISHEYE")), **size)
        with pytest.warns(SuspiciousInput, match="skipped: pose_scale; if"):
            load_trajectory(self.save(tmp_path, **arrays, pose_scale=np.array([2.0])), **size)
        with pytest.raises(FormatError, match="or both alike, got two that differ"):
            load_trajectory(self.save(tmp_path, **arrays, extrinsics=path.camera_from_world), **size)


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

    def test_fields_and_keys_that_are_not_known(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())

        def load(changed):
            (tmp_path / "b.json").write_text(json.dumps(changed))
            return load_trajectory(tmp_path / "b.json", "worldplay")

        with pytest.warns(SuspiciousInput, match=r'skipped: focus \("1"\)') as caught:
            load({**document, "1": {**document["1"], "focus": 3}})
        assert len(caught) == 1
        with pytest.raises(FormatError, match='"1": expected no distortion'):
            load({**document, "1": {**document["1"], "k1": 3}})
        with pytest.raises(FormatError, match='and no other, got "fps"'):
            load({**document, "fps": 3})
        k = (np.array(document["0"]["K"]) - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).tolist()
        with pytest.warns(
            SuspiciousInput, match="639x479 pixels; a K whose integer coordinates are pixel centres"
        ) as caught:
            load({key: {**entry, "K": k} for key, entry in document.items()})
        assert len(caught) == 1
        k = (np.array(document["0"]["K"]) * [[1], [1], [2]]).tolist()
        with pytest.raises(FormatError, match=r'"0": K: expected .*scaled by 2'):
            load({key: {**entry, "K": k} for key, entry in document.items()})

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
