import os

import numpy as np
import pytest
from PIL import Image

from mosaicmem import FormatError
from mosaicmem.datasets import SevenScenes
from scene_helpers import write_scene


@pytest.fixture
def path(world, small_camera):
    return world.leave_and_return(small_camera, 4)


@pytest.fixture
def scene(tmp_path, world, path):
    return write_scene(tmp_path / "scene", world, path)


def test_round_trip(scene, world, path):
    sequence = SevenScenes(scene)
    assert len(sequence) == 4
    assert sequence.intrinsics == path.intrinsics
    for i, seen in enumerate(sequence):
        view = world.render(path.intrinsics, path[i])
        np.testing.assert_array_equal(seen.image, view.image_uint8)
        np.testing.assert_allclose(seen.depth, view.depth, atol=6e-4)
        np.testing.assert_allclose(seen.pose.world_from_camera, path[i].world_from_camera, atol=1e-12)
        assert seen.number == 4 * i
        assert seen.pose.timestamp == pytest.approx(4 * i / 30)
    assert len(sequence[1:3]) == 2
    assert len(sequence.trajectory([0, 2])) == 2


def test_invalid_depth(scene):
    depth = np.full((48, 80), 1500, dtype=np.uint16)
    depth[0, :2] = [0, 65535]
    Image.fromarray(depth).save(scene / "frame-000000.depth.png")
    seen = SevenScenes(scene)[0]
    np.testing.assert_array_equal(seen.depth[0, :3], [0, 0, 1.5])


def test_default_intrinsics(scene):
    (scene / "camera-intrinsics.txt").unlink()
    assert SevenScenes(scene).intrinsics.fx == pytest.approx(585 / 8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("frame-000004.pose.txt", "1 0 0\n", r"frame-000004\.pose\.txt:1: expected 4 numbers, got 3"),
        (
            "frame-000004.pose.txt",
            "1 0 0 0\n0 one 0 0\n",
            r"frame-000004\.pose\.txt:2: expected numbers, got '0 one 0 0'",
        ),
        ("frame-000004.pose.txt", "1 0 0 0\n" * 3, "expected 4 lines of numbers, got 3"),
        ("frame-000004.pose.txt", "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1\n", r"pose\.txt: world_from_camera.*scaled by 2"),
        ("frame-000004.pose.txt", "nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "finite"),
        ("frame-000004.pose.txt", None, "missing, though frame-000004.color.png is there"),
        ("frame-000004.depth.png", None, "missing, though"),
        ("frame-000004.depth.png", "not a picture", r"depth\.png: not a readable image"),
        ("frame-000004.color.png", "not a picture", r"color\.png: not a readable image"),
        ("camera-intrinsics.txt", "500 0 1\n0 500 1\n5 0 1\n", r"camera-intrinsics\.txt"),
    ],
)
def test_bad_files_are_named(scene, name, content, message):
    if content is None:
        (scene / name).unlink()
    else:
        (scene / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        SevenScenes(scene)[1]


def test_cut_and_mismatched_images_are_named(scene):
    color = scene / "frame-000004.color.png"
    content = color.read_bytes()
    color.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=r"frame-000004\.color\.png: not a readable image"):
        SevenScenes(scene)[1]
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(color)
    with pytest.raises(FormatError, match="expected 80x48 pixels, got 6x5"):
        SevenScenes(scene)[1]


def test_order_and_doubles(scene):
    for path in list(scene.glob("frame-000012.*")):
        path.rename(scene / path.name.replace("000012", "1000000"))  # sorts before the others as text
    assert [seen.number for seen in SevenScenes(scene)] == [0, 4, 8, 1000000]
    Image.open(scene / "frame-000004.color.png").save(scene / "frame-000004.color.jpg")
    with pytest.raises(FormatError, match="one colour image a frame"):
        SevenScenes(scene)


def test_eight_bit_depth_and_pipes_are_refused(scene):
    Image.fromarray(np.zeros((48, 80), np.uint8)).save(scene / "frame-000004.depth.png")
    with pytest.raises(FormatError, match="expected a 16-bit grey image, got uint8"):
        SevenScenes(scene)[1]
    (scene / "frame-000008.pose.txt").unlink()
    os.mkfifo(scene / "frame-000008.pose.txt")
    with pytest.raises(FormatError, match=r"frame-000008\.pose\.txt: not a file"):
        SevenScenes(scene)[2]


def test_no_frames_and_no_folder(tmp_path):
    with pytest.raises(FormatError, match="found none"):
        SevenScenes(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        SevenScenes(tmp_path / "nowhere")


def test_the_real_sequence(rgbd_scene):
    sequence = SevenScenes(rgbd_scene)
    assert len(sequence) == 100
    assert sequence.intrinsics.params == (585, 585, 320, 240)
    seen = sequence[99]
    assert seen.number == 396
    assert seen.image.shape == (480, 640, 3)
    assert 0.3 < np.median(seen.depth[seen.depth > 0]) < 5
