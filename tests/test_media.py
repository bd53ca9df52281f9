import av
import numpy as np
import pytest
from PIL import Image

from mosaicmem.media import save_mp4, save_png
from mosaicmem.metrics import psnr


def test_png_round_trip(tmp_path, rng):
    image = rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    save_png(tmp_path / "b.png", image.astype(np.float32) / 255)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), image)


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_mp4_that_browsers_play(tmp_path, world, small_camera, size):
    path = world.leave_and_return(small_camera.scaled(size[1], size[0]), 5)
    frames = np.stack([world.render(path.intrinsics, pose).image for pose in path])
    save_mp4(tmp_path / "v.mp4", frames, fps=12.5)
    content = (tmp_path / "v.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that playback starts before the download ends
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 12.5
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape[0] == 5
    assert psnr(decoded[:, : size[0], : size[1]] / 255, frames) > 25


COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (128, 128, 128), (255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize(
    ("size", "matrix"), [((48, 64), 6), ((719, 1278), 6), ((720, 64), 1), ((704, 1280), 1)], ids=str
)
def test_players_are_told_the_colours_of_an_mp4(tmp_path, size, matrix):
    save_mp4(tmp_path / "v.mp4", np.broadcast_to(np.array(COLORS, np.uint8)[:, None, None], (len(COLORS), *size, 3)))
    assert b"colrnclx" in (tmp_path / "v.mp4").read_bytes()
    with av.open(str(tmp_path / "v.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, matrix, 1)
        middles = [[plane[size[0] // 2, size[1] // 2] for plane in planes(f)] for f in container.decode(video=0)]
    # Decoded by hand from the tags alone: the tagged matrix gives the weights of red and blue.
    kr, kb = {6: (0.299, 0.114), 1: (0.2126, 0.0722)}[matrix]
    for (y, u, v), color in zip(middles, COLORS, strict=True):
        luma = (y - 16) / 219
        red, blue = luma + 2 * (1 - kr) * (v - 128) / 224, luma + 2 * (1 - kb) * (u - 128) / 224
        green = (luma - kr * red - kb * blue) / (1 - kr - kb)
        np.testing.assert_allclose(255 * np.clip([red, green, blue], 0, 1), color, atol=3)


def planes(frame):
    """Y, U and V of a 4:2:0 frame, as float64 and of one size."""
    packed = frame.to_ndarray().astype(np.float64)
    height, width = frame.height, frame.width
    y, rest = packed[:height], packed[height:].ravel()
    u, v = rest.reshape(2, height // 2, width // 2).repeat(2, axis=1).repeat(2, axis=2)
    return y, u, v


def test_psnr(rng):
    image = rng.random((4, 5, 3)).astype(np.float32)
    assert psnr(image, image) == np.inf
    assert psnr(image * 0, image * 0 + 0.1) == pytest.approx(20)
    mask = np.zeros((4, 5), dtype=bool)
    assert np.isnan(psnr(image, image, mask))
    mask[0, 0] = True
    other = image.copy()
    other[1:] = 0
    assert psnr(other, image, mask) == np.inf
    with pytest.raises(ValueError, match=r"image: expected shape \(4, 5, 3\), got \(5, 4, 3\)"):
        psnr(image.transpose(1, 0, 2), image)
