"""Whole keyframes by what each shows in front."""

from __future__ import annotations

from typing import Any

from mosaicmem import _core
from mosaicmem.camera import CameraTrajectory
from mosaicmem.device import keyframes
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.selection import DeviceSelection, KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.target_grids import target_grids


class VisibleCoverage:
    """Takes greedily the keyframe that adds most to what the cells of all targets are worth.

    A cell counts for a keyframe if the keyframe's surface is in front there; see `KeyframeOptions`.
    """

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options

    def select(
        self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int
    ) -> KeyframeSelection | DeviceSelection:
        """Keyframes, from a store on a device as arrays there."""
        grids = target_grids(targets, stride, self._options.near, self._options.far)
        if store._mirror is not None:
            with store._mirror.following(store._core) as (call, tables):
                picks = self.choose_on_device(store, call, tables, grids)
                return DeviceSelection(picks, store._mirror.described()["observation"], store._mirror.state)
        return KeyframeSelection(store._core.select_keyframes(grids, self._options.selection(), store.num_threads))

    def choose_on_device(self, store: MosaicMemoryStore, call: Any, tables: Any, grids: _core.TargetGrids) -> Any:
        """The picks of a store on a device, whose mirror the caller holds."""
        assert store._mirror is not None
        params = self._options.selection()
        candidates = store._core.keyframe_candidates(grids, params, store.num_threads)
        rows = store._mirror.rows_of(candidates.tolist())
        most = self._options.max_window_keyframes, self._options.max_keyframes
        return keyframes.choose(call, tables, grids, rows, params, most)
