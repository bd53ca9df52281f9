"""The contents of a store, keyframe by keyframe, for images and point clouds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mosaicmem._arrays import F32, F64, U8, Bool
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.memory.keyframe import PROVENANCES
from mosaicmem.memory.store import MosaicMemoryStore


@dataclass(frozen=True, eq=False)
class ObservedKeyframe:
    """A keyframe, placed in the world.

    Attributes
    ----------
    stored_latents : (h, w, C) array
        In the store's dtype; unsigned integers are the bits of bfloat16. See ``latents``.
    depth : (h, w) float32
        Metres in its own camera; 0 where there is no depth or no live patch.
    intrinsics : CameraIntrinsics
        Of the latent grid: pixels are cells.
    stride : int
        Pixels per cell.
    world_from_camera : (4, 4) float64
        Affine: edits may have scaled or mirrored it.
    frame_id : int
    timestamp : float
        Seconds.
    provenance : str
        ``"observed"`` or ``"generated"``.
    observation : int
        Its number in the store, as in ``describe_patches()["observation"]``.
    image : (n h, n w, 3) uint8, optional
        What the store keeps of the frame, n x n pixels per cell.
    confidence : (h, w) float32, optional
        In [0, 1]; 1 everywhere if not given.
    """

    stored_latents: np.ndarray
    depth: F32
    intrinsics: CameraIntrinsics
    stride: int
    world_from_camera: F64
    frame_id: int
    timestamp: float
    provenance: str
    observation: int = 0
    image: U8 | None = None
    confidence: F32 | None = None

    @cached_property
    def latents(self) -> F32:
        """(h, w, C) float32."""
        return _widened(self.stored_latents)

    @property
    def points(self) -> F64:
        """World coordinates of the cells with depth, (N, 3) metres, row by row."""
        rows, columns = np.nonzero(self.depth > 0)
        pixels = np.stack([columns + 0.5, rows + 0.5], axis=1)
        local = self.intrinsics.unproject(pixels, self.depth[rows, columns])
        return np.asarray(local @ self.world_from_camera[:3, :3].T + self.world_from_camera[:3, 3])


def observed_keyframes(store: MosaicMemoryStore) -> Iterator[ObservedKeyframe]:
    """All observations with a live patch, from one state of a store."""
    exported = store._exported()
    for i, words in enumerate(exported.alive_words):
        latents, depth, confidence, image, _ = exported.arrays[i]
        rows, columns = depth.shape
        alive = _cells(words, rows, columns, store.latent_patch_size)
        if not alive.any():
            continue
        fx, fy, cx, cy, stride, timestamp = exported.camera[i].tolist()
        matrix = np.eye(4)
        matrix[:3] = exported.world_from_camera[i]
        pixels = CameraIntrinsics._derived(fx, fy, cx, cy, columns * int(stride), rows * int(stride))
        yield ObservedKeyframe(
            latents,
            np.where(alive & np.isfinite(depth) & (depth > 0), depth, np.float32(0)),
            pixels.latent_grid(int(stride)),
            int(stride),
            matrix,
            int(exported.frame_id[i]),
            timestamp,
            PROVENANCES[exported.provenance[i]],
            int(exported.slot[i]),
            image,
            confidence,
        )


def _cells(words: np.ndarray, rows: int, columns: int, size: int) -> Bool:
    """Which cells belong to live patches, (rows, columns); ``words`` has one bit per patch, row by row."""
    shape = (-(-rows // size), -(-columns // size))
    bits = np.unpackbits(words.view(np.uint8), count=shape[0] * shape[1], bitorder="little").reshape(shape)
    return np.asarray(np.kron(bits, np.ones((size, size), np.uint8))[:rows, :columns] != 0)


def _widened(latents: np.ndarray) -> F32:
    """Latents as float32; unsigned integers are bfloat16 bits."""
    if latents.dtype.kind == "u":
        return (latents.astype(np.uint32) << 16).view(np.float32)
    return latents.astype(np.float32, copy=False)
