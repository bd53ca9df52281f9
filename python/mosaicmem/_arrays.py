"""Arrays at the API boundary: inputs are checked once, here, and results are the same kind of array.

All code behind this boundary may rely on shapes, dtypes and contiguity.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaicmem._foreign import is_bfloat16, is_frozen, read_array, read_tensor, refuse_bfloat16
from mosaicmem._foreign import is_torch as is_torch
from mosaicmem.errors import suspect

if TYPE_CHECKING:
    from torch import Tensor

ArrayLike: TypeAlias = Any
"""A NumPy array, a torch CPU tensor, anything with ``__dlpack__`` or ``__array__``, or nested sequences."""

ArrayT = TypeVar("ArrayT", NDArray[Any], "Tensor")
"""The kind of array that an operator takes and returns: torch in, torch out. It reads others (`ArrayLike`) as NumPy."""

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
U8: TypeAlias = NDArray[np.uint8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U64: TypeAlias = NDArray[np.uint64]

Shape: TypeAlias = Sequence[int | str | None]

_T = TypeVar("_T")
_INT64 = np.iinfo(np.int64)
_MOST_THREADS = 1024
_MOST_MEDIAN_DEPTH = 250.0


def to_numpy(name: str, value: ArrayLike, *, values: bool = False) -> NDArray[Any]:
    """``value`` as a NumPy array in native byte order, without a copy if it is already an array on the CPU.

    bfloat16 is rejected unless ``values`` is set (features, latents, colours, weights): then it becomes float32, which
    is exact.
    """
    if is_torch(value):
        return read_tensor(name, value, values)
    array = read_array(name, value)
    if not is_bfloat16(array):
        return array
    return array.astype(np.float32) if values else refuse_bfloat16(name)


def like(reference: ArrayT, result: NDArray[Any]) -> ArrayT:
    """``result`` as the kind of array that ``reference`` is: torch for torch (sharing memory), else NumPy."""
    kind: ArrayT = sys.modules["torch"].from_numpy(result) if is_torch(reference) else result
    return kind


def shape_text(shape: Shape) -> str:
    """``(H, W, 3)`` for ``("H", "W", 3)``."""
    parts = ["any" if part is None else str(part) for part in shape]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def check_shape(name: str, actual: tuple[int, ...], shape: Shape) -> None:
    """Integers in ``shape`` must match; names and None stand for any size, the same name for the same size."""
    if not _matches(actual, shape):
        raise ValueError(f"{name}: expected shape {shape_text(shape)}, got {actual}{_axes_hint(actual, shape)}")


def _matches(actual: tuple[int, ...], shape: Shape) -> bool:
    if len(actual) != len(shape):
        return False
    sizes: dict[str, int] = {}
    for part, size in zip(shape, actual, strict=True):
        if isinstance(part, str):
            if sizes.setdefault(part, size) != size:
                return False
        elif part is not None and part != size:
            return False
    return True


def _axes_hint(actual: tuple[int, ...], shape: Shape) -> str:
    """A hint on how to fix the shape, if removing or reordering axes would."""
    if 1 in actual and len(actual) > len(shape):
        axis = next((i for i, size in enumerate(actual) if size == 1 and _fits(actual, i, shape)), None)
        if axis is not None:
            return f"; leave out axis {axis}, which has length 1: .squeeze({axis})"
    if len(actual) != len(shape) or len(shape) < 2:
        return ""
    if len(shape) > 2 and _matches((*actual[:-3], *actual[-2:], actual[-3]), shape):
        order = (*range(len(actual) - 3), len(actual) - 2, len(actual) - 1, len(actual) - 3)
        return f"; channels come last: .transpose{order} in NumPy, .permute{order} in torch"
    swapped = (*actual[:-2], *actual[:-3:-1]) if len(shape) == 2 else (*actual[:-3], actual[-2], actual[-3], actual[-1])
    return "; transposed?" if _matches(swapped, shape) else ""


def _fits(actual: tuple[int, ...], without: int, shape: Shape) -> bool:
    return _matches((*actual[:without], *actual[without + 1 :]), shape)


def as_array(
    name: str,
    value: ArrayLike,
    dtype: Any,
    shape: Shape,
    *,
    finite: bool = False,
    values: bool = False,
    own: bool = False,
) -> NDArray[Any]:
    """``value`` as an aligned C-contiguous array of ``dtype``; copies only if needed.

    Real numbers convert to floating dtypes and integers to integer dtypes; nothing else converts. With ``values``,
    bfloat16 counts as a real number (`to_numpy`). With ``own``, nobody else can write to the result: shared memory is
    copied unless it is read-only (`is_frozen`).
    """
    wanted = np.dtype(dtype)
    if not (finite or own) and _is_ready(value, wanted):
        check_shape(name, value.shape, shape)
        return np.asarray(value)
    array = given = to_numpy(name, value, values=values)
    if array.dtype != wanted:
        kinds = "fiu" if wanted.kind == "f" else "iu" if wanted.kind in "iu" else wanted.kind
        if array.dtype.kind not in kinds and array.size > 0:
            raise TypeError(f"{name}: expected dtype {wanted}, got {array.dtype}")
        if wanted.kind in "iu" and array.size > 0:
            limits = np.iinfo(wanted)
            if array.min() < limits.min or array.max() > limits.max:
                raise ValueError(
                    f"{name}: expected values in [{limits.min}, {limits.max}], got {array.min()} to {array.max()}"
                )
    check_shape(name, array.shape, shape)
    # Values beyond float32 silently become inf here; where that matters, `finite` reports it with the argument's name.
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.require(array, wanted, ("C", "A"))
    if own and np.may_share_memory(array, given) and not is_frozen(array):
        array = array.copy()
    if finite and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}: expected finite values, got {array[where]} at {where}")
    return array


def _is_ready(value: Any, dtype: np.dtype[Any]) -> bool:
    """Whether there is nothing to convert."""
    return type(value) is np.ndarray and value.dtype == dtype and value.flags.c_contiguous and bool(value.flags.aligned)


def float_dtype(value: ArrayLike) -> Any:
    """The dtype that linear operators compute in: float64 for float64 (any byte order) or wider, else float32."""
    dtype = getattr(value, "dtype", None)
    fine = isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize >= 8
    return np.float64 if fine else np.float32


def as_depth(name: str, value: ArrayLike, shape: Shape, *, own: bool = False) -> F32:
    """Depth in metres as float32. Integers are rejected: they are nearly always millimetres."""
    array = to_numpy(name, value)
    if array.dtype.kind in "iu":
        raise TypeError(f"{name}: expected metres as floating-point numbers, got integers; millimetres? divide by 1000")
    return as_array(name, array, np.float32, shape, own=own)


def suspect_depth(name: str, depth: F32) -> None:
    """Warn if most of the depth lies hundreds of metres away: it is nearly always in millimetres."""
    if not (depth > _MOST_MEDIAN_DEPTH).any():  # as nearly always
        return
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if valid.size and (median := float(np.median(valid))) > _MOST_MEDIAN_DEPTH:
        suspect(f"{name}: half of it lies beyond {median:.4g} m; millimetres? divide by 1000")


def as_pixels(name: str, value: ArrayLike, shape: Shape) -> F32:
    """Pixels, uint8 or float in [0, 1], as float32 in [0, 1]."""
    array = to_numpy(name, value, values=True)
    if array.dtype == np.uint8:
        return np.asarray(as_array(name, array, np.uint8, shape) / np.float32(255))
    pixels = as_array(name, array, np.float32, shape, finite=True)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        hint = "(x + 1) / 2?" if pixels.min() < 0 else "divide by 65535?" if pixels.max() > 255 else "divide by 255?"
        raise ValueError(f"{name}: expected values in [0, 1], got {pixels.min()} to {pixels.max()}; {hint}")
    return pixels


def as_ids(name: str, value: ArrayLike) -> U64:
    """Patch ids: non-negative integers of shape (N,)."""
    array = to_numpy(name, value)
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"{name}: expected integer ids, got dtype {array.dtype}")
    check_shape(name, array.shape, ("N",))
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{name}: expected ids >= 0, got {array.min()}")
    return np.require(array, np.uint64, ("C", "A"))


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> float:
    """A finite real number within [minimum, maximum] and greater than ``above``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a finite number, got one beyond float64") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got {number}")
    if above is not None and not number > above:
        raise ValueError(f"{name}: expected more than {above}, got {number}")
    return number


