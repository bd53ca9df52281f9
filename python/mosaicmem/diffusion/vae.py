"""A codec that stands in for a video VAE: linear, without weights, and lossy in an exactly known way."""

from __future__ import annotations

import math

import numpy as np

from mosaicmem._arrays import F32, F64, as_array, as_pixels, check_integer
from mosaicmem._border import to_host
from mosaicmem.diffusion.temporal import TemporalLayout

# Orthonormal: luma, then blue - red, then green - magenta.
_OPPONENT_FROM_RGB = np.array([[1, 1, 1], [-1, 0, 1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
_CHROMA_SHARE = 4  # about this many luma coefficients per chroma pair
_GREY = 0.5


class SyntheticVAE:
    """The lowest frequencies of an orthonormal block transform (DCT-II) of opponent colours.

    Each block of ``stride`` x ``stride`` pixels becomes ``channels`` coefficients: mostly luma, the lowest frequencies
    of both chroma axes. Coefficients are divided by a fixed scale that falls with frequency, as those of natural images
    do, so that latents have about unit variance. Channels run from low to high frequency; the first three are the mean
    colour. Over time, the frames of a latent frame are averaged.

    Parameters
    ----------
    stride : int
        Pixels per latent cell.
    channels : int
        At least 3, at most 3 * stride^2.
    temporal : TemporalLayout, optional
        Default: one frame per latent frame.
    """

    def __init__(self, stride: int = 8, channels: int = 16, temporal: TemporalLayout | None = None) -> None:
        self._stride = check_integer("stride", stride, minimum=1, maximum=64)
        self._channels = check_integer("channels", channels, minimum=3, maximum=3 * stride * stride)
        self._temporal = temporal or TemporalLayout("uniform", 1)
        basis, self._scale = _block_basis(self._stride, self._channels)
        self._encode_matrix = (basis / self._scale[:, None]).astype(np.float32)
        self._decode_matrix = (basis * self._scale[:, None]).astype(np.float32)

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along both axes."""
        return self._stride

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self._channels

    @property
    def temporal(self) -> TemporalLayout:
        """Frames per latent frame."""
        return self._temporal

    def encode(self, video: F32) -> F32:
        """Video (F, H, W, 3), uint8 or float in [0, 1], to latents (C, T, h, w) float32."""
        frames = as_pixels("video", video, ("F", "H", "W", 3))
        count = len(frames)
        if count == 0:
            raise ValueError("video: expected at least one frame, got none")
        latents = self._encode_blocks(frames)
        groups = [
            latents[self._temporal.frames_of(latent, count)].mean(axis=0)
            for latent in range(self._temporal.num_latents(count))
        ]
        return np.ascontiguousarray(np.stack(groups).transpose(3, 0, 1, 2))

    def encode_image(self, image: F32) -> F32:
        """Image (H, W, 3), uint8 or float in [0, 1], to latents (h, w, C) float32."""
        pixels = as_pixels("image", image, ("H", "W", 3))
        return np.asarray(self._encode_blocks(pixels[None])[0])

    def decode(self, latents: F32, num_frames: int) -> F32:
        """Latents (C, T, h, w) to ``num_frames`` frames (F, H, W, 3) float32, clipped to [0, 1]."""
        here = to_host("latents", latents)
        grid = as_array("latents", here, np.float32, (self._channels, "T", "h", "w"), finite=True, values=True)
        expected = self._temporal.num_latents(num_frames)
        if grid.shape[1] != expected:
            raise ValueError(f"latents: expected {expected} latent frames for {num_frames} frames, got {grid.shape[1]}")
        decoded = self._decode_blocks(np.ascontiguousarray(grid.transpose(1, 2, 3, 0)))
        return np.asarray(decoded[[self._temporal.latent_of(frame) for frame in range(num_frames)]])

    def decode_chunk(self, latents: F32, num_frames: int, *, first: bool) -> F32:
        """`decode` of the latents that follow others: then each covers ``factor`` frames."""
        return self.decode(latents, num_frames) if first else self._following.decode(latents, num_frames)

    @property
    def _following(self) -> SyntheticVAE:
        return SyntheticVAE(self._stride, self._channels, TemporalLayout("uniform", self._temporal.factor))

    def decode_image(self, latents: F32) -> F32:
        """Latents (h, w, C) to an image (H, W, 3) float32, clipped to [0, 1]."""
        grid = as_array("latents", latents, np.float32, ("h", "w", self._channels), finite=True, values=True)
        return np.asarray(self._decode_blocks(grid[None])[0])

    def _encode_blocks(self, frames: F32) -> F32:
        """(F, H, W, 3) to (F, h, w, C)."""
        count, height, width, _ = frames.shape
        s = self._stride
        if height % s or width % s or min(height, width) < s:
            raise ValueError(f"video: expected height and width in multiples of {s}, got {height}x{width}")
        blocks = frames.reshape(count, height // s, s, width // s, s, 3).transpose(0, 1, 3, 2, 4, 5)
        flat = blocks.reshape(count, height // s, width // s, s * s * 3)
        return np.asarray((flat - np.float32(_GREY)) @ self._encode_matrix.T)

    def _decode_blocks(self, latents: F32) -> F32:
        """(T, h, w, C) to (T, H, W, 3)."""
        count, rows, columns, _ = latents.shape
        s = self._stride
        flat = latents @ self._decode_matrix + np.float32(_GREY)
        blocks = flat.reshape(count, rows, columns, s, s, 3).transpose(0, 1, 3, 2, 4, 5)
        return np.asarray(np.clip(blocks.reshape(count, rows * s, columns * s, 3), 0, 1))


def _block_basis(stride: int, channels: int) -> tuple[F64, F64]:
    """Orthonormal rows (channels, stride * stride * 3) over (row, column, rgb), and the scale of each."""
    n = np.arange(stride)
    dct = np.cos(math.pi * (2 * n[None] + 1) * n[:, None] / (2 * stride)) * math.sqrt(2 / stride)
    dct[0] /= math.sqrt(2)
    frequencies = sorted(
        ((fy, fx) for fy in range(stride) for fx in range(stride)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f)
    )
    chroma = max(1, channels // (2 + _CHROMA_SHARE))
    luma = min(channels - 2 * chroma, stride * stride)
    chroma_counts = (-(-(channels - luma) // 2), (channels - luma) // 2)
    chosen = [(fy, fx, axis) for axis, count in enumerate((luma, *chroma_counts)) for fy, fx in frequencies[:count]]
    # Low frequencies first: channels 0, 1, 2 are the mean colour of the block.
    chosen.sort(key=lambda f: (f[0] ** 2 + f[1] ** 2, f[2], f[0]))
    rows, scales = [], []
    for fy, fx, axis in chosen:
        rows.append(np.einsum("i,j,c->ijc", dct[fy], dct[fx], _OPPONENT_FROM_RGB[axis]).ravel())
        # The mean of a block varies by about 0.2 per channel; coefficients fall as 1 / frequency; chroma is a quarter.
        scale = 0.2 * math.sqrt(3) * stride / (1 + 2 * math.hypot(fy, fx))
        scales.append(scale if axis == 0 else 0.25 * scale)
    return np.array(rows), np.array(scales)
