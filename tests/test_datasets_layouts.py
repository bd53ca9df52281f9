"""Which layout a folder has, and what holds for all layouts."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest

from dataset_helpers import (
    HEIGHT,
    WIDTH,
    make_frames,
    save,
    write_replica,
    write_scannet,
    write_seven_scenes,
    write_tum,
)
from mosaicmem import CameraIntrinsics, FormatError
from mosaicmem.datasets import Replica, RgbdImage, RgbdSequence, ScanNet, SevenScenes, TumRgbd, open_sequence

LAYOUTS = [
    (write_seven_scenes, SevenScenes),
    (write_tum, TumRgbd),
    (write_replica, Replica),
    (write_scannet, ScanNet),
]


@pytest.fixture(params=LAYOUTS, ids=[kind.__name__ for _, kind in LAYOUTS])
def case(request, tmp_path, rng):
    write, kind = request.param
    return write(tmp_path / "freiburg1", make_frames(rng)), kind


def test_each_layout_is_recognised(case):
    folder, kind = case
    sequence = open_sequence(str(folder))
    assert type(sequence) is kind
    assert isinstance(sequence, RgbdSequence)
    assert sequence.folder == folder


def test_all_are_sequences(case):
    sequence = open_sequence(case[0])
    assert len(sequence) == len(list(sequence)) == 4
    for seen in sequence[::2]:
        assert isinstance(seen, RgbdImage)
        assert (seen.image.shape, seen.image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        assert (seen.depth.shape, seen.depth.dtype) == ((HEIGHT, WIDTH), np.float32)
        assert seen.image.flags.writeable
        assert seen.depth.flags.c_contiguous
    path = sequence.trajectory([0, 2, 3])
    assert path.intrinsics == sequence.intrinsics
    assert list(path) == [sequence.pose(i) for i in (0, 2, 3)]
    assert sequence[-2].number == sequence.number(-2) == sequence.number(2)
    assert [seen.number for seen in sequence[::-2]] == [sequence.number(3), sequence.number(1)]
    assert sequence[4:] == []
    with pytest.raises(IndexError):
        sequence.pose(4)


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge", "text chunk"])
def test_no_layout_reads_what_is_no_image_of_its_size(case, kind):
    sequence = open_sequence(case[0])
    path = sequence._frames[1].depth
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
        message = "not a file"
    elif kind == "folder":
        path.mkdir()
        message = "not a file"
    elif kind == "huge":
        path.write_bytes(png_header(60_000, 60_000))
        message = "not a readable image|pixels"
    else:  # 8 MB of text, compressed to 8 kB
        text = zlib.compress(bytes(8_000_000), 9)
        path.write_bytes(png_header(WIDTH, HEIGHT) + chunk(b"zTXt", b"note\0\0" + text))
        message = "not a readable image"
    with pytest.raises(FormatError, match=message) as caught:
        sequence[1]
    assert caught.value.path == path


def test_the_first_image_may_not_be_huge_either(tmp_path, rng):
    folder = write_seven_scenes(tmp_path / "scene", make_frames(rng))
    (folder / "frame-000000.color.png").write_bytes(png_header(8193, 8193) + chunk(b"IDAT", b""))
    with pytest.raises(FormatError, match="expected at most 67108864 pixels, got 8193x8193"):
        SevenScenes(folder)[1]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width, height):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))


def test_bytes_gone_wrong_are_never_another_error(case, rng):
    sequence = open_sequence(case[0])
    for path in (sequence._frames[1].depth, sequence._frames[1].color):
        content = path.read_bytes()
        for _ in range(150):
            broken = bytearray(content)
            for at in rng.integers(0, len(content), 3):
                broken[at] = rng.integers(256)
            path.write_bytes(broken[: rng.integers(len(content) // 2, len(content) + 1)])
            try:
                assert sequence[1].image.shape == (HEIGHT, WIDTH, 3)
            except FormatError as error:
                assert error.path == path  # noqa: PT017 - most, not all, are errors
        path.write_bytes(content)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "rgb.txt").write_text("0 rgb/0.png\n")
    with pytest.raises(FormatError) as caught:
        open_sequence(tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}: expected the files of one of these layouts: dataset.json, 7-Scenes, TUM RGB-D"
    )
    assert message.endswith("for TUM RGB-D it lacks depth.txt, groundtruth.txt")


def test_a_folder_of_photos_is_for_import(tmp_path, rng):
    save(tmp_path / "IMG_1.jpg", make_frames(rng)[0].image)
    with pytest.raises(FormatError, match=r"\(a JPEG image\); mosaicmem import makes a sequence of photos and videos"):
        open_sequence(tmp_path)


@pytest.mark.parametrize("open_it", [open_sequence, SevenScenes, TumRgbd, Replica, ScanNet])
def test_no_folder(tmp_path, open_it):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_it(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="folder: expected a path, got int"):
        open_it(3)
    with pytest.raises(FileNotFoundError, match="~ is not expanded here"):
        open_it("~/nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="file: expected a folder, got a file; give the folder that it is in"):
        open_it(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="pipe: expected a folder, got not a regular file"):
        open_it(tmp_path / "pipe")


FILES = [
    (
        "walk.mp4",
        b"\0\0\0\x20ftypisom",
        "got a video; a sequence needs the depth and the pose of each frame: mosaicmem import",
    ),
    ("walk.MOV", b"?", "got a video; "),
    ("walk.webm", b"\x1aE\xdf\xa3", "got a video"),
    ("clip", b"RIFF\0\0\0\0AVI LIST", "got a video"),
    ("rosbag2.bag", b"#ROSBAG V2.0\n", "got a ROS bag; extract its colour and depth images"),
    ("depth.npy", b"\x93NUMPY\x01\0", r"got a NumPy array \(\.npy\); write its frames as images and text"),
    ("scene.zip", b"PK\x03\x04", "got a ZIP archive; unpack it"),
    ("scene.tar.gz", b"\x1f\x8b\x08", "got a compressed archive; unpack it"),
    ("scene0000_00.sens", b"\x04\0\0\0", r"got a ScanNet recording \(\.sens\); export it with ScanNet's SensReader"),
    ("a.pgm", b"P5\n2 2\n255\n", "got a PGM or PPM image; give the folder that it is in"),
    ("a.exr", b"v/1\x01", "got an OpenEXR image; give the folder"),
    ("a.tiff", b"II*\0", "got a TIFF image; give the folder"),
    ("cloud.ply", b"ply\n", "got a PLY point cloud"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[name for name, _, _ in FILES])
def test_files_given_as_a_folder(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=f"{name}: expected a folder, {message}"):
        open_sequence(tmp_path / name)


def test_a_file_of_a_sequence_names_its_folder(case):
    folder, kind = case
    for file in (path for path in folder.rglob("*") if path.is_file()):
        with pytest.raises(FormatError, match=f"expected a folder, got .* of a .* sequence; give {folder}$"):
            open_sequence(file)
    assert kind is type(open_sequence(folder))


def test_the_folder_above_and_the_folder_below(case, tmp_path, tmp_path_factory):
    folder, _ = case
    with pytest.raises(FormatError, match=f"give the folder of one sequence, such as {folder}$"):
        open_sequence(tmp_path)
    shutil.copytree(tmp_path, outer := tmp_path_factory.mktemp("outer") / "collection")
    with pytest.raises(FormatError, match="give the folder of one sequence"):
        open_sequence(outer.parent)
    for inside in (path for path in folder.iterdir() if path.is_dir()):
        with pytest.raises(FormatError, match=f"this is a part of a .* sequence; give {folder}$"):
            open_sequence(inside)


def test_what_is_missing_is_named(tmp_path, rng):
    (tmp_path / "a").mkdir()
    with pytest.raises(FormatError, match="the folder is empty"):
        open_sequence(tmp_path / "a")
    folder = write_tum(tmp_path / "b", make_frames(rng))
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(FormatError, match=r"for TUM RGB-D it lacks groundtruth\.txt$"):
        open_sequence(folder)
    save(tmp_path / "c" / "0.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "c" / "walk.mp4").write_bytes(b"")
    with pytest.raises(FormatError, match=r"it holds 0\.png and 1 more \(a PNG image, a video\)"):
        open_sequence(tmp_path / "c")


def test_given_intrinsics_reach_every_layout(case):
    folder, kind = case
    camera = CameraIntrinsics(40, 41, 15, 11, WIDTH, HEIGHT)
    for sequence in (open_sequence(folder, intrinsics=camera), kind(folder, intrinsics=camera)):
        assert sequence.intrinsics == sequence.trajectory([0]).intrinsics == camera
        assert sequence[0].depth.shape == (HEIGHT, WIDTH)
    with pytest.raises(
        ValueError, match=r"intrinsics \(--intrinsics, --size\): .* 32x24 pixels, .* got those of 640x480"
    ):
        open_sequence(folder, intrinsics=camera.scaled(640, 480))
