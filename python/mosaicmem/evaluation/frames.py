"""Frames for evaluation: colours pooled to the latent grid stand in for latents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mosaicmem._arrays import F32, U8, Bool, check_integer, check_number
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets import RgbdImage
from mosaicmem.geometry import depth_to_grid
from mosaicmem.geometry.depth import pooled_confidence, pooled_mask

SUBCELLS = 2
"""Along the edge of a cell: memory keeps the depth of each."""


class RgbdSource(Protocol):
    """What an evaluation needs of a sequence."""

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Shared by all frames."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> RgbdImage: ...


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the frames that memory is given; targets stay exact.

    Attributes
    ----------
    depth : float
        Relative standard deviation, of each pixel and of the scale of each frame.
    translation : float
        Standard deviation along each axis, metres.
    rotation : float
        Standard deviation about each axis, radians.
    seed : int
    """

    depth: float = 0.0
    translation: float = 0.0
    rotation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("depth", "translation", "rotation"):
            check_number(name, getattr(self, name), minimum=0.0, maximum=1e3)
        check_integer("seed", self.seed, minimum=0)

    def __bool__(self) -> bool:
        """Whether there is any noise."""
        return bool(self.depth or self.translation or self.rotation)

    def of_frame(self, number: int) -> np.random.Generator:
        """A generator that depends only on the seed and the frame."""
        return np.random.default_rng([self.seed, number])


@dataclass(frozen=True, eq=False)
class GridFrame:
    """One frame on the latent grid.

    Attributes
    ----------
    colors : (h, w, 3) float32
        Mean of the pixels under each cell, [0, 1].
    depth : (h, w) float32
        Median under each cell, metres; 0 where too few pixels were measured.
    farthest : (h, w) float32
        The farthest measured pixel under each cell, metres; 0 where none was.
    pixel_depth : (H, W) float32
    pose : CameraPose
    number : int
    confidence : (h, w) float32, optional
        Mean under each cell of that of the measured pixels, if the sequence has it.
    image : (H, W, 3) uint8, optional
    subcell_depth : (n h, n w) float32, optional
        Median under each of the n x n parts of a cell; n is `SUBCELLS` if the stride is a multiple of it.
    moving : (h, w) bool, optional
        The cells under which a pixel shows something that moves, if the sequence knows.
    """

    colors: F32
    depth: F32
    farthest: F32
    pixel_depth: F32
    pose: CameraPose
    number: int
    confidence: F32 | None = None
    image: U8 | None = None
    subcell_depth: F32 | None = None
    moving: Bool | None = None


def cropped(intrinsics: CameraIntrinsics, stride: int) -> CameraIntrinsics:
    """The camera of an image cropped at the right and the bottom to whole cells."""
    check_integer("stride", stride, minimum=1)
    width, height = intrinsics.width // stride * stride, intrinsics.height // stride * stride
    if not width or not height:
        raise ValueError(
            f"stride: expected at most {min(intrinsics.width, intrinsics.height)}, the shorter side of the image, "
            f"got {stride}"
        )
    return intrinsics.cropped(0, 0, width, height)


def grid_frames(source: RgbdSource, frames: Iterable[int], stride: int, noise: Noise | None = None) -> list[GridFrame]:
    """Frames of a sequence, by position, on a grid of ``stride`` pixels per cell, with optional noise."""
    camera = cropped(source.intrinsics, stride)
    result = []
    for index in frames:
        frame = source[index]
        pixels = frame.image[: camera.height, : camera.width].astype(np.float32) / 255
        depth = np.ascontiguousarray(frame.depth[: camera.height, : camera.width])
        pose = frame.pose
        if noise:
            depth, pose = _disturb(depth, pose, noise.of_frame(frame.number), noise)
        sure = None
        if frame.confidence is not None:
            sure = pooled_confidence(frame.confidence[: camera.height, : camera.width], depth, stride)
        rows, columns = camera.height // stride, camera.width // stride
        tiles = (rows, stride, columns, stride)
        result.append(
            GridFrame(
                np.ascontiguousarray(pixels.reshape(*tiles, 3).mean(axis=(1, 3))),
                np.asarray(depth_to_grid(depth, stride)),
                np.ascontiguousarray(depth.reshape(tiles).max(axis=(1, 3))),
                depth,
                pose,
                frame.number,
                sure,
                np.ascontiguousarray(frame.image[: camera.height, : camera.width]),
                None if stride % SUBCELLS else np.asarray(depth_to_grid(depth, stride // SUBCELLS)),
                None if frame.moving is None else pooled_mask(frame.moving[: camera.height, : camera.width], stride),
            )
        )
    return result


def _disturb(depth: F32, pose: CameraPose, rng: np.random.Generator, noise: Noise) -> tuple[F32, CameraPose]:
    scale = 1 + noise.depth * (rng.standard_normal(depth.shape, dtype=np.float32) + np.float32(rng.standard_normal()))
    angles, move = noise.rotation * rng.standard_normal(3), noise.translation * rng.standard_normal(3)
    half = np.linalg.norm(angles) / 2
    axis = angles / max(2 * half, 1e-12)
    turn = CameraPose.from_quaternion([np.cos(half), *(np.sin(half) * axis)], move)
    disturbed = CameraPose(pose.world_from_camera @ turn.world_from_camera, pose.timestamp)
    return np.maximum(depth * scale, 0).astype(np.float32), disturbed
