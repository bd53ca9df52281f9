"""Strategy top_k on the device: all views of a window at once, and the tokens of what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import View
from mosaicmem.device.mirror import StoreMirror

if TYPE_CHECKING:
    from mosaicmem.memory.options import RetrievalOptions

_FEWEST, _MOST = 1 << 13, 1 << 17  # candidates listed for a view
_SEEN = 4  # patches noted for each that is listed, whose footprints are looked at
_MOST_TOP_K = 1 << 16

Cameras = tuple[tuple[float, ...], F64, F64]
"""The camera of all views as the core takes it, camera_from_world (T, 4, 4), and times (T,)."""


def retrieve(mirror: StoreMirror, core: _core.MemoryStore, cameras: Cameras, options: RetrievalOptions) -> list[Any]:
    """ids (T, K) int64, scores (T, K), pixels (T, K, 2) and depth (T, K) float64, and count (T,) int32."""
    with mirror.following(core) as (call, tables):
        return _retrieve(call, tables, _put_views(call, tables, cameras), options)[:5]


def look(
    mirror: StoreMirror,
    core: _core.MemoryStore,
    cameras: Cameras,
    options: RetrievalOptions,
    patch_size: int,
    grid: tuple[int, int, int],
    seconds_per_latent: float,
) -> tuple[list[Any], list[Any]]:
    """As `retrieve`, and the tokens: latents (T, N, C), positions (T, N, 3), depth, confidence and valid (T, N), and
    coverage and observed (T, rows, columns), with N = K * patch_size^2; ``grid`` is rows, columns and stride of the
    targets."""
    rows, columns, stride = grid
    with mirror.following(core) as (call, tables):
        views = _put_views(call, tables, cameras)
        *found, places = _retrieve(call, tables, views, options)
        count, cells = len(cameras[2]), patch_size**2
        shapes = {
            "latents": ((cells, core.channels), "float32"),
            "positions": ((cells, 3), "float32"),
            "depth": ((cells,), "float32"),
            "confidence": ((cells,), "float32"),
            "valid": ((cells,), "bool"),
        }
        made = [call.empty((count, options.top_k, *shape), dtype) for shape, dtype in shapes.values()]
        masks = [call.empty((count, rows, columns), "bool") for _ in ("coverage", "observed")]
        projected = tuple(view for _, view in (*made, *masks))
        _core.cuda.project_tokens(tables, views, call.view(places), stride, seconds_per_latent, projected, call.stream)
        tokens = options.top_k * cells
        flat = [array.reshape((count, tokens, *array.shape[3:])) for array, _ in made]
        return found, [*flat, *(mask for mask, _ in masks)]


def _put_views(call: Call, tables: Any, cameras: Cameras) -> View:
    return call.constant(np.frombuffer(_core.cuda.pack_views(tables, *cameras), np.uint8))[1]


def _retrieve(call: Call, tables: Any, views: View, options: RetrievalOptions) -> list[Any]:
    """What `retrieve` returns, and where it is in the mirror."""
    top_k = options.top_k
    if top_k > _MOST_TOP_K:
        raise ValueError(f"top_k: expected at most {_MOST_TOP_K} on a device, got {top_k}")
    count = views.shape[0] // _core.cuda.view_bytes
    room = min(max(_FEWEST, 1 << (8 * top_k - 1).bit_length()), _MOST)
    of_state, of_candidate = _core.cuda.retrieval_state_bytes, _core.cuda.retrieval_candidate_bytes
    scratch = (
        call.scratch((count, of_state), "uint8"),
        call.scratch((count, room, of_candidate), "uint8"),
        call.scratch((count, _SEEN * room), "int64"),
        call.scratch((count, _core.cuda.score_bins), "int32"),
        call.scratch((count, top_k, of_candidate), "uint8"),
        call.scratch((count, _core.cuda.taken_bins**2), "int32"),
        call.scratch((count, top_k), "int32"),
    )
    made = [
        call.empty((count, top_k), "int64"),
        call.empty((count, top_k), "float64"),
        call.empty((count, top_k, 2), "float64"),
        call.empty((count, top_k), "float64"),
        call.empty((count,), "int32"),
        call.empty((count, top_k, 2), "int32"),
    ]
    ids, scores, pixels, depth, number, places = (view for _, view in made)
    chosen = options.core_arguments()[1:]
    _core.cuda.retrieve(tables, views, chosen, scratch, (ids, scores, pixels, depth, places, number), call.stream)
    return [array for array, _ in made]
