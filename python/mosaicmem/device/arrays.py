"""Arrays in the memory of a GPU at the border: checked once, here, and results are made by the caller's framework.

An operator on the device is a `Call`: its first array says which framework, device and stream, the others must be there
too, results and scratch come from that framework, and the kernel runs on its current stream. Nothing is copied through
the host and nothing waits, so values are not looked at: shapes and dtypes are checked, finiteness is not.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import Shape, as_array, check_shape, is_torch
from mosaicmem._foreign import read_array, refuse_bfloat16
from mosaicmem._locks import ForkSafeLock

Stream: TypeAlias = tuple[int, int]
"""Device and handle."""

View: TypeAlias = Any
"""A ``_core.cuda.DeviceArray``."""

_CUDA = 2  # kDLCUDA of DLPack
_CARRIED = 1 << 16  # bytes that travel with launches: no copy that waits, and a captured graph keeps them
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def has_kernels() -> bool:
    """Whether CUDA kernels are built in."""
    return hasattr(_core, "cuda")


def is_on_device(value: Any) -> bool:
    """Whether ``value`` lives in the memory of an NVIDIA GPU: a torch tensor there, or what says so by
    ``__cuda_array_interface__`` or DLPack. No framework is imported to find out."""
    if isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)) or value is None:
        return False
    if is_torch(value):
        return bool(value.is_cuda)
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    try:
        return device is not None and device()[0] == _CUDA
    except (BufferError, RuntimeError, ValueError, TypeError):  # no array of DLPack after all; the reader says so
        return False


def host_array(name: str, value: Any) -> Any:
    """``value`` as it is where it is a torch tensor, a NumPy array or on a device; all else as a NumPy array."""
    return value if is_torch(value) or is_on_device(value) else read_array(name, value)


_leaving: list[tuple[Any, Any]] = []  # a moment of a stream, and an array that kernels may read until then
_leaving_lock = ForkSafeLock(rank=2)  # within that of a mirror


class TorchFramework:
    """torch tensors."""

    def __init__(self, value: Any) -> None:
        self._torch = sys.modules["torch"]
        self._device = value.device
        self.index: int = value.device.index or 0

    def stream(self) -> tuple[int, Any]:
        """The handle of the current stream, and who keeps it alive."""
        stream = self._torch.cuda.current_stream(self._device)
        return int(stream.cuda_stream), stream

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self._torch.empty(tuple(shape), dtype=getattr(self._torch, dtype), device=self._device)

    def to_device(self, array: Any) -> Any:
        return self._torch.from_numpy(array).to(self._device, non_blocking=True)  # staged before it returns

    @staticmethod
    def to_host(value: Any) -> Any:
        return value.cpu().numpy()

    def release(self, value: Any, _stream: Stream) -> None:
        """Says that the current stream was the last to use the memory of ``value``."""
        value.record_stream(self._torch.cuda.current_stream(self._device))

    @staticmethod
    def dtype(value: Any) -> str:
        return str(value.dtype).removeprefix("torch.")

    def converted(self, value: Any, dtype: str) -> Any:
        return value.to(getattr(self._torch, dtype))

    @staticmethod
    def contiguous(value: Any) -> Any:
        return value.contiguous()

    def copied(self, value: Any) -> Any:
        return value.clone(memory_format=self._torch.contiguous_format)

    @staticmethod
    def place(value: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Address, shape and strides in elements."""
        return int(value.data_ptr()), tuple(value.shape), tuple(value.stride())


