"""Attention through torch's own operators, for tensors that need gradients."""

from __future__ import annotations

import math
import sys
from typing import Any

from mosaicmem._arrays import check_number, check_shape
from mosaicmem._border.operators import constant_beside
from mosaicmem.attention.rotary_table import RotaryTable
from mosaicmem.attention.warped_rope import WarpedRoPE

_HALF = ("torch.bfloat16", "torch.float16")


def attention_with_gradient(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any,
    bias: Any,
    query_time: Any,
    key_time: Any,
    half_life: float | None,
    scale: float | None,
    query_table: RotaryTable | None,
    key_table: RotaryTable | None,
    pairing: str,
    return_lse: bool,
) -> Any:
    """What `attention` computes, by ``scaled_dot_product_attention`` with the same masks and biases.

    With ``return_lse`` all logits are materialized, since torch's operator does not return their log-sum-exp.
    """
    torch = sys.modules["torch"]
    batch, heads, queries, dim = _shape("q", q, ("B", "heads", "N_q", "d"))
    _, key_heads, keys, _ = _shape("k", k, (batch, "key_heads", "N_k", dim))
    _, _, _, width = _shape("v", v, (batch, key_heads, keys, "d_v"))
    if heads and (key_heads == 0 or heads % key_heads):
        raise ValueError(f"k: expected a number of heads that divides the {heads} of q, got {key_heads}")
    q, k = _turned(q, query_table, pairing), _turned(k, key_table, pairing)
    added = _added(q, batch, queries, keys, mask, bias, query_time, key_time, half_life)
    factor = 1 / math.sqrt(dim) if scale is None else check_number("scale", scale)
    dtype = q.dtype
    if added is not None and str(dtype) in _HALF:  # half precision is too coarse for times and biases
        q, k, v = q.float(), k.float(), v.float()
    if heads != key_heads:
        k, v = (x.repeat_interleave(heads // max(key_heads, 1), 1) for x in (k, v))
    if keys == 0:
        out = q.new_zeros((batch, heads, queries, width)) + k.sum() + v.sum()
        lse = q.new_full((batch, heads, queries), -math.inf, dtype=torch.float32)
        return (out.to(dtype), lse) if return_lse else out.to(dtype)
    dead = None
    if added is not None:
        dead = (added == -math.inf).all(-1, keepdim=True)  # queries without an unmasked key
        added = added.masked_fill(dead, 0)
    if return_lse:
        logits = q @ k.transpose(-1, -2) * factor
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits if added is None else logits + added
        out, lse = logits.softmax(-1).to(v.dtype) @ v, logits.logsumexp(-1)
        lse = lse if dead is None else lse.masked_fill(dead.squeeze(-1), -math.inf)
    else:
        masked = None if added is None else added.to(q.dtype)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=masked, scale=factor)
    out = (out if dead is None else out.masked_fill(dead, 0)).to(dtype)
    return (out, lse) if return_lse else out


def _shape(name: str, x: Any, shape: tuple[Any, ...]) -> tuple[int, int, int, int]:
    check_shape(name, tuple(x.shape), shape)
    a, b, c, d = x.shape
    return a, b, c, d


def _turned(x: Any, table: RotaryTable | None, pairing: str) -> Any:
    """Features rotated by Warped RoPE; unchanged without a table."""
    return x if table is None else WarpedRoPE(2 * table.shape[1], pairing=pairing).apply(x, table)


def _added(
    q: Any, batch: int, queries: int, keys: int, mask: Any, bias: Any, query_time: Any, key_time: Any, half_life: Any
) -> Any:
    """The sum of all logit biases, (B or 1, 1, N_q or 1, N_k), at least float32; None without any."""
    torch = sys.modules["torch"]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    parts = []
    if mask is not None:
        taken = constant_beside(q, "mask", mask, (batch, keys))
        if taken.dtype != torch.bool:
            raise TypeError(f"mask: expected dtype bool, got {str(taken.dtype).removeprefix('torch.')}")
        parts.append(torch.zeros((), dtype=dtype, device=q.device).masked_fill(~taken, -math.inf)[:, None, None])
    if bias is not None:
        own = (
            bias
            if getattr(bias, "requires_grad", False)
            else constant_beside(q, "bias", bias, (batch, keys), values=True)
        )
        check_shape("bias", tuple(own.shape), (batch, keys))
        parts.append(own.to(dtype)[:, None, None])
    times = {"query_time": query_time, "key_time": key_time, "half_life": half_life}
    if any(x is not None for x in times.values()):
        if half_life is None or query_time is None or key_time is None:
            raise ValueError("query_time, key_time, half_life: expected all three or none")
        rate = math.log(0.5) / check_number("half_life", half_life, above=0.0)
        then = constant_beside(q, "query_time", query_time, (queries,)).double()
        when = constant_beside(q, "key_time", key_time, (keys,)).double()
        parts.append((rate * (then[:, None] - when).abs()).to(dtype)[None, None])
    total = parts[0] if parts else None
    for part in parts[1:]:
        total = total + part
    return total
