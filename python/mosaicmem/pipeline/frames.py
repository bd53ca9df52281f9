"""Pads images to whole latent cells, crops them to the output size, and cross-fades windows over their overlap."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32
from mosaicmem.camera import CameraIntrinsics


def extended(pixels: F32, camera: CameraIntrinsics, mode: str) -> F32:
    """An image or a depth map (H, W, ...), padded at the right and the bottom to the size of a camera's image."""
    more = ((0, camera.height - pixels.shape[0]), (0, camera.width - pixels.shape[1]))
    if more == ((0, 0), (0, 0)):
        return pixels
    widths = (*more, *[(0, 0)] * (pixels.ndim - 2))
    return np.asarray(np.pad(pixels, widths, mode="edge" if mode == "edge" else "constant"))


def cropped(frames: F32, camera: CameraIntrinsics) -> F32:
    """Frames (F, H, W, ...) cropped to the size of a camera's image."""
    if frames.shape[1:3] == (camera.height, camera.width):
        return frames
    return np.ascontiguousarray(frames[:, : camera.height, : camera.width])


def enlarged(image: F32, camera: CameraIntrinsics) -> F32:
    """An image (h, w, 3) in [0, 1], enlarged to the size of a camera's by linear interpolation."""
    if image.shape[:2] == (camera.height, camera.width):
        return image
    channels = [
        Image.fromarray(channel).resize((camera.width, camera.height), Image.Resampling.BILINEAR)
        for channel in np.ascontiguousarray(np.moveaxis(image, -1, 0), np.float32)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def cross_faded(before: F32, decoded: F32) -> F32:
    """The images of a window; over its first ones, linear cross-fade from ``before``, those of the previous window."""
    images: F32 = np.clip(decoded, 0, 1)
    shared = len(before)
    if not shared:
        return images
    weight = ((np.arange(shared, dtype=np.float32) + 1) / (shared + 1))[:, None, None, None]
    images[:shared] = (1 - weight) * before + weight * images[:shared]
    return images
