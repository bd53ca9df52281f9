"""Features of attention heads at the border: converts the dtypes and strides of models to those that the core takes.

The core computes in float32 on float32 and bfloat16, and in float64 on float64. NumPy has no bfloat16, so its bits
are passed as uint16.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import ArrayLike, Shape, as_array, check_shape, is_torch, to_numpy
from mosaicmem._foreign import is_bfloat16, is_plain

_CACHE_LINE = 64

Heads = NDArray[Any]
"""(batch, heads, tokens, dim), features of a token contiguous: float32, float64, or uint16 that holds bfloat16 bits."""


def as_heads(name: str, value: ArrayLike, shape: Shape, *, double: bool = True) -> Heads:
    """``value`` of ``shape`` (ending in tokens and dim) as the core takes it.

    Arrays in float32, bfloat16 or, with ``double``, float64 are not copied if the features of each token are
    contiguous: a transposed view of (batch, tokens, heads, dim) is passed through. Other dtypes become float32.
    """
    if is_plain(value) and value.ndim == 4 and value.dtype == np.float32 and value.flags.c_contiguous:
        check_shape(name, value.shape, shape)
        return np.asarray(value) if value.flags.aligned else np.array(value)
    if is_bfloat16(value):
        array = _bits(name, value)
        check_shape(name, array.shape, shape)
    else:
        array = to_numpy(name, value)
        keep = array.dtype == np.float32 or (double and array.dtype == np.float64)
        if keep:
            check_shape(name, array.shape, shape)
        else:
            array = as_array(name, value, np.float32, shape)
    dim = array.shape[-1]
    if array.ndim > 4:
        array = array.reshape(-1, *array.shape[-3:])
    while array.ndim < 4:
        array = array[None]
    step = array.itemsize
    whole = all(stride >= 0 and stride % step == 0 for stride in array.strides)
    beside = dim <= 1 or array.strides[-1] == step
    return array if whole and beside and array.flags.aligned else np.require(array, requirements=("C", "A"))


def empty_heads(like: Heads, dim: int) -> Heads:
    """Memory for a result: the shape of ``like`` except ``dim``, its axes in the same order in memory."""
    batch, heads, tokens, _ = like.shape
    tokens_first = like.strides[1] < like.strides[2]
    shape = (batch, tokens, heads, dim) if tokens_first else (batch, heads, tokens, dim)
    # Cache-line aligned, so that the core can use non-temporal stores.
    nbytes = math.prod(shape) * like.itemsize
    raw = np.empty(nbytes + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    room: Heads = raw[start : start + nbytes].view(like.dtype).reshape(shape)
    return room.transpose(0, 2, 1, 3) if tokens_first else room


def restore(reference: ArrayLike, out: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """A result of the core in ``shape``, in the framework and dtype of ``reference``."""
    out = out.reshape(shape)
    if is_torch(reference):
        torch = sys.modules["torch"]
        if out.dtype == np.uint16:
            return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(out)
    return out.view(reference.dtype) if is_bfloat16(reference) else out


def as_four(x: Any) -> Any:
    """x (..., N, d) as (batch, heads, N, d): a view where strides allow."""
    shape = tuple(x.shape)
    if len(shape) > 4:
        return x.reshape((math.prod(shape[:-3]), *shape[-3:]))
    return x if len(shape) == 4 else x.reshape((*[1] * (4 - len(shape)), *shape))


def room_like(x: Any) -> Any:
    """A tensor for a result of the shape of the tensor ``x``, with contiguous features, as kernels write them.

    The other axes keep the memory order of ``x`` if its features are contiguous too.
    """
    torch = sys.modules["torch"]
    if x.dim() <= 4 and (x.shape[-1] <= 1 or x.stride(-1) == 1):
        room = torch.empty_like(x)
        if x.shape[-1] <= 1 or room.stride(-1) == 1:  # not so for overlapping tokens, whose axes torch reorders
            return room
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _bits(name: str, value: ArrayLike) -> NDArray[np.uint16]:
    if not is_torch(value):
        return np.asarray(value.view(np.uint16))
    integers = to_numpy(name, value if value.requires_grad else value.view(sys.modules["torch"].int16))
    return np.asarray(integers.view(np.uint16))
