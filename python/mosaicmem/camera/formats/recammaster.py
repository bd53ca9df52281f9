"""``camera_extrinsics.json`` of ReCamMaster and MultiCamVideo: {"frame0": {"cam01": "[..] [..] [..] [..] ", ...}, ...}.

A matrix is the text of four rows of four numbers, and the transpose of world_from_camera: its rows are the camera's
axes (forward, right, up) and its position in Unreal Engine's world, which is left-handed with x forward, y right and z
up, in centimetres. Here axes are OpenCV's, the unit is metres, and the world is (y, -z, x) of theirs. The file has no
intrinsics.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import read_json_object
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

FIRST = "frame0"
_NUMBER = re.compile(r"[-+0-9.eE]+")
_ROWS = re.compile(r"\s*(\[[^\[\]]*\]\s*){4}")
_LONGEST = 1000  # characters of a matrix
_OURS = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])  # from (forward, right, up) to (right, down, forward)
_CENTIMETRES = 100.0


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the numbering of frames, matrices, and that the file has the camera that was asked for."""
    intrinsics = options.need_intrinsics(path)
    document = read_json_object(path)
    names = [f"frame{i}" for i in range(len(document))]
    if not names or len(names) > MAX_FRAMES or set(names) != set(document):
        raise FormatError(path, "expected frame0, frame1 and so on without a gap, and nothing else")
    camera = _camera(path, document, options)
    matrices = np.tile(np.eye(4), (len(names), 1, 1))
    for i, name in enumerate(names):
        frame = document[name]
        text = frame.get(camera) if isinstance(frame, dict) else None
        rows = _rows(text)
        if rows is None:
            raise FormatError(path, f"{name}: {camera}: expected a text of four rows of four numbers, got {text!r:.80}")
        matrices[i, :3, :3] = _OURS @ rows[:3, :3].T @ _OURS.T
        matrices[i, :3, 3] = _OURS @ rows[3, :3] / _CENTIMETRES
    times = options.times(path, len(names))
    return trajectory(path, poses_of(path, matrices, times, lambda i: f"{names[i]}: {camera}"), intrinsics)


def _camera(path: Path, document: dict[str, Any], options: ReadOptions) -> str:
    first = document[FIRST]
    cameras = sorted(first) if isinstance(first, dict) else []
    if options.camera is None and len(cameras) == 1:
        return str(cameras[0])
    if options.camera is None or options.camera not in cameras:
        got = "none" if options.camera is None else repr(options.camera)
        raise FormatError(
            path, f"the file has the cameras {', '.join(cameras)[:200]}: name one (camera, --camera), got {got}"
        )
    return options.camera


def _rows(text: Any) -> F64 | None:
    """Four rows of four numbers whose last column is (0, 0, 0, 1); None if the text is something else."""
    if not isinstance(text, str) or len(text) > _LONGEST or _ROWS.fullmatch(text) is None:
        return None
    try:
        rows = np.array([[float(n) for n in _NUMBER.findall(row)] for row in text.split("]")[:4]], np.float64)
    except ValueError:
        return None
    is_whole = rows.shape == (4, 4) and bool(np.isfinite(rows).all())
    return rows if is_whole and rows[:, 3].tolist() == [0, 0, 0, 1] else None
