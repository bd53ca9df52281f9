"""From a store and target cameras to canvases: choose whole keyframes, and compose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, F64, I32, I64, U64, ArrayLike, Bool, as_ids, check_instance
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.storage import MAX_CELLS
from mosaicmem.memory.store import MosaicMemoryStore


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
class ComposedMosaic:
    """Canvases for T targets, and what each cell was composed from.

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
    selection : KeyframeSelection or None
        None where patches were composed.
    """

    latents: F32
    coverage: Bool
    depth: F32
    source: I32
    weight: F32
    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    selection: KeyframeSelection | None = None

    @property
    def coverage_ratio(self) -> F64:
        """The part of each target's cells that is covered, (T,) float64."""
        return np.asarray(self.coverage.mean(axis=(1, 2)))


class KeyframeRetrieval:
    """Chooses the keyframes that show a window of targets best, and composes canvases from them.

    A cell counts for a keyframe if the keyframe's surface is in front there, by what its sight of it is worth (see
    `KeyframeOptions`). All targets of a window share the keyframes that are taken for it. Candidates come from
    the patch index, so the cost does not grow with the store.

    Parameters
    ----------
    options
        Fields of `KeyframeOptions`.

    Examples
    --------
    >>> mosaic = KeyframeRetrieval(composition="backward").retrieve(store, targets, stride=8)  # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        self.options = KeyframeOptions(**options)

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> KeyframeSelection:
        """Choose keyframes for a window.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels a cell of the target grid.
        """
        grids = self._targets(store, targets, stride)
        return KeyframeSelection(store._core.select_keyframes(grids, self.options.selection(), store.num_threads))

    def compose(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        stride: int,
        sources: KeyframeSelection | Mosaic,
    ) -> ComposedMosaic:
        """Compose canvases from chosen keyframes, or from the patches of a mosaic, by the same rules.

        Parameters
        ----------
        store, targets, stride
            As for `select`.
        sources : KeyframeSelection or Mosaic
            For these targets. Keyframes and patches that are no longer in the store are passed over.
        """
        grids = self._targets(store, targets, stride)
        if isinstance(sources, Mosaic):
            lists = [sources.patch_ids[sources.patch_frames == frame] for frame in range(sources.frames)]
        else:
            lists = check_instance("sources", sources, KeyframeSelection).observations
        if len(lists) != len(targets):
            raise ValueError(f"sources: expected those of {len(targets)} targets, got those of {len(lists)}")
        are_patches = isinstance(sources, Mosaic)
        arrays = store._core.compose(grids, lists, are_patches, self.options.blend(), store.num_threads)
        return _composed(arrays, None if isinstance(sources, Mosaic) else sources)

    def retrieve(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> ComposedMosaic:
        """`select` and `compose`, both of one state of the store."""
        grids = self._targets(store, targets, stride)
        chosen, arrays = store._core.choose_and_compose(
            grids, self.options.selection(), self.options.blend(), store.num_threads
        )
        return _composed(arrays, KeyframeSelection(chosen))

    def _targets(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> _core.TargetGrids:
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        camera = targets.intrinsics
        grid = camera.latent_grid(stride)
        if grid.width * grid.height > MAX_CELLS:
            raise ValueError(
                f"targets: expected at most {MAX_CELLS} cells of {stride} pixels, "
                f"got {camera.width}x{camera.height} pixels"
            )
        return _core.TargetGrids(
            (*camera.params, camera.width, camera.height, self.options.near, self.options.far),
            targets.camera_from_world,
            np.array([pose.timestamp for pose in targets]),
            grid.height,
            grid.width,
            float(stride),
        )


def _composed(arrays: _core.MosaicArrays, selection: KeyframeSelection | None) -> ComposedMosaic:
    keyframes = cast(dict[str, Any], arrays["keyframes"])
    return ComposedMosaic(
        arrays["latents"],
        arrays["coverage"],
        arrays["depth"],
        arrays["source"],
        arrays["weight"],
        keyframes["observation"],
        keyframes["frame_id"],
        keyframes["timestamp"],
        keyframes["world_from_camera"],
        keyframes["intrinsics"],
        selection,
    )
