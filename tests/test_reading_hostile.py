"""Non-regular files, small files that would expand to large ones, and what parsers of other libraries raise."""

import io
import json
import os
import pickle
import socket
import tokenize
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    FormatError,
    PipelineConfig,
    PointCloud,
    SuspiciousInput,
)
from mosaicmem._files import read_json_object
from mosaicmem._images import read_color
from mosaicmem._json import decode_json
from mosaicmem._opening import foreign_parser, open_file, open_regular
from mosaicmem.camera.formats import load_trajectory, save_trajectory
from mosaicmem.cli._settings import read_changes
from mosaicmem.errors import shorten, suspect
from test_reading_limits import CASES, XYZ

CAMERA = CameraIntrinsics(500, 500, 320, 240, 640, 480)
MATRIX = np.eye(4).tolist()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


IRREGULAR = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: os.symlink("/dev/zero", path),
    "socket": make_socket,
}


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", [name for name in CASES if " " not in name])
def test_what_is_no_regular_file_is_refused_at_once(name, kind, tmp_path, monkeypatch):
    file, _, read = CASES[name]
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    IRREGULAR[kind](tmp_path / file)
    if name == "intrinsics":  # such files are skipped, as any others in a folder
        assert read(tmp_path / file) is None
        return
    with pytest.raises(FormatError):
        read(tmp_path / file)


