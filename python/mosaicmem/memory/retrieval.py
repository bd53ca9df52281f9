"""From a store and target cameras to a mosaic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, Bool, check_choice, check_instance, check_number
from mosaicmem.attention.warped_latent import WarpedLatent
from mosaicmem.attention.warped_rope import warped_positions
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.device.retrieval import look
from mosaicmem.memory.absence import suspect_mistake
from mosaicmem.memory.mosaic import Mosaic, PaddedMosaic
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.results import RetrievedPatches
from mosaicmem.memory.store import MosaicMemoryStore, cameras


class MemoryRetrieval:
    """Retrieves the patches that each target view sees and aligns their tokens to it.

    Parameters
    ----------
    temporal : {"target", "offset"}
        The t of a token's position: its target frame, or source time minus target time in latent frames.
    options
        Fields of `RetrievalOptions`, for each target frame; ``top_k`` is 1024 if not given.
    """

    def __init__(self, *, temporal: str = "target", **options: Any) -> None:
        self.temporal = check_choice("temporal", temporal, ("target", "offset"))
        self.options = RetrievalOptions(**{"top_k": 1024, **options})
        self._has_warned = False

    def retrieve(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        stride: int,
        *,
        seconds_per_latent: float | None = None,
    ) -> Any:
        """Build the mosaic of a window.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels per cell of the target grid.
        seconds_per_latent : float, optional
            Needed by ``temporal="offset"``.

        Returns
        -------
        Mosaic
            Or, from a store on a device, `PaddedMosaic` there.

        Warns
        -----
        SuspiciousInput
            Nothing is found for any target, and ``near``, ``far``, ``min_visibility`` or ``half_life`` hide what is in
            view, or poses and depth seem to be of different units. Said once, and not for a store on a device.
        """
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        if self.temporal == "offset":
            seconds_per_latent = check_number("seconds_per_latent", seconds_per_latent, above=0.0)
        grid = targets.intrinsics.latent_grid(stride)
        if store._mirror is not None:
            window, tokens = look(
                store._mirror,
                store._core,
                cameras(targets, self.options),
                self.options,
                store.latent_patch_size,
                (grid.height, grid.width, stride),
                0.0 if seconds_per_latent is None or self.temporal == "target" else seconds_per_latent,
            )
            return PaddedMosaic(window[0], window[1], *tokens)
        parts: list[dict[str, Any]] = []
        patches = 0
        for frame, (found, info, projected) in enumerate(store.retrieve_tokens(targets, self.options)):
            t: ArrayLike = float(frame)
            if self.temporal == "offset":
                t = (info["timestamp"] - targets[frame].timestamp)[projected["patch"]] / seconds_per_latent
            part = _aligned(found, info, projected, warped_positions(projected["projected"], stride, t), grid)
            part["patch_frames"] = np.full(len(found), frame, dtype=np.int32)
            part["token_patches"] = projected["patch"] + np.int32(patches)
            parts.append(part)
            patches += len(found)
        if patches == 0 and not self._has_warned:
            ageless = replace(self.options, half_life=0.0)  # ages are looked at by the store
            self._has_warned = suspect_mistake(store, targets, ageless)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Mosaic(frames=len(targets), rows=grid.height, columns=grid.width, **_distinct_sources(joined))


def _aligned(
    found: RetrievedPatches, info: dict[str, Any], projected: dict[str, Any], positions: F64, grid: CameraIntrinsics
) -> dict[str, Any]:
    """What a mosaic holds of one target: fields of `Mosaic`, but for what counts over all targets."""
    cells, depth = positions[:, 1:], projected["projected"][:, 2]
    seen = ~info["generated"][projected["patch"]]
    return {
        "patch_ids": found.ids,
        "patch_scores": found.scores,
        "patch_generated": info["generated"],
        "observation": info["observation"],
        "world_from_camera": info["world_from_camera"],
        "intrinsics": info["intrinsics"],
        "tokens": projected["latents"],
        "positions": positions,
        "source_positions": np.stack([projected["source_row"], projected["source_column"]], axis=1),
        "depth": depth,
        "confidence": projected["confidence"],
        "coverage": _reached(cells, depth, grid)[None],
        "observed": _reached(cells[seen], depth[seen], grid)[None],
    }


def _reached(positions: F64, depth: F32, grid: CameraIntrinsics) -> Bool:
    """The cells (rows, columns) that the bilinear footprint of a token reaches; ``positions`` (N, 2) are (y, x)."""
    no_features = np.zeros((len(depth), 0), np.float32)
    splat = WarpedLatent("bilinear").splat(no_features, positions, depth, grid.height, grid.width)
    return np.asarray(splat.coverage)


def _distinct_sources(joined: dict[str, Any]) -> dict[str, Any]:
    """Replaces the camera of each patch by a table of distinct cameras and an index into it."""
    _, first, sources = np.unique(joined.pop("observation"), return_index=True, return_inverse=True)
    world_from_camera = joined.pop("world_from_camera")[first]
    fx, fy, cx, cy = joined.pop("intrinsics")[first].T
    camera_from_world = np.tile(np.eye(4), (len(first), 1, 1))
    camera_from_world[:, :3] = world_from_camera
    intrinsics = np.zeros((len(first), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = fx, fy
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = cx, cy, 1
    return {
        **joined,
        "source_camera_from_world": np.linalg.inv(camera_from_world),
        "source_intrinsics": intrinsics,
        "patch_sources": sources.astype(np.int32),
    }
