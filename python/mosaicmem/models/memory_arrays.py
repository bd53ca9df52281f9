"""A memory batch as NumPy arrays and plain facts, for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem.attention import WarpedRoPE
from mosaicmem.models.canvases import Canvases
from mosaicmem.models.memory_batch import MemoryBatch, per_feature
from mosaicmem.models.prope_cameras import PRoPECameras

_TOKENS = ("latents", "filled", "positions", "mask", "frame")
_COUNTS = ("frames", "rows", "columns", "per_frame")
_CAMERAS = ("targets", "target_matrices", "sources", "source_matrices", "source", "source_positions")


def arrays_of(batch: MemoryBatch) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """A batch of one sample as arrays by name, and as facts that JSON holds.

    The tables of RoPE are left out, which `batch_of` computes again from the positions: they are most of a batch.
    """
    if len(batch) != 1:
        raise ValueError(f"batch: expected one sample, got {len(batch)}")
    arrays = {name: getattr(batch, name)[0].cpu().numpy() for name in _TOKENS}
    facts: dict[str, Any] = {name: getattr(batch, name) for name in _COUNTS}
    if batch._canvases is not None:
        arrays["canvas"] = np.ascontiguousarray(batch.canvas()[0].cpu().numpy())
    if batch.prope is not None:
        arrays |= {f"prope.{name}": getattr(batch.prope, name)[0] for name in _CAMERAS}
        facts["prope"] = {name: getattr(batch.prope, name) for name in ("grid", "size", "options")}
    return arrays, facts


def batch_of(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], rope: WarpedRoPE) -> MemoryBatch:
    """The batch of one sample that `arrays_of` took apart; ``rope`` is that of `MemoryBatch.build`."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name]))[None] for name in _TOKENS}
    table = rope.table(tensors["positions"][0])
    cos, sin = (per_feature(x, rope.pairing, tensors["positions"]) for x in (table.cos, table.sin))
    known, canvas = facts.get("prope"), arrays.get("canvas")
    return MemoryBatch(
        **tensors,
        cos=cos,
        sin=sin,
        **{name: facts[name] for name in _COUNTS},
        prope=None if known is None else _cameras(arrays, known),
        _canvases=None if canvas is None else Canvases.of(*_apart(canvas)),
    )


def _cameras(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> PRoPECameras:
    of_sample: dict[str, Any] = {name: arrays[f"prope.{name}"][None] for name in _CAMERAS}
    grid, size = tuple(facts["grid"]), tuple(facts["size"])
    return PRoPECameras(**of_sample, grid=grid, size=size, options=dict(facts["options"]))


def _apart(canvas: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Latents (T, h, w, C) and coverage (T, h, w) of a canvas (C + 1, T, h, w)."""
    return np.moveaxis(canvas[:-1], 0, -1), canvas[-1]
