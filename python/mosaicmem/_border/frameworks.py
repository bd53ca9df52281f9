"""The frameworks whose arrays live on a GPU: torch, CuPy, and what speaks their protocols. None of them is imported."""

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
        readable = array if array.flags.writeable else array.copy()  # torch warns of others
        return self._torch.from_numpy(readable).to(self._device, non_blocking=True)  # staged before it returns

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
        """Address, shape and strides in elements."""
        interface = value.__cuda_array_interface__
        shape = tuple(interface["shape"])
        size = np.dtype(interface["typestr"]).itemsize
        strides = interface.get("strides") or _whole_strides(shape, size)
        return int(interface["data"][0]), shape, tuple(stride // size for stride in strides)


def adopted(name: str, value: Any) -> Any:
    """What only speaks DLPack, as a tensor of torch that shares its memory."""
    if is_torch(value) or hasattr(value, "__cuda_array_interface__"):
        return value
    torch = sys.modules.get("torch")
    if torch is None:
        raise TypeError(
            f"{name}: expected an array of torch or CuPy, or torch to read {type(value).__name__} by DLPack"
        )
    return torch.from_dlpack(value)


def framework_of(name: str, value: Any) -> TorchFramework | ModuleFramework:
    """The framework of an array on a device, or a TypeError that names the array."""
    try:
        return TorchFramework(value) if is_torch(value) else ModuleFramework(value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _whole_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
