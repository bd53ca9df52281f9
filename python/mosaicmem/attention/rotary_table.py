"""The angles of Warped RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F64, ArrayLike, as_array, check_choice
from mosaicmem._border import Call, DeviceCopies
from mosaicmem._border.device import to_host

PAIRINGS = ("interleaved", "split_half")


class RotaryTable:
    """The angles of N tokens: compute once, apply in every layer, or hand to a model that applies RoPE itself.

    Parameters
    ----------
    cos, sin : (N, head_dim / 2) array

    Attributes
    ----------
    cos, sin : (N, head_dim / 2) float64
        NumPy arrays, or arrays on the GPU if `WarpedRoPE.table` was given positions there.
    """

    def __init__(self, cos: ArrayLike, sin: ArrayLike) -> None:
        self.cos: Any = as_array("cos", cos, np.float64, ("N", "D"), own=True)
        self.sin: Any = as_array("sin", sin, np.float64, self.cos.shape, own=True)
        self._single: tuple[Any, Any] = (self.cos.astype(np.float32), self.sin.astype(np.float32))
        self._copies = DeviceCopies()

    @classmethod
    def of_positions(
        cls, positions: ArrayLike, axes_dims: Sequence[int], theta: float, num_threads: int = 0
    ) -> RotaryTable:
        """The angles of positions (N, axes); axis i rotates ``axes_dims[i]`` features."""
        call = Call("positions", positions, num_threads)
        places = call.array("positions", positions, "float64", ("N", len(axes_dims)), finite=True)
        shape = places.shape[0], sum(axes_dims) // 2
        cos, to_cos = call.own(shape, "float64")
        sin, to_sin = call.own(shape, "float64")
        call.core.rope_table(places, tuple(axes_dims), theta, to_cos, to_sin, call.handle)
        table = object.__new__(cls)
        table.cos, table.sin = cos, sin
        table._single = call.converted(cos, "float32"), call.converted(sin, "float32")
        table._copies = DeviceCopies()
        return table

    @property
    def shape(self) -> tuple[int, int]:
        """(N, head_dim / 2)"""
        tokens, pairs = self.cos.shape
        return tokens, pairs

    def beside(self, name: str, x: Any, *, double: bool = False) -> tuple[Any, Any]:
        """cos and sin on the device of features ``x``, in float32, or with ``double`` in float64 if ``x`` is.

        Host tables are copied to the GPU once and cached.
        """
        is_double = double and str(x.dtype).endswith("float64")
        call = Call(name, x, 1)  # computes nothing
        cos, sin = (self.cos, self.sin) if is_double else self._single
        return call.beside(self._copies, f"cos {is_double}", cos), call.beside(self._copies, f"sin {is_double}", sin)

    @property
    def frequencies(self) -> NDArray[np.complex128]:
        """cos + i sin, (N, head_dim / 2) complex128 on the host: for models that multiply pairs as complex numbers."""
        return np.asarray(to_host("cos", self.cos) + 1j * to_host("sin", self.sin))

    def per_feature(self, pairing: str = "interleaved") -> tuple[F64, F64]:
        """cos and sin of each feature, (N, head_dim) on the host: for models that compute x * cos + rotate(x) * sin.

        ``rotate`` is (x0, x1, x2, x3) -> (-x1, x0, -x3, x2) for ``interleaved``, (-x2, -x3, x0, x1) for ``split_half``.
        """
        cos, sin = to_host("cos", self.cos), to_host("sin", self.sin)
        if check_choice("pairing", pairing, PAIRINGS) == "interleaved":
            return np.repeat(cos, 2, axis=1), np.repeat(sin, 2, axis=1)
        return np.tile(cos, (1, 2)), np.tile(sin, (1, 2))
