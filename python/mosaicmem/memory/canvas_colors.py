"""Canvases in the colours of the scene, from the thumbnails of the keyframes that they were composed from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, F64, check_instance, check_integer
from mosaicmem._border import to_host
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.selection import ComposedMosaic
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.target_grids import target_grids


def canvas_colors(
    store: MosaicMemoryStore,
    composed: ComposedMosaic,
    targets: CameraTrajectory,
    stride: int,
    *,
    scale: int = 2,
    of_latents: Callable[[F32], F32] | None = None,
) -> F32:
    """What memory shows to its targets, in colour.

    Each pixel takes the colour of the surface point that it sees, from the thumbnail of the keyframe that has the most
    weight in its cell. This previews a canvas; models are given its latents.

    Parameters
    ----------
    store, targets, stride
        As the canvases were composed from them.
    composed : ComposedMosaic
    scale : int
        Pixels along the edge of a cell.
    of_latents : callable, optional
        Colours (N, 3) of latents (N, C), for cells whose keyframe has no thumbnail; mid-grey if not given. See
        `mosaicmem.latent_colors.LatentColors`.

    Returns
    -------
    (T, scale h, scale w, 3) float32
        In [0, 1]; zero where memory shows nothing.
    """
    check_instance("store", store, MosaicMemoryStore)
    check_instance("composed", composed, ComposedMosaic)
    check_instance("targets", targets, CameraTrajectory)
    check_integer("scale", scale, minimum=1, maximum=64)
    coverage, depth, source, latents = (
        to_host(name, getattr(composed, name)) for name in ("coverage", "depth", "source", "latents")
    )
    count, rows, columns = coverage.shape
    if count != len(targets):
        raise ValueError(f"targets: expected those of the {count} canvases, got {len(targets)}")
    grids = target_grids(targets, stride, 0.0, math.inf)
    if (grids.rows, grids.columns) != (rows, columns):
        raise ValueError(
            f"targets, stride: expected the {rows}x{columns} cells of the canvases, got {grids.rows}x{grids.columns}; "
            "pass those that the canvases were composed for"
        )
    known = len(composed.observations)
    if depth.shape != coverage.shape or source.shape != coverage.shape or latents.shape[:3] != coverage.shape:
        raise ValueError(f"composed: expected depth, source and latents of {coverage.shape} cells, like coverage")
    if source.min(initial=-1) < -1 or source.max(initial=-1) >= known:
        raise ValueError(f"composed: expected sources from -1 to {known - 1}, of its {known} keyframes")
    source = np.where(coverage, source, np.int32(-1))
    images, shown = [], np.zeros(len(composed.observations), np.bool_)
    for k, found in enumerate(store._images(composed.observations)):
        image, per_pixel = (None, 0.0) if found is None else found
        shown[k] = image is not None
        images.append((image, per_pixel, tuple(composed.intrinsics[k].tolist())))
    others = np.full((*coverage.shape, 3), 0.5, np.float32)
    without = coverage & ~np.append(shown, True)[source]
    if of_latents is not None and without.any():
        others[without] = of_latents(latents[without])
    colors = np.empty((count, scale * rows, scale * columns, 3), np.float32)
    camera_from_world = np.linalg.inv(_square(composed.world_from_camera))[:, :3]
    inverse = np.ascontiguousarray(camera_from_world)
    _core.color_canvases(grids, depth, source, others, images, inverse, scale, colors, store.num_threads)
    return colors


def _square(affine: F64) -> F64:
    """Affine maps (K, 3, 4) as (K, 4, 4)."""
    last = np.broadcast_to(np.array([[[0.0, 0.0, 0.0, 1.0]]]), (len(affine), 1, 4))
    return np.concatenate([affine, last], axis=1)
