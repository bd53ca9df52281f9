"""The arrays of a keyframe in a file, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosaicmem.errors import FormatError
from mosaicmem.memory.storage.tensors import MappedTensors

MAX_CELLS = 2**26  # per keyframe
MOST_PIXELS = 64  # of an image, along the edge of a cell
_MOST_SUBCELLS = 8  # along the edge of a cell


def stored_arrays(file: MappedTensors, position: int, channels: int) -> tuple[Any, Any, Any, Any, Any]:
    """Latents, depth, confidence, image and subcell depth of a keyframe in a file, as views of it; None for none.

    Raises
    ------
    FormatError
        Their shapes or types do not fit.
    """
    latents = file.get(f"{position}.latents", ("F32", "F16", "U16"), (None, None, channels))
    shape = latents.shape[:2]
    if min(latents.shape) == 0 or latents.shape[0] * latents.shape[1] > MAX_CELLS:
        raise FormatError(file.path, f"{position}.latents: expected 1 to {MAX_CELLS} cells, got {latents.shape}")
    depth = file.get(f"{position}.depth", ("F32",), shape)
    confidence = None
    if f"{position}.confidence" in file:
        confidence = file.get(f"{position}.confidence", ("F32",), shape)
        if not (confidence.min() >= 0 and confidence.max() <= 1):
            raise FormatError(file.path, f"{position}.confidence: expected values in [0, 1]")
    image = None
    for name in (f"{position}.image", f"{position}.thumbnail"):  # as version 3 called it
        if name in file:
            image = file.get(name, ("U8",), (None, None, 3))
            _check_scale(file.path, name, image.shape, shape, MOST_PIXELS)
    subcell_depth = None
    if f"{position}.subcell_depth" in file:
        subcell_depth = file.get(f"{position}.subcell_depth", ("F32",), (None, None))
        _check_scale(file.path, f"{position}.subcell_depth", subcell_depth.shape, shape, _MOST_SUBCELLS)
    return latents, depth, confidence, image, subcell_depth


def _check_scale(path: Path, name: str, actual: tuple[int, ...], grid: tuple[int, ...], most: int) -> None:
    """Check that an array has the same whole number of entries along both edges of each cell, up to ``most``."""
    scale = actual[0] // grid[0]
    if not 1 <= scale <= most or actual[:2] != (scale * grid[0], scale * grid[1]):
        raise FormatError(path, f"{name}: expected 1 to {most} times the {grid[0]}x{grid[1]} cells, got shape {actual}")
