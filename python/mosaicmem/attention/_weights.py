"""Weights of a layer in safetensors files: its own, or part of a checkpoint of someone else's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem._files import atomic_write
from mosaicmem.errors import FormatError


def read_weights(path: str | Path, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, F32]:
    """The tensors ``prefix + name`` of these shapes, F32, F64, F16 or BF16, as float32. Other tensors are not read.

    Raises
    ------
    FormatError
        Not a safetensors file, a tensor is missing, or one has another shape, dtype, or values that are not finite.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: expected a safetensors file, got {path}")
    try:
        with safe_open(path, framework="np") as file:
            present = set(file.keys())
            return {name: _read(path, file, present, prefix + name, shape) for name, shape in shapes.items()}
    except SafetensorError as error:
        raise FormatError(path, f"not a safetensors file: {str(error)[:200]}") from None


def write_weights(path: str | Path, weights: Mapping[str, F32]) -> None:
    """Write a file that `read_weights` reads with an empty prefix, whole or not at all."""
    from safetensors.numpy import save

    content = save(dict(weights))
    with atomic_write(path) as file:
        file.write(content)


def _read(path: Path, file: Any, present: set[str], name: str, shape: tuple[int, ...]) -> F32:
    if name not in present:
        raise FormatError(path, f"no tensor named {name!r}; it has {', '.join(sorted(present)[:8]) or 'none'}")
    entry = file.get_slice(name)
    dtype, actual = entry.get_dtype(), tuple(entry.get_shape())
    if actual != shape:
        raise FormatError(path, f"{name}: expected shape {shape}, got {actual}")
    if dtype == "BF16":
        tensor = _read_bfloat16(path, name, shape)
    elif dtype in ("F32", "F64", "F16"):
        tensor = file.get_tensor(name).astype(np.float32)
    else:
        raise FormatError(path, f"{name}: expected F32, F64, F16 or BF16, got {dtype}")
    if not np.isfinite(tensor).all():
        raise FormatError(path, f"{name}: expected finite values, got NaN or infinity")
    return np.asarray(tensor)


def _read_bfloat16(path: Path, name: str, shape: tuple[int, ...]) -> F32:
    """NumPy has no bfloat16: it is the upper half of a float32. safetensors has checked the header by now."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(begin, os.SEEK_CUR)
        halves = np.frombuffer(file.read(end - begin), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
