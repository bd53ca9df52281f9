"""Arguments and results as JSON and arrays: the few types that the protocols of a model exchange."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import to_numpy
from mosaicmem._border import to_host
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion.protocols import MemoryContext
from mosaicmem.diffusion.remote.connection import DTYPES
from mosaicmem.diffusion.temporal import TemporalLayout
from mosaicmem.memory import Mosaic
from mosaicmem.memory.results import KeyframeTable

_PLAIN = (type(None), bool, int, float, str)
_TABLES: dict[str, Any] = {each.__name__: each for each in (MemoryContext, Mosaic, KeyframeTable, TemporalLayout)}


def encode(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """JSON for a value; its arrays are appended to ``arrays``.

    Raises
    ------
    TypeError
        A type that no protocol exchanges.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [encode(each, arrays) for each in value]
    if isinstance(value, CameraTrajectory):
        poses = np.stack([pose.world_from_camera for pose in value])
        cameras = np.array([[*k.params, k.width, k.height] for k in value.cameras])
        times = np.array([pose.timestamp for pose in value])
        return {"is": "CameraTrajectory", "parts": [encode(each, arrays) for each in (poses, times, cameras)]}
    name = type(value).__name__
    if _TABLES.get(name) is type(value):
        named = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return {"is": name, "fields": {key: encode(each, arrays) for key, each in named.items()}}
    array = np.ascontiguousarray(to_numpy("value", to_host("value", value), values=True))
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise TypeError(f"value: expected an array of numbers, or what a protocol exchanges, got {name}")
    arrays.append(little)
    return {"is": "array", "at": len(arrays) - 1}


def decode(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """The value that `encode` was given; arrays are read-only views.

    Raises
    ------
    ValueError
        It is not what `encode` makes.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list):
        return [decode(each, arrays) for each in value]
    try:
        kind = value["is"]
        if kind == "array":
            return arrays[value["at"]]
        if kind == "CameraTrajectory":
            poses, times, cameras = (decode(each, arrays) for each in value["parts"])
            return _trajectory(poses, times, cameras)
        return _TABLES[kind](**{name: decode(each, arrays) for name, each in value["fields"].items()})
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a value of the protocol: {type(error).__name__}: {str(error)[:200]}") from None


def _trajectory(poses: NDArray[Any], times: NDArray[Any], cameras: NDArray[Any]) -> CameraTrajectory:
    """The same bits: matrices that were checked are not made rigid again."""
    placed = [CameraPose._of_rigid(matrix, float(time)) for matrix, time in zip(poses, times, strict=True)]
    kept = [CameraIntrinsics._derived(*row[:4].tolist(), int(row[4]), int(row[5])) for row in cameras]
    return CameraTrajectory(placed, kept)
