"""Warped RoPE: memory tokens get the rotary positions of where they land in the target view."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    is_torch,
    to_numpy,
)
from mosaicmem.attention._features import as_heads, empty_heads, restore
from mosaicmem.device.arrays import Call, DeviceCopies, host_array, is_on_device
from mosaicmem.device.positions import DeviceRotaryTable, rope_apply

PAIRINGS = ("interleaved", "split_half")


def grid_positions(frames: int, rows: int, columns: int, *, temporal: str = "target") -> F64:
    """The (t, y, x) of every token of a video grid, (frames * rows * columns, 3) float64, x fastest.

    ``temporal`` is that of the memory tokens these queries meet (`warped_positions`): with "offset" all t are 0.
    """
    for name, value in (("frames", frames), ("rows", rows), ("columns", columns)):
        check_integer(name, value, minimum=0)
    t = np.arange(frames) * (check_choice("temporal", temporal, ("target", "offset")) == "target")
    axes = np.meshgrid(t, np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1).astype(np.float64)


def warped_positions(projected: ArrayLike, stride: float, t: ArrayLike) -> F64:
    """The (t, y, x) of memory tokens from where they land in the target view, fractions kept.

    Parameters
    ----------
    projected : (N, 2) or (N, 3) array
        (u', v') in pixels of the target view, as from `reproject_depth_grid`; a third column (z') is ignored.
    stride : float
        Pixels a token of the target grid, s'.
    t : float or (N,) array
        ``temporal="target"``: the target latent frame. ``temporal="offset"``: source time minus target time, in latent
        frames.

    Returns
    -------
    (N, 3) float64
        (t, v' / s' - 0.5, u' / s' - 0.5): integers are token centres.
    """
    place = as_array("projected", projected, np.float64, ("N", None), finite=True)
    if place.shape[1] not in (2, 3):
        raise ValueError(f"projected: expected shape (N, 2) or (N, 3), got {place.shape}")
    pixels = check_number("stride", stride, above=0.0)
    time = to_numpy("t", t)
    if time.ndim == 0:
        time = np.full(len(place), time)
    time = as_array("t", time, np.float64, (len(place),), finite=True)
    return np.stack([time, place[:, 1] / pixels - 0.5, place[:, 0] / pixels - 0.5], axis=1)


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """The angles of N tokens: compute once, apply in every layer, or hand to a model that applies RoPE itself.

    Attributes
    ----------
    cos, sin : (N, head_dim / 2) float64
    single : (cos, sin) as float32
    """

    cos: F64
    sin: F64
    single: tuple[F32, F32] = field(init=False, repr=False)
    copies: DeviceCopies = field(init=False, repr=False, default_factory=DeviceCopies)

    def __post_init__(self) -> None:
        cos = as_array("cos", self.cos, np.float64, ("N", "D"), own=True)
        object.__setattr__(self, "cos", cos)
        object.__setattr__(self, "sin", as_array("sin", self.sin, np.float64, cos.shape, own=True))
        object.__setattr__(self, "single", (self.cos.astype(np.float32), self.sin.astype(np.float32)))

    @classmethod
    def adopted(cls, cos: F64, sin: F64) -> RotaryTable:
        """A table of arrays that are nobody else's, which are kept without a copy."""
        table = object.__new__(cls)
        for name, value in (
            *(("cos", cos), ("sin", sin), ("copies", DeviceCopies())),
            ("single", (cos.astype(np.float32), sin.astype(np.float32))),
        ):
            object.__setattr__(table, name, value)
        return table

    def of_dtype(self, double: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """cos and sin in float64 or float32."""
        return (self.cos, self.sin) if double else self.single

    def on_device(self, call: Call, dtype: str) -> tuple[Any, Any]:
        """cos and sin where the call runs, for features of ``dtype``: copies that are made once and kept."""
        cos, sin = self.of_dtype(dtype == "float64")
        return self.copies.of(call, f"cos {cos.dtype}", cos), self.copies.of(call, f"sin {sin.dtype}", sin)

    @property
    def frequencies(self) -> NDArray[np.complex128]:
        """cos + i sin, (N, head_dim / 2) complex128: for models that multiply pairs as complex numbers, as Wan does."""
        return np.asarray(self.cos + 1j * self.sin)

    def per_feature(self, pairing: str = "interleaved") -> tuple[F64, F64]:
        """cos and sin of each feature, (N, head_dim): for models that compute x * cos + rotate(x) * sin.

        ``rotate`` is (x0, x1, x2, x3) -> (-x1, x0, -x3, x2) for ``interleaved``, (-x2, -x3, x0, x1) for ``split_half``.
        """
        if check_choice("pairing", pairing, PAIRINGS) == "interleaved":
            return np.repeat(self.cos, 2, axis=1), np.repeat(self.sin, 2, axis=1)
        return np.tile(self.cos, (1, 2)), np.tile(self.sin, (1, 2))


class WarpedRoPE:
    """Rotary embedding over (t, y, x) with fractional positions.

    Memory tokens take the position (target latent frame, v'/s' - 0.5, u'/s' - 0.5) of where they land, which a
    `Mosaic` holds; queries take their grid position (`grid_positions`). With integer
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
        self.pairing = check_choice("pairing", pairing, PAIRINGS)

    def table(self, positions: ArrayLike, *, num_threads: int = 0) -> RotaryTable | DeviceRotaryTable:
        """The angles of positions (N, 3) in (t, y, x), fractions allowed; on the device where they are on one."""
        if is_on_device(positions):
            return DeviceRotaryTable(positions, self.axes_dims, self.theta)
        p = as_array("positions", positions, np.float64, ("N", 3), finite=True)
        return RotaryTable.adopted(*_core.rope_table(p, self.axes_dims, self.theta, check_threads(num_threads)))

    def apply(
        self,
        x: ArrayLike,
        positions: ArrayLike | RotaryTable | DeviceRotaryTable,
        *,
        inverse: bool = False,
        num_threads: int = 0,
    ) -> Any:
        """Turn the features of each token by its position.

        Parameters
        ----------
        x : (..., N, head_dim) array
            Queries or keys. float64 and bfloat16 stay so, all else is computed in float32; the angles are computed in
            float64. Transposed views of (B, N, heads, d) are read as they are. A torch tensor may require a gradient.
        positions : (N, 3) array or RotaryTable
            (t, y, x), fractions allowed, shared by all leading dimensions; or their `table`.
        inverse : bool
            Turn the other way: apply(apply(x), inverse=True) is x.

        Returns
        -------
        Array of the shape of ``x``.
        """
        x = host_array("x", x)
        shape = tuple(np.shape(x))
        check_shape("x", shape, (*[None] * max(0, len(shape) - 2), "N", self.head_dim))
        if not isinstance(positions, (RotaryTable, DeviceRotaryTable)):
            if is_on_device(positions):
                check_shape("positions", tuple(positions.shape), (shape[-2], 3))
            else:
                positions = as_array("positions", positions, np.float64, (shape[-2], 3))
            positions = self.table(positions, num_threads=num_threads)
        check_shape("positions", tuple(positions.cos.shape), (shape[-2], self.head_dim // 2))
        threads = check_threads(num_threads)
        if is_torch(x):
            from mosaicmem import torch_ops

            return torch_ops.rope(x, positions, self.pairing, inverse, threads)
        if is_on_device(x):
            return self._apply_on_device(x, positions, inverse)
        if isinstance(positions, DeviceRotaryTable):
            raise ValueError("positions: expected these on the CPU, where x is, got them on a device")
        heads = as_heads("x", x, shape)
        cos, sin = positions.of_dtype(heads.dtype == np.float64)
        out = empty_heads(heads, self.head_dim)
        _core.rope_apply(heads, cos, sin, getattr(_core.Pairing, self.pairing), inverse, out, threads)
        return restore(x, out, shape)

    def _apply_on_device(self, x: Any, table: RotaryTable | DeviceRotaryTable, inverse: bool) -> Any:
        call = Call("x", x)
        tables = table.on_device(call, call.dtype("x", x))
        return rope_apply(x, *tables, self.pairing == "interleaved", inverse)
