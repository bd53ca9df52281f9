"""Converts arrays of other libraries to NumPy: torch, DLPack, ``__array__``, ml_dtypes. Imports none of them."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray


def is_torch(value: Any) -> bool:
    """Whether ``value`` is a torch tensor; torch is never imported to find out."""
    if type(value) is np.ndarray:
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_bfloat16(value: Any) -> bool:
    """Whether ``value`` is a bfloat16 torch tensor, or a NumPy array of the bfloat16 that ml_dtypes adds."""
    if is_torch(value):
        return str(value.dtype) == "torch.bfloat16"
    return isinstance(value, np.ndarray) and value.dtype.kind == "V" and value.dtype.name == "bfloat16"


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a NumPy array of native numbers or bool, and of no subclass: there is nothing to convert."""
    return type(value) is np.ndarray and value.dtype.kind in "fiub" and value.dtype.isnative


def refuse_bfloat16(name: str) -> NoReturn:
    """Reject bfloat16 positions, depths, cameras and times: no conversion recovers their lost digits."""
    raise TypeError(
        f"{name}: expected float32 or float64, got bfloat16, whose 8 bits tell 256 from 258 and not from 257; use "
        ".float() before the product that makes it, outside of torch.autocast"
    )


def read_array(name: str, value: Any) -> NDArray[Any]:
    """Anything but a torch tensor as a plain NumPy array in native byte order; bfloat16 stays that of ml_dtypes."""
    if is_plain(value):
        return np.asarray(value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array, got a masked one; use .filled()")
    if hasattr(value, "unit") or hasattr(value, "units"):
        unit = getattr(value, "unit", None) or getattr(value, "units", None)
        raise TypeError(
            f"{name}: expected plain numbers, got {type(value).__name__} in {unit}; convert it and take its value"
        )
    array = np.asarray(value) if isinstance(value, np.ndarray) else _read_foreign(name, value)
    if array.dtype == object:
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _read_foreign(name: str, value: Any) -> NDArray[Any]:
    """Read through DLPack, which shares memory; if that fails (on an unsupported dtype, say), through `np.asarray`."""
    refusal: Exception | None = None
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            refusal = error
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, BufferError, RuntimeError) as error:
        raise TypeError(f"{name}: expected an array, got {type(value).__name__} ({error})") from None
    if array.dtype == object and refusal is not None:
        raise TypeError(
            f"{name}: expected an array, got {type(value).__name__}, whose __dlpack__ fails ({refusal}) and which has "
            "no __array__; convert it to NumPy"
        ) from refusal
    return array


def read_tensor(name: str, tensor: Any, values: bool) -> NDArray[Any]:
    """A NumPy view of a torch tensor on the CPU without gradient; with ``values``, bfloat16 becomes float32."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{name}: expected a CPU tensor, got one on {tensor.device}; move it with .cpu()")
    if tensor.requires_grad:
        raise ValueError(f"{name}: expected a tensor without gradient, since this has no backward; use .detach()")
    if is_bfloat16(tensor):
        tensor = tensor.float() if values else refuse_bfloat16(name)
    try:
        # Materializes torch's lazy conjugation and negation.
        return np.asarray(tensor.resolve_conj().resolve_neg().numpy())
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a dense tensor of a dtype that NumPy has, got {tensor.dtype} in layout {tensor.layout} "
            f"({error})"
        ) from error


def is_frozen(array: NDArray[Any]) -> bool:
    """Whether nobody can write to the memory of an array: it and all arrays that it is a view of are read-only.

    True for files mapped read-only, for bytes, and for arrays whose ``flags.writeable`` was set to False.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    if base is None:
        return True
    try:
        return memoryview(base).readonly
    except TypeError:  # memory of another library, which may be writable
        return False
