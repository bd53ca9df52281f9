"""Warped RoPE: memory tokens get the rotary positions of where they land in the target view."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import (
    F64,
    ArrayLike,
    ArrayT,
    as_array,
    check_choice,
    check_integer,
    check_number,
    check_shape,
    check_threads,
    to_numpy,
)
from mosaicmem._border import Call, readable
from mosaicmem._border.heads import room_like
from mosaicmem._border.operators import declare, keep_inputs, kept, on_tensors
from mosaicmem.attention.rotary_table import PAIRINGS, RotaryTable


def grid_positions(frames: int, rows: int, columns: int, *, temporal: str = "target") -> F64:
    """The (t, y, x) of every token of a video grid, (frames * rows * columns, 3) float64, x fastest.

    ``temporal`` must match that of the memory tokens (`warped_positions`): with "offset" all t are 0.
    """
    for name, value in (("frames", frames), ("rows", rows), ("columns", columns)):
        check_integer(name, value, minimum=0)
    t = np.arange(frames) * (check_choice("temporal", temporal, ("target", "offset")) == "target")
    axes = np.meshgrid(t, np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1).astype(np.float64)


def warped_positions(projected: ArrayLike, stride: float, t: ArrayLike) -> F64:
    """The fractional (t, y, x) of memory tokens, from where they land in the target view.

    Parameters
    ----------
    projected : (N, 2) or (N, 3) array
        (u', v') in pixels of the target view, as from `reproject_depth_grid`; a third column (z') is ignored.
    stride : float
        Pixels per token of the target grid, s'.
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


class WarpedRoPE:
    """Rotary embedding over (t, y, x) with fractional positions.

    Memory tokens take the position where they land, (target latent frame, v'/s' - 0.5, u'/s' - 0.5), which a `Mosaic`
    holds; queries take their grid position (`grid_positions`). With integer positions this is the ordinary 3D RoPE of a
    video transformer.

    Parameters
    ----------
    head_dim : int
        Even.
    axes_dims : (int, int, int), optional
        Head dimensions rotated by t, y and x: even, summing to ``head_dim``. The default gives y and x
        2 * (head_dim // 6) each and t the rest: 44 / 42 / 42 of 128, as in Wan.
    theta : float
        Base of the frequencies theta^(-2i / d).
    pairing : {"interleaved", "split_half"}
        Which dimensions are rotated together: (0, 1), (2, 3), ... or (0, d/2), (1, d/2 + 1), ...

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

    def table(self, positions: ArrayLike, *, num_threads: int = 0) -> RotaryTable:
        """The angles of positions (N, 3) in (t, y, x), fractions allowed; on the GPU if the positions are."""
        return RotaryTable.of_positions(positions, self.axes_dims, self.theta, check_threads(num_threads))

    def apply(
        self,
        x: ArrayT,
        positions: ArrayLike | RotaryTable,
        *,
        inverse: bool = False,
        num_threads: int = 0,
    ) -> ArrayT:
        """Rotate the features of each token by its position.

        Parameters
        ----------
        x : (..., N, head_dim) array
            Queries or keys. float64 and bfloat16 are kept, other dtypes are computed in float32; the angles are
            computed in float64. Transposed views of (B, N, heads, d) are read in place. A torch tensor may require a
            gradient.
        positions : (N, 3) array or RotaryTable
            (t, y, x), fractions allowed, shared by all leading dimensions; or their `table`.
        inverse : bool
            Rotate the other way: apply(apply(x), inverse=True) is x.

        Returns
        -------
        Array of the shape of ``x``.
        """
        x = readable("x", x)
        shape: tuple[int, ...] = tuple(np.shape(x))
        check_shape("x", shape, (*[None] * max(0, len(shape) - 2), "N", self.head_dim))
        if isinstance(positions, RotaryTable):
            check_shape("positions", positions.shape, (shape[-2], self.head_dim // 2))
        else:
            check_shape("positions", tuple(np.shape(positions)), (shape[-2], 3))
            positions = self.table(positions, num_threads=num_threads)
        cos, sin = positions.beside("x", x, double=True)
        threads = check_threads(num_threads)
        turned: ArrayT = _ROPE(("x", x), {"cos": cos, "sin": sin}, self.pairing == "interleaved", inverse, threads)
        return turned


def _rope(x: Any, cos: Any, sin: Any, interleaved: bool, inverse: bool, num_threads: int) -> Any:
    """x (..., N, d) rotated by cos and sin (N, d / 2)."""
    call = Call("x", x, num_threads)
    heads = call.heads("x", x, (*[None] * max(0, len(x.shape) - 2), "N", "d"))
    _, _, tokens, dim = heads.shape
    if dim % 2:
        raise ValueError(f"x: expected an even head dimension, got shape {tuple(x.shape)}")
    dtype = "float64" if heads.dtype == "float64" else "float32"
    to_cos = call.array("cos", cos, dtype, (tokens, dim // 2))
    to_sin = call.array("sin", sin, dtype, (tokens, dim // 2))
    out, to_out = call.empty_heads(x, heads, dim)
    call.core.rope_apply(heads, to_cos, to_sin, interleaved, inverse, to_out, call.handle)
    return out


def _rope_backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
    """The rotation by the opposite angle."""
    cos, sin, interleaved, inverse, threads = kept(ctx)
    return on_tensors("rope")(gradient, cos, sin, interleaved, not inverse, threads), *[None] * 5


_ROPE = declare(
    "rope",
    "(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool inverse, int num_threads) -> Tensor",
    _rope,
    lambda x, *_: room_like(x),
    keep_inputs,
    _rope_backward,
)
