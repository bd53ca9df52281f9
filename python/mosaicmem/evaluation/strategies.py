"""Strategies that choose from memory, and compositions, behind one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, Bool, check_choice
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.evaluation.frames import GridFrame
from mosaicmem.memory import (
    ComposedMosaic,
    KeyframeRetrieval,
    KeyframeSelection,
    MemoryRetrieval,
    MosaicMemoryStore,
    PatchMemory,
)
from mosaicmem.memory.patch_memory import STRIDE as PUBLISHED_STRIDE
from mosaicmem.memory.patch_memory import SUBFRAMES

STRATEGIES = ("visible_coverage", "top_k", "pose_nearest", "coverage")
COMPOSITIONS = ("blend", "backward", "near", "far")
PUBLISHED = {"pose_nearest": "base", "coverage": "distilled", "near": "base", "far": "distilled"}


@dataclass(frozen=True, eq=False)
class Canvases:
    """What memory shows to T targets.

    Attributes
    ----------
    colors : (T, h, w, 3) float32
    coverage : (T, h, w) bool
    depth : (T, h, w) float32 or None
        Of what is shown, metres; None where the composition does not say.
    keyframes : float
        Mean number in use for a target.
    choose_seconds, compose_seconds : float
    """

    colors: F32
    coverage: Bool
    depth: F32 | None
    keyframes: float
    choose_seconds: float
    compose_seconds: float


Composer = Callable[[CameraTrajectory], Canvases]


def check_rules(strategy: str, composition: str, stride: int, max_bytes: int | None = None) -> None:
    """Refuse what does not go together; see :func:`composer`."""
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("composition", composition, COMPOSITIONS)
    published = [name for name in (strategy, composition) if name in PUBLISHED]
    if published and stride != PUBLISHED_STRIDE:
        raise ValueError(f"stride: expected {PUBLISHED_STRIDE}, which {published[0]} is made for, got {stride}")
    if strategy in PUBLISHED and max_bytes is not None:
        raise ValueError(f"max_bytes: expected no limit for {strategy}, which never forgets, got {max_bytes}")
    if strategy == "top_k" and composition in PUBLISHED:
        raise ValueError(f"composition: expected blend or backward for patches of top_k, got {composition!r}")


def composer(
    memory: Sequence[GridFrame],
    camera: CameraIntrinsics,
    stride: int,
    strategy: str = "visible_coverage",
    composition: str = "blend",
    *,
    max_bytes: int | None = None,
    eviction: str = "redundant",
    num_threads: int = 0,
    options: dict[str, Any] | None = None,
) -> Composer:
    """A memory of some frames as a function from target cameras to canvases.

    Parameters
    ----------
    memory : sequence of GridFrame
    camera : CameraIntrinsics
        Of the images that the grids were made from.
    stride : int
    strategy : {"visible_coverage", "top_k", "pose_nearest", "coverage"}
        The last two are the published rules: they need ``stride`` 16 and never forget.
    composition : {"blend", "backward", "near", "far"}
        The last two are the published rules; they compose keyframes, not the patches of ``top_k``.
    max_bytes, eviction
        Of the store.
    options
        Of :class:`~mosaicmem.KeyframeRetrieval`.
    """
    check_rules(strategy, composition, stride, max_bytes)
    if not memory:
        raise ValueError("memory: expected at least one frame, got none")
    published = [name for name in (strategy, composition) if name in PUBLISHED]

    store = MosaicMemoryStore(2, max_bytes=max_bytes, eviction=eviction, num_threads=num_threads)
    # Without edits, a keyframe's first patch id is its observation number.
    observations = [store.insert_keyframe(f.colors, f.depth, camera, f.pose, frame_id=i) for i, f in enumerate(memory)]
    blend = composition if composition in ("blend", "backward") else "blend"
    retrieval = KeyframeRetrieval(**{"composition": blend, **(options or {})})
    patches = MemoryRetrieval(top_k=4096, min_visibility=0.0)
    rules = {name: _published(memory, camera, PUBLISHED[name], num_threads) for name in published}

    def choose(targets: CameraTrajectory) -> Any:
        if strategy == "top_k":
            return patches.retrieve(store, targets, stride)
        if strategy == "visible_coverage":
            return retrieval.select(store, targets, stride)
        return rules[strategy].select_candidate_frame_ids(*_groups(targets))

    def compose(targets: CameraTrajectory, chosen: Any) -> Canvases:
        if composition in PUBLISHED:
            ids = chosen
            if isinstance(chosen, KeyframeSelection):
                ids = [np.searchsorted(observations, each).tolist() for each in chosen.observations]
            poses, cameras = _groups(targets)
            colors, valid = rules[composition].fuse_candidates(poses, ids, query_intrinsics=cameras)
            used = float(np.mean([len({i for i in each if i >= 0}) for each in ids]))
            return Canvases(np.ascontiguousarray(np.moveaxis(colors, 0, -1)), valid, None, used, 0.0, 0.0)
        if strategy in PUBLISHED:
            lists = [np.array([observations[i] for i in dict.fromkeys(each) if i >= 0], np.uint64) for each in chosen]
            chosen = KeyframeSelection(lists)
        mosaic = retrieval.compose(store, targets, stride, chosen)
        return Canvases(mosaic.latents, mosaic.coverage, mosaic.depth, _keyframes_of(mosaic), 0.0, 0.0)

    def run(targets: CameraTrajectory) -> Canvases:
        start = time.perf_counter()
        chosen = choose(targets)
        middle = time.perf_counter()
        canvases = compose(targets, chosen)
        end = time.perf_counter()
        return Canvases(
            canvases.colors, canvases.coverage, canvases.depth, canvases.keyframes, middle - start, end - middle
        )

    return run


def _published(memory: Sequence[GridFrame], camera: CameraIntrinsics, policy: str, num_threads: int) -> PatchMemory:
    rules = PatchMemory(policy, num_threads=num_threads)
    rules.append(
        np.stack([frame.colors for frame in memory]).transpose(3, 0, 1, 2),
        np.stack([frame.pose.camera_from_world for frame in memory]),
        np.tile(camera.matrix, (len(memory), 1, 1)),
        np.stack([frame.pixel_depth for frame in memory]),
    )
    return rules


def _groups(targets: CameraTrajectory) -> tuple[F32, F32]:
    """The published rules take four poses a latent; here all four are the target's."""
    poses = np.repeat(targets.camera_from_world, SUBFRAMES, axis=0).astype(np.float32)
    return poses, np.tile(targets.intrinsics.matrix, (len(poses), 1, 1)).astype(np.float32)


def _keyframes_of(mosaic: ComposedMosaic) -> float:
    """Mean number of keyframes that were given for a target; of patches, those that count most somewhere."""
    if mosaic.selection is not None:
        return float(np.mean([len(each) for each in mosaic.selection.observations]))
    return float(np.mean([len(np.unique(source[source >= 0])) for source in mosaic.source]))
