"""Whole keyframes by the front surfaces that each shows."""

from __future__ import annotations

from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.selection import KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.target_grids import target_grids


class VisibleCoverage:
    """Greedily takes the keyframe that adds most to the total worth of the cells of all targets.

    A cell counts for a keyframe if the keyframe shows the front surface there; see `KeyframeOptions`.
    """

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> KeyframeSelection:
        """Keyframes, chosen on the store's device."""
        grids = target_grids(targets, stride, self._options.near, self._options.far)
        with store._reading() as (call, memory):
            picks, out = call.empty((len(targets), self._options.most_picks), "int32")
            observations = memory.select_keyframes(grids, self._options.selection(), out, call.handle)
            return KeyframeSelection.of_core(picks, observations, store._place.version(memory))
