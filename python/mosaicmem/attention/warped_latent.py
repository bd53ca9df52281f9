"""Warped Latent: memory tokens put onto the latent grid of the target view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem._arrays import (
    F32,
    I32,
    ArrayLike,
    Bool,
    as_array,
    as_depth,
    check_choice,
    check_integer,
    check_number,
    check_threads,
    float_dtype,
    is_torch,
    like,
)
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.device import geometry, latents
from mosaicmem.device.arrays import is_on_device


def reproject_depth_grid(
    depth: ArrayLike,
    stride: int,
    source_intrinsics: CameraIntrinsics,
    source: CameraPose,
    target_intrinsics: CameraIntrinsics,
    target: CameraPose,
    *,
    near: float = 0.05,
    num_threads: int = 0,
) -> tuple[Any, Any]:
    """Where each cell of a source view lands in a target view (Eq. 2 of MosaicMem).

    (u', v') = proj(K_target * camera_from_world_target * world_from_camera_source * (depth * K_source^-1 [u, v, 1]))

    Parameters
    ----------
    depth : (h, w) array
        Depth of each cell, metres; invalid where not finite or <= 0.
    stride : int
        Pixels a cell of the source.
    source_intrinsics, target_intrinsics : CameraIntrinsics
        Of the images, in pixels.
    source, target : CameraPose
    near : float
        Cells that land nearer than this (metres) are invalid.

    Returns
    -------
    projected : (h, w, 3) float32
        (u', v') in pixels and z' in metres; may lie outside the image. Zero where invalid.
    valid : (h, w) bool
    """
    near = check_number("near", near, above=0.0)
    camera = (*target_intrinsics.params, target_intrinsics.width, target_intrinsics.height, near, np.inf)
    views = (
        check_integer("stride", stride, minimum=1),
        source_intrinsics.params,
        source.world_from_camera,
        camera,
        target.camera_from_world,
    )
    if is_on_device(depth):
        return geometry.reproject_grid(depth, *views)
    z = as_depth("depth", depth, ("h", "w"))
    projected, valid = _core.reproject_grid(z, *views, check_threads(num_threads))
    return like(depth, projected), like(depth, valid)


MODES = ("nearest", "block", "bilinear")


@dataclass(frozen=True, eq=False)
class LatentCanvas:
    """What memory shows on the latent grid of one view.

    Attributes
    ----------
    latents : (h, w, C) float32, or float64 for float64 tokens
        Zero where uncovered.
    coverage : (h, w) bool
        True where a token projected. Nothing is ever filled in.
    depth : (h, w) float32
        Depth of the front surface, metres; 0 where uncovered.
    source : (h, w) int32
        Index of the front token; -1 where uncovered.
    """

    latents: F32
    coverage: Bool
    depth: F32
    source: I32


class WarpedLatent:
    """Forward splat of tokens into a latent grid, with a z-buffer.

    The front token of a cell is the nearest; equal depths go to the smaller index, so the result is the same always.

    Parameters
    ----------
    mode : {"nearest", "block", "bilinear"}
        ``nearest``: a token covers the cell it lands in. ``block``: the 2x2 cells around it. ``bilinear``: likewise,
        and a cell averages all tokens of its front surface by weight times bilinear weight.
    depth_tolerance : float
        ``bilinear`` only: tokens up to this part behind the front token belong to its surface.
    """

    def __init__(self, mode: str = "bilinear", *, depth_tolerance: float = 0.05) -> None:
        self.mode = check_choice("mode", mode, MODES)
        self.depth_tolerance = check_number("depth_tolerance", depth_tolerance, minimum=0.0)

    def splat(
        self,
        tokens: ArrayLike,
        positions: ArrayLike,
        depth: ArrayLike,
        rows: int,
        columns: int,
        *,
        weights: ArrayLike | None = None,
    ) -> LatentCanvas:
        """Put tokens onto a grid of ``rows`` x ``columns`` cells.

        Parameters
        ----------
        tokens : (N, C) array
            float64 stays so, all else is computed in float32. A torch tensor may require a gradient; the canvas is
            linear in the tokens.
        positions : (N, 2) array
            (y, x) in cell coordinates, integers at cell centres. Tokens off the grid, or not finite, are passed over.
        depth : (N,) array
            In the target camera, metres; tokens with an invalid depth are passed over.
        weights : (N,) array, optional
            In [1e-6, 1e6]; used by ``bilinear``.
        """
        parts = (tokens, positions, depth, weights, rows, columns, self.mode, self.depth_tolerance)
        if is_torch(tokens):
            from mosaicmem import torch_ops

            return LatentCanvas(*torch_ops.splat(*parts))
        if is_on_device(tokens):
            check_integer("rows", rows, minimum=1)
            check_integer("columns", columns, minimum=1)
            return LatentCanvas(*latents.splat(*parts))
        return LatentCanvas(*_core.splat(*splat_arguments(*parts)))


def splat_arguments(
    tokens: ArrayLike,
    positions: ArrayLike,
    depth: ArrayLike,
    weights: ArrayLike | None,
    rows: int,
    columns: int,
    mode: str,
    depth_tolerance: float,
) -> tuple[Any, ...]:
    """The core's arguments for a splat, checked; see `WarpedLatent.splat`."""
    features = as_array("tokens", tokens, float_dtype(tokens), ("N", "C"), values=True)
    place = as_array("positions", positions, np.float32, (len(features), 2))
    z = as_depth("depth", depth, (len(features),))
    if weights is not None:
        weights = as_array("weights", weights, np.float32, (len(features),), finite=True, values=True)
        if weights.size and not (weights.min() >= 1e-6 and weights.max() <= 1e6):
            raise ValueError(f"weights: expected values in [1e-6, 1e6], got {weights.min()} to {weights.max()}")
    return (
        features,
        np.ascontiguousarray(place[:, ::-1]),  # the core takes (x, y)
        z,
        weights,
        check_integer("rows", rows, minimum=1),
        check_integer("columns", columns, minimum=1),
        getattr(_core.Splat, check_choice("mode", mode, MODES)),
        check_number("depth_tolerance", depth_tolerance, minimum=0.0),
    )


