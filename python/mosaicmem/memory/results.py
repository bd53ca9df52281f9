"""What a store answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mosaicmem import _core
from mosaicmem._arrays import F64, U64
from mosaicmem._copies import Uncopied
from mosaicmem.memory.storage import StoreSettings


@dataclass(frozen=True, eq=False)
class RetrievedPatches:
    """Patches that one camera sees, front to back. All arrays have one entry per patch.

    Attributes
    ----------
    ids : (P,) uint64
    scores : (P,) float64
        centrality * proximity * footprint * recency, before the diversity penalty.
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


@dataclass(frozen=True, eq=False)
class RetrievedWindow:
    """Patches that each of T cameras sees, front to back, in arrays of one size: what a camera does not fill is -1, or
    0. From a store on a device they are arrays there.

    Attributes
    ----------
    ids : (T, K) int64
        -1 beyond the count.
    scores : (T, K) float64
        As of `RetrievedPatches`.
    pixels : (T, K, 2) float64
    depth : (T, K) float64
        Metres.
    count : (T,) int32
    """

    ids: Any
    scores: Any
    pixels: Any
    depth: Any
    count: Any

    def __len__(self) -> int:
        """T."""
        return int(self.ids.shape[0])


@dataclass(frozen=True)
class StoreStatistics:
    """What a store holds.

    Attributes
    ----------
    patches : int
        Living patches.
    keyframes : int
        Observations with at least one living patch: a keyframe in one place.
    generated_patches, generated_keyframes : int
        How many of those a model made up; the others were observed.
    channels : int or None
        Of the latents; None before the first keyframe.
    latent_bytes, depth_bytes, confidence_bytes : int
        Of the keyframes that are referred to, each counted once.
    index_bytes : int
        The kd-trees.
    bookkeeping_bytes : int
        Observations, and the places that the policy ``redundant`` follows.
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
    index_bytes: int
    bookkeeping_bytes: int
    first_time: float | None
    last_time: float | None

    @property
    def keyframe_bytes(self) -> int:
        """Latents, depth and confidence."""
        return self.latent_bytes + self.depth_bytes + self.confidence_bytes

    @property
    def nbytes(self) -> int:
        """Everything."""
        return self.keyframe_bytes + self.index_bytes + self.bookkeeping_bytes


@dataclass(frozen=True, eq=False)
class StoreSnapshot(Uncopied):
    """A store as it was, for `MosaicMemoryStore.restore`. It never changes: a copy is the snapshot itself."""

    _instead: ClassVar[str] = "restore it, and save() the store"

    _core: _core.MemoryStore
    _settings: StoreSettings

    def __copy__(self) -> StoreSnapshot:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> StoreSnapshot:
        return self
