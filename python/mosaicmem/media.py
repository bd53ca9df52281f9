"""Writes frames as PNG images and MP4 videos, and reads videos."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from mosaicmem._arrays import U8, ArrayLike, as_array, as_pixels, check_number, to_numpy
from mosaicmem._files import atomic_write
from mosaicmem._opening import foreign_parser, open_regular
from mosaicmem.errors import FormatError


def to_uint8(name: str, frames: ArrayLike) -> U8:
    """Pixels as uint8: uint8 unchanged, float in [0, 1] scaled to 255 and rounded."""
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

    4:2:0 chroma needs even sides: an odd side is extended by repeating its last row or column. Colours are encoded in
    BT.709 from 1280x720 up and in BT.601 below that, in limited range, and the file is tagged so: players guess for
    untagged files, and show other colours.
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
        weights, tags = _color_tags(width, height)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast", **tags})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
        for image in pixels:
            # We convert, because PyAV versions differ in the matrix and range of their conversion.
            frame = av.VideoFrame.from_ndarray(_yuv420(image, *weights), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_video(path: str | Path, num_frames: int, size: tuple[int, int]) -> Iterator[U8]:
    """Read the frames of a video one by one, (H, W, 3) uint8.

    Parameters
    ----------
    path : path
        Of any format that FFmpeg reads.
    num_frames : int
        The video must have as many.
    size : (int, int)
        Its width and height, pixels; if they are odd, one more is cut off, as `save_mp4` adds it.

    Raises
    ------
    FormatError
        Not a video, damaged, or of another length or size.
    """
    import av

    where, width, height = Path(path), *size
    with open_regular(where) as file:
        with foreign_parser(where, "not a video that FFmpeg reads"):
            container = av.open(file, "r")
        with container:
            if not container.streams.video:
                raise FormatError(where, "expected a video, got a file without pictures")
            frames, count = container.decode(video=0), 0
            while True:
                with foreign_parser(where, f"damaged: frame {count} cannot be decoded"):
                    frame = next(frames, None)
                if frame is None:
                    break
                if (frame.width, frame.height) not in ((width, height), (width + width % 2, height + height % 2)):
                    raise FormatError(where, f"expected frames of {width}x{height}, got {frame.width}x{frame.height}")
                count += 1
                if count > num_frames:
                    raise FormatError(where, f"expected {num_frames} frames, one per pose, got more")
                with foreign_parser(where, f"damaged: frame {count - 1} cannot be decoded"):
                    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                yield pixels[:height, :width]
    if count != num_frames:
        raise FormatError(where, f"expected {num_frames} frames, one per pose, got {count}")


def _color_tags(width: int, height: int) -> tuple[tuple[float, float], dict[str, str]]:
    """The luma weights of red and blue, and the encoder options that tag the file with the matrix of these weights.

    Primaries and transfer are tagged as BT.709, for sRGB screens, at any size; only the matrix differs.
    """
    is_hd = width >= 1280 or height >= 720
    tags = {"color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    if is_hd:
        return (0.2126, 0.0722), {**tags, "colorspace": "bt709"}
    return (0.299, 0.114), {**tags, "colorspace": "smpte170m"}


def _yuv420(image: U8, kr: float, kb: float) -> U8:
    """An image (H, W, 3) of even sides as limited-range Y'CbCr 4:2:0, planes one below the other (H * 3 / 2, W).

    Y' = kr R + (1 - kr - kb) G + kb B, Cb = (B - Y') / (2 - 2 kb), Cr = (R - Y') / (2 - 2 kr); chroma is averaged over
    2 x 2 pixels.
    """
    height, width, _ = image.shape
    red, green, blue = (np.asarray(image[..., i], np.float32) for i in range(3))
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    rows = [plane[::2] + plane[1::2] for plane in (luma, red, blue)]
    y, r, b = (np.float32(0.25) * (plane[:, ::2] + plane[:, 1::2]) for plane in rows)
    planes = (16 + 219 / 255 * luma, 128 + 112 / 255 / (1 - kb) * (b - y), 128 + 112 / 255 / (1 - kr) * (r - y))
    packed = np.concatenate([np.rint(plane).astype(np.uint8).ravel() for plane in planes])
    return packed.reshape(height * 3 // 2, width)
