"""Retrieval strategies and compositions behind one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, Bool, check_choice, check_integer
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.evaluation.frames import GridFrame
from mosaicmem.geometry.depth import extended_grids
from mosaicmem.memory import (
    ComposedMosaic,
    KeyframeRetrieval,
    KeyframeSelection,
    Mosaic,
    MosaicMemoryStore,
    strategy_names,
)
from mosaicmem.published import PatchMemory
from mosaicmem.published.patch_memory import STRIDE as PUBLISHED_STRIDE
from mosaicmem.published.strategies import PublishedRule, published_queries

COMPOSITIONS = ("blend", "backward", "pixels", "near", "far")
PIXEL_STRIDE = 4  # of the canvases of composition "pixels"
PUBLISHED = {"near": "base", "far": "distilled"}  # policies of `PatchMemory`
_UNLIMITED = ("pose_nearest", "coverage")  # published rules, which never forget


@dataclass(frozen=True, eq=False)
class Canvases:
    """What memory shows for T targets.

    Attributes
    ----------
    colors : (T, h, w, 3) float32
    coverage : (T, h, w) bool
    depth : (T, h, w) float32 or None
        Depth of what is shown, metres; None if the composition has no depth.
    keyframes : float
        Mean number of keyframes used per target.
    choose_seconds, compose_seconds : float
        Time that each step took.
    """

    colors: F32
    coverage: Bool
    depth: F32 | None
    keyframes: float
    choose_seconds: float = 0.0
    compose_seconds: float = 0.0


def check_rules(strategy: str, composition: str, stride: int, max_bytes: int | None = None) -> None:
    """Reject incompatible arguments; see `Composer`."""
    check_choice("strategy", strategy, strategy_names())
    check_choice("composition", composition, COMPOSITIONS)
    published = [name for name in (strategy, composition) if name in (*_UNLIMITED, *PUBLISHED)]
    if published and stride != PUBLISHED_STRIDE:
        raise ValueError(f"stride: expected {PUBLISHED_STRIDE}, which {published[0]} is made for, got {stride}")
    if strategy in _UNLIMITED and max_bytes is not None:
        raise ValueError(f"max_bytes: expected no limit for {strategy}, which never forgets, got {max_bytes}")
    if strategy == "top_k" and composition in ("pixels", *PUBLISHED):
        raise ValueError(f"composition: expected blend or backward for patches of top_k, got {composition!r}")
    if composition == "pixels" and stride % PIXEL_STRIDE:
        raise ValueError(f"stride: expected a multiple of {PIXEL_STRIDE} for pixels, got {stride}")


class Composer:
    """A memory filled with frames; called with target cameras, it returns `Canvases`.

    Parameters
    ----------
    memory : sequence of GridFrame
    camera : CameraIntrinsics
        Of the images that the grids were made from.
    stride : int
        Pixels per cell.
    strategy : str
        One of `mosaicmem.memory.strategy_names`. ``pose_nearest`` and ``coverage`` are the published rules: they need
        ``stride`` 16 and never forget.
    composition : {"blend", "backward", "pixels", "near", "far"}
        ``pixels`` warps the images of keyframes and averages them over cells; the others move cells. The last two are
        the published rules: like ``pixels``, they compose keyframes, not the patches of ``top_k``.
    max_bytes, eviction
        Of the store.
    extend_depth : int
        Cells by which depth is continued into places where none was measured; see `mosaicmem.extend_depth`.
    options
        Of `KeyframeRetrieval`, except ``strategy`` and ``composition``.
    """

    def __init__(
        self,
        memory: Sequence[GridFrame],
        camera: CameraIntrinsics,
        stride: int,
        strategy: str = "visible_coverage",
        composition: str = "blend",
        *,
        max_bytes: int | None = None,
        eviction: str = "redundant",
        extend_depth: int = 0,
        num_threads: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_rules(strategy, composition, stride, max_bytes)
        if not memory:
            raise ValueError("memory: expected at least one frame, got none")
        self.strategy, self.composition, self.stride = strategy, composition, stride
        self._reach = check_integer("extend_depth", extend_depth, minimum=0)
        self.store = MosaicMemoryStore(2, max_bytes=max_bytes, eviction=eviction, num_threads=num_threads)
        # Without edits, a keyframe's first patch id is its observation number.
        self._observations = np.array([self._insert(f, camera, i) for i, f in enumerate(memory)], np.uint64)
        self.mean_color = np.mean([f.colors for f in memory], axis=(0, 1, 2), dtype=np.float64)
        blend = "backward" if composition == "backward" else "blend"
        chosen = {name: value for name, value in (options or {}).items() if name != "strategy"}
        self._keyframes = KeyframeRetrieval(strategy, **{**chosen, "composition": blend})
        if isinstance(self._keyframes.strategy, PublishedRule):
            depths = dict(zip(self._observations.tolist(), (f.pixel_depth for f in memory), strict=True))
            self._keyframes.strategy.read_depth(depths)
        self._rules = (
            _published(memory, camera, PUBLISHED[composition], num_threads) if composition in PUBLISHED else None
        )

    def __call__(self, targets: CameraTrajectory) -> Canvases:
        """Choose and compose for a window of cameras, and time both."""
        start = time.perf_counter()
        chosen = self._keyframes.select(self.store, targets, self.stride)
        middle = time.perf_counter()
        canvases = self._compose(targets, chosen)
        end = time.perf_counter()
        return replace(canvases, choose_seconds=middle - start, compose_seconds=end - middle)

    def _insert(self, frame: GridFrame, camera: CameraIntrinsics, number: int) -> int:
        has_image = self.composition == "pixels"
        depth, subcell_depth, confidence = extended_grids(
            frame.depth, frame.subcell_depth, frame.confidence, self._reach, frame.moving
        )
        return self.store.insert_keyframe(
            frame.colors,
            depth,
            camera,
            frame.pose,
            frame_id=number,
            confidence=confidence,
            subcell_depth=subcell_depth,
            image=frame.image if has_image else None,
            image_pixels=self.stride // PIXEL_STRIDE if has_image else 2,
        )

    def _compose(self, targets: CameraTrajectory, chosen: Mosaic | KeyframeSelection) -> Canvases:
        """Canvases by the published rules or those of the store."""
        if self._rules is not None and isinstance(chosen, KeyframeSelection):
            ids = [np.searchsorted(self._observations, each) for each in chosen.packed()]
            poses, cameras = published_queries(targets)
            colors, valid = self._rules.fuse_candidates(poses, ids, query_intrinsics=cameras)
            used = float(np.mean([len(each) for each in ids]))
            return Canvases(np.ascontiguousarray(np.moveaxis(colors, 0, -1)), valid, None, used)
        if self.composition == "pixels" and isinstance(chosen, KeyframeSelection):
            pixels = self._keyframes.compose_pixels(self.store, targets, self.stride, chosen, pixel_stride=PIXEL_STRIDE)
            cells = pixels.pooled(self.stride, least=0.0)
            used = float(np.mean([len(each) for each in chosen.packed()]))
            return Canvases(cells["colors"], cells["coverage"], cells["depth"], used)
        mosaic = self._keyframes.compose(self.store, targets, self.stride, chosen)
        return Canvases(mosaic.latents, mosaic.coverage, mosaic.depth, _keyframes_of(mosaic))


def _published(memory: Sequence[GridFrame], camera: CameraIntrinsics, policy: str, num_threads: int) -> PatchMemory:
    rules = PatchMemory(policy, num_threads=num_threads)
    rules.append(
        np.stack([frame.colors for frame in memory]).transpose(3, 0, 1, 2),
        np.stack([frame.pose.camera_from_world for frame in memory]),
        np.tile(camera.matrix, (len(memory), 1, 1)),
        np.stack([frame.pixel_depth for frame in memory]),
    )
    return rules


def _keyframes_of(mosaic: ComposedMosaic) -> float:
    """Mean number of keyframes selected per target; for patches, of those that dominate at least one cell."""
    if mosaic.selection is not None:
        return float(np.mean([len(each) for each in mosaic.selection.packed()]))
    return float(np.mean([len(np.unique(source[source >= 0])) for source in mosaic.source]))
