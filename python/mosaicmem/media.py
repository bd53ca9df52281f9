"""Frames to files that people look at."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from mosaicmem._arrays import U8, ArrayLike, as_array, as_pixels, check_number, to_numpy
from mosaicmem._files import atomic_write


def to_uint8(name: str, frames: ArrayLike) -> U8:
    """Pixels as uint8: uint8 as it is, float in [0, 1] rounded."""
    array = to_numpy(name, frames)
    if array.dtype == np.uint8:
        return array
    return np.asarray(np.rint(as_pixels(name, array, array.shape) * 255), dtype=np.uint8)


def save_png(path: str | Path, image: ArrayLike) -> None:
    """Write an image (H, W, 3), uint8 or float in [0, 1], atomically."""
    pixels = as_array("image", to_uint8("image", image), np.uint8, ("H", "W", 3))
    with atomic_write(path) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")


def save_mp4(path: str | Path, frames: ArrayLike, fps: float = 15.0) -> None:
    """Write a video (T, H, W, 3), uint8 or float in [0, 1], as H.264 in MP4 that browsers play, atomically.

    4:2:0 chroma needs even sides: an odd side is extended by repeating its last row or column. Colours are encoded by
    BT.709 from 1280x720 up and by BT.601 below that, in limited range, and the file says so: a player that is not told
    guesses, and shows other colours.
    """
    import av

    pixels = as_array("frames", to_uint8("frames", frames), np.uint8, ("T", "H", "W", 3))
    if 0 in pixels.shape:
        raise ValueError(f"frames: expected at least one frame and one pixel, got shape {pixels.shape}")
    rate = Fraction(check_number("fps", fps, minimum=0.1, maximum=1000.0)).limit_denominator(1000)
    _, height, width, _ = pixels.shape
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with (
        atomic_write(path) as file,
        av.open(file, "w", format="mp4", options={"movflags": "faststart+write_colr"}) as container,
    ):
        matrix, tags = _color_tags(width, height)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast", **tags})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
        for image in pixels:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _color_tags(width: int, height: int) -> tuple[str, dict[str, str]]:
    """The matrix from RGB to YUV as PyAV names it, and the encoder options that write it into the file.

    Primaries and transfer are those of sRGB screens at any size; only the matrix differs.
    """
    is_hd = width >= 1280 or height >= 720
    tags = {"color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    return ("ITU709", {**tags, "colorspace": "bt709"}) if is_hd else ("ITU601", {**tags, "colorspace": "smpte170m"})
