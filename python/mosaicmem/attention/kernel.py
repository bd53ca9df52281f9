"""softmax(q k^T scale + bias) v over memory tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np

from mosaicmem._arrays import ArrayLike, ArrayT, check_choice, check_number, check_shape
from mosaicmem._border import Call, View, readable
from mosaicmem._border.operators import wants_gradient
from mosaicmem.attention.attention_gradient import attention_with_gradient
from mosaicmem.attention.rotary_table import PAIRINGS, RotaryTable

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AttentionOptions(TypedDict, total=False):
    """The keyword arguments of `attention`, but for ``return_lse``."""

    mask: ArrayLike | None
    bias: ArrayLike | None
    query_time: ArrayLike | None
    key_time: ArrayLike | None
    half_life: float | None
    scale: float | None
    query_table: RotaryTable | None
    key_table: RotaryTable | None
    pairing: str
    num_threads: int


@overload
def attention(
    q: ArrayT, k: ArrayT, v: ArrayT, *, return_lse: Literal[False] = False, **options: Unpack[AttentionOptions]
) -> ArrayT: ...


@overload
def attention(
    q: ArrayT, k: ArrayT, v: ArrayT, *, return_lse: Literal[True], **options: Unpack[AttentionOptions]
) -> tuple[ArrayT, ArrayT]: ...


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    query_time: ArrayLike | None = None,
    key_time: ArrayLike | None = None,
    half_life: float | None = None,
    scale: float | None = None,
    query_table: RotaryTable | None = None,
    key_table: RotaryTable | None = None,
    pairing: str = "interleaved",
    return_lse: bool = False,
    num_threads: int = 0,
) -> Any:
    """Attention with an online softmax: memory use grows with the number of queries and keys, never with their product.

    Parameters
    ----------
    q : (B, heads, N_q, d) array
        q, k and v are all float32 or all bfloat16 (torch tensors, or NumPy with ml_dtypes); other dtypes are computed
        in float32. The GPU keeps float16 too; it and bfloat16 use the tensor cores if d = d_v is 64 or 128. Sums are
        always float32. Transposed views of (B, N, heads, d) are read in place. If a tensor needs a gradient, torch's
        own ``scaled_dot_product_attention`` computes the same, and float64 is kept.
    k : (B, key_heads, N_k, d) array
        ``key_heads`` divides ``heads``: query head h reads key head h // (heads // key_heads).
    v : (B, key_heads, N_k, d_v) array
    mask : (B, N_k) bool array, optional
        Keys marked False are skipped and cost nothing.
    bias : (B, N_k) array, optional
        Added to the logits of each key; -inf is a mask.
    query_time, key_time : (N_q,) and (N_k,) array, optional
        Seconds. With ``half_life`` they add log(0.5) * abs(t_q - t_k) / half_life to each logit: temporal decay.
    half_life : float, optional
        Seconds.
    scale : float, optional
        1 / sqrt(d) if not given.
    query_table, key_table : RotaryTable, optional
        Warped RoPE: the angles by which queries and keys are rotated first, from `WarpedRoPE.table`. On the GPU they
        are rotated as they are loaded.
    pairing : {"interleaved", "split_half"}
        Of the tables.
    return_lse : bool
        Also return the log-sum-exp of the logits, (B, heads, N_q) float32, which `merge_attention` needs to combine
        results over different keys.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Returns
    -------
    (B, heads, N_q, d_v) array
        float32, or bfloat16 for bfloat16 inputs, with the memory order of the axes of ``q``. Zeros for a query without
        an unmasked key (its log-sum-exp is -inf).
    """
    q, k, v = readable("q", q), readable("k", k), readable("v", v)
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale}
    options |= {"query_time": query_time, "key_time": key_time, "half_life": half_life}
    options |= {"query_table": query_table, "key_table": key_table}
    options["pairing"] = check_choice("pairing", pairing, PAIRINGS)
    if wants_gradient(q, k, v, bias):
        return attention_with_gradient(q, k, v, **options, return_lse=return_lse)
    out, lse = _attend(Call("q", q, num_threads), q, k, v, **options)
    return (out, lse) if return_lse else out


def _attend(
    call: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: ArrayLike | None,
    bias: ArrayLike | None,
    query_time: ArrayLike | None,
    key_time: ArrayLike | None,
    half_life: float | None,
    scale: float | None,
    query_table: RotaryTable | None,
    key_table: RotaryTable | None,
    pairing: str,
) -> tuple[Any, Any]:
    """The result of the kernel, and its log-sum-exp."""
    call.check_one_dtype({"q": q, "k": k, "v": v})
    queries = call.heads("q", q, ("B", "heads", "N_q", "d"), double=False)
    batch, heads, count, dim = queries.shape
    keys = call.heads("k", k, (batch, "key_heads", "N_k", dim), double=False)
    _, key_heads, key_count, _ = keys.shape
    values = call.heads("v", v, (batch, key_heads, key_count, "d_v"), double=False)
    most = call.core.most_head_dim
    for name, width, least in (("q", dim, 1), ("v", values.shape[3], 0)):
        if not least <= width <= most:
            raise ValueError(f"{name}: expected a head dimension from {least} to {most}, got {width}")
    if heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected a number of heads that divides the {heads} of q, got {key_heads}")
    key_mask = None if mask is None else call.array("mask", mask, "bool", (batch, key_count))
    key_bias = None if bias is None else call.array("bias", bias, "float32", (batch, key_count), values=True)
    if key_bias is not None:
        call.check("bias", key_bias, lambda b: not (np.isnan(b) | np.isposinf(b)).any(), "finite values or -inf")
    out, to_out = call.empty_heads(q, queries, values.shape[3])
    lse, to_lse = call.empty((batch, heads, count), "float32")
    call.core.attention(
        queries,
        keys,
        values,
        key_mask,
        key_bias,
        *_times(call, query_time, key_time, half_life, count, key_count),
        1 / math.sqrt(dim) if scale is None else check_number("scale", scale),
        (*_rotation(call, "query_table", query_table, q), *_rotation(call, "key_table", key_table, k)),
        pairing == "interleaved",
        to_out,
        to_lse,
        call.handle,
    )
    return out, lse


def merge_attention(out_a: ArrayT, lse_a: ArrayT, out_b: ArrayT, lse_b: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Combine the results of attention over two sets of keys into the result over both.

    With it, a long memory can be attended to piece by piece, or on several machines.

    Parameters
    ----------
    out_a, out_b : (..., d_v) array
        Results of `attention` with ``return_lse``, float32 or bfloat16.
    lse_a, lse_b : (...) array

    Returns
    -------
    (out, lse), ready to be merged with the next piece.
    """
    out_a, out_b = readable("out_a", out_a), readable("out_b", out_b)
    call = Call("out_a", out_a)
    call.check_one_dtype({"out_a": out_a, "out_b": out_b})
    shape = tuple(out_a.shape)
    check_shape("out_b", tuple(out_b.shape), shape)
    rows, width = math.prod(shape[:-1]), shape[-1]
    flat = [part.reshape((1, 1, rows, width)) for part in (out_a, out_b)]
    a, b = (
        call.heads(name, part, (1, 1, rows, width), double=False, contiguous=True)
        for name, part in zip(("out_a", "out_b"), flat, strict=True)
    )
    sums = [
        call.array(name, part, "float32", shape[:-1], values=True)
        for name, part in (("lse_a", lse_a), ("lse_b", lse_b))
    ]
    out, to_out = call.empty_heads(flat[0], a, width)
    lse, to_lse = call.empty(shape[:-1], "float32")
    call.core.merge_attention(a, sums[0], b, sums[1], to_out, to_lse, call.handle)
    return out.reshape(shape), lse


def _rotation(call: Any, name: str, table: RotaryTable | None, x: Any) -> tuple[View | None, View | None]:
    """cos and sin that rotate features x, or a pair of None without a table."""
    if table is None:
        return None, None
    _, _, tokens, dim = x.shape
    check_shape(name, table.shape, (tokens, dim // 2))
    cos, sin = table.beside(name, x)
    shape = tokens, dim // 2
    return call.array(name, cos, "float32", shape), call.array(name, sin, "float32", shape)


def _times(
    call: Any, query_time: Any, key_time: Any, half_life: float | None, queries: int, keys: int
) -> tuple[View | None, View | None, float]:
    given = [x is not None for x in (query_time, key_time, half_life)]
    if not any(given):
        return None, None, 1.0
    if not all(given):
        raise ValueError("query_time, key_time, half_life: expected all three or none")
    return (
        call.array("query_time", query_time, "float64", (queries,), finite=True),
        call.array("key_time", key_time, "float64", (keys,), finite=True),
        check_number("half_life", half_life, above=0.0),
    )
