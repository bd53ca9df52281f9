"""Warped Latent: memory tokens splatted onto the latent grid of the target view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import (
    F32,
    I32,
    ArrayLike,
    ArrayT,
    Bool,
    check_choice,
    check_integer,
    check_number,
    check_threads,
)
from mosaicmem._border import FLOATS, Call, View
from mosaicmem._border.operators import declare, keep_inputs, kept, on_tensors
from mosaicmem.camera import CameraIntrinsics, CameraPose


def reproject_depth_grid(
    depth: ArrayT,
    stride: int,
    source_intrinsics: CameraIntrinsics,
    source: CameraPose,
    target_intrinsics: CameraIntrinsics,
    target: CameraPose,
    *,
    near: float = 0.05,
    num_threads: int = 0,
) -> tuple[ArrayT, ArrayT]:
    """Where each cell of a source view lands in a target view (Eq. 2 of MosaicMem).

    (u', v') = proj(K_target * camera_from_world_target * world_from_camera_source * (depth * K_source^-1 [u, v, 1]))

    Parameters
    ----------
    depth : (h, w) array
        Depth of each cell, metres; invalid where not finite or <= 0.
    stride : int
        Pixels per cell of the source.
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
    call = Call("depth", depth, num_threads)
    z: View = call.depth("depth", depth, ("h", "w"))
    projected, to_projected = call.empty((*z.shape, 3), "float32")
    valid, to_valid = call.empty(z.shape, "bool")
    call.core.reproject_grid(z, *views, to_projected, to_valid, call.handle)
    return projected, valid


MODES = ("nearest", "block", "bilinear")