def bilinear_sample(grid: ArrayLike, positions: ArrayLike, *, num_threads: int = 0) -> tuple[Any, Any]:
    """Read a grid of latents at fractional places.

    Parameters
    ----------
    grid : (h, w, C) array
        float64 stays so, all else is computed in float32. A torch tensor may require a gradient.
    positions : (N, 2) array
        (y, x) in cell coordinates, integers at cell centres. Between the outermost centres and the border of the grid,
        half a cell further, the nearest centre counts.

    Returns
    -------
    values : (N, C) array
        Zero where not inside.
    inside : (N,) bool
        False beyond the border, and where a position is not finite.
    """
    threads = check_threads(num_threads)
    if is_torch(grid):
        from mosaicmem import torch_ops

        return torch_ops.bilinear_sample(grid, positions, threads)
    if is_on_device(grid):
        return latents.bilinear_sample(grid, positions)
    cells, places = sample_arguments(grid, positions)
    return _core.bilinear_sample(cells, places, threads)


def sample_arguments(grid: ArrayLike, positions: ArrayLike) -> tuple[NDArray[Any], F32]:
    """The core's arguments for `bilinear_sample`, checked."""
    cells = as_array("grid", grid, float_dtype(grid), ("h", "w", "C"), values=True)
    if 0 in cells.shape[:2]:
        raise ValueError(f"grid: expected at least one cell, got shape {cells.shape}")
    place = as_array("positions", positions, np.float32, ("N", 2))
    return cells, np.ascontiguousarray(place[:, ::-1])  # the core takes (x, y)
