"""Arrays with their axes in another order: the message names the expected order and the call that gives it."""

import re

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, CameraIntrinsics, CameraPose, MosaicMemoryStore
from mosaicmem._arrays import check_shape
from mosaicmem.media import save_mp4, save_png

CAMERA = CameraIntrinsics(60, 60, 40, 24, 80, 48)  # 6 x 10 cells of 8 pixels


class TestLatents:
    def insert(self, shape, depth=(6, 10), camera=CAMERA):
        store = MosaicMemoryStore()
        store.insert_keyframe(np.ones(shape, np.float32), np.ones(depth, np.float32), camera, CameraPose())
        return store

    @pytest.mark.parametrize("shape", [(16, 6, 10), (1, 6, 10), (48, 6, 10), (6, 6, 10)])
    def test_channels_first(self, shape):
        message = (
            rf"latents: .* channel last, got {re.escape(str(shape))}, .* as \(C, h, w\); use \.transpose\(1, 2, 0\)"
        )
        with pytest.raises(ValueError, match=message):
            self.insert(shape)

    def test_channels_first_that_fit_either_way_are_told_by_the_depth(self):
        camera = CameraIntrinsics(60, 60, 32, 32, 64, 64)
        with pytest.raises(ValueError, match=r"as \(C, h, w\)"):
            self.insert((8, 8, 16), (8, 16), CameraIntrinsics(60, 60, 64, 32, 128, 64))
        assert self.insert((8, 8, 8), (8, 8), camera).channels == 8
        assert self.insert((8, 8, 16), (8, 8), camera).channels == 16

    def test_columns_first(self):
        with pytest.raises(ValueError, match=r"got \(10, 6, 16\), which fits .* as \(w, h, C\); transposed\?"):
            self.insert((10, 6, 16))

    def test_a_whole_video(self):
        with pytest.raises(
            ValueError, match=r"of one frame, got .* \(B, C, T, h, w\), take frame t of video b as latents\[b"
        ):
            self.insert((1, 16, 3, 6, 10))
        with pytest.raises(ValueError, match=r"leave out axis 0, which has length 1: \.squeeze\(0\)"):
            self.insert((1, 6, 10, 16))

    def test_another_resolution_is_said_as_before(self):
        with pytest.raises(ValueError, match="intrinsics of another resolution"):
            self.insert((7, 10, 16), (7, 10))


class TestImages:
    @pytest.mark.parametrize(
        ("image", "depth", "message"),
        [
            (
                (3, 48, 80),
                (48, 80),
                r"image: .* got \(3, 48, 80\); channels come last: \.transpose\(1, 2, 0\) in NumPy, \.permute",
            ),
            ((1, 48, 80, 3), (48, 80), r"image: .*; leave out axis 0, which has length 1: \.squeeze\(0\)"),
            ((80, 48, 3), (48, 80), r"image: .*; transposed\?"),
            ((48, 80, 4), (48, 80), r"image: expected shape \(48, 80, 3\), got \(48, 80, 4\)$"),
            ((48, 80, 3), (48, 80, 1), r"depth: .*; leave out axis 2, which has length 1: \.squeeze\(2\)"),
            ((48, 80, 3), (1, 48, 80), r"depth: .*; leave out axis 0"),
            ((48, 80, 3), (80, 48), r"depth: .* got \(80, 48\); transposed\?"),
        ],
    )
    def test_observe(self, image, depth, message):
        with pytest.raises(ValueError, match=message):
            AutoregressivePipeline().observe(np.zeros(image, np.uint8), np.ones(depth), CAMERA, CameraPose())

    def test_files(self, tmp_path):
        with pytest.raises(ValueError, match=r"image: .* channels come last: \.transpose\(1, 2, 0\)"):
            save_png(tmp_path / "a.png", np.zeros((3, 48, 80), np.uint8))
        with pytest.raises(ValueError, match=r"channels come last: \.transpose\(0, 2, 3, 1\)"):
            save_mp4(tmp_path / "a.mp4", np.zeros((5, 3, 48, 80), np.uint8))


@pytest.mark.parametrize(
    ("actual", "shape"),
    [
        ((4,), (3,)),
        ((3, 3), (4, 4)),
        ((5, 4, 4), ("N", 3, 3)),
        ((), ("N",)),
        ((1, 1), ("N",)),
        ((2, 3, 7), ("B", "N", 8)),
    ],
)
def test_no_hint_where_no_order_fits(actual, shape):
    with pytest.raises(ValueError, match="expected shape") as caught:
        check_shape("x", actual, shape)
    assert "transpose" not in str(caught.value)
    assert "channels" not in str(caught.value)
