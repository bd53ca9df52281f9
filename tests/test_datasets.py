import os

import numpy as np
import pytest
from PIL import Image

from dataset_helpers import make_frames, save, write_seven_scenes
from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
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


class TestAssumedIntrinsics:
    """Without a file, those of the data set: with a warning, and never for images of another aspect ratio."""

    @pytest.fixture
    def bare(self, tmp_path, rng):
        return write_seven_scenes(tmp_path / "scene", make_frames(rng), intrinsics=None)

    def test_said_once_with_what_to_do(self, bare):
        with pytest.warns(SuspiciousInput, match=r"focal length 585 .* resized from 640x480 to 32x24 pixels") as caught:
            sequence = SevenScenes(bare)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert "write K (3x3) to camera-intrinsics.txt there, or give intrinsics" in str(caught[0].message)
        assert sequence.intrinsics.params == (29.25, 29.25, 16, 12)
        sequence[0], sequence.trajectory([1, 2])  # no further warning

    def test_full_size_too(self, bare):
        save(bare / "frame-000000.color.png", np.zeros((480, 640, 3), np.uint8))
        with pytest.warns(SuspiciousInput, match=r"assumed is the camera of 7-Scenes \(.*\)\. If"):
            assert SevenScenes(bare).intrinsics == CameraIntrinsics(585, 585, 320, 240, 640, 480)

    def test_another_shape_is_refused(self, bare):
        save(bare / "frame-000000.color.png", np.zeros((48, 80, 3), np.uint8))
        with pytest.raises(
            FormatError, match=r"color\.png: expected an image of 4:3, .* got 80x48 pixels; give intrin"
        ):
            SevenScenes(bare)

    def test_its_own_file_in_the_folder_above_is_read(self, bare, monkeypatch):
        (bare.parent / "camera-intrinsics.txt").write_text("30 0 16\n0 31 12\n0 0 1\n")
        assert SevenScenes(bare).intrinsics.params == (30, 31, 16, 12)
        monkeypatch.chdir(bare)
        assert SevenScenes(".").intrinsics.params == (30, 31, 16, 12)
        (bare / "K.txt").write_text("33 0 16\n0 31 12\n0 0 1\n")  # the nearer file wins
        assert SevenScenes(bare).intrinsics.params == (33, 31, 16, 12)

    def test_another_file_in_the_folder_above_is_named(self, bare):
        (bare.parent / "intrinsics.txt").write_text("30 30 16 12")
        with pytest.warns(SuspiciousInput, match=r"intrinsics\.txt in the folder above is not looked at"):
            SevenScenes(bare)

    def test_given(self, bare):
        camera = CameraIntrinsics(30, 31, 16, 12, 32, 24)
        assert SevenScenes(bare, intrinsics=camera).intrinsics == camera
        (bare / "camera-intrinsics.txt").write_text("no matrix")
        (bare / "calib.yaml").write_text("no matrix either")
        assert SevenScenes(bare, intrinsics=camera)[0].image.shape == (24, 32, 3)
        with pytest.raises(ValueError, match=r"of 32x24 pixels, which .* has, got those of 64x48"):
            SevenScenes(bare, intrinsics=camera.scaled(64, 48))
        with pytest.raises(TypeError, match="intrinsics: expected CameraIntrinsics, got ndarray"):
            SevenScenes(bare, intrinsics=camera.matrix)


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
    with pytest.raises(FormatError, match=r"one colour image a frame, got .* too, which is also of frame 4; keep one"):
        SevenScenes(scene)


def test_frames_in_another_format_do_not_vanish(scene):
    color = scene / "frame-000004.color.png"
    Image.open(color).save(color.with_suffix(".ppm"))
    assert len(SevenScenes(scene)) == 4  # the PNG is there too
    color.unlink()
    with pytest.raises(
        FormatError, match=r"frame-000004\.color\.ppm: expected JPEG or PNG, got a PGM or PPM image; conv"
    ):
        SevenScenes(scene)
    Image.open(color.with_suffix(".ppm")).save(color.with_name("frame-000004.color.PNG"))
    assert [seen.number for seen in SevenScenes(scene)] == [0, 4, 8, 12]


def test_what_is_there_in_place_of_a_missing_file(scene):
    depth = scene / "frame-000004.depth.png"
    depth.rename(depth.with_suffix(".pgm"))
    with pytest.raises(
        FormatError, match=r"color\.png is there; frame-000004\.depth\.pgm is there: convert it to \.png"
    ):
        SevenScenes(scene)[1]


def test_eight_bit_depth_and_pipes_are_refused(scene):
    Image.fromarray(np.zeros((48, 80), np.uint8)).save(scene / "frame-000004.depth.png")
    with pytest.raises(FormatError, match="expected a 16-bit grey image, got uint8"):
        SevenScenes(scene)[1]
    (scene / "frame-000008.pose.txt").unlink()
    os.mkfifo(scene / "frame-000008.pose.txt")
    with pytest.raises(FormatError, match=r"frame-000008\.pose\.txt: not a file"):
        SevenScenes(scene)[2]


def test_no_frames_and_no_folder(tmp_path):
    with pytest.raises(FormatError, match="found none; it is empty"):
        SevenScenes(tmp_path)
    (tmp_path / "0001.png").write_bytes(b"")
    with pytest.raises(FormatError, match=r"found none; it holds 1 files, such as 0001\.png"):
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
