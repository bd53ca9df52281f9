"""Warped RoPE and PRoPE on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mosaicmem import _core
from mosaicmem._arrays import Shape, check_shape
from mosaicmem.device.arrays import Call, View

_FEATURES = ("float32", "bfloat16", "float16", "float64")


class DeviceRotaryTable:
    """The angles of N tokens on the device, which a `WarpedRoPE` makes of positions there.

    Attributes
    ----------
    cos, sin : (N, head_dim / 2) float32 arrays of the framework of the positions
    """

    def __init__(self, positions: Any, axes_dims: Sequence[int], theta: float) -> None:
        call = Call("positions", positions)
        self._positions = call.owned(positions)  # float64 is made later, when the caller may have written to them
        self._places = call.array("positions", positions, "float64", ("N", len(axes_dims)))
        self._axes_dims, self._theta = tuple(axes_dims), theta
        self._double: tuple[Any, Any] | None = None
        self.cos, self.sin = self._make("float32")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, head_dim / 2)"""
        return self._places.shape[0], sum(self._axes_dims) // 2

    def on_device(self, _call: Call, dtype: str) -> tuple[Any, Any]:
        """cos and sin for features of ``dtype``: float64 for float64, else float32."""
        if dtype != "float64":
            return self.cos, self.sin
        if self._double is None:
            self._double = self._make("float64")
        return self._double

    def _make(self, dtype: str) -> tuple[Any, Any]:
        call = Call("positions", self._positions)
        places = call.array("positions", self._positions, "float64", ("N", len(self._axes_dims)))
        cos, to_cos = call.empty(self.shape, dtype)
        sin, to_sin = call.empty(self.shape, dtype)
        _core.cuda.rope_table(places, self._axes_dims, self._theta, to_cos, to_sin, call.stream)
        return cos, sin


def rope_apply(x: Any, cos: Any, sin: Any, interleaved: bool, inverse: bool, out: Any = None) -> Any:
    """x (..., N, d) turned by cos and sin (N, d / 2)."""
    call = Call("x", x)
    heads, result, memory = _features(call, x, out)
    tokens, dim = heads.shape[2:]
    if dim % 2:
        raise ValueError(f"x: expected an even head dimension, got shape {tuple(x.shape)}")
    dtype = _table_dtype(heads)
    to_cos = call.array("cos", cos, dtype, (tokens, dim // 2))
    to_sin = call.array("sin", sin, dtype, (tokens, dim // 2))
    _core.cuda.rope_apply(heads, to_cos, to_sin, interleaved, inverse, memory, call.stream)
    return result


def prope_apply(
    x: Any,
    coefficients: Any,
    camera: Any,
    cos: Any,
    sin: Any,
    runs: Sequence[tuple[int, int, int]],
    spread: int,
    inverse: bool,
    out: Any = None,
) -> Any:
    """One of PRoPE's products on x (..., N, d); see ``_core.prope_apply``."""
    call = Call("x", x)
    heads, result, memory = _features(call, x, out)
    tokens, dim = heads.shape[2:]
    dtype = _table_dtype(heads)
    products = call.array("coefficients", coefficients, dtype, ("cameras", "groups", 4, 16 * spread))
    own = call.array("camera", camera, "int32", (tokens,))
    to_cos = None if cos is None else call.array("cos", cos, dtype, (tokens, dim // 4))
    to_sin = None if sin is None else call.array("sin", sin, dtype, (tokens, dim // 4))
    _core.cuda.prope_apply(heads, list(runs), spread, products, own, to_cos, to_sin, inverse, memory, call.stream)
    return result


def _table_dtype(heads: View) -> str:
    return "float64" if heads.dtype == "float64" else "float32"


def _features(call: Call, x: Any, out: Any) -> tuple[View, Any, View]:
    """x as (batch, heads, tokens, dim), and room for the result: in the shape of x, and as the core takes it."""
    shape: Shape = tuple(x.shape)
    check_shape("x", tuple(x.shape), (*[None] * max(0, len(shape) - 2), "N", "d"))
    heads = call.strided("x", as_four(x), _FEATURES, (None, None, None, None))
    if out is None:
        four, memory = call.empty_heads(heads)
        return heads, four.reshape(tuple(x.shape)), memory
    memory = call.strided("out", as_four(out), (heads.dtype,), tuple(heads.shape))
    if 0 not in shape and memory.address != call.view(out).address:
        raise ValueError("out: expected features side by side, since the kernel would write to a copy of others")
    return heads, out, memory


def as_four(x: Any) -> Any:
    """x (..., N, d) as (batch, heads, N, d): a view where strides allow."""
    shape = tuple(x.shape)
    if len(shape) == 4:
        return x
    if len(shape) > 4:
        batch = 1
        for size in shape[:-3]:
            batch *= size
        return x.reshape((batch, *shape[-3:]))
    return x.reshape((*[1] * (4 - len(shape)), *shape))
