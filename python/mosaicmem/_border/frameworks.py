"""Frameworks whose arrays live on the GPU: torch, CuPy, and any that speak their protocols. None is imported."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mosaicmem import _core
from mosaicmem._foreign import is_torch, read_array
from mosaicmem._locks import ForkSafeLock

Stream: TypeAlias = tuple[int, int]
"""Device and handle."""

_CUDA = 2  # kDLCUDA of DLPack


def has_kernels() -> bool:
    """Whether CUDA kernels are built in."""
    return hasattr(_core, "cuda")


def is_on_device(value: Any) -> bool:
    """Whether ``value`` lives in the memory of an NVIDIA GPU: a CUDA tensor of torch, or an array that says so by
    ``__cuda_array_interface__`` or DLPack. Imports no framework."""
    if isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)) or value is None:
        return False
    if is_torch(value):
        return bool(value.is_cuda)
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    try:
        return device is not None and device()[0] == _CUDA
    except (BufferError, RuntimeError, ValueError, TypeError):  # not a DLPack array after all; the reader reports it
        return False


def host_array(name: str, value: Any) -> Any:
    """torch tensors, NumPy arrays and arrays on the GPU unchanged; anything else as a NumPy array."""
    return value if is_torch(value) or is_on_device(value) else read_array(name, value)


_leaving: list[tuple[Any, Any]] = []  # an event in a stream, and an array that kernels may read until it has passed
_leaving_lock = ForkSafeLock(rank=2)  # taken while the lock of a store on the GPU is held


class TorchFramework:
    """torch tensors."""

    def __init__(self, value: Any) -> None:
        self._torch = sys.modules["torch"]
        self._device = value.device
        self.index: int = value.device.index or 0

    def stream(self) -> tuple[int, Any]:
        """The handle of the current stream, and the object that keeps it alive."""
        stream = self._torch.cuda.current_stream(self._device)
        return int(stream.cuda_stream), stream

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self._torch.empty(tuple(shape), dtype=getattr(self._torch, dtype), device=self._device)

    def to_device(self, array: Any) -> Any:
        readable = array if array.flags.writeable else array.copy()  # torch warns of others
        return self._torch.from_numpy(readable).to(self._device, non_blocking=True)  # staged before it returns

    @staticmethod
    def to_host(value: Any) -> Any:
        return value.cpu().numpy()

    def release(self, value: Any, _stream: Stream) -> None:
        """Record the current stream as the last to use the memory of ``value``."""
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
    """Arrays of a NumPy-like module: CuPy, or any that arrays name by ``__array_namespace__``."""

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
        """A context in which the device of the arrays is CuPy's current one."""
        cuda = getattr(self._module, "cuda", None)
        return contextlib.nullcontext() if cuda is None else cuda.Device(self.index)

    def stream(self) -> tuple[int, Any]:
        """The handle of the current stream, and the object that keeps it alive."""
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
        """Keep ``value`` until the stream has passed this point: CuPy's pool would reuse its memory at once in the
        stream that allocated it, which may be a different one."""
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
        """Address, shape and strides in elements."""
        interface = value.__cuda_array_interface__
        shape = tuple(interface["shape"])
        size = np.dtype(interface["typestr"]).itemsize
        strides = interface.get("strides") or _whole_strides(shape, size)
        return int(interface["data"][0]), shape, tuple(stride // size for stride in strides)


def adopted(name: str, value: Any) -> Any:
    """An array that only speaks DLPack, as a torch tensor that shares its memory; others unchanged."""
    if is_torch(value) or hasattr(value, "__cuda_array_interface__"):
        return value
    torch = sys.modules.get("torch")
    if torch is None:
        raise TypeError(
            f"{name}: expected an array of torch or CuPy, or torch to read {type(value).__name__} by DLPack"
        )
    return torch.from_dlpack(value)


def framework_of(name: str, value: Any) -> TorchFramework | ModuleFramework:
    """The framework of an array on the GPU, or a TypeError that names the array."""
    try:
        return TorchFramework(value) if is_torch(value) else ModuleFramework(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _whole_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
