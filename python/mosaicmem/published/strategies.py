"""Whole keyframes by the rules of the published patch memory, for models that were trained on their choices."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, U64
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.selection import KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.published.patch_memory import STRIDE, SUBFRAMES, PatchMemory


class PublishedRule:
    """Chooses keyframes of a store as `PatchMemory` does.

    The rule requires grids of 16 pixels per cell, all of one size. It reads the depth of one pixel per cell; a store
    only has the median over the cell, so if you still have the depth images, pass them to `read_depth`.

    Parameters
    ----------
    options : KeyframeOptions
        Only ``max_keyframes``, and whether ``generated_weight`` is 0, are used.
    """

    policy: str

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options
        self._pixel_depths: dict[int, F32] = {}
        self._forget()

    def _forget(self) -> None:
        self._known: tuple[weakref.ref[MosaicMemoryStore], int] | None = None
        self._rules: PatchMemory | None = None
        self._observations: U64 = np.zeros(0, np.uint64)

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_pixel_depths": self._pixel_depths}  # the rest caches a store

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read_depth(self, images: Mapping[int, F32]) -> None:
        """Use these depth images (H, W), metres, keyed by observation, instead of the store's grids."""
        self._pixel_depths = dict(images)
        self._forget()

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> KeyframeSelection:
        """Keyframes; none if the store has none."""
        if stride != STRIDE:
            raise ValueError(f"stride: expected {STRIDE}, which the published rules are made for, got {stride}")
        self._follow(store)
        if self._rules is None:
            return KeyframeSelection([np.zeros(0, np.uint64)] * len(targets))
        groups = self._rules.select_candidate_frame_ids(*published_queries(targets))
        most = self._options.max_keyframes
        return KeyframeSelection([self._observations[[i for i in group if i >= 0][:most]] for group in groups])

    def _follow(self, store: MosaicMemoryStore) -> None:
        """Load the keyframes of a store, unless it is unchanged."""
        revision = store._revision
        if self._known is not None and self._known[0]() is store and self._known[1] == revision:
            return
        taken = [
            each
            for each in observed_keyframes(store)
            if self._options.generated_weight > 0 or each.provenance == "observed"
        ]
        self._rules = self._filled(taken, store.num_threads) if taken else None
        self._observations = np.array([each.observation for each in taken], np.uint64)
        self._known = weakref.ref(store), revision

    def _filled(self, frames: list[ObservedKeyframe], num_threads: int) -> PatchMemory:
        rules = PatchMemory(self.policy, num_threads=num_threads)
        shapes = {(each.depth.shape, each.stride) for each in frames}
        if len(shapes) > 1 or frames[0].stride != STRIDE:
            found = ", ".join(
                f"{rows}x{columns} cells of {stride} pixels" for (rows, columns), stride in sorted(shapes)
            )
            raise ValueError(
                f"store: expected keyframes of one size and {STRIDE} pixels per cell, which the published rules are "
                f"made for, got {found}"
            )
        for each in frames:
            depth = self._pixel_depths.get(each.observation, each.depth)
            rules.append(
                np.zeros((1, 1, *each.depth.shape), np.float32),
                np.linalg.inv(each.world_from_camera)[None],
                _pixel_matrix(each)[None],
                depth[None],
            )
        return rules


class PoseNearest(PublishedRule):
    """The keyframes whose cameras are nearest, by position and direction."""

    policy = "base"


class Coverage(PublishedRule):
    """The keyframes that together cover most of the view, ignoring occlusion."""

    policy = "distilled"


def published_queries(targets: CameraTrajectory) -> tuple[F32, F32]:
    """Poses and intrinsics of targets, each four times: the published rules take four per latent."""
    poses = np.repeat(targets.camera_from_world, SUBFRAMES, axis=0).astype(np.float32)
    matrices = np.array([camera.matrix for camera in targets.cameras])
    return poses, np.repeat(matrices, SUBFRAMES, axis=0).astype(np.float32)


def _pixel_matrix(keyframe: ObservedKeyframe) -> F64:
    """K of the image that a keyframe's grid was made from."""
    scale = np.diag([keyframe.stride, keyframe.stride, 1.0])
    return np.asarray(scale @ keyframe.intrinsics.matrix)
