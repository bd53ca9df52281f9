"""Results of keyframe retrieval: selected keyframes, and canvases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, I64, U64, ArrayLike, Bool, as_ids
from mosaicmem._border.device import to_host
from mosaicmem.memory.results import KeyframeTable, part_of_cells


@dataclass(frozen=True, eq=False)
class KeyframeSelection:
    """The keyframes chosen for T targets, in a padded array on the store's device.

    Parameters
    ----------
    chosen : list of T (n,) arrays
        Observation numbers, as in ``describe_patches()["observation"]``, the best first. Any integer dtype is accepted;
        duplicates count once.

    Attributes
    ----------
    picks : (T, K) int32
        Indices into ``observations``, the best first, padded with -1.
    observations : (R,) uint64
        On the host. From a store on a GPU, all observations of the store.

    Raises
    ------
    TypeError, ValueError
        ``chosen`` is anything else.
    """

    picks: Any
    observations: U64
    _version: int | None  # of the GPU tables whose rows the picks are

    def __init__(self, chosen: Sequence[ArrayLike]) -> None:
        if not isinstance(chosen, Sequence):
            raise TypeError(f"chosen: expected a list of arrays, got {type(chosen).__name__}")
        lists = [_distinct(f"chosen[{t}]", each) for t, each in enumerate(chosen)]
        observations = np.unique(np.concatenate([*lists, np.zeros(0, np.uint64)]))
        picks = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
        for t, each in enumerate(lists):
            picks[t, : len(each)] = np.searchsorted(observations, each)
        self._set(picks, observations, None)

    @classmethod
    def of_core(cls, picks: Any, observations: U64, version: int | None) -> KeyframeSelection:
        """From the core's output."""
        selection = object.__new__(cls)
        selection._set(picks, observations, version)
        return selection

    def _set(self, picks: Any, observations: U64, version: int | None) -> None:
        for name, value in (("picks", picks), ("observations", observations), ("_version", version)):
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_version": None}  # meaningless in another process

    def __len__(self) -> int:
        """T."""
        return int(self.picks.shape[0])

    @property
    def valid(self) -> Any:
        """Where there is a pick, (T, K) bool."""
        return self.picks >= 0

    def packed(self) -> list[U64]:
        """The observations chosen for each target, the best first. On a GPU this synchronizes."""
        return [self.observations[row[row >= 0]] for row in to_host("picks", self.picks)]

    @property
    def window(self) -> U64:
        """All observations that any target uses, ascending. On a GPU this synchronizes."""
        return np.unique(np.concatenate([*self.packed(), np.zeros(0, np.uint64)]))


def _distinct(name: str, ids: ArrayLike) -> U64:
    """Each id once, in order of first occurrence."""
    array = as_ids(name, ids)
    _, first = np.unique(array, return_index=True)
    return array[np.sort(first)]


@dataclass(frozen=True, eq=False)
class ComposedMosaic:
    """Canvases for T targets, and what each cell was composed from.

    Canvases are on the store's device. From a store on a GPU, the K keyframes are all keyframes of the store.

    Attributes
    ----------
    latents : (T, h, w, C) float32
        Zero where uncovered.
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
        Of the front surface, metres; 0 where uncovered.
    source : (T, h, w) int32
        Which of the K keyframes has the token with the most weight in a cell; -1 where uncovered.
    weight : (T, h, w) float32
        Sum over the averaged cells of worth (see `KeyframeOptions`) times bilinear weight: how certain a cell is. 0
        where uncovered.
    observed : (T, h, w) bool
        The covered cells that show mostly observed content: their ``source`` is an observed keyframe. The other covered
        cells show generated content.
    observations, frame_ids, timestamps, world_from_camera, intrinsics, generated : (K, ...)
        The K keyframes, on the host, as in `KeyframeTable`.
    selection : KeyframeSelection or None
        None if patches were composed.
    """

    latents: Any
    coverage: Any
    depth: Any
    source: Any
    weight: Any
    observed: Any
    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    generated: Bool
    selection: KeyframeSelection | None = None

    @classmethod
    def of_core(
        cls, canvases: dict[str, Any], table: Mapping[str, Any], selection: KeyframeSelection | None
    ) -> ComposedMosaic:
        """From the core's output."""
        return cls(**canvases, **vars(KeyframeTable.of_core(table)), selection=selection)

    @property
    def coverage_ratio(self) -> F64:
        """The fraction of each target's cells that is covered, (T,) float64, on the host."""
        return part_of_cells(self.coverage)

    @property
    def observed_ratio(self) -> F64:
        """The fraction of each target's cells that shows observed content, (T,) float64, on the host."""
        return part_of_cells(self.observed)
