"""Which layout a folder has, and what holds for all of them."""

import os
import struct
import zlib

import numpy as np
import pytest

from dataset_helpers import HEIGHT, WIDTH, make_frames, save, write_replica, write_scannet, write_tum
from mosaicmem import FormatError
from mosaicmem.datasets import Replica, RgbdImage, RgbdSequence, ScanNet, SevenScenes, TumRgbd, open_sequence


def write_seven_scenes(folder, frames):
    for i, frame in enumerate(frames):
        save(folder / f"frame-{i:06d}.color.png", frame.image)
        save(folder / f"frame-{i:06d}.depth.png", frame.units)
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", frame.pose.world_from_camera)
    return folder


LAYOUTS = [
    (write_seven_scenes, SevenScenes),
    (write_tum, TumRgbd),
    (write_replica, Replica),
    (write_scannet, ScanNet),
]


@pytest.fixture(params=LAYOUTS, ids=[kind.__name__ for _, kind in LAYOUTS])
def case(request, tmp_path, rng):
    write, kind = request.param
    return write(tmp_path / "scene", make_frames(rng)), kind


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
    else:  # a text of 8 MB in 8 kB
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
    assert message.startswith(f"{tmp_path}: expected the files of one of these layouts: ")
    for known in (
        "7-Scenes (frame-*.color.*)",
        "TUM RGB-D (rgb.txt, depth.txt, groundtruth.txt)",
        "Replica (traj.txt, results)",
        "ScanNet (color, depth, pose, intrinsic)",
    ):
        assert known in message


@pytest.mark.parametrize("open_it", [open_sequence, SevenScenes, TumRgbd, Replica, ScanNet])
def test_no_folder(tmp_path, open_it):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_it(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="file: no such folder"):
        open_it(tmp_path / "file")
