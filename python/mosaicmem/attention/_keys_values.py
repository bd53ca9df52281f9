"""Memory tokens, projected to keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mosaicmem.attention._cameras import SharedFrame


@dataclass(frozen=True, eq=False)
class MemoryKeysValues:
    """Memory tokens, projected to keys and values: once per window, for all its denoising steps.

    Attributes
    ----------
    keys, values : (B, heads, M, head_dim)
        Projected and encoded: float32; for memory on the GPU, arrays there in its dtype.
    mask : (B, M) bool or None
    time : (M,) float64 or None
        Seconds.
    with_cameras : bool
        Whether keys and values are encoded with PRoPE; if so, queries must be too.
    frame : SharedFrame or None
        The frame in which the cameras of keys and values are expressed, and those of queries must be; None for the
        frame that they were given in.
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
