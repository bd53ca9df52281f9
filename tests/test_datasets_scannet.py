import numpy as np
import pytest
from PIL import Image

from dataset_helpers import HEIGHT, WIDTH, assert_depth, cut, make_frames, save, write_scannet
from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
from mosaicmem.datasets import ScanNet


@pytest.fixture
def frames(rng):
    return make_frames(rng)


@pytest.fixture
def folder(tmp_path, frames):
    return write_scannet(tmp_path / "scene0000_00", frames)


def test_every_frame(folder, frames):
    sequence = ScanNet(folder)
    assert len(sequence) == 4
    assert sequence.intrinsics == CameraIntrinsics(29, 30, 16, 12, WIDTH, HEIGHT)
    for i, (seen, frame) in enumerate(zip(sequence, frames, strict=True)):
        assert seen.number == 9 + i  # 9 comes before 10
        assert seen.image.shape == (HEIGHT, WIDTH, 3)
        assert seen.image.dtype == np.uint8
        np.testing.assert_allclose(seen.image, np.broadcast_to(frame.image[0, 0], seen.image.shape), atol=3)
        assert_depth(seen.depth, frame.units, 1000)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=1e-12)
        assert seen.pose.timestamp == pytest.approx((9 + i) / 30)


def test_colour_is_averaged_over_the_area_of_a_pixel_of_depth(folder, rng):
    fine = rng.integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.uint8)
    for path in (folder / "color").iterdir():
        Image.fromarray(fine).save(path, format="PNG")  # without loss, so that the average is known
    blocks = fine.reshape(HEIGHT, 2, WIDTH, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(ScanNet(folder)[0].image, blocks, atol=1)  # each axis is rounded


def test_colour_of_the_size_of_depth_stays_as_it_is(folder, frames):
    for path, frame in zip(sorted((folder / "color").iterdir()), frames, strict=True):
        Image.fromarray(frame.image).save(path, format="PNG")
    sequence = ScanNet(folder)
    for path, frame in zip(sorted((folder / "color").iterdir()), frames, strict=True):
        seen = next(seen for seen in sequence if str(seen.number) == path.stem)
        np.testing.assert_array_equal(seen.image, frame.image)


@pytest.mark.parametrize("value", ["-inf", "inf", "nan"])
def test_frames_whose_tracking_was_lost_are_left_out(folder, frames, value):
    for number in (9, 11):
        (folder / "pose" / f"{number}.txt").write_text(f"{' '.join([value] * 4)}\n" * 4)
    sequence = ScanNet(folder)
    assert [seen.number for seen in sequence] == [10, 12]
    assert sequence.pose(0).distance_to(frames[1].pose) < 1e-9
    assert_depth(sequence[1].depth, frames[3].units, 1000)
    for number in (10, 12):
        (folder / "pose" / f"{number}.txt").write_text(f"{' '.join([value] * 4)}\n" * 4)
    with pytest.raises(FormatError, match="pose: expected frames with finite poses, found none"):
        ScanNet(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pose/10.txt", "1 0 0\n", r"pose/10\.txt:1: expected 4 numbers, got 3"),
        ("pose/10.txt", "1 0 0 0\n" * 5, r"pose/10\.txt: expected 4 lines of numbers, got 5"),
        ("pose/10.txt", "1 0 0 x\n" * 4, r"pose/10\.txt:1: expected numbers, got '1 0 0 x'"),
        ("pose/10.txt", "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1\n", r"pose/10\.txt: world_from_camera.*scaled by 2"),
        ("pose/10.txt", "1 0 0 0\n" * 10_000, r"pose/10\.txt: expected at most 65536 bytes, got 80000"),
        ("pose/10.txt", None, r"pose/10\.txt: missing, though 10\.jpg is there"),
        ("depth/10.png", None, r"depth/10\.png: missing, though 10\.jpg is there"),
        ("depth/10.png", "not a picture", r"depth/10\.png: not a readable image"),
        ("color/10.jpg", "not a picture", r"color/10\.jpg: not a readable image"),
        (
            "intrinsic/intrinsic_depth.txt",
            None,
            r"intrinsic_depth\.txt: missing; give the intrinsics of depth, of 32x24 \(--",
        ),
        (
            "intrinsic/intrinsic_depth.txt",
            "1 0 0\n0 1 0\n0 0 1\n",
            r"intrinsic_depth\.txt:1: expected 4 numbers, got 3",
        ),
        (
            "intrinsic/intrinsic_depth.txt",
            "1 0 0 7\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            "zeros and 1 in the last row and col",
        ),
        (
            "intrinsic/intrinsic_depth.txt",
            "1 2 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            r"depth\.txt: matrix: .*without skew",
        ),
        (
            "intrinsic/intrinsic_depth.txt",
            "0 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
            r"depth\.txt: fx: expected more than 0",
        ),
    ],
)
def test_bad_files_are_named(folder, name, text, message):
    path = folder / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(FormatError, match=message):
        ScanNet(folder)[1]


def test_bad_images_are_named(folder):
    sequence = ScanNet(folder)
    color, depth = folder / "color" / "10.jpg", folder / "depth" / "10.png"
    cut(depth)
    with pytest.raises(FormatError, match=r"depth/10\.png: not a readable image"):
        sequence[1]
    save(depth, np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(FormatError, match=r"depth/10\.png: expected a 16-bit grey image, got uint8"):
        sequence[1]
    save(depth, np.ones((WIDTH, HEIGHT), np.uint16))
    with pytest.raises(FormatError, match=r"depth/10\.png: expected 32x24 pixels, got 24x32"):
        sequence[1]
    save(color, np.ones((65, 48, 3), np.uint8))
    with pytest.raises(FormatError, match=r"color/10\.jpg: expected 65x48 pixels, got 48x65"):
        sequence[1]


class TestColourThatIsNotRegistered:
    K = "{} 0 {} 0\n0 {} {} 0\n0 0 1 0\n0 0 0 1\n"

    def test_the_same_camera_is_fine(self, folder):
        (folder / "intrinsic" / "intrinsic_color.txt").write_text(self.K.format(58.9, 32, 60, 23.5))
        assert len(ScanNet(folder)) == 4

    def test_another_camera_is_said(self, folder):
        (folder / "intrinsic" / "intrinsic_color.txt").write_text(self.K.format(70, 32, 60, 23.5))
        with pytest.warns(SuspiciousInput, match=r"intrinsic_color\.txt: .* 32x24 .* are 5 pixels off those of depth"):
            ScanNet(folder)

    def test_another_shape_is_said(self, tmp_path, frames):
        folder = write_scannet(tmp_path / "scene0001_00", frames, color_size=(64, 36))
        with pytest.warns(SuspiciousInput, match=r"9\.jpg: 64x36 pixels of colour are resized to the 32x24 of depth"):
            ScanNet(folder)
