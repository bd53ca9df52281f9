"""COLMAP models."""

import struct

import numpy as np
import pytest

from mosaicmem import FormatError, SuspiciousInput
from mosaicmem.camera.formats import detect_format, load_trajectory, save_trajectory
from test_trajectory_formats import CAMERA, assert_same, random_path


@pytest.fixture
def path(rng):
    return random_path(rng)


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
                PINHOLE + "2 PINHOLE 320 240 400 400 160 120\n",
                IMAGE + "2 1 0 0 0 0 0 0 2 b.png\n\n",
                r"b\.png: expected the image size of a\.png, 640x480, got 320x240; a trajectory has images of one size",
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
        """Each before the pinhole that is used, and then used itself."""
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
