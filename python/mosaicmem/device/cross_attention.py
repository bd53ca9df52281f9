"""The projections of a cross-attention layer on the device: the matrix product is the framework's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosaicmem._arrays import F32
from mosaicmem.device.arrays import Call, DeviceCopies

_FLOATS = ("float32", "bfloat16", "float16")


class DeviceProjections:
    """Weights (out, in) on whatever devices and in whatever dtypes they are asked for, each made once.

    Parameters
    ----------
    weights : mapping of str to (out, in) float32 array
    """

    def __init__(self, weights: Mapping[str, F32]) -> None:
        self._weights = weights
        self._copies = DeviceCopies()
        self._narrow: dict[tuple[Any, ...], Any] = {}

    def heads(self, name: str, weight: str, x: Any, num_heads: int) -> Any:
        """x (B, N, in) -> (B, heads, N, head_dim), a view of (B, N, heads, head_dim)."""
        out = self.apply(name, weight, x)
        batch, count, width = out.shape
        return out.reshape((batch, count, num_heads, width // num_heads)).swapaxes(1, 2)

    def merged(self, name: str, weight: str, heads: Any) -> Any:
        """heads (B, heads, N, head_dim) -> (B, N, out)."""
        batch, number, count, dim = heads.shape
        return self.apply(name, weight, heads.swapaxes(1, 2).reshape((batch, count, number * dim)))

    def apply(self, name: str, weight: str, x: Any) -> Any:
        """x (B, N, in) of a floating dtype -> (B, N, out) of the same."""
        call = Call(name, x)
        array = call.checked(name, x, _FLOATS, ("B", "N", self._weights[weight].shape[1]))
        dtype = call.dtype(name, array)
        key = (weight, dtype, *call.place)
        if key not in self._narrow:
            moved = self._copies.of(call, weight, self._weights[weight].T.copy())
            self._narrow[key] = moved if dtype == "float32" else call.converted(moved, dtype)
            call.wait()
        return array @ self._narrow[key]
