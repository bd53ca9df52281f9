"""A folder in a known layout whose intrinsics are in a file of another name."""

import json

import numpy as np
import pytest

from dataset_helpers import HEIGHT, WIDTH, make_frames, write_seven_scenes, write_tum
from mosaicmem import CameraIntrinsics, FormatError
from mosaicmem.datasets import open_sequence

K = [[30, 0, 16], [0, 31, 12], [0, 0, 1]]
MATRIX = "30 0 16\n0 31 12\n0 0 1\n"
FIELDS = {"fx": 30, "fy": 31, "cx": 16, "cy": 12}
ADVICE = r"; give the intrinsics of this sequence: intrinsics=CameraIntrinsics\(\.\.\.\), or --intrinsics and --size"


@pytest.fixture
def bare(tmp_path, rng):
    return write_seven_scenes(tmp_path / "scene", make_frames(rng), intrinsics=None)


def write(path, content):
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("intrinsics.txt", MATRIX),
        ("camera_intrinsics.txt", MATRIX),
        ("Camera-Intrinsics.TXT", MATRIX),
        ("K.txt", "# K\n" + MATRIX.replace(" ", ", ")),
        ("cam_K.txt", "30 0 16 0 31 12 0 0 1"),
        ("intrinsic_color.txt", "30 0 16 0\n0 31 12 0\n0 0 1 0\n0 0 0 1"),
        ("calib.txt", "30 0 16 0\n0 31 12 0\n0 0 1 0"),
        ("camera.txt", "30 31 16 12"),
        ("calibration.txt", "30,31,16,12,32,24"),
        ("intrinsics", "30\n31\n16\n12\n"),
        ("intrinsics.json", {**FIELDS, "width": 32, "height": 24}),
        ("camera.json", {"intrinsics": FIELDS, "depth_scale": 1000}),
        ("cam_params.json", {"camera": {**FIELDS, "w": 32, "h": 24, "scale": 1000.0}}),
        ("camera_info.json", {"K": K, "D": [0, 0, 0, 0, 0], "width": 32, "height": 24}),
        ("camera_intrinsic.json", {"width": 32, "height": 24, "intrinsic_matrix": [30, 0, 0, 0, 31, 0, 16, 12, 1]}),
        ("camera_matrix.json", {"camera_matrix": [30, 0, 16, 0, 31, 12, 0, 0, 1]}),
        (
            "transforms.json",
            {"fl_x": 30, "fl_y": 31, "cx": 16, "cy": 12, "w": 32, "h": 24, "k1": 0, "camera_model": "OPENCV"}
            | {"camera_angle_x": 1.0, "frames": [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}]},
        ),
    ],
)
def test_plain_forms_are_read(bare, name, content):
    write(bare / name, content)
    assert open_sequence(bare).intrinsics == CameraIntrinsics(30, 31, 16, 12, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("camera.txt", "30 31 16 12 0.92\n32 24\ncrop\n32 24", "expected a matrix of 3x3, or fx fy cx cy on one line"),
        ("camera.txt", "30 31 16 12 0.1", "got lines of 5 numbers"),
        ("camera.txt", "30 31 16 12 640 480", "got lines of 6 numbers"),
        ("calib.txt", "30 0 16 9\n0 31 12 0\n0 0 1 0", "got lines of 4, 4, 4 numbers"),
        ("cameras.txt", "1 PINHOLE 32 24 30 31 16 12", "could not convert string to float: 'PINHOLE'"),
        ("intrinsics.yaml", "fx: 30", r"in a \.txt or \.json file"),
        ("K.npy", "?", r"in a \.txt or \.json file"),
        ("_info.txt", "m_calibrationColorIntrinsic = 30 0 16 0 0 31 12 0", "could not convert"),
        ("intrinsics.json", "{", "not JSON"),
        ("intrinsics.json", K, "expected a JSON object, got list"),
        ("intrinsics.json", {**FIELDS, "fx": 10**400}, "expected fx, fy, cx and cy"),
        ("intrinsics.json", {**FIELDS, "fx": float("nan"), "frames": 3}, "expected fx, fy, cx and cy"),
        ("intrinsics.json", {"fx": 30}, "expected fx, fy, cx and cy, or a matrix K of 3x3"),
        ("intrinsics.json", {**FIELDS, "width": 640}, "width: expected 32, as this sequence has, got 640"),
        (
            "intrinsics.json",
            {**FIELDS, "depth_scale": 5000},
            "depth_scale: expected 1000, as this sequence has, got 5000",
        ),
        ("intrinsics.json", {**FIELDS, "k1": 0.1}, "expected no distortion, got k1 of 0.1; undistort the images"),
        ("camera_info.json", {"K": K, "D": [0, 0.1]}, r"expected no distortion, got D of \[0, 0\.1\]"),
        (
            "transforms.json",
            {**FIELDS, "camera_model": "OPENCV_FISHEYE"},
            "camera_model: expected a pinhole, got OPENCV_F",
        ),
        ("transforms.json", {**FIELDS, "frames": [{"fl_x": 1}]}, "got frames with cameras of their own"),
        ("intrinsics.json", {**FIELDS, "rectified_skew": 2}, "rectified_skew: not understood"),
    ],
)
def test_other_forms_are_refused_with_what_to_do(bare, name, content, message):
    write(bare / name, content)
    with pytest.raises(FormatError, match=rf"{name}(:1)?: .*{message}.*{ADVICE}"):
        open_sequence(bare)


def test_a_folder_of_intrinsics(bare):
    (bare / "intrinsics").mkdir()
    for i in range(4):
        write(bare / "intrinsics" / f"{i:06d}.txt", MATRIX)
    write(bare / "intrinsics" / "extrinsics.txt", "0")
    assert open_sequence(bare).intrinsics.fx == 30
    write(bare / "intrinsics" / "000002.txt", MATRIX.replace("30", "33"))
    with pytest.raises(FormatError, match=r"000002\.txt: expected the intrinsics of 000000\.txt, got others"):
        open_sequence(bare)


def test_a_matrix_that_is_no_camera_names_its_file(bare):
    write(bare / "K.txt", "30 2 16\n0 31 12\n0 0 1\n")
    with pytest.raises(FormatError, match=r"K\.txt: matrix: .* without skew"):
        open_sequence(bare)


def test_files_that_differ_are_refused_and_others_not(bare):
    write(bare / "K.txt", MATRIX)
    write(bare / "intrinsics.json", FIELDS)
    assert open_sequence(bare).intrinsics.fx == 30
    write(bare / "intrinsics.json", {**FIELDS, "fx": 33})
    with pytest.raises(FormatError, match=r"intrinsics\.json: expected the intrinsics of K\.txt, got others"):
        open_sequence(bare)


def test_the_file_of_the_layout_goes_first(bare):
    np.savetxt(bare / "camera-intrinsics.txt", K)
    write(bare / "calib.yaml", "of something else")
    assert open_sequence(bare).intrinsics.fx == 30


@pytest.mark.parametrize("name", ["recalibrated_poses.txt", "notes.txt", "camcorder.txt", "info.txt", "kitchen.json"])
def test_other_names_promise_nothing(tmp_path, rng, name):
    folder = write_tum(tmp_path / "freiburg1", make_frames(rng))
    write(folder / name, "fx 1")
    assert open_sequence(folder).intrinsics.fx == pytest.approx(517.3 / 20)
