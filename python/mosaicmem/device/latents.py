"""Warped Latent on the device: splats, samples and their adjoints, to the last bit those of the CPU."""

from __future__ import annotations

from typing import Any

from mosaicmem import _core
from mosaicmem._arrays import check_shape
from mosaicmem.device.arrays import Call, View

_FLOATS = ("float32", "float64")
_MOST_TOKENS = 2**30


def splat(
    tokens: Any,
    positions: Any,
    depth: Any,
    weights: Any,
    rows: int,
    columns: int,
    mode: str,
    depth_tolerance: float,
) -> tuple[Any, Any, Any, Any]:
    """The canvas (rows, columns, C), coverage, depth and source of ``WarpedLatent.splat``."""
    call = Call("tokens", tokens)
    latents = call.array("tokens", tokens, _FLOATS, ("N", "C"), values=True)
    count, channels = latents.shape
    places = _places(call, positions, depth, weights, count)
    canvas, on_canvas = call.empty((rows, columns, channels), latents.dtype)
    coverage, covered = call.empty((rows, columns), "bool")
    surface, front_depth = call.empty((rows, columns), "float32")
    source, owner = call.empty((rows, columns), "int32")
    _, front = call.empty((rows, columns), "int64")
    begin, entry = _lists(call, rows * columns, count, mode)
    _core.cuda.splat(
        latents,
        *places,
        getattr(_core.Splat, mode),
        depth_tolerance,
        on_canvas,
        covered,
        front_depth,
        owner,
        front,
        begin,
        entry,
        call.stream,
    )
    return canvas, coverage, surface, source


def splat_adjoint(
    canvas: Any,
    positions: Any,
    depth: Any,
    weights: Any,
    surface: Any,
    source: Any,
    mode: str,
    depth_tolerance: float,
) -> Any:
    """The gradient of tokens (N, C) from that of the canvas; ``surface`` and ``source`` are what `splat` has found."""
    call = Call("canvas", canvas)
    gradient = call.array("canvas", canvas, _FLOATS, ("h", "w", "C"), values=True)
    rows, columns, channels = gradient.shape
    count = int(depth.shape[0])
    places = _places(call, positions, depth, weights, count)
    front_depth = call.array("front", surface, "float32", (rows, columns))
    owner = call.array("source", source, "int32", (rows, columns))
    latents, tokens = call.empty((count, channels), gradient.dtype)
    begin, entry = _lists(call, rows * columns, count, mode)
    total = call.empty((rows, columns), gradient.dtype)[1] if mode == "bilinear" else None
    _core.cuda.splat_adjoint(
        gradient,
        *places,
        front_depth,
        owner,
        getattr(_core.Splat, mode),
        depth_tolerance,
        tokens,
        begin,
        entry,
        total,
        call.stream,
    )
    return latents


def bilinear_sample(grid: Any, positions: Any) -> tuple[Any, Any]:
    """values (N, C) and inside (N,) of ``bilinear_sample``."""
    call = Call("grid", grid)
    cells = call.array("grid", grid, _FLOATS, ("h", "w", "C"), values=True)
    if 0 in cells.shape[:2]:
        raise ValueError(f"grid: expected at least one cell, got shape {tuple(grid.shape)}")
    places = call.array("positions", positions, "float32", ("N", 2))
    values, read = call.empty((places.shape[0], cells.shape[2]), cells.dtype)
    inside, within = call.empty((places.shape[0],), "bool")
    _core.cuda.bilinear_sample(cells, places, read, within, call.stream)
    return values, inside


def bilinear_sample_adjoint(values: Any, positions: Any, rows: int, columns: int) -> Any:
    """The gradient of the grid (rows, columns, C) from that of the values (N, C)."""
    call = Call("values", values)
    gradient = call.array("values", values, _FLOATS, ("N", "C"), values=True)
    count, channels = gradient.shape
    places = call.array("positions", positions, "float32", (count, 2))
    _check_count("values", count)
    grid, cells = call.empty((rows, columns, channels), gradient.dtype)
    begin = call.scratch((rows * columns + 1,), "int32")
    entry = call.scratch((4 * count,), "int32")
    _core.cuda.bilinear_sample_adjoint(gradient, places, begin, entry, cells, call.stream)
    return grid


def _places(call: Call, positions: Any, depth: Any, weights: Any, count: int) -> tuple[View, View, View | None]:
    _check_count("tokens", count)
    check_shape("depth", tuple(depth.shape), (count,))
    return (
        call.array("positions", positions, "float32", (count, 2)),
        call.depth("depth", depth, (count,)),
        None if weights is None else call.array("weights", weights, "float32", (count,), values=True),
    )


def _lists(call: Call, cells: int, count: int, mode: str) -> tuple[View | None, View | None]:
    """Room for the tokens of each cell, which only averages need."""
    if mode != "bilinear":
        return None, None
    return call.scratch((cells + 1,), "int32"), call.scratch((4 * count,), "int32")


def _check_count(name: str, count: int) -> None:
    if count >= _MOST_TOKENS:
        raise ValueError(f"{name}: expected fewer than 2^30 on a device, got {count}")
