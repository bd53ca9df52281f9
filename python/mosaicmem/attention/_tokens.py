"""Which camera each token belongs to, and where it is in that camera's image."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F64, I32, ArrayLike, as_array, check_integer


def token_places(
    cameras: int,
    patches_x: int | None,
    patches_y: int | None,
    camera: ArrayLike | None,
    positions: ArrayLike | None,
) -> tuple[I32, F64 | None]:
    """The camera of each token, and its (y, x) where that is known."""
    if patches_x is not None or patches_y is not None:
        if camera is not None or positions is not None:
            raise ValueError("camera, positions: expected these, or patches_x and patches_y, not both")
        columns = check_integer("patches_x", patches_x, minimum=1)
        rows = check_integer("patches_y", patches_y, minimum=1)
        y, x = np.divmod(np.tile(np.arange(rows * columns), cameras), columns)
        grid = np.repeat(np.arange(cameras, dtype=np.int32), rows * columns)
        return grid, np.stack([y, x], axis=1).astype(np.float64)
    own = np.arange(cameras, dtype=np.int32) if camera is None else camera_indices(camera, cameras, "N")
    if positions is None:
        return own, None
    return own, as_array("positions", positions, np.float64, (len(own), 2), finite=True)


def camera_indices(camera: ArrayLike, cameras: int, count: int | str) -> I32:
    """The camera of each of ``count`` tokens, within [0, cameras)."""
    own = as_array("camera", camera, np.int32, (count,), own=True)
    if own.size and not (own.min() >= 0 and own.max() < cameras):
        raise ValueError(f"camera: expected indices within [0, {cameras}), got {own.min()} to {own.max()}")
    return own
