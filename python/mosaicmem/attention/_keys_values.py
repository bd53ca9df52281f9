"""Memory tokens as a layer attends to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mosaicmem.attention._cameras import SharedFrame


@dataclass(frozen=True, eq=False)
class MemoryKeysValues:
    """Memory tokens as a layer attends to them: made once a window, used at every denoising step.

    Attributes
    ----------
    keys, values : (B, heads, M, head_dim)
        Projected and encoded: float32, or where the memory was on a GPU arrays there, of its dtype.
    mask : (B, M) bool or None
    time : (M,) float64 or None
        Seconds.
    with_cameras : bool
        Whether keys and values carry their cameras; then queries must carry theirs.
    frame : SharedFrame or None
        What the cameras of keys and values are relative to, and those of queries will be; None for the frame in which
        they were given.
    """

    keys: Any
    values: Any
    mask: Any
    time: Any
    with_cameras: bool
    frame: SharedFrame | None = None

    def __len__(self) -> int:
        """The number of memory tokens, M."""
        return int(self.keys.shape[2])
