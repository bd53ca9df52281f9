"""Patches by their score in each target view."""

from __future__ import annotations

from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import MemoryRetrieval
from mosaicmem.memory.store import MosaicMemoryStore

_MOST_PATCHES = 4096  # per target: as many as a canvas of usual size has room for


class TopK:
    """Takes the patches with the highest scores of `MemoryRetrieval`, however low: enough to fill a canvas."""

    def __init__(self, options: KeyframeOptions) -> None:
        self._patches = MemoryRetrieval(
            top_k=_MOST_PATCHES,
            min_visibility=0.0,
            near=options.near,
            far=options.far,
            half_life=options.half_life,
            generated_weight=options.generated_weight,
        )

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> Mosaic:
        """Patches."""
        return self._patches.retrieve(store, targets, stride)