class ModuleFramework:
    """Arrays of a module like NumPy's: CuPy, or what names its own by ``__array_namespace__``."""

    def __init__(self, value: Any) -> None:
        name = type(value).__module__.partition(".")[0]
        if name == "cupy":
            self._module = sys.modules[name]
        elif hasattr(value, "__array_namespace__") and name not in ("jax", "jaxlib"):
            self._module = value.__array_namespace__()
        else:
            raise TypeError(
                f"expected arrays of torch or CuPy, in which results can be made, got {type(value).__name__}; "
                "torch.from_dlpack(x) shares its memory"
            )
        self._value = value
        self.index: int = int(value.__dlpack_device__()[1])

    def _here(self) -> Any:
        """CuPy's current device is that of the arrays."""
        cuda = getattr(self._module, "cuda", None)
        return contextlib.nullcontext() if cuda is None else cuda.Device(self.index)

    def stream(self) -> tuple[int, Any]:
        """The handle of the current stream, and who keeps it alive."""
        cuda = getattr(self._module, "cuda", None)
        if cuda is None:
            return int(self._value.__cuda_array_interface__.get("stream") or 1), None
        with self._here():
            stream = cuda.get_current_stream()
            return int(stream.ptr), stream

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        with self._here():
            return self._module.empty(tuple(shape), dtype=dtype)

    def to_device(self, array: Any) -> Any:
        with self._here():
            return self._module.asarray(array)

    @staticmethod
    def to_host(value: Any) -> Any:
        return value.get() if hasattr(value, "get") else np.asarray(value.to_device("cpu"))

    def release(self, value: Any, stream: Stream) -> None:
        """Keeps ``value`` until the stream is past this moment: CuPy's pool would give its memory at once to the stream
        that it was made in, which may be another."""
        with _leaving_lock:
            _leaving[:] = [(moment, array) for moment, array in _leaving if not moment.has_passed]
            _leaving.append((_core.cuda.Event(stream), value))

    @staticmethod
    def dtype(value: Any) -> str:
        return str(np.dtype(value.dtype).name)

    def converted(self, value: Any, dtype: str) -> Any:
        with self._here():
            return value.astype(dtype)

    def contiguous(self, value: Any) -> Any:
        with self._here():
            return self._module.ascontiguousarray(value)

    def copied(self, value: Any) -> Any:
        with self._here():
            return self._module.array(value, copy=True, order="C")

    @staticmethod
    def place(value: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        interface = value.__cuda_array_interface__
        shape = tuple(interface["shape"])
        size = np.dtype(interface["typestr"]).itemsize
        strides = interface.get("strides") or _whole_strides(shape, size)
        return int(interface["data"][0]), shape, tuple(stride // size for stride in strides)


class Call:
    """One operator on the device: where it runs, and what it is given.

    Raises
    ------
    RuntimeError
        The library was built without CUDA.
    """

    def __init__(self, name: str, value: Any) -> None:
        if not has_kernels():
            raise RuntimeError(
                f"{name}: got an array on a GPU, and this mosaicmem was built without CUDA; install nvcc and build it "
                "again (MOSAICMEM_CUDA=ON says what is missing), or move the array to the CPU"
            )
        self._name = name
        self._framework = _framework(name, _adopted(name, value))
        self._held: list[Any] = []
        handle, self.stream_owner = self._framework.stream()
        self.stream: Stream = (self._framework.index, handle)

    @property
    def place(self) -> tuple[type, int]:
        """The kind of the arrays and their device."""
        return type(self._framework), self.stream[0]

    def array(self, name: str, value: Any, dtypes: str | Sequence[str], shape: Shape, *, values: bool = False) -> View:
        """``value`` of ``shape`` as contiguous memory of one of ``dtypes``; other real dtypes become the first.

        bfloat16 does so only where these are ``values`` (features, latents, weights): positions in it are refused.
        """
        return self._view(self._framework.contiguous(self._converted(name, value, dtypes, shape, values)))

    def depth(self, name: str, value: Any, shape: Shape) -> View:
        """Depth in metres as float32. Integers are refused: they are millimetres nearly always."""
        if self.dtype(name, value).startswith(("int", "uint")):
            raise TypeError(
                f"{name}: expected metres as floating-point numbers, got integers; millimetres? divide by 1000"
            )
        return self.array(name, value, "float32", shape)

    def strided(self, name: str, value: Any, dtypes: str | Sequence[str], shape: Shape) -> View:
        """Like `array`, with any strides whose last axis is contiguous."""
        array = self._converted(name, value, dtypes, shape)
        _, _, strides = self._framework.place(array)
        if array.shape[-1] > 1 and (strides[-1] != 1 or min(strides) < 0):
            array = self._framework.contiguous(array)
        return self._view(array)

    def owned(self, value: Any) -> Any:
        """A copy of an array of the framework, which nobody else writes to."""
        return self._framework.copied(value)

    def copied(self, value: Any) -> View:
        """A contiguous copy of an array of the framework, as the core takes it."""
        return self._view(self._framework.copied(value))

    def empty(self, shape: Sequence[int], dtype: str) -> tuple[Any, View]:
        """Room for a result or scratch: as the framework's array, and as the core takes it."""
        array = self._framework.empty(shape, dtype)
        return array, self._view(array)

    def scratch(self, shape: Sequence[int], dtype: str) -> View:
        """Room that the kernel uses and nobody reads afterwards. It lives as long as the call; then the framework hands
        it out again in the order of the stream."""
        return self.empty(shape, dtype)[1]

    def empty_heads(self, like: View, dim: int | None = None) -> tuple[Any, View]:
        """Room for features (batch, heads, tokens, dim), with its axes in memory in the order of ``like``."""
        batch, heads, tokens, width = like.shape
        width = width if dim is None else dim
        if like.strides[1] >= like.strides[2]:
            return self.empty((batch, heads, tokens, width), like.dtype)
        array = self._framework.empty((batch, tokens, heads, width), like.dtype).swapaxes(1, 2)
        return array, self._view(array)

    def constant(self, array: Any) -> tuple[Any, View]:
        """A copy of a NumPy array on the device."""
        if array.nbytes <= _CARRIED:
            room, view = self.empty(array.shape, array.dtype.name)
            _core.cuda.store_bytes(np.ascontiguousarray(array), view, 0, self.stream)
            return room, view
        moved = self._framework.to_device(np.ascontiguousarray(array))
        return moved, self._view(moved)

    def wait(self) -> None:
        """Waits for all that is in the stream."""
        _core.cuda.synchronize(self.stream)

    def release(self, array: Any) -> None:
        """Lets go of an array of the framework once all that is in the stream now is done."""
        self._framework.release(array, self.stream)

    def to_host(self, array: Any) -> Any:
        """A copy as a NumPy array. Waits for the device."""
        return self._framework.to_host(array)

    def view(self, array: Any) -> View:
        """An array that this library has made, as the core takes it."""
        return self._view(array)

    def checked(self, name: str, value: Any, dtypes: str | Sequence[str], shape: Shape) -> Any:
        """``value`` of ``shape`` and one of ``dtypes`` (others become the first), as the framework's array."""
        return self._converted(name, value, dtypes, shape)

    def placed(self, name: str, value: Any, dtype: str, shape: Shape) -> Any:
        """Like `checked`; what is on the host is copied to the device."""
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
        value = _adopted(name, value)
        framework = _framework(name, value)
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
        # Until the kernel is in the stream: a framework hands out again at once what nobody holds.
        self._held.append(array)
        address, shape, strides = self._framework.place(array)
        return _core.cuda.DeviceArray(address, shape, strides, self._framework.dtype(array))


def to_host(name: str, value: Any) -> Any:
    """An array on a device as NumPy's; waits for it. What is not on a device comes back as it is."""
    return Call(name, value).to_host(_adopted(name, value)) if is_on_device(value) else value


def on_host(arrays: dict[str, Any]) -> dict[str, Any]:
    """`to_host` of each by name."""
    return {name: to_host(name, value) for name, value in arrays.items()}


def anchor(device: Any) -> Any:
    """An array of nothing where ``device`` says: "cuda" or "cuda:1" for torch, or an array module such as ``cupy``,
    whose current device it is.

    Raises
    ------
    TypeError, ValueError
        It is something else.
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
    except (AssertionError, RuntimeError) as error:  # a torch without CUDA asserts
        raise RuntimeError(f"device: torch cannot use {str(device)!r}: {error}") from error


class StreamOrder:
    """The order of calls on what the library keeps in device memory: whichever streams they are made from, each waits
    for those before it, on the device."""

    def __init__(self) -> None:
        self._last: Stream | None = None
        self._owner: Any = None

    def follow(self, call: Call) -> None:
        """The stream of ``call`` waits for that of the call before."""
        if self._last is not None:
            _core.cuda.order_streams(self._last, call.stream)
        self._last, self._owner = call.stream, call.stream_owner  # a stream that is gone could not be waited for


class DeviceCopies:
    """Copies of small NumPy arrays on devices, made when first asked for. That waits for them, so that any stream may
    use them afterwards, and fails where a stream is being captured, whose graph would keep what others need."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, type, int], Any] = {}

    def __reduce__(self) -> tuple[type[DeviceCopies], tuple[()]]:
        return DeviceCopies, ()  # they are made again where they are asked for

    def of(self, call: Call, key: str, array: Any) -> Any:
        """The copy of ``array``, which is always the same for a ``key``, where the call runs."""
        place = (key, *call.place)
        if place not in self._made:
            made = call.constant(array)[0]
            call.wait()
            self._made[place] = made
        return self._made[place]


def _adopted(name: str, value: Any) -> Any:
    """What only speaks DLPack, as a tensor of torch that shares its memory."""
    if is_torch(value) or hasattr(value, "__cuda_array_interface__"):
        return value
    torch = sys.modules.get("torch")
    if torch is None:
        raise TypeError(
            f"{name}: expected an array of torch or CuPy, or torch to read {type(value).__name__} by DLPack"
        )
    return torch.from_dlpack(value)


def _framework(name: str, value: Any) -> TorchFramework | ModuleFramework:
    try:
        return TorchFramework(value) if is_torch(value) else ModuleFramework(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _whole_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
