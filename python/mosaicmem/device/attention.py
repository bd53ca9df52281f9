"""Attention on the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mosaicmem import _core
from mosaicmem._arrays import check_shape
from mosaicmem.device.arrays import Call, View

if TYPE_CHECKING:
    from mosaicmem.attention.warped_rope import RotaryTable
    from mosaicmem.device.positions import DeviceRotaryTable

_FEATURES = ("float32", "bfloat16", "float16")
_TENSOR_CORE_DIMS = (64, 128)
_WHOLE = 8  # elements of 16 bytes


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    bias: Any,
    times: tuple[Any, Any, float | None],
    scale: float | None,
    query_table: RotaryTable | DeviceRotaryTable | None,
    key_table: RotaryTable | DeviceRotaryTable | None,
    pairing: str,
) -> tuple[Any, Any]:
    """Result and log-sum-exp of ``attention``; ``times`` are those of queries and keys, and the half-life or None."""
    call = Call("q", q)
    dtypes = {name: call.dtype(name, x) for name, x in (("q", q), ("k", k), ("v", v))}
    if len(set(dtypes.values())) > 1:
        given = ", ".join(f"{dtype} for {name}" for name, dtype in dtypes.items())
        raise TypeError(f"q, k, v: expected one dtype, got {given}")
    queries = _features(call, "q", q, ("B", "heads", "N_q", "d"))
    batch, heads, count, dim = queries.shape
    keys = _features(call, "k", k, (batch, "key_heads", "N_k", dim))
    _, key_heads, key_count, _ = keys.shape
    values = _features(call, "v", v, (batch, key_heads, key_count, "d_v"))
    most = _core.cuda.most_head_dim
    for name, width in (("q", dim), ("v", values.shape[3])):
        if not 1 <= width <= most:
            raise ValueError(f"{name}: expected a head dimension from 1 to {most}, got {width}")
    if heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected a number of heads that divides the {heads} of q, got {key_heads}")
    query_time, key_time, half_life = times
    decays = half_life is not None
    rotations = [*_tables(call, "query_table", query_table, count, dim)]
    rotations += _tables(call, "key_table", key_table, key_count, dim)
    out, memory = call.empty_heads(queries, values.shape[3])
    lse, sums = call.empty((batch, heads, count), "float32")
    _core.cuda.attention(
        queries,
        keys,
        values,
        None if mask is None else call.array("mask", mask, "bool", (batch, key_count)),
        None if bias is None else call.array("bias", bias, "float32", (batch, key_count), values=True),
        call.array("query_time", query_time, "float64", (count,)) if decays else None,
        call.array("key_time", key_time, "float64", (key_count,)) if decays else None,
        1.0 if half_life is None else half_life,
        1 / math.sqrt(dim) if scale is None else scale,
        rotations,
        pairing == "interleaved",
        memory,
        sums,
        call.stream,
    )
    return out, lse


def merge_attention(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> tuple[Any, Any]:
    """The result and log-sum-exp of ``merge_attention``."""
    call = Call("out_a", out_a)
    shape = tuple(out_a.shape)
    dtypes = call.dtype("out_a", out_a), call.dtype("out_b", out_b)
    if dtypes[0] != dtypes[1]:
        raise TypeError(f"out_a, out_b: expected one dtype, got {dtypes[0]} and {dtypes[1]}")
    check_shape("out_b", tuple(out_b.shape), shape)
    rows = (math.prod(shape[:-1]), shape[-1])
    parts = [call.array(n, x.reshape(rows), _FEATURES, rows) for n, x in (("out_a", out_a), ("out_b", out_b))]
    sums = [call.array(n, x, "float32", shape[:-1], values=True) for n, x in (("lse_a", lse_a), ("lse_b", lse_b))]
    out, to_out = call.empty(rows, parts[0].dtype)
    lse, to_lse = call.empty(shape[:-1], "float32")
    _core.cuda.merge_attention(parts[0], sums[0], parts[1], sums[1], to_out, to_lse, call.stream)
    return out.reshape(shape), lse


def _features(call: Call, name: str, x: Any, shape: tuple[int | str, ...]) -> View:
    """Features as they lie; copied where the tensor cores could not read them."""
    view = call.strided(name, x, _FEATURES, shape)
    whole = view.address % 16 == 0 and all(stride % _WHOLE == 0 for stride in view.strides[:-1])
    if view.dtype != "float32" and view.shape[-1] in _TENSOR_CORE_DIMS and not whole:
        return call.copied(x)
    return view


def _tables(
    call: Call, name: str, table: RotaryTable | DeviceRotaryTable | None, count: int, dim: int
) -> tuple[View | None, View | None]:
    if table is None:
        return None, None
    check_shape(name, tuple(table.cos.shape), (count, dim // 2))
    cos, sin = table.on_device(call, "float32")
    return call.array(name, cos, "float32", (count, dim // 2)), call.array(name, sin, "float32", (count, dim // 2))
