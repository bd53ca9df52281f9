"""Results of queries to a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, I64, U64, Bool
from mosaicmem._border.device import on_host, to_host
from mosaicmem._copies import Uncopied
from mosaicmem.memory.storage import StoreSettings


@dataclass(frozen=True, eq=False)
class RetrievedPatches:
    """Patches that one camera sees, front to back. All arrays have one entry per patch.

    Attributes
    ----------
    ids : (P,) uint64
    scores : (P,) float64
        Of `RetrievalOptions`, before the diversity penalty.
    pixels : (P, 2) float64
        (u, v) of the patch's centre in the image.
    depth : (P,) float64
        Of the patch's centre, metres.
    """

    ids: U64
    scores: F64
    pixels: F64
    depth: F64

    def __len__(self) -> int:
        return len(self.ids)


FOUND = {"ids": ((), "int64"), "scores": ((), "float64"), "pixels": ((2,), "float64"), "depth": ((), "float64")}
"""Outputs of the core per retrieved patch, in its order."""


@dataclass(frozen=True, eq=False)
class RetrievedWindow:
    """Patches that each of T cameras sees, front to back, in padded arrays on the store's device. K is ``top_k``.

    Attributes
    ----------
    ids : (T, K) int64
        -1 where there is no patch.
    scores : (T, K) float64
        As in `RetrievedPatches`. This and the next two arrays are 0 where there is no patch.
    pixels : (T, K, 2) float64
    depth : (T, K) float64
        Metres.
    count : (T,) int32
        Number of patches of each camera; they come before the padding.
    """

    ids: Any
    scores: Any
    pixels: Any
    depth: Any
    count: Any

    def __len__(self) -> int:
        """T."""
        return int(self.ids.shape[0])

    @property
    def valid(self) -> Any:
        """Where there is a patch, (T, K) bool."""
        return self.ids >= 0

    def packed(self) -> list[RetrievedPatches]:
        """The same without padding, for each camera, on the host. On a GPU this synchronizes."""
        names = ("ids", "scores", "pixels", "depth", "count")
        ids, scores, pixels, depth, count = on_host({name: getattr(self, name) for name in names}).values()
        return [
            # Copies, so that a few patches do not keep the padding alive.
            RetrievedPatches(
                ids[t, :n].astype(np.uint64), scores[t, :n].copy(), pixels[t, :n].copy(), depth[t, :n].copy()
            )
            for t, n in enumerate(count.tolist())
        ]


def part_of_cells(mask: Any) -> F64:
    """The fraction of each target's cells in which a mask (T, h, w) is True, (T,) float64, on the host."""
    return np.asarray(to_host("mask", mask).mean(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class KeyframeTable:
    """K keyframes, placed in the world, on the host. Some rows may be all zeros; nothing refers to those.

    Attributes
    ----------
    observations : (K,) uint64
        Observation numbers, as in ``describe_patches()["observation"]``.
    frame_ids : (K,) int64
    timestamps : (K,) float64
        Seconds.
    world_from_camera : (K, 3, 4) float64
    intrinsics : (K, 4) float64
        fx, fy, cx, cy; pixels.
    generated : (K,) bool
        Whether a model generated the keyframe; False if it was observed.
    """

    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    generated: Bool

    @classmethod
    def of_core(cls, arrays: Mapping[str, Any]) -> KeyframeTable:
        """From the core's output."""
        names = ("observation", "frame_id", "timestamp", "world_from_camera", "intrinsics", "generated")
        return cls(*(arrays[name] for name in names))

    def __len__(self) -> int:
        """K."""
        return len(self.observations)

    def rows(self, which: I64) -> KeyframeTable:
        """The selected rows."""
        return KeyframeTable(*(getattr(self, field.name)[which] for field in fields(self)))

    @property
    def camera_from_world(self) -> F64:
        """(K, 4, 4)."""
        matrices = np.tile(np.eye(4), (len(self), 1, 1))
        is_there = self.world_from_camera.any(axis=(1, 2))
        matrices[is_there, :3] = self.world_from_camera[is_there]
        return np.asarray(np.linalg.inv(matrices), np.float64)

    @property
    def matrices(self) -> F64:
        """Camera matrix of each keyframe, (K, 3, 3), pixels."""
        matrices = np.zeros((len(self), 3, 3))
        fx, fy, cx, cy = self.intrinsics.T
        matrices[:, 0, 0], matrices[:, 1, 1] = fx, fy
        matrices[:, 0, 2], matrices[:, 1, 2], matrices[:, 2, 2] = cx, cy, 1
        return matrices


@dataclass(frozen=True)
class StoreStatistics:
    """Counts, bytes and times of a store.

    Attributes
    ----------
    patches : int
        Live patches.
    keyframes : int
        Observations with at least one live patch. An observation is a keyframe at one place in the world.
    generated_patches, generated_keyframes : int
        How many of those are generated; the others were observed.
    channels : int or None
        Of the latents; None before the first keyframe.
    latent_bytes, depth_bytes, confidence_bytes, image_bytes : int
        Of the referenced keyframes, each counted once.
    index_bytes : int
        The kd-trees.
    bookkeeping_bytes : int
        Observations, and the map of places for eviction ``redundant``.
    first_time, last_time : float or None
        Timestamps of the oldest and the newest keyframe, seconds.
    """

    patches: int
    keyframes: int
    generated_patches: int
    generated_keyframes: int
    channels: int | None
    latent_bytes: int
    depth_bytes: int
    confidence_bytes: int
    image_bytes: int
    index_bytes: int
    bookkeeping_bytes: int
    first_time: float | None
    last_time: float | None

    @property
    def keyframe_bytes(self) -> int:
        """Latents, depth, confidence and images."""
        return self.latent_bytes + self.depth_bytes + self.confidence_bytes + self.image_bytes

    @property
    def nbytes(self) -> int:
        """Total bytes."""
        return self.keyframe_bytes + self.index_bytes + self.bookkeeping_bytes


@dataclass(frozen=True, eq=False)
class StoreSnapshot(Uncopied):
    """A past state of a store, for `MosaicMemoryStore.restore`. Immutable: a copy is the snapshot itself."""

    _instead: ClassVar[str] = "restore it, and save() the store"

    _core: _core.MemoryStore
    _settings: StoreSettings

    def __copy__(self) -> StoreSnapshot:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> StoreSnapshot:
        return self
