"""softmax(q k^T scale + bias) v over memory tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import ArrayLike, as_array, check_number, check_threads, like, to_numpy


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    num_threads: int = 0,
) -> Any:
    """Attention with an online softmax: memory grows with queries and keys, never with their product.

    Parameters
    ----------
    q : (B, heads, N_q, d) array
        Zero-copy for contiguous float32; computed in float32.
    k : (B, heads, N_k, d) array
    v : (B, heads, N_k, d_v) array
    mask : (B, N_k) bool array, optional
        Keys that are False take no part.
    bias : (B, N_k) array, optional
        Added to the logits of each key.
    scale : float, optional
        1 / sqrt(d) if not given.
    return_lse : bool
        Also return the log of the sum of exponentials of the logits, (B, heads, N_q).
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Returns
    -------
    (B, heads, N_q, d_v) float32
        Zeros for a query that no key answers (its log-sum-exp is -inf).
    """
    queries = as_array("q", q, np.float32, ("B", "heads", "N_q", "d"))
    batch, heads, _, dim = queries.shape
    keys = as_array("k", k, np.float32, (batch, heads, "N_k", dim))
    values = as_array("v", v, np.float32, (batch, heads, keys.shape[2], "d_v"))
    key_mask = None if mask is None else as_array("mask", mask, np.bool_, (batch, keys.shape[2]))
    key_bias = None if bias is None else as_array("bias", bias, np.float32, (batch, keys.shape[2]))
    if key_bias is not None and (np.isnan(key_bias).any() or np.isposinf(key_bias).any()):
        raise ValueError("bias: expected finite values or -inf, got NaN or +inf")
    if dim == 0:
        raise ValueError(f"q: expected a head dimension of at least 1, got shape {to_numpy('q', q).shape}")
    factor = 1 / math.sqrt(dim) if scale is None else check_number("scale", scale)
    out, lse = _core.attention(queries, keys, values, key_mask, key_bias, factor, check_threads(num_threads))
    return (like(q, out), like(q, lse)) if return_lse else like(q, out)
