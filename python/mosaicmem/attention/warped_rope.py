"""Warped RoPE: memory tokens get the rotary positions of where they land in the target view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import (
    F32,
    F64,
    ArrayLike,
    as_array,
    check_choice,
    check_integer,
    check_number,
    check_shape,
    check_threads,
    like,
    to_numpy,
)


def grid_positions(frames: int, rows: int, columns: int) -> F64:
    """The (t, y, x) of every token of a video grid, (frames * rows * columns, 3) float64, x fastest."""
    for name, value in (("frames", frames), ("rows", rows), ("columns", columns)):
        check_integer(name, value, minimum=0)
    axes = np.meshgrid(np.arange(frames), np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """The angles of N tokens: compute once, apply in every layer.

    Attributes
    ----------
    cos, sin : (N, head_dim / 2) float64
    """

    cos: F64
    sin: F64

    def __post_init__(self) -> None:
        cos = as_array("cos", self.cos, np.float64, ("N", "D"))
        object.__setattr__(self, "cos", cos)
        object.__setattr__(self, "sin", as_array("sin", self.sin, np.float64, cos.shape))

    @cached_property
    def single(self) -> tuple[F32, F32]:
        """cos and sin as float32."""
        return self.cos.astype(np.float32), self.sin.astype(np.float32)


class WarpedRoPE:
    """Rotary embedding over (t, y, x) with fractional positions.

    Memory tokens take the position (target latent frame, v'/s' - 0.5, u'/s' - 0.5) of where they land, which a
    :class:`~mosaicmem.memory.Mosaic` holds; queries take their grid position (:func:`grid_positions`). With integer
    positions this is the ordinary 3D RoPE of a video transformer.

    Parameters
    ----------
    head_dim : int
        Even.
    axes_dims : (int, int, int), optional
        Head dimensions that turn with t, y and x: even, summing to ``head_dim``. The default gives y and x
        2 * (head_dim // 6) each and t the rest: 44 / 42 / 42 of 128, as in Wan.
    theta : float
        Base of the frequencies theta^(-2i / d).
    pairing : {"interleaved", "split_half"}
        Which dimensions turn together: (0, 1), (2, 3), ... or (0, d/2), (1, d/2 + 1), ...

    References
    ----------
    MosaicMem, arXiv 2603.17117.
    """

    def __init__(
        self,
        head_dim: int,
        axes_dims: tuple[int, int, int] | None = None,
        *,
        theta: float = 10000.0,
        pairing: str = "interleaved",
    ) -> None:
        self.head_dim = check_integer("head_dim", head_dim, minimum=2)
        if axes_dims is None:
            third = 2 * (head_dim // 6)
            axes_dims = (head_dim - 2 * third, third, third)
        dims = tuple(check_integer(f"axes_dims[{i}]", d, minimum=0) for i, d in enumerate(axes_dims))
        if len(dims) != 3 or sum(dims) != head_dim or any(d % 2 for d in dims):
            raise ValueError(f"axes_dims: expected three even numbers that sum to head_dim = {head_dim}, got {dims}")
        self.axes_dims = (dims[0], dims[1], dims[2])
        self.theta = check_number("theta", theta, above=0.0)
        self.pairing = check_choice("pairing", pairing, ("interleaved", "split_half"))

    def table(self, positions: ArrayLike, *, num_threads: int = 0) -> RotaryTable:
        """The angles of positions (N, 3) in (t, y, x), fractions allowed."""
        p = as_array("positions", positions, np.float64, ("N", 3), finite=True)
        return RotaryTable(*_core.rope_table(p, self.axes_dims, self.theta, check_threads(num_threads)))

    def apply(
        self, x: ArrayLike, positions: ArrayLike | RotaryTable, *, inverse: bool = False, num_threads: int = 0
    ) -> Any:
        """Turn the features of each token by its position.

        Parameters
        ----------
        x : (..., N, head_dim) array
            Queries or keys. float64 stays float64, all else is computed in float32; zero-copy when contiguous.
        positions : (N, 3) array or RotaryTable
            (t, y, x), fractions allowed, shared by all leading dimensions; or their :meth:`table`.
        inverse : bool
            Turn the other way: apply(apply(x), inverse=True) is x.

        Returns
        -------
        Array of the shape of ``x``. The angles are computed in float64.
        """
        array = to_numpy("x", x)
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        features = as_array("x", x, dtype, (*[None] * max(0, array.ndim - 2), "N", self.head_dim))
        count = features.shape[-2]
        if not isinstance(positions, RotaryTable):
            p = as_array("positions", positions, np.float64, (count, 3))
            positions = self.table(p, num_threads=num_threads)
        check_shape("positions", positions.cos, (count, self.head_dim // 2))
        cos, sin = (positions.cos, positions.sin) if dtype == np.float64 else positions.single
        out = _core.rope_apply(
            features.reshape(math.prod(features.shape[:-2]), count, self.head_dim),
            cos,
            sin,
            getattr(_core.Pairing, self.pairing),
            inverse,
            check_threads(num_threads),
        )
        return like(x, out.reshape(features.shape))
