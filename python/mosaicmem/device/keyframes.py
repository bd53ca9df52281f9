"""Whole keyframes on the device: choosing those that show a window best, and composing canvases from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import View
from mosaicmem.device.mirror import StoreMirror

_MOST_LATTICE_CELLS = 1 << 15


def choose(
    call: Call,
    tables: Any,
    grids: _core.TargetGrids,
    candidates: list[int],
    params: _core.KeyframeParams,
    most: tuple[int, int],
) -> Any:
    """Picks (T, K) int32: rows of the mirror, the best first, -1 beyond them. ``candidates`` are rows; ``most`` is how
    many for the window and for each target."""
    packed, rows, columns = _core.cuda.pack_coarse_grid(grids)
    if rows * columns > _MOST_LATTICE_CELLS:
        raise ValueError(f"targets: expected a grid less thin, got one that is looked at in {rows}x{columns} cells")
    views, count = grids.count, len(candidates)
    per_window, per_view = (min(n, count) for n in most)
    picks, chosen = call.empty((views, per_view), "int32")
    if count == 0:
        return picks
    cells = rows * columns
    scratch = (
        call.scratch((count, views, cells), "int64"),
        call.scratch((count, views, cells), "float32"),
        call.scratch((views, cells), "float32"),
        call.scratch((count,), "float32"),
        call.scratch((per_window,), "int32"),
    )
    _core.cuda.select_keyframes(
        tables,
        _put(call, packed),
        (rows, columns),
        call.constant(np.array(candidates, np.int32))[1],
        params,
        scratch,
        chosen,
        call.stream,
    )
    return picks


def compose(
    call: Call, tables: Any, mirror: StoreMirror, grids: _core.TargetGrids, picks: Any, options: _core.BlendOptions
) -> dict[str, Any]:
    """latents (T, h, w, C), coverage, depth, source and weight (T, h, w) from picks (T, K), rows of the mirror."""
    views, rows, columns, count = grids.count, grids.rows, grids.columns, int(picks.shape[1])
    channels, room = tables.channels, mirror.most_cells
    if channels > _core.cuda.most_canvas_channels:
        raise ValueError(
            f"latents: expected at most {_core.cuda.most_canvas_channels} channels on a device, got {channels}"
        )
    shape = (views, rows, columns)
    scratch = (
        call.scratch((views, count, room, 5), "float32"),
        call.scratch((views, count, room), "int32"),
        call.scratch((views, count, rows * columns), "int32"),
        call.scratch((views, count), "int32"),
        call.scratch((*shape, 2), "int32"),
        call.scratch(shape, "float32"),
        call.scratch(shape, "float32"),
    )
    made = {
        "latents": call.empty((*shape, channels), "float32"),
        "coverage": call.empty(shape, "bool"),
        "depth": call.empty(shape, "float32"),
        "source": call.empty(shape, "int32"),
        "weight": call.empty(shape, "float32"),
    }
    blended = tuple(view for _, view in made.values())
    packed = _put(call, _core.cuda.pack_targets(grids))
    _core.cuda.blend(tables, packed, call.view(picks), options, scratch, blended, call.stream)
    return {name: array for name, (array, _) in made.items()}


def _put(call: Call, packed: bytes) -> View:
    return call.constant(np.frombuffer(packed, np.uint8))[1]
