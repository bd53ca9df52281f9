"""What a question to memory about whole keyframes is answered with: a choice, and canvases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, I64, U64, ArrayLike, Bool, as_ids
from mosaicmem._border.device import to_host


@dataclass(frozen=True, eq=False)
class KeyframeSelection:
    """The keyframes chosen for T targets.

    Attributes
    ----------
    observations : list of T (n,) uint64 arrays
        The best first; the numbers that ``describe_patches()["observation"]`` has too. Integers of any kind are taken;
        what is given twice counts once.

    Raises
    ------
    TypeError, ValueError
        Something else is given.
    """

    observations: list[U64]

    def __init__(self, observations: Sequence[ArrayLike]) -> None:
        if not isinstance(observations, Sequence):
            raise TypeError(f"observations: expected a list of arrays, got {type(observations).__name__}")
        object.__setattr__(
            self, "observations", [_distinct(f"observations[{t}]", each) for t, each in enumerate(observations)]
        )

    def __len__(self) -> int:
        """T."""
        return len(self.observations)

    @property
    def window(self) -> U64:
        """All that any target uses, ascending."""
        return np.unique(np.concatenate([*self.observations, np.zeros(0, np.uint64)]))


def _distinct(name: str, ids: ArrayLike) -> U64:
    """Each id once, where it first comes."""
    array = as_ids(name, ids)
    _, first = np.unique(array, return_index=True)
    return array[np.sort(first)]


@dataclass(frozen=True, eq=False)
class DeviceSelection:
    """The keyframes chosen for T targets on a device, where they stay. Good until the store changes.

    Attributes
    ----------
    picks : (T, K) int32
        On the device: positions in ``observations``, the best first, -1 beyond those that were chosen.
    observations : (R,) uint64
        As of `KeyframeSelection`, on the host.
    """

    picks: Any
    observations: U64
    _state: tuple[Any, int]  # of the mirror

    def __len__(self) -> int:
        """T."""
        return int(self.picks.shape[0])

    def on_host(self) -> KeyframeSelection:
        """The same there; waits for the device."""
        rows = to_host("picks", self.picks)
        return KeyframeSelection([self.observations[row[row >= 0]] for row in rows])


@dataclass(frozen=True, eq=False)
class ComposedMosaic:
    """Canvases for T targets, and what each cell was composed from.

    From a store on a device the five arrays of canvases are there, and the K keyframes are all of the store.

    Attributes
    ----------
    latents : (T, h, w, C) float32
        Zero where uncovered.
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
        Of the front surface, metres; 0 where uncovered.
    source : (T, h, w) int32
        Which of the K keyframes has the token that counts most in a cell; -1 where uncovered.
    weight : (T, h, w) float32
        What all that was averaged is worth together, bilinear weights included: how sure a cell is. 0 where uncovered.
    observations : (K,) uint64
        The keyframes in use.
    frame_ids : (K,) int64
    timestamps : (K,) float64
        Seconds.
    world_from_camera : (K, 3, 4) float64
    intrinsics : (K, 4) float64
        fx, fy, cx, cy; pixels.
    generated : (K,) bool
        Whether a model made a keyframe up; False for those that were observed.
    selection : KeyframeSelection, DeviceSelection or None
        None where patches were composed.
    """

    latents: Any
    coverage: Any
    depth: Any
    source: Any
    weight: Any
    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    generated: Bool
    selection: KeyframeSelection | DeviceSelection | None = None

    @property
    def coverage_ratio(self) -> F64:
        """The part of each target's cells that is covered, (T,) float64, on the host."""
        return np.asarray(to_host("coverage", self.coverage).mean(axis=(1, 2)))

    @property
    def observed(self) -> Bool:
        """The covered cells that show mostly what was observed, (T, h, w) bool, on the host.

        They are those whose ``source`` is an observed keyframe. The other covered cells show what a model made up.
        """
        source = to_host("source", self.source)
        return np.asarray((source >= 0) & ~np.append(self.generated, True)[source])

    @property
    def observed_ratio(self) -> F64:
        """The part of each target's cells that show what was observed, (T,) float64, on the host."""
        return np.asarray(self.observed.mean(axis=(1, 2)))
