"""Wrong files and values in place of a camera path: the message says what they are, and what to do."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from cli_helpers import run
from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraTrajectory, FormatError
from mosaicmem.camera.formats import detect_format, load_trajectory, save_trajectory

CAMERA = CameraIntrinsics(501.25, 498.5, 320.0, 240.0, 640, 480)


@pytest.fixture
def path(rng):
    return CameraTrajectory([random_pose(rng, 1.0, i / 30.0) for i in range(4)], CAMERA)


class TestNamesThatMislead:
    @pytest.mark.parametrize("name", ["mosaicmem", "nerfstudio", "worldplay"])
    @pytest.mark.parametrize("suffix", ["", ".txt", ".TXT", ".jsn", ".dat"])
    def test_json_is_read_under_any_name(self, tmp_path, path, name, suffix):
        file = tmp_path / f"path{suffix}"
        save_trajectory(file, path, name)
        file.write_bytes(b"\xef\xbb\xbf\n  " + file.read_bytes())
        assert detect_format(file) == name
        assert len(load_trajectory(file)) == 4

    def test_npz_is_read_under_any_name(self, tmp_path, path):
        save_trajectory(tmp_path / "camera", path, "matrixgame")
        assert len(load_trajectory(tmp_path / "camera", size=(640, 480))) == 4


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("poses.npy", None, r"an array of NumPy, .* CameraPose\.from_world_from_camera .* numpy\.savez"),
            ("a.bag", b"#ROSBAG V2.0\n" + bytes(99), "a ROS bag: export its poses as TUM lines"),
            ("a.mcap", b"\x89MCAP0\r\n" + bytes(99), "an MCAP recording"),
            ("a.db3", b"SQLite format 3\0" + bytes(99), "a database: give the folder of a COLMAP model"),
            ("walk.mp4", bytes(3) + b"\x18ftypmp42" + bytes(99), "a video: poses must be estimated"),
            ("walk.mkv", b"\x1aE\xdf\xa3" + bytes(99), "a video"),
            ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(99), "an image: expected the file of its poses"),
            ("a.pgm", b"P5\n4 4\n255\n" + bytes(16), "an image"),
            ("a.pkl", pickle.dumps([1, 2]), "a pickle, which is not read"),
            ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
            ("a.txt.gz", b"\x1f\x8b\x08" + bytes(9), "compressed: unpack it"),
            ("a.ply", b"ply\nformat ascii 1.0\n", "a point cloud or a mesh"),
            ("a.xml", b"<?xml version='1.0'?>", "XML, .*export the cameras as COLMAP"),
            ("a.txt", b"", "an empty file"),
        ],
    )
    def test_are_said_by_what_they_are(self, tmp_path, name, content, message):
        file = tmp_path / name
        file.write_bytes(content) if content is not None else np.save(file, np.zeros((5, 4, 4)))
        for format in (None, "tum"):
            with pytest.raises(FormatError, match=rf"{name}: expected a camera path, got {message}"):
                load_trajectory(file, format, intrinsics=CAMERA)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("timestamp,p_x,p_y\n1403636579763555584,4.6,-1.7\n", "comma-separated ones, as of EuRoC: write TUM lines"),
            ("1 2 3 0 0 0 1\n", "lines of 7 words: a position and a quaternion without its time"),
            ("1 0 0 0\n0 1 0 0\n", "lines of 4 words: one 4x4 matrix"),
            ("# nothing\n", "got none"),
        ],
    )
    def test_texts_of_other_formats(self, tmp_path, text, message):
        (tmp_path / "a.txt").write_text(text)
        known = r"8 \(tum\), 12 \(kitti\), 16 \(matrices\) or 19 \(re10k\) numbers"
        with pytest.raises(FormatError, match=rf"{known}, got .*{message}|{message}"):
            detect_format(tmp_path / "a.txt")

    def test_keys_that_are_there_are_listed(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps({"cameras": [], "fps": 24}))
        with pytest.raises(FormatError, match=r'expected "schema", .* got cameras, fps: no trajectory that is known'):
            detect_format(tmp_path / "a.json")
        (tmp_path / "b.txt").write_text("[1, 2]")
        with pytest.raises(FormatError, match=r'expected "rotation" and "position" .* in the list, got none'):
            detect_format(tmp_path / "b.txt")
        np.savez(tmp_path / "a.npz", poses=np.zeros((3, 4, 4)), fps=3)
        with pytest.raises(FormatError, match=r"extrinsics_c2w \(N, 4, 4\) .* got the arrays fps, poses"):
            load_trajectory(tmp_path / "a.npz")


class TestFolders:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ([], "empty"),
            (
                ["transforms_train.json"],
                "transforms_train.json is there; a data set of nerfstudio or Blender: give the file",
            ),
            (["rgb.txt", "groundtruth.txt"], "a TUM sequence: give its groundtruth.txt, or the folder as a scene"),
            (["frame-000000.pose.txt"], "a 7-Scenes sequence: give the folder as a scene .*--scene"),
            (["traj.txt"], "a Replica sequence"),
            (["pose/0.txt"], "a ScanNet sequence"),
            (["poses.txt"], "poses.txt is there; give the file"),
            (["a.png"], "images: expected the file of their poses"),
            (["notes.md"], "nothing in it is known"),
        ],
    )
    def test_are_said_by_what_is_in_them(self, tmp_path, files, message):
        for name in files:
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "d" / name).write_bytes(b"x")
        (tmp_path / "d").mkdir(exist_ok=True)
        with pytest.raises(FormatError, match=rf"d: expected the file of a camera path, got a folder: .*{message}"):
            load_trajectory(tmp_path / "d")

    def test_no_model_in_a_folder_and_a_file_that_is_none(self, tmp_path):
        with pytest.raises(
            FormatError, match=r"expected images\.bin or images\.txt, here or in sparse/0, found neither"
        ):
            load_trajectory(tmp_path, "colmap")
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(FormatError, match="expected the folder of a model, got a file"):
            load_trajectory(tmp_path / "a.txt", "colmap")


def test_what_is_missing_is_found_before_poses_are_read(tmp_path):
    """The poses of each file are wrong too, but the missing option is named first."""
    (tmp_path / "a.txt").write_text("not a number\n")
    for name in ("tum", "kitti"):
        with pytest.raises(FormatError, match=r"no intrinsics: give them, .* --intrinsics and --size"):
            load_trajectory(tmp_path / "a.txt", name)
    np.savez(tmp_path / "a.npz", extrinsics_c2w=np.zeros((3, 4, 4)), intrinsics=np.ones(4))
    with pytest.raises(FormatError, match="no image size"):
        load_trajectory(tmp_path / "a.npz")


class TestCommandLine:
    def test_time_unit_and_messages(self, tmp_path):
        lines = [f"{i * 50_000_000} 0 0 {i} 0 0 0 1\n" for i in range(5)]
        (tmp_path / "a.txt").write_text("".join(lines))
        camera = ("--intrinsics", "500,500,320,240", "--size", "640x480")
        done = run("convert", tmp_path / "a.txt", tmp_path / "b.json", *camera)
        assert done.returncode != 0
        assert "nanoseconds? give" in done.stderr
        assert "--time-unit ns" in done.stderr
        assert run("convert", tmp_path / "a.txt", tmp_path / "b.json", *camera, "--time-unit", "ns").returncode == 0
        assert load_trajectory(tmp_path / "b.json").duration == 0.2
        done = run("inspect", tmp_path / "a.txt", *camera, "--time-unit", "ns", "--json")
        assert json.loads(done.stdout)["seconds"] == 0.2
        done = run("inspect", tmp_path / "a.txt", *camera, "--time-unit", "days")
        assert "--time-unit: expected s, ms, us, ns or frames" in done.stderr
        done = run("inspect", tmp_path / "a.txt", "--intrinsics", "500,-500,320,240", "--size", "640x480")
        assert "--intrinsics: fy: expected more than 0, got -500" in done.stderr

    def test_a_model_above_its_folder_is_inspected(self, tmp_path, path):
        (tmp_path / "project" / "sparse").mkdir(parents=True)
        save_trajectory(tmp_path / "project" / "sparse" / "0", path, "colmap")
        assert json.loads(run("inspect", tmp_path / "project", "--json").stdout)["format"] == "colmap"


def test_an_image_is_no_path(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(FormatError, match=r"a\.jpg: expected a camera path, got an image"):
        detect_format(tmp_path / "a.jpg")
