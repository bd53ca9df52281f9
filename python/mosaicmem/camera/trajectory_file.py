"""The JSON file of a trajectory, as `CameraTrajectory.save` writes it: schema, intrinsics, and one pose per frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import as_array, check_number
from mosaicmem._files import read_json_object
from mosaicmem.camera.fields import Unread, may_bend, refuse_bent
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.pose_stacks import make_poses
from mosaicmem.camera.times import judge_times
from mosaicmem.errors import FormatError, suspect

SCHEMA = "mosaicmem.trajectory"
SCHEMA_VERSIONS = (1, 2)  # 2: frames may have intrinsics of their own


def read_frames(path: str | Path, *, judged: bool) -> tuple[list[CameraPose], list[CameraIntrinsics]]:
    """The poses of all frames and their intrinsics; pass ``judged=False`` where the caller knows the unit of the times.

    Raises
    ------
    FormatError
        The file is not of this schema and version, or a frame in it is not a valid pose; the message says which.
    """
    document = read_json_object(path)
    if document.get("schema") != SCHEMA:
        raise FormatError(path, f'expected "schema": "{SCHEMA}", got {document.get("schema")!r}')
    if document.get("schema_version") not in SCHEMA_VERSIONS:
        versions = " or ".join(map(str, SCHEMA_VERSIONS))
        raise FormatError(path, f'expected "schema_version": {versions}, got {document.get("schema_version")!r}')
    unread = Unread(("schema", "schema_version", "intrinsics", "frames", "timestamp", "world_from_camera"))
    unread.check("", document)
    where = "intrinsics"
    try:
        refuse_bent(document)
        shared = _intrinsics(document["intrinsics"])
        where = "frames"
        if not isinstance(document["frames"], list):
            raise TypeError(f"expected a list, got {type(document['frames']).__name__}")
        count = len(document["frames"])
        matrices, times, cameras = np.empty((count, 4, 4)), np.empty(count), [shared] * count
        for i, frame in enumerate(document["frames"]):
            where = f"frames[{i}]"
            frame = _object(frame)
            unread.check(where, frame)
            refuse_bent(frame)
            matrix = as_array("world_from_camera", frame["world_from_camera"], np.float64, (4, 4), finite=True)
            matrices[i], times[i] = matrix, check_number("timestamp", frame["timestamp"])
            if "intrinsics" in frame:
                cameras[i] = _intrinsics(frame["intrinsics"], CameraIntrinsics._derived)
    except KeyError as error:
        raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise FormatError(path, f"{where}: {error}") from None

    def one(i: int) -> CameraPose:
        try:
            return CameraPose.from_world_from_camera(matrices[i], times[i])
        except ValueError as error:
            raise FormatError(path, f"frames[{i}]: {error}") from None

    poses = make_poses(matrices, times, one)
    unread.say(Path(path))
    if judged and (suspicion := judge_times(times)):
        suspect(f"{path}: {suspicion}")
    return poses, cameras


def _intrinsics(value: Any, make: Callable[..., CameraIntrinsics] = CameraIntrinsics) -> CameraIntrinsics:
    fields = _object(value)
    refuse_bent(fields)
    unknown = {name for name in fields if not may_bend(name)} - set(CameraIntrinsics.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}")
    return make(*(fields[name] for name in CameraIntrinsics.__dataclass_fields__))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value
