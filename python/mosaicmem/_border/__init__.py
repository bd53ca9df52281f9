"""The border: the only place that knows where an array lives.

A public operator opens a `Call` with its first array. The call checks the other arrays, allocates results in the
caller's framework, and provides the core that runs (``_core`` or ``_core.cuda``, whose functions take the same
arguments) and its handle (threads or a stream):

    call = Call("depth", depth, num_threads)
    z = call.depth("depth", depth, ("H", "W"))
    points, out = call.empty((*z.shape, 3), "float32")
    call.core.unproject(z, ..., out, call.handle)
    return points
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mosaicmem._border.copies import DeviceCopies as DeviceCopies
from mosaicmem._border.device import DeviceCall
from mosaicmem._border.device import on_host as on_host
from mosaicmem._border.device import to_host as to_host
from mosaicmem._border.frameworks import has_kernels, is_on_device
from mosaicmem._border.frameworks import host_array as readable
from mosaicmem._border.host import FLOATS as FLOATS
from mosaicmem._border.host import HostCall

View: TypeAlias = Any
"""An array in the form that the core takes."""


def Call(name: str, value: Any, num_threads: int = 0) -> HostCall | DeviceCall:
    """The call of one operator, where ``value`` lives; ``name`` stands for it in error messages."""
    return DeviceCall(name, value) if is_on_device(value) else HostCall(name, value, num_threads)


def as_float32(array: Any) -> Any:
    """Features as float32, since NumPy may have promoted them to float64; other arrays unchanged."""
    return np.asarray(array, np.float32) if isinstance(array, (np.ndarray, np.generic)) else array


def check_place(name: str, call: HostCall | DeviceCall, what: str, own: HostCall | DeviceCall) -> None:
    """Check that ``name`` is where ``what`` is, which never moves."""
    if own.where != call.where:
        raise ValueError(f"{name}: expected an array on {own.where}, where {what} is, got one on {call.where}")
    if own.place != call.place:
        raise ValueError(f"{name}: expected an array of the framework and device of those before, where {what} is")


def has_cuda() -> bool:
    """Whether operators accept arrays on the GPU here: the kernels are built in, and the driver finds a GPU."""
    from mosaicmem import _core

    return has_kernels() and _core.cuda.device_count() > 0


def describe_cuda() -> str:
    """One line on the CUDA kernels that are built in and the GPUs that are found."""
    from mosaicmem import _core

    if not has_kernels():
        return "not built in"
    built = f"kernels for {_core.cuda.architectures}, by nvcc {_core.cuda.compiler}"
    if _core.cuda.is_emulated:
        return "emulated on the host, for tests"
    driver = _core.cuda.driver_version()
    if driver == 0:
        return f"{built}; no driver found"
    count = _core.cuda.device_count()
    gpus = "no GPU" if count == 0 else "1 GPU" if count == 1 else f"{count} GPUs"
    return f"{built}; driver for CUDA {driver // 1000}.{driver % 1000 // 10}, {gpus}"


__all__ = [
    "FLOATS",
    "Call",
    "DeviceCopies",
    "View",
    "as_float32",
    "check_place",
    "describe_cuda",
    "has_cuda",
    "on_host",
    "readable",
    "to_host",
]