@dataclass(frozen=True, eq=False)
class LatentCanvas:
    """Tokens splatted onto the latent grid of one view.

    Attributes
    ----------
    latents : (h, w, C) float32, or float64 for float64 tokens
        Zero where uncovered.
    coverage : (h, w) bool
        True where a token landed. Holes are never filled.
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

    The front token of a cell is the nearest; ties go to the smaller index, so the result is deterministic.

    Parameters
    ----------
    mode : {"nearest", "block", "bilinear"}
        ``nearest``: a token covers the cell it lands in. ``block``: the 2x2 cells around it. ``bilinear``: likewise,
        and a cell averages all tokens of its front surface by weight times bilinear weight.
    depth_tolerance : float
        ``bilinear`` only: tokens up to this fraction of its depth behind the front token belong to its surface.
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
        """Splat tokens onto a grid of ``rows`` x ``columns`` cells.

        Parameters
        ----------
        tokens : (N, C) array
            float64 is kept, other dtypes are computed in float32. A torch tensor may require a gradient; the canvas is
            linear in the tokens.
        positions : (N, 2) array
            (y, x) in cell coordinates, integers at cell centres. Tokens off the grid, or not finite, are skipped.
        depth : (N,) array
            In the target camera, metres; tokens with an invalid depth are skipped.
        weights : (N,) array, optional
            In [1e-6, 1e6]; used by ``bilinear``.
        """
        constants = {"positions": positions, "depth": depth, "weights": weights}
        options = rows, columns, self.mode, self.depth_tolerance
        return LatentCanvas(*_SPLAT(("tokens", tokens), constants, *options, half=False, values=("weights",)))


def bilinear_sample(grid: ArrayT, positions: ArrayLike, *, num_threads: int = 0) -> tuple[ArrayT, ArrayT]:
    """Sample a grid of latents at fractional positions.

    Parameters
    ----------
    grid : (h, w, C) array
        float64 is kept, other dtypes are computed in float32. A torch tensor may require a gradient.
    positions : (N, 2) array
        (y, x) in cell coordinates, integers at cell centres. In the half cell between the outermost centres and the
        border of the grid, the nearest centre counts.

    Returns
    -------
    values : (N, C) array
        Zero where not inside.
    inside : (N,) bool
        False beyond the border, and where a position is not finite.
    """
    threads = check_threads(num_threads)
    values, inside = _SAMPLE(("grid", grid), {"positions": positions}, threads, half=False)
    return values, inside


_MOST_TOKENS = 2**30


def _splat(
    tokens: Any, positions: Any, depth: Any, weights: Any, rows: int, columns: int, mode: str, depth_tolerance: float
) -> tuple[Any, Any, Any, Any]:
    """The canvas (rows, columns, C), coverage, depth and source."""
    call = Call("tokens", tokens)
    latents = call.array("tokens", tokens, FLOATS, ("N", "C"), values=True)
    count, channels = latents.shape
    shape = check_integer("rows", rows, minimum=1), check_integer("columns", columns, minimum=1)
    canvas, to_canvas = call.empty((*shape, channels), latents.dtype)
    coverage, to_coverage = call.empty(shape, "bool")
    surface, to_surface = call.empty(shape, "float32")
    source, to_source = call.empty(shape, "int32")
    call.core.splat(
        latents,
        *_places(call, positions, depth, weights, count),
        getattr(_core.Splat, check_choice("mode", mode, MODES)),
        check_number("depth_tolerance", depth_tolerance, minimum=0.0),
        to_canvas,
        to_coverage,
        to_surface,
        to_source,
        call.handle,
    )
    return canvas, coverage, surface, source


def _splat_adjoint(
    canvas: Any, positions: Any, depth: Any, weights: Any, surface: Any, source: Any, mode: str, depth_tolerance: float
) -> Any:
    """The gradient of tokens (N, C) from that of the canvas; ``surface`` and ``source`` are from `_splat`."""
    call = Call("canvas", canvas)
    gradient = call.array("canvas", canvas, FLOATS, ("h", "w", "C"), values=True)
    rows, columns, channels = gradient.shape
    count = int(depth.shape[0])
    front = call.array("source", source, "int32", (rows, columns))
    call.check("source", front, lambda x: bool(x.min() >= -1 and x.max() < count), f"values in [-1, {count})")
    tokens, to_tokens = call.empty((count, channels), gradient.dtype)
    call.core.splat_adjoint(
        gradient,
        *_places(call, positions, depth, weights, count),
        call.array("surface", surface, "float32", (rows, columns)),
        front,
        getattr(_core.Splat, check_choice("mode", mode, MODES)),
        check_number("depth_tolerance", depth_tolerance, minimum=0.0),
        to_tokens,
        call.handle,
    )
    return tokens


def _places(call: Any, positions: Any, depth: Any, weights: Any, count: int) -> tuple[View, View, View | None]:
    if count >= _MOST_TOKENS:
        raise ValueError(f"tokens: expected fewer than 2^30, got {count}")
    place = call.array("positions", positions, "float32", (count, 2))
    z = call.depth("depth", depth, (count,))
    if weights is None:
        return place, z, None
    weight = call.array("weights", weights, "float32", (count,), values=True, finite=True)
    call.check("weights", weight, lambda x: bool(x.min() >= 1e-6 and x.max() <= 1e6), "values in [1e-6, 1e6]")
    return place, z, weight


def _sample(grid: Any, positions: Any, num_threads: int) -> tuple[Any, Any]:
    """The values (N, C) and inside (N,) of a grid (h, w, C)."""
    call = Call("grid", grid, num_threads)
    cells = call.array("grid", grid, FLOATS, ("h", "w", "C"), values=True)
    rows, columns, channels = cells.shape
    if 0 in (rows, columns):
        raise ValueError(f"grid: expected at least one cell, got shape {(rows, columns, channels)}")
    places = call.array("positions", positions, "float32", ("N", 2))
    values, to_values = call.empty((places.shape[0], channels), cells.dtype)
    inside, to_inside = call.empty((places.shape[0],), "bool")
    call.core.bilinear_sample(cells, places, to_values, to_inside, call.handle)
    return values, inside


def _sample_adjoint(values: Any, positions: Any, rows: int, columns: int, num_threads: int) -> Any:
    """The gradient of the grid (rows, columns, C) from that of the values (N, C)."""
    call = Call("values", values, num_threads)
    gradient = call.array("values", values, FLOATS, ("N", "C"), values=True)
    count, channels = gradient.shape
    if count >= _MOST_TOKENS:
        raise ValueError(f"values: expected fewer than 2^30, got {count}")
    places = call.array("positions", positions, "float32", (count, 2))
    shape = check_integer("rows", rows, minimum=1), check_integer("columns", columns, minimum=1)
    grid, to_grid = call.empty((*shape, channels), gradient.dtype)
    call.core.bilinear_sample_adjoint(gradient, places, to_grid, call.handle)
    return grid


def _fake_splat(tokens: Any, _p: Any, _d: Any, _w: Any, rows: int, columns: int, *_: Any) -> tuple[Any, ...]:
    canvas = tokens.new_empty((rows, columns, tokens.shape[1]))
    kinds = (canvas > 0, canvas.float(), canvas.int())
    return canvas, *(kind.new_empty((rows, columns)) for kind in kinds)


def _keep_splat(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, positions, depth, weights, _, _, mode, tolerance = inputs
    _, coverage, surface, source = output
    ctx.mark_non_differentiable(coverage, surface, source)
    ctx.save_for_backward(positions, depth, weights, surface, source)
    ctx.options = mode, tolerance


def _splat_backward(ctx: Any, gradient: Any, *_: Any) -> tuple[Any, ...]:
    return on_tensors("splat_adjoint")(gradient, *ctx.saved_tensors, *ctx.options), *[None] * 7


def _splat_adjoint_backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
    positions, depth, weights, _, _, mode, tolerance = kept(ctx)
    rows, columns, _ = ctx.features
    canvas = on_tensors("splat")(gradient, positions, depth, weights, rows, columns, mode, tolerance)[0]
    return canvas, *[None] * 7


def _fake_sample(grid: Any, positions: Any, *_: Any) -> tuple[Any, ...]:
    values = grid.new_empty((positions.shape[0], grid.shape[2]))
    return values, (grid > 0).new_empty((positions.shape[0],))


def _keep_sample(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.mark_non_differentiable(output[1])
    keep_inputs(ctx, inputs, output)


def _sample_backward(ctx: Any, gradient: Any, *_: Any) -> tuple[Any, ...]:
    positions, threads = kept(ctx)
    rows, columns, _ = ctx.features
    return on_tensors("sample_adjoint")(gradient, positions, rows, columns, threads), None, None


def _sample_adjoint_backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
    positions, _, _, threads = kept(ctx)
    return on_tensors("sample")(gradient, positions, threads)[0], *[None] * 4


_SPLAT = declare(
    "splat",
    "(Tensor tokens, Tensor positions, Tensor depth, Tensor? weights, int rows, int columns, str mode, "
    "float depth_tolerance) -> (Tensor, Tensor, Tensor, Tensor)",
    _splat,
    _fake_splat,
    _keep_splat,
    _splat_backward,
)
declare(
    "splat_adjoint",
    "(Tensor canvas, Tensor positions, Tensor depth, Tensor? weights, Tensor surface, Tensor source, str mode, "
    "float depth_tolerance) -> Tensor",
    _splat_adjoint,
    lambda canvas, _p, depth, *_: canvas.new_empty((depth.shape[0], canvas.shape[2])),
    keep_inputs,
    _splat_adjoint_backward,
)
_SAMPLE = declare(
    "sample",
    "(Tensor grid, Tensor positions, int num_threads) -> (Tensor, Tensor)",
    _sample,
    _fake_sample,
    _keep_sample,
    _sample_backward,
)
declare(
    "sample_adjoint",
    "(Tensor values, Tensor positions, int rows, int columns, int num_threads) -> Tensor",
    _sample_adjoint,
    lambda values, _p, rows, columns, *_: values.new_empty((rows, columns, values.shape[1])),
    keep_inputs,
    _sample_adjoint_backward,
)
