"""A state of a store as arrays: what files, summaries and pictures are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, I64, U64


@dataclass(frozen=True, eq=False)
class ExportedStore:
    """One entry per observation, by slot, ascending.

    Attributes
    ----------
    slot, first_id : (N,) uint64
        First slot and id of its patches.
    world_from_camera : (N, 3, 4) float64
    keyframe : (N,) uint64
        Serial of the keyframe in this process.
    arrays : list of N (latents, depth, confidence or None, image or None, subcell depth or None)
        Of the keyframe, which observations may share.
    latent_type, provenance : (N,) uint8
        Numbers of the core.
    frame_id : (N,) int64
    camera : (N, 6) float64
        fx, fy, cx, cy in pixels, pixels per cell, seconds.
    words : (N,) int64
        How many of ``alive`` are its own.
    alive : (W,) uint64
        A bit per patch, in words of 64, one observation after the other.
    next_id, next_slot, patches, channels : int
        Of the store.
    origin : tuple of 3 floats
        Where the index counts from.
    """

    slot: U64
    first_id: U64
    world_from_camera: F64
    keyframe: U64
    arrays: list[Any]
    latent_type: Any
    provenance: Any
    frame_id: I64
    camera: F64
    words: I64
    alive: U64
    next_id: int
    next_slot: int
    patches: int
    channels: int
    origin: tuple[float, float, float]

    @classmethod
    def of(cls, core: _core.MemoryStore) -> ExportedStore:
        """The store as it is now."""
        return cls(**core.export_observations())

    def __len__(self) -> int:
        """N."""
        return len(self.slot)

    @cached_property
    def alive_words(self) -> list[U64]:
        """The words of each observation, as files have them: little-endian."""
        words = np.ascontiguousarray(self.alive, dtype="<u8")
        return in_pieces(words, self.words)


def in_pieces(words: U64, counts: I64) -> list[U64]:
    """``words`` in pieces of ``counts``."""
    ends = np.cumsum(counts).tolist()
    return [words[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
