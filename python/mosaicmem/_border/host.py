"""Operators on host arrays: NumPy arrays, CPU tensors of torch, and anything that NumPy can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem._arrays import F32, Shape, as_array, as_depth, check_threads, is_torch, like, to_numpy
from mosaicmem._border.copies import DeviceCopies
from mosaicmem._border.frameworks import is_on_device
from mosaicmem._border.heads import as_heads, empty_heads, restore, room_like
from mosaicmem._foreign import is_bfloat16

FLOATS = ("float32", "float64")


class HostCall:
    """One operator on the host. `DeviceCall` has the same methods for arrays on a GPU.

    A view is what the core takes: here a NumPy array.

    Attributes
    ----------
    core : module
        The module with the kernels.
    handle : int
        How kernels run: the number of threads.
    where : str
        The location, for error messages.
    place : tuple
        The framework and the device of the arrays; objects that stay in one place compare it.
    """

    core: Any = _core
    where = "the CPU"
    place: tuple[type, int] = (np.ndarray, -1)

    def __init__(self, name: str, value: Any, num_threads: int) -> None:
        self.handle = check_threads(num_threads)
        self._name, self._like = name, value

    def array(
        self,
        name: str,
        value: Any,
        dtypes: str | Sequence[str],
        shape: Shape,
        *,
        values: bool = False,
        finite: bool = False,
        own: bool = False,
    ) -> NDArray[Any]:
        """``value`` of ``shape`` as contiguous memory in ``dtypes``: one dtype, or `FLOATS`.

        With `FLOATS`, float64 and wider floats become float64, everything else float32. bfloat16 is accepted only for
        ``values``. With ``own`` nobody else can write to the result.
        """
        if isinstance(dtypes, str):
            dtype, array = dtypes, value
        else:
            array = to_numpy(name, value, values=values)
            dtype = "float64" if array.dtype.kind == "f" and array.dtype.itemsize >= 8 else dtypes[0]
        return as_array(name, array, np.dtype(dtype), shape, finite=finite, values=values, own=own)

    def depth(self, name: str, value: Any, shape: Shape) -> F32:
        """Depth in metres as float32. Integers are rejected: they are almost always millimetres."""
        return as_depth(name, value, shape)

    def check(self, name: str, view: NDArray[Any], test: Callable[[NDArray[Any]], bool], expected: str) -> None:
        """Check the values of a view. `DeviceCall` skips this, as it would synchronize."""
        if view.size and not test(view):
            raise ValueError(f"{name}: expected {expected}, got {view.min()} to {view.max()}")

    def check_one_dtype(self, arrays: Mapping[str, Any]) -> None:
        """Check that the features for one kernel are all bfloat16 or none; other dtypes are computed in float32."""
        half = sorted(name for name, value in arrays.items() if is_bfloat16(value))
        if half and len(half) < len(arrays):
            raise TypeError(f"{', '.join(arrays)}: expected one dtype, got bfloat16 for {', '.join(half)} only")

    def heads(self, name: str, x: Any, shape: Shape, *, double: bool = True, contiguous: bool = False) -> NDArray[Any]:
        """Features (..., tokens, dim) as (batch, heads, tokens, dim), in place if the kernels can read it."""
        heads = as_heads(name, x, shape, double=double)
        return np.ascontiguousarray(heads) if contiguous else heads

    def empty(self, shape: Sequence[int], dtype: Any) -> tuple[Any, NDArray[Any]]:
        """Memory for a result: as an array of the caller's framework, and as the core takes it."""
        room = np.empty(tuple(shape), dtype)
        return like(self._like, room), room

    def empty_heads(self, x: Any, heads: NDArray[Any], dim: int) -> tuple[Any, NDArray[Any]]:
        """Memory for features of the shape of ``x`` except ``dim``, in the memory order of its view ``heads``."""
        kind = "bfloat16" if heads.dtype == np.uint16 else str(heads.dtype)
        if is_torch(x) and dim == x.shape[-1] and str(x.dtype) == f"torch.{kind}":
            out = room_like(x)
            return out, as_heads("out", out, tuple(out.shape))
        room = empty_heads(heads, dim)
        return restore(x, room, (*np.shape(x)[:-1], dim)), room

    def own(self, shape: Sequence[int], dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Memory that the library keeps: as the array that it keeps, and as the core takes it."""
        room = np.empty(tuple(shape), dtype)
        return room, room

    def converted(self, array: Any, dtype: str) -> Any:
        """An array that the library keeps, in another dtype."""
        return array.astype(dtype)

    def beside(self, _copies: DeviceCopies, _key: str, array: Any) -> NDArray[Any]:
        """A small constant array of the library where the call runs."""
        if is_on_device(array):
            raise ValueError(f"positions: expected these on the CPU, where {self._name} is, got them on a device")
        return np.asarray(array)

    def checked(self, name: str, value: Any, shape: Shape, *, finite: bool = False, wide: bool = True) -> F32:
        """Features of ``shape`` as an array that this library computes with outside of kernels: float32, here."""
        return as_array(name, value, np.float32, shape, values=True, finite=finite)

    def placed(self, name: str, value: Any, dtype: str, shape: Shape) -> NDArray[Any]:
        """A private array on the device of the features, for data that accompanies them."""
        return as_array(name, value, np.dtype(dtype), shape, finite=dtype == "float64", own=True)

    def detached(self, x: Any) -> Any:
        """Features without gradient; a tensor as float32 on the CPU."""
        return x.detach().cpu().float() if is_torch(x) else x

    def has(self, value: Any) -> bool:
        """Whether a value is an array on the call's GPU: on the host, never."""
        return False

    def id_lists(self, array: Any) -> Any:
        """Ids (G, n) as tuples of int."""
        return tuple(tuple(int(i) for i in group) for group in array)

    def filled(self, arrays: Mapping[str, Any], count: NDArray[Any]) -> dict[str, Any]:
        """Padded arrays (T, K, ...), trimmed to the longest row; ``count`` is the number of entries per row."""
        most = int(count.max(initial=0))
        return {name: array[:, :most] for name, array in arrays.items()}

    def there(self, array: NDArray[Any]) -> Any:
        """A NumPy array in the caller's framework."""
        return like(self._like, array)

    def numbers(self, array: Any) -> list[Any]:
        """The elements of a small result."""
        return [int(x) for x in array]

    def result(self, array: NDArray[Any]) -> Any:
        """An array of this library in the caller's framework."""
        return like(self._like, array)

    def owned(self, array: Any) -> Any:
        """A copy."""
        return array.clone() if is_torch(array) else array.copy()

    def linear(self, x: Any, name: str, weight: F32, _copies: DeviceCopies) -> Any:
        """x (..., in) times weight (out, in): (..., out)."""
        *leading, width = x.shape
        rows = np.ascontiguousarray(x).reshape(math.prod(leading), width)
        return _core.linear(rows, weight, self.handle).reshape(*leading, len(weight))
