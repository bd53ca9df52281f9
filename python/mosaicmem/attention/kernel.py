"""softmax(q k^T scale + bias) v over memory tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, ArrayLike, as_array, check_choice, check_number, check_threads, like
from mosaicmem._foreign import is_bfloat16
from mosaicmem.attention._features import as_heads, empty_heads, restore
from mosaicmem.attention.warped_rope import PAIRINGS, RotaryTable, WarpedRoPE
from mosaicmem.device.arrays import host_array, is_on_device
from mosaicmem.device.attention import attention as device_attention
from mosaicmem.device.attention import merge_attention as device_merge
from mosaicmem.device.positions import DeviceRotaryTable


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    query_time: ArrayLike | None = None,
    key_time: ArrayLike | None = None,
    half_life: float | None = None,
    scale: float | None = None,
    query_table: RotaryTable | DeviceRotaryTable | None = None,
    key_table: RotaryTable | DeviceRotaryTable | None = None,
    pairing: str = "interleaved",
    return_lse: bool = False,
    num_threads: int = 0,
) -> Any:
    """Attention with an online softmax: memory grows with queries and keys, never with their product.

    Parameters
    ----------
    q : (B, heads, N_q, d) array
        All three float32, or all three bfloat16 (a torch tensor, or NumPy with ml_dtypes); else they are computed in
        float32. On a GPU float16 stays so too; it and bfloat16 run on the tensor cores where d = d_v is 64 or 128. Sums
        are float32 always. Transposed views of (B, N, heads, d) are read as they are.
    k : (B, key_heads, N_k, d) array
        ``key_heads`` divides ``heads``: query head h reads key head h // (heads // key_heads).
    v : (B, key_heads, N_k, d_v) array
    mask : (B, N_k) bool array, optional
        Keys that are False take no part and cost nothing.
    bias : (B, N_k) array, optional
        Added to the logits of each key; -inf is a mask.
    query_time, key_time : (N_q,) and (N_k,) array, optional
        Seconds. With ``half_life`` they add log(0.5) * abs(t_q - t_k) / half_life to each logit: temporal decay.
    half_life : float, optional
        Seconds.
    scale : float, optional
        1 / sqrt(d) if not given.
    query_table, key_table : RotaryTable, optional
        Warped RoPE: the angles by which queries and keys are turned first, from `WarpedRoPE.table`. On a GPU they are
        turned while they are loaded.
    pairing : {"interleaved", "split_half"}
        Of the tables.
    return_lse : bool
        Also return the log of the sum of exponentials of the logits, (B, heads, N_q) float32, from which
        `merge_attention` joins results over different keys.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Returns
    -------
    (B, heads, N_q, d_v) array
        float32, or bfloat16 for bfloat16, with its axes in memory in the order of those of ``q``. Zeros for a query
        that no key answers (its log-sum-exp is -inf).
    """
    if is_on_device(q):
        decay = query_time, key_time, _check_times(query_time, key_time, half_life)
        tables = (query_table, key_table, check_choice("pairing", pairing, PAIRINGS))
        given_scale = None if scale is None else check_number("scale", scale)
        out, lse = device_attention(q, k, v, mask, bias, decay, given_scale, *tables)
        return (out, lse) if return_lse else out
    q, k, v = host_array("q", q), host_array("k", k), host_array("v", v)
    q, k = (_turned(x, table, pairing, num_threads) for x, table in ((q, query_table), (k, key_table)))
    names = {"q": q, "k": k, "v": v}
    half = {name for name, value in names.items() if is_bfloat16(value)}
    if half and len(half) < 3:
        raise TypeError(f"q, k, v: expected one dtype, got bfloat16 for {', '.join(sorted(half))} only")
    queries = as_heads("q", q, ("B", "heads", "N_q", "d"), double=False)
    batch, heads, count, dim = queries.shape
    keys = as_heads("k", k, (batch, "key_heads", "N_k", dim), double=False)
    _, key_heads, key_count, _ = keys.shape
    values = as_heads("v", v, (batch, key_heads, key_count, "d_v"), double=False)
    if dim == 0:
        raise ValueError(f"q: expected a head dimension of at least 1, got shape {queries.shape}")
    if heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected a number of heads that divides the {heads} of q, got {key_heads}")
    key_mask = None if mask is None else as_array("mask", mask, np.bool_, (batch, key_count))
    key_bias = None if bias is None else as_array("bias", bias, np.float32, (batch, key_count), values=True)
    if key_bias is not None and (np.isnan(key_bias).any() or np.isposinf(key_bias).any()):
        raise ValueError("bias: expected finite values or -inf, got NaN or +inf")
    times = _times(query_time, key_time, half_life, count, key_count)
    factor = 1 / math.sqrt(dim) if scale is None else check_number("scale", scale)
    out = empty_heads(queries, values.shape[3])
    lse = np.empty((batch, heads, count), np.float32)
    _core.attention(queries, keys, values, key_mask, key_bias, *times, factor, out, lse, check_threads(num_threads))
    result = restore(q, out, out.shape)
    return (result, like(q, lse)) if return_lse else result


def merge_attention(out_a: ArrayLike, lse_a: ArrayLike, out_b: ArrayLike, lse_b: ArrayLike) -> tuple[Any, Any]:
    """What attention over two sets of keys together gives, from the result over each.

    Lets a long memory be attended to piece by piece, or on different machines.

    Parameters
    ----------
    out_a, out_b : (..., d_v) array
        Results of `attention` with ``return_lse``, float32 or bfloat16.
    lse_a, lse_b : (...) array

    Returns
    -------
    (out, lse), from which the next piece can be merged.
    """
    if is_on_device(out_a):
        return device_merge(out_a, lse_a, out_b, lse_b)
    out_a, out_b = host_array("out_a", out_a), host_array("out_b", out_b)
    if is_bfloat16(out_a) != is_bfloat16(out_b):
        raise TypeError("out_a, out_b: expected one dtype, got bfloat16 for one only")
    a = as_heads("out_a", out_a, (*np.shape(out_a)[:-1], "d_v"), double=False)
    shape = tuple(np.shape(out_a))
    b = as_heads("out_b", out_b, shape, double=False)
    rows, width = math.prod(shape[:-1]), shape[-1]
    sums = [
        as_array(name, lse, np.float32, shape[:-1], values=True) for name, lse in (("lse_a", lse_a), ("lse_b", lse_b))
    ]
    out, lse = np.empty((rows, width), a.dtype), np.empty(rows, np.float32)
    parts = [np.ascontiguousarray(part).reshape(rows, width) for part in (a, b)]
    _core.merge_attention(parts[0], sums[0].reshape(rows), parts[1], sums[1].reshape(rows), out, lse)
    return restore(out_a, out, shape), like(out_a, lse.reshape(shape[:-1]))


def _turned(x: ArrayLike, table: RotaryTable | DeviceRotaryTable | None, pairing: str, num_threads: int) -> ArrayLike:
    """Features under Warped RoPE, where they have angles."""
    if table is None:
        return x
    return WarpedRoPE(2 * table.cos.shape[1], pairing=pairing).apply(x, table, num_threads=num_threads)


def _check_times(query_time: ArrayLike | None, key_time: ArrayLike | None, half_life: float | None) -> float | None:
    """The half-life, or None without times."""
    given = [x is not None for x in (query_time, key_time, half_life)]
    if not any(given):
        return None
    if not all(given):
        raise ValueError("query_time, key_time, half_life: expected all three or none")
    return check_number("half_life", half_life, above=0.0)


def _times(
    query_time: ArrayLike | None, key_time: ArrayLike | None, half_life: float | None, queries: int, keys: int
) -> tuple[F64 | None, F64 | None, float]:
    seconds = _check_times(query_time, key_time, half_life)
    if seconds is None:
        return None, None, 1.0
    return (
        as_array("query_time", query_time, np.float64, (queries,), finite=True),
        as_array("key_time", key_time, np.float64, (keys,), finite=True),
        seconds,
    )