class TestOpening:
    def test_a_regular_file_is_opened(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc")
        for opened in (open_file, open_regular):
            with opened(tmp_path / "a") as file:
                assert file.read() == b"abc"

    @pytest.mark.parametrize("kind", IRREGULAR)
    def test_others_are_not(self, kind, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        IRREGULAR[kind](tmp_path / "a")
        for opened in (open_file, open_regular):
            with pytest.raises(FormatError, match="expected a regular file"), opened(tmp_path / "a"):
                pass

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(FormatError, match="a: missing"), open_file(tmp_path / "a"):
            pass
        with pytest.raises(FileNotFoundError), open_regular(tmp_path / "a"):
            pass

    def test_a_file_that_says_it_is_empty_and_is_not(self):
        with pytest.raises(FormatError, match="says it is empty and is not"):
            read_json_object("/proc/self/maps", 100)


class TestForeignParsers:
    @pytest.mark.parametrize(
        "error", [IndexError("a"), AttributeError("a"), tokenize.TokenError("a"), KeyError("a"), RecursionError("a")]
    )
    def test_any_error_becomes_a_format_error_with_its_cause(self, error, tmp_path):
        with (
            pytest.raises(FormatError, match=r"a\.npz: not readable: '?a") as caught,
            foreign_parser(tmp_path / "a.npz", "not readable"),
        ):
            raise error
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
    def test_what_is_not_about_the_file_passes(self, error, tmp_path):
        with pytest.raises(error), foreign_parser(tmp_path, "not readable"):
            raise error

    @pytest.mark.parametrize(
        "header",
        [
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4, 4L), (((",  # TokenError
            b"{'descr': [], 'fortran_order': False, 'shape': (1, 4, 4)}",
            b"{'descr': ('<f8',), 'fortran_order': False, 'shape': (1, 4, 4)}",
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4, -4)}",
            b"{'descr': '<f8', 'fortran_order': 0, 'shape': 1}",
            b"{'descr': '', 'fortran_order': False, 'shape': (1, 4, 4)}",
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (True, 4, 4)}" + b" " * 20_000,
            b"(" * 5000,
            b"\xff\xfe",
        ],
    )
    @pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0", b"\7\0"])
    def test_headers_of_arrays(self, header, version, tmp_path):
        length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
        array = b"\x93NUMPY" + version + length + header + bytes(128)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("extrinsics_c2w.npy", array)
        with pytest.raises(FormatError, match="not a readable npz file"):
            load_trajectory(tmp_path / "a.npz", intrinsics=CAMERA)

    def test_a_damaged_image_has_its_cause(self, tmp_path):
        file = io.BytesIO()
        Image.new("RGB", (16, 12)).save(file, format="PNG")
        (tmp_path / "a.png").write_bytes(file.getvalue()[:50])
        with pytest.raises(FormatError, match="not a readable image") as caught:
            read_color(tmp_path / "a.png", (16, 12))
        assert caught.value.__cause__ is not None


class TestMessages:
    def test_the_middle_of_a_long_one_is_left_out(self):
        message = shorten(f"name: expected a number, got {'x' * 5_000_000}; divide by 1000")
        assert len(message) < 2100
        assert message.startswith("name: expected a number, got xxx")
        assert message.endswith("xxx; divide by 1000")
        assert "more characters" in message

    def test_what_would_move_the_cursor_is_escaped(self):
        assert shorten("a\x1b[2Jb\ud800\n\u00e9") == "a\\x1b[2Jb\\ud800\n\u00e9"

    def test_every_message_about_a_file_is_cut(self, tmp_path):
        assert len(str(FormatError(tmp_path, "x" * 10**6))) < 2100 + len(str(tmp_path))
        error = pickle.loads(pickle.dumps(FormatError("a", "x" * 10**6, 3)))
        assert str(error).startswith("a:3: xxx")
        with pytest.warns(SuspiciousInput) as caught:
            suspect("x" * 10**6)
        assert len(str(caught[0].message)) < 2100

    @pytest.mark.parametrize("field", ["schema", "timestamp", "world_from_camera", "intrinsics"])
    def test_a_field_of_five_megabytes(self, field, tmp_path):
        poses = [CameraPose.look_at([i, 0, 0], [i, 0, 5], timestamp=i / 30) for i in range(3)]
        document = CameraTrajectory(poses, CAMERA).to_dict()
        (document if field in document else document["frames"][0])[field] = "x" * 5_000_000
        (tmp_path / "a").write_text(json.dumps(document))
        with pytest.raises(FormatError) as caught:
            load_trajectory(tmp_path / "a", "mosaicmem")
        assert len(str(caught.value)) < 3000

    def test_settings(self, tmp_path):
        for wrong in ({"prompt": 3, "scheduler": "x" * 500_000}, {f"key{i}": "x" * 1000 for i in range(90)}):
            (tmp_path / "a").write_text(json.dumps(wrong))
            with pytest.raises(FormatError) as caught:
                PipelineConfig.load(tmp_path / "a")
            assert len(str(caught.value)) < 3000


class TestJson:
    def test_levels(self, tmp_path):
        for levels in (100, 5000):
            (tmp_path / "a").write_text('{"distortion":' + "[" * levels + "1" + "]" * levels + ',"frames":[{}]}')
            with pytest.raises(FormatError, match=r"a: not JSON.*(64 levels|recursion)"):
                load_trajectory(tmp_path / "a", "nerfstudio", intrinsics=CAMERA)

    def test_integers_beyond_float64(self, tmp_path):
        for digits in (400, 10_000, 1_000_000):
            document = {"w": 640, "h": 480, "fl_x": 1, "frames": [{"transform_matrix": MATRIX}]}
            text = json.dumps(document).replace('"fl_x": 1', f'"fl_x": {"9" * digits}')
            (tmp_path / "a").write_text(text)
            with pytest.raises(FormatError, match="fl_x: expected a finite number"):
                load_trajectory(tmp_path / "a", "nerfstudio")

    def test_bytes_that_are_no_text(self, tmp_path):
        (tmp_path / "a").write_bytes(b'{"a": "\xff"}')
        with pytest.raises(FormatError, match="not JSON: 'utf-8' codec"):
            read_json_object(tmp_path / "a")

    def test_the_line_is_named(self, tmp_path):
        (tmp_path / "a").write_text('{\n"a": 1,\n  b: 2}')
        with pytest.raises(FormatError, match="a:3: not JSON: "):
            read_json_object(tmp_path / "a")

    def test_long_paths_come_back(self, tmp_path):
        """What is saved is read again, however long: here an hour at 30 Hz, with all digits."""
        rng = np.random.default_rng(0)
        pose = CameraPose.look_at(rng.random(3), [9, 9, 9], timestamp=0.1)
        path = CameraTrajectory([pose] * 108_000, CAMERA)
        save_trajectory(tmp_path / "a", path, "mosaicmem")
        text = (tmp_path / "a").read_bytes()
        assert len(decode_json(tmp_path / "a", text)) == len(text)

    def test_values_of_set_that_are_no_json(self):
        for text in ("[" * 100_000, "9" * 5000):
            assert read_changes([f"prompt={text}"]) == {"prompt": text}
            assert read_changes([f"seed={text}"]) == {"seed": text}


class TestNerfstudioSharesFields:
    """Fields of the file are checked once, and yet together with the fields by which a frame overrides them."""

    @staticmethod
    def load(tmp_path, shared, *frames):
        frames = [{"transform_matrix": MATRIX, **frame} for frame in frames]
        document = {"w": 640, "h": 480, "fl_x": 500, **shared, "frames": frames}
        (tmp_path / "a").write_text(json.dumps(document))
        return load_trajectory(tmp_path / "a", "nerfstudio")

    def test_frames_may_take_distortion_back(self, tmp_path):
        assert len(self.load(tmp_path, {"k1": 0.5}, {"k1": 0}, {"k1": 0.0})) == 2
        with pytest.raises(FormatError, match=r"frames\[1\]: expected no distortion, got {'k1': 0.5}"):
            self.load(tmp_path, {"k1": 0.5}, {"k1": 0}, {})
        with pytest.raises(FormatError, match=r"frames\[1\]: camera_model"):
            self.load(tmp_path, {"camera_model": "PINHOLE"}, {}, {"camera_model": "OPENCV_FISHEYE"})

    def test_the_first_size_that_differs_is_named(self, tmp_path):
        with pytest.raises(FormatError, match=r"frames\[1\]: expected the image size of frames\[0\]"):
            self.load(tmp_path, {}, {}, {"w": 501}, {"w": 502})


class TestPly:
    @pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
    @pytest.mark.parametrize(
        "elements",
        [
            "element vertex 999999999999\n",
            "element empty 999999999999\nelement vertex 0\n" + XYZ,
            "element lists 999999999999\nproperty list uchar int a\nelement vertex 1\nproperty float x\n",
            "element vertex 999999999\nproperty list uchar int a\n" + XYZ,
        ],
    )
    def test_counts_of_rows_that_take_no_bytes(self, kind, elements, tmp_path):
        (tmp_path / "a").write_text(f"ply\nformat {kind} 1.0\n{elements}end_header\n")
        tracemalloc.start()
        try:
            if "empty" in elements:
                assert len(PointCloud.load_ply(tmp_path / "a")) == 0
            else:
                with pytest.raises(FormatError, match=r"cut short|x, y, z"):
                    PointCloud.load_ply(tmp_path / "a")
            assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
        finally:
            tracemalloc.stop()

    def test_text_that_python_reads_and_numpy_does_not(self, tmp_path):
        properties = "".join(f"property float {axis}\n" for axis in "xyz")
        (tmp_path / "a").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{properties}end_header\n1_0 2 3\n")
        with pytest.raises(FormatError, match=r"expected numbers|expected a number"):
            PointCloud.load_ply(tmp_path / "a")

    def test_blocks_are_joined(self, tmp_path):
        """More vertices than are read, or converted, at a time."""
        rng = np.random.default_rng(0)
        points = rng.random((200_000, 3), np.float32)
        colors = rng.integers(0, 256, points.shape, np.uint8)
        normals = points / np.linalg.norm(points, axis=1, keepdims=True)
        for binary in (True, False):
            PointCloud(points, colors, normals).save_ply(tmp_path / "a", binary=binary)
            loaded = PointCloud.load_ply(tmp_path / "a")
            np.testing.assert_allclose(loaded.points, points, rtol=1e-6)
            np.testing.assert_array_equal(loaded.colors, colors)
            np.testing.assert_allclose(loaded.normals, normals, atol=1e-6)
            assert loaded.points.flags.writeable


class TestImages:
    def test_strips_are_joined(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (1500, 1400, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "a.png", compress_level=0)
        np.testing.assert_array_equal(read_color(tmp_path / "a.png", (1400, 1500)), image)

    def test_transparent_pixels_of_all_strips_are_counted(self, tmp_path):
        image = np.full((1500, 1400, 4), 255, np.uint8)
        image[[0, 1499], 0, 3] = 0
        Image.fromarray(image).save(tmp_path / "a.png")
        with pytest.raises(FormatError, match="got 2 of 2100000 that are transparent"):
            read_color(tmp_path / "a.png", (1400, 1500))

    def test_frames_of_4k_are_read_however_small_their_file(self, tmp_path):
        Image.new("RGB", (3840, 2160)).save(tmp_path / "a.png")
        assert read_color(tmp_path / "a.png", (3840, 2160)).shape == (2160, 3840, 3)


class TestNpz:
    @staticmethod
    def load(tmp_path, *entries, method=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            for name, array in entries:
                file = io.BytesIO()
                np.save(file, array)
                archive.writestr(name, file.getvalue())
        return load_trajectory(tmp_path / "a.npz", intrinsics=CAMERA)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_an_array_twice(self, tmp_path):
        with pytest.raises(FormatError, match="extrinsics_c2w is there twice"):
            self.load(tmp_path, *[("extrinsics_c2w.npy", np.eye(4)[None])] * 2)

    def test_other_compressions(self, tmp_path):
        with pytest.raises(FormatError, match="by another method than deflate"):
            self.load(tmp_path, ("extrinsics_c2w.npy", np.eye(4)[None]), method=zipfile.ZIP_LZMA)

    def test_small_numbers_of_which_there_are_many(self, tmp_path):
        """249 KiB that would be 2 GB as float64 are refused by their shape."""
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=r"got extrinsics_c2w of shape \(.*\), which need"):
                self.load(tmp_path, ("extrinsics_c2w.npy", np.zeros((16, 4000, 4000), np.int8)[:1].repeat(15, 0)))
            tracemalloc.reset_peak()
            with pytest.raises(FormatError, match="which need"):
                load_trajectory(tmp_path / "a.npz", intrinsics=CAMERA)
            assert tracemalloc.get_traced_memory()[1] < 64 * 10**6
        finally:
            tracemalloc.stop()


class TestNumbersThatNoCameraHas:
    """Found by fuzzing: each was an OverflowError, or a RuntimeWarning in the middle of a computation."""

    def test_quaternions(self, tmp_path):
        (tmp_path / "a").write_text("0 0 0 0 1e300 1e300 0 1\n")
        with pytest.raises(FormatError, match="a:1: wxyz: expected a unit quaternion, got norm inf"):
            load_trajectory(tmp_path / "a", "tum", intrinsics=CAMERA)

    def test_principal_points(self, tmp_path):
        (tmp_path / "a").write_text("0 1 1 1e308 1 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n" * 2)
        with pytest.raises(FormatError, match="line 1: cx: expected a finite number, got inf"):
            load_trajectory(tmp_path / "a", "re10k", size=(640, 480))
        k = [[1e308, 0, 1e308], [0, 500, 240], [0, 0, 1]]
        (tmp_path / "b").write_text(json.dumps({"0": {"extrinsic": MATRIX, "K": k}}))
        with pytest.raises(FormatError, match='"0": K: expected a principal point in pixels, got'):
            load_trajectory(tmp_path / "b", "worldplay")

    def test_signalling_nan(self, tmp_path):
        bits = np.full((1, 4, 4), 0x7FA00000, np.uint32).view(np.float32)
        np.savez(tmp_path / "a.npz", extrinsics_c2w=bits)
        with pytest.raises(FormatError, match="expected finite values"):
            load_trajectory(tmp_path / "a.npz", intrinsics=CAMERA)