def check_integer(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """An integer within [minimum, maximum]."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    minimum = _INT64.min if minimum is None else minimum
    maximum = _INT64.max if maximum is None else maximum
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got {value}")
    return int(value)


def check_threads(num_threads: Any) -> int:
    """A number of threads; 0 becomes MOSAICMEM_NUM_THREADS if that is set, else stays 0: all cores."""
    count = check_integer("num_threads", num_threads, minimum=0, maximum=_MOST_THREADS)
    if count > 0:
        return count
    text = os.environ.get("MOSAICMEM_NUM_THREADS", "0")
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_THREADS):
        raise ValueError(f"MOSAICMEM_NUM_THREADS: expected an integer from 0 to {_MOST_THREADS}, got {text!r}")
    return int(text)


def check_instance(name: str, value: Any, kind: type[_T]) -> _T:
    """``value``, which must be an instance of ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """One of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return str(value)


def check_methods(name: str, value: Any, protocol: type) -> None:
    """Require the members of a protocol, whether its own or delegated (``__getattr__``).

    From Python 3.12 on, ``isinstance`` does not see delegated members.
    """
    members = {*vars(protocol), *protocol.__annotations__}
    missing = sorted(each for each in members if not each.startswith("_") and not hasattr(value, each))
    if missing:
        raise TypeError(
            f"{name}: expected the methods of {protocol.__name__}, got {type(value).__name__} without "
            f"{', '.join(missing)}"
        )
