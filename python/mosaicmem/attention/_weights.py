"""Weights of a layer in safetensors files: its own file, or part of another model's checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem._files import atomic_write
from mosaicmem._json import decode_json, parse_json
from mosaicmem._opening import file_size, foreign_parser, open_regular
from mosaicmem.errors import FormatError

_WHAT = "not a safetensors file"
_MAX_HEADER_BYTES = 1 << 25


def read_weights(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], prefix: str, *, whole: bool = False
) -> dict[str, F32]:
    """The tensors ``prefix + name`` of these shapes, F32, F64, F16 or BF16, as float32.

    Other tensors are not read, or with ``whole`` not allowed.

    Raises
    ------
    FormatError
        Not a safetensors file, a tensor is missing, or one has another shape, dtype, or values that are not finite.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights: expected a safetensors file, got {path}")
    header = _read_header(path)
    others = sorted(header.keys() - {"__metadata__"} - {prefix + name for name in shapes})
    if whole and others:
        raise FormatError(path, f"{others[0]}: expected no tensor of this name; are they of a larger model?")
    with foreign_parser(path, _WHAT):
        opened = safe_open(path, framework="np")
    with opened as file:
        return {name: _read(path, file, header, prefix + name, shape) for name, shape in shapes.items()}


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header that locates each tensor; its size is checked before any library parses it."""
    with open_regular(path) as file:
        size, length = file_size(file), int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            most = min(max(0, size - 8), _MAX_HEADER_BYTES)
            raise FormatError(path, f"{_WHAT}: expected a header of 2 to {most} bytes, got {length}")
        text = decode_json(path, file.read(length), size)
    header = parse_json(path, text)
    if not isinstance(header, dict):
        raise FormatError(path, f"{_WHAT}: expected an object in its header, got {type(header).__name__}")
    return header


def write_weights(path: str | Path, weights: Mapping[str, F32]) -> None:
    """Atomically write a file that `read_weights` reads with an empty prefix."""
    from safetensors.numpy import save

    content = save(dict(weights))
    with atomic_write(path) as file:
        file.write(content)


def _read(path: Path, file: Any, header: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> F32:
    if name not in header:
        there = sorted(key for key in header if key != "__metadata__")
        held = ", ".join(there[:8]) or "none"
        raise FormatError(path, f"no tensor named {name!r}; are they of another model? It has {held}")
    with foreign_parser(path, f"{_WHAT}: {name}"):
        entry = file.get_slice(name)
        dtype, actual = entry.get_dtype(), tuple(entry.get_shape())
    if actual != shape:
        raise FormatError(path, f"{name}: expected shape {shape}, got {actual}; are they of another model?")
    if dtype == "BF16":
        tensor = _read_bfloat16(path, header[name], shape)
    elif dtype in ("F32", "F64", "F16"):
        with foreign_parser(path, f"{_WHAT}: {name}"):
            tensor = file.get_tensor(name).astype(np.float32)
    else:
        raise FormatError(path, f"{name}: expected F32, F64, F16 or BF16, got {dtype}")
    if not np.isfinite(tensor).all():
        raise FormatError(path, f"{name}: expected finite values, got NaN or infinity")
    return np.asarray(tensor)


def _read_bfloat16(path: Path, entry: Mapping[str, Any], shape: tuple[int, ...]) -> F32:
    """NumPy has no bfloat16, the upper half of a float32. safetensors has already checked the header."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        begin, end = entry["data_offsets"]
        file.seek(length + begin, os.SEEK_CUR)
        halves = np.frombuffer(file.read(end - begin), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
