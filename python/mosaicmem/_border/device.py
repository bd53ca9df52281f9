"""GPU arrays at the border: checked once, here; the caller's framework allocates results.

An operator on the GPU is a `DeviceCall`: its first array determines framework, device and stream, and the others must
be there too. Results and scratch come from that framework, and the kernel runs on its current stream. Nothing is copied
through the host and nothing synchronizes, so values are not inspected: shapes and dtypes are checked, finiteness is
not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import Shape, as_array, check_shape, is_torch
from mosaicmem._border.copies import DeviceCopies
from mosaicmem._border.frameworks import Stream, adopted, framework_of, has_kernels, is_on_device
from mosaicmem._border.heads import as_four, room_like
from mosaicmem._foreign import refuse_bfloat16

View: TypeAlias = Any
"""A ``_core.cuda.DeviceArray``."""

_CARRIED = 1 << 16  # bytes passed as kernel arguments: no blocking copy, and a captured graph keeps them
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_TENSOR_CORE_DIMS = (64, 128)
_WHOLE = 8  # half-precision elements in 16 bytes, to which the tensor cores' rows must be aligned


class DeviceCall:
    """One operator on the GPU: where it runs, and its arrays. `HostCall` documents the methods.

    A view is what the core takes: here a ``_core.cuda.DeviceArray``. The handle is a stream and the scratch allocator.

    Raises
    ------
    RuntimeError
        The library was built without CUDA.
    """

    where = "a device"

    def __init__(self, name: str, value: Any) -> None:
        if not has_kernels():
            raise RuntimeError(
                f"{name}: got an array on a GPU, and this mosaicmem was built without CUDA; install nvcc and build it "
                "again (MOSAICMEM_CUDA=ON says what is missing), or move the array to the CPU"
            )
        self._name = name
        self._framework = framework_of(name, adopted(name, value))
        self._held: list[Any] = []
        handle, self.stream_owner = self._framework.stream()
        self.stream: Stream = (self._framework.index, handle)
        self.core: Any = _core.cuda

    @property
    def handle(self) -> tuple[int, int, DeviceCall]:
        """How kernels run: device, stream and scratch allocator. Built on each access, since a call that referenced
        itself would keep its scratch until garbage collection."""
        return (*self.stream, self)

    def allocate(self, nbytes: int) -> int:
        """Scratch for a kernel. It lives as long as the call; then the framework reuses it in stream order."""
        return int(self.empty((nbytes,), "uint8")[1].address)

    def own_bytes(self, nbytes: int) -> Any:
        """Memory for the core to keep: an array of the framework."""
        return self._framework.empty((nbytes,), "uint8")

    def address_of(self, array: Any) -> int:
        """The address of an array of the framework."""
        return self._framework.place(array)[0]

    @property
    def place(self) -> tuple[type, int]:
        """The framework and the device of the arrays."""
        return type(self._framework), self.stream[0]

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
    ) -> View:
        """``value`` of ``shape`` as contiguous memory in one of ``dtypes``; other real dtypes become the first.

        bfloat16 does so only for ``values`` (features, latents, weights): positions in bfloat16 are rejected.
        ``finite`` is ignored.
        """
        array = self._framework.contiguous(self._converted(name, value, dtypes, shape, values))
        return self._view(self._framework.copied(array) if own and array is value else array)

    def depth(self, name: str, value: Any, shape: Shape) -> View:
        """Depth in metres as float32. Integers are rejected: they are almost always millimetres."""
        if self.dtype(name, value).startswith(("int", "uint")):
            raise TypeError(
                f"{name}: expected metres as floating-point numbers, got integers; millimetres? divide by 1000"
            )
        return self.array(name, value, "float32", shape)

    def strided(self, name: str, value: Any, dtypes: str | Sequence[str], shape: Shape) -> View:
        """Like `array`, but keeps any strides whose last axis is contiguous."""
        array = self._converted(name, value, dtypes, shape)
        _, _, strides = self._framework.place(array)
        if array.shape[-1] > 1 and (strides[-1] != 1 or min(strides) < 0):
            array = self._framework.contiguous(array)
        return self._view(array)

    def check(self, name: str, view: View, test: Callable[[Any], bool], expected: str) -> None:
        """Does nothing: inspecting values would synchronize."""

    def check_one_dtype(self, arrays: Mapping[str, Any]) -> None:
        """Check that the features for one kernel have one dtype."""
        dtypes = {name: self.dtype(name, value) for name, value in arrays.items()}
        if len(set(dtypes.values())) > 1:
            given = ", ".join(f"{dtype} for {name}" for name, dtype in dtypes.items())
            raise TypeError(f"{', '.join(arrays)}: expected one dtype, got {given}")

    def heads(self, name: str, x: Any, shape: Shape, *, double: bool = True, contiguous: bool = False) -> View:
        """Features (..., tokens, dim) as (batch, heads, tokens, dim), in place if the kernels can read it."""
        check_shape(name, tuple(x.shape), shape)
        dtypes = ("float32", "bfloat16", "float16", *(("float64",) if double else ()))
        four = as_four(x)
        if contiguous:
            return self.array(name, four, dtypes, (None,) * 4, values=True)
        view = self.strided(name, four, dtypes, (None,) * 4)
        whole = view.address % 16 == 0 and all(stride % _WHOLE == 0 for stride in view.strides[:-1])
        if not double and view.dtype != "float32" and view.shape[-1] in _TENSOR_CORE_DIMS and not whole:
            return self._view(self._framework.copied(four))  # misaligned for the tensor cores
        return view

    def beside(self, copies: DeviceCopies, key: str, array: Any) -> Any:
        """A small constant array where the call runs: a cached copy, unless it is already there."""
        return array if is_on_device(array) else copies.of(self, f"{key} {array.dtype}", array)

    def detached(self, x: Any) -> Any:
        """Features unchanged: on the GPU they must not require a gradient."""
        return x

    def has(self, value: Any) -> bool:
        """Whether a value is an array on the GPU."""
        return is_on_device(value)

    def id_lists(self, array: Any) -> Any:
        """Ids (G, n), which stay on the GPU."""
        return array

    def numbers(self, array: Any) -> list[Any]:
        """The elements of a small result, as arrays of shape (), without synchronizing."""
        return [array[i] for i in range(int(array.shape[0]))]

    def result(self, array: Any) -> Any:
        """An array of this library in the caller's framework, which it already is."""
        return array

    def linear(self, x: Any, name: str, weight: Any, copies: DeviceCopies) -> Any:
        """x (..., in) times weight (out, in): (..., out), by the framework's matrix product, in the dtype of x."""
        dtype = self._framework.dtype(x)
        return x @ copies.of(self, name, weight.T.copy(), None if dtype == "float32" else dtype)

    def owned(self, value: Any) -> Any:
        """A private copy of an array of the framework."""
        return self._framework.copied(value)

    def copied(self, value: Any) -> View:
        """A contiguous copy of an array of the framework, as the core takes it."""
        return self._view(self._framework.copied(value))

    def empty(self, shape: Sequence[int], dtype: Any) -> tuple[Any, View]:
        """Memory for a result or scratch: as the framework's array, and as the core takes it."""
        array = self._framework.empty(shape, dtype)
        return array, self._view(array)

    def empty_heads(self, x: Any, heads: View, dim: int) -> tuple[Any, View]:
        """Memory for features of the shape of ``x`` except ``dim``, in the memory order of its view ``heads``."""
        if is_torch(x) and dim == x.shape[-1] and self._framework.dtype(x) == heads.dtype:
            out = room_like(x)
            return out, self._view(as_four(out))
        batch, number, tokens, _ = heads.shape
        if heads.strides[1] >= heads.strides[2]:
            array, view = self.empty((batch, number, tokens, dim), heads.dtype)
        else:
            array = self._framework.empty((batch, tokens, number, dim), heads.dtype).swapaxes(1, 2)
            view = self._view(array)
        return array.reshape((*tuple(x.shape)[:-1], dim)), view

    own = empty  # arrays that the library keeps come from the framework, too

    def constant(self, array: Any) -> tuple[Any, View]:
        """A copy of a NumPy array on the GPU."""
        if array.nbytes <= _CARRIED:
            room, view = self.empty(array.shape, array.dtype.name)
            _core.cuda.store_bytes(np.ascontiguousarray(array), view, self.stream)
            return room, view
        moved = self._framework.to_device(np.ascontiguousarray(array))
        return moved, self._view(moved)

    def wait(self) -> None:
        """Wait for all work in the stream."""
        _core.cuda.synchronize(self.stream)

    def release(self, array: Any) -> None:
        """Release an array of the framework once all work now in the stream is done."""
        self._framework.release(array, self.stream)

    def to_host(self, array: Any) -> Any:
        """A copy as a NumPy array. Synchronizes."""
        return self._framework.to_host(array)

    def view(self, array: Any) -> View:
        """An array that this library made, as the core takes it."""
        return self._view(array)

    def there(self, array: Any) -> Any:
        """A copy of a NumPy array where the call runs, in the caller's framework."""
        return self.constant(array)[0]

    def filled(self, arrays: Mapping[str, Any], _count: Any) -> dict[str, Any]:
        """Padded arrays, untrimmed: learning how much is filled would synchronize."""
        return dict(arrays)

    def checked(self, name: str, value: Any, shape: Shape, *, finite: bool = False, wide: bool = False) -> Any:
        """Features of ``shape`` as an array that this library computes with outside of kernels; as float32 if ``wide``.
        ``finite`` is ignored."""
        if wide:
            return self._converted(name, value, "float32", shape, values=True)
        return self._converted(name, value, ("float32", "bfloat16", "float16"), shape)

    def placed(self, name: str, value: Any, dtype: str, shape: Shape) -> Any:
        """Like `checked`; host arrays are copied to the GPU."""
        if is_on_device(value):
            return self._converted(name, value, dtype, shape)
        return self.constant(as_array(name, value, np.dtype(dtype).type, shape))[0]

    def converted(self, value: Any, dtype: str) -> Any:
        """An array of the framework in another dtype."""
        return self._framework.converted(value, dtype)

    def dtype(self, name: str, value: Any) -> str:
        """The name of the dtype of an array, which must be where the call runs."""
        return self._framework.dtype(self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        if not is_on_device(value):
            kind = "a CPU tensor" if is_torch(value) else type(value).__name__
            raise ValueError(
                f"{name}: expected an array on cuda:{self.stream[0]}, where {self._name} is, got {kind}; move it there"
            )
        value = adopted(name, value)
        framework = framework_of(name, value)
        if framework.index != self.stream[0]:
            raise ValueError(
                f"{name}: expected an array on cuda:{self.stream[0]}, where {self._name} is, got one on "
                f"cuda:{framework.index}"
            )
        if type(framework) is not type(self._framework):
            raise TypeError(f"{name}: expected an array of the framework of {self._name}, got {type(value).__name__}")
        if getattr(value, "requires_grad", False):
            raise ValueError(f"{name}: expected a tensor without gradient, since this has no backward; use .detach()")
        return value

    def _converted(self, name: str, value: Any, dtypes: str | Sequence[str], shape: Shape, values: bool = False) -> Any:
        value = self._checked(name, value)
        accepted = (dtypes,) if isinstance(dtypes, str) else tuple(dtypes)
        dtype = self._framework.dtype(value)
        if dtype not in accepted:
            if dtype == "bfloat16" and accepted[0] in _FLOATS and not values:
                refuse_bfloat16(name)
            kinds = _FLOATS if accepted[0] in _FLOATS else ()
            if dtype not in kinds and not (accepted[0] in _FLOATS and dtype.startswith(("int", "uint"))):
                raise TypeError(f"{name}: expected dtype {' or '.join(accepted)}, got {dtype}")
        check_shape(name, tuple(value.shape), shape)
        return value if dtype in accepted else self._framework.converted(value, accepted[0])

    def _view(self, array: Any) -> View:
        # Held until the kernel is in the stream: a framework reuses unreferenced memory at once.
        self._held.append(array)
        address, shape, strides = self._framework.place(array)
        return _core.cuda.DeviceArray(address, shape, strides, self._framework.dtype(array))


def to_host(name: str, value: Any) -> Any:
    """An array on the GPU as a NumPy array, which synchronizes; anything else unchanged."""
    return DeviceCall(name, value).to_host(adopted(name, value)) if is_on_device(value) else value


def owned(value: Any) -> Any:
    """A copy on the device of ``value``."""
    if is_on_device(value):
        return DeviceCall("array", value).owned(value)
    return value.clone() if is_torch(value) else value.copy()


def on_host(arrays: dict[str, Any]) -> dict[str, Any]:
    """`to_host` of each array, by name."""
    if all(type(value) is np.ndarray for value in arrays.values()):
        return arrays
    return {name: to_host(name, value) for name, value in arrays.items()}


def anchor(device: Any) -> Any:
    """An empty array on ``device``: "cuda" or "cuda:1" for torch, or an array module such as ``cupy`` for its
    current device.

    Raises
    ------
    TypeError, ValueError
        ``device`` is something else.
    RuntimeError
        Kernels, torch or the GPU are missing.
    """
    if not has_kernels():
        raise RuntimeError(
            f"device: got {device!r}, and this mosaicmem was built without CUDA; install nvcc and build it again "
            "(MOSAICMEM_CUDA=ON says what is missing)"
        )
    if device is sys.modules.get("torch", ...):
        device = "cuda"
    if not isinstance(device, str) and type(device).__module__ != "torch":
        if not callable(getattr(device, "empty", None)):
            raise TypeError(
                f'device: expected "cuda", "cuda:1" or an array module such as cupy, got {type(device).__name__}'
            )
        return device.empty((0,), "uint8")
    if not str(device).startswith("cuda"):
        raise ValueError(f'device: expected "cuda", "cuda:1" or an array module such as cupy, got {str(device)!r}')
    try:
        import torch
    except ImportError:
        raise RuntimeError(
            f"device: got {device!r}, which needs torch; install mosaicmem[torch], or pass cupy"
        ) from None
    try:
        return torch.empty(0, dtype=torch.uint8, device=device)
    except (AssertionError, RuntimeError) as error:  # torch without CUDA raises AssertionError
        raise RuntimeError(f"device: torch cannot use {str(device)!r}: {error}") from error
