"""Bundler's ``bundle.out``: focal length, distortion, rotation and translation of each image.

camera_from_world with OpenGL axes; the principal point is the middle of images whose size the file does not have.
Images that were not registered have focal length 0; they are left out, with a warning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._reading import parse_numbers, read_lines
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

HEADING = b"# Bundle file"
_SIGNS = np.array([1.0, -1, -1])  # of OpenCV's axes in OpenGL's


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks numbers, zero distortion and rotations."""
    size = options.need_size(path)
    lines = iter(read_lines(path))
    number, line = next(lines, (1, ""))
    counts = parse_numbers(path, line, 2, number)
    count = int(counts[0]) if np.isfinite(counts[0]) else 0
    if not 0 < count <= MAX_FRAMES or count != counts[0]:
        raise FormatError(path, f"expected 1 to {MAX_FRAMES} cameras, got {counts[0]:g}", number)
    check_frames(path, count, path.stat().st_size)
    kept, matrices, cameras = [], [], FrameCameras(path, options.intrinsics_mode)
    for i in range(count):
        rows = []
        for _ in range(5):
            number, line = next(lines, (number, ""))
            rows.append(parse_numbers(path, line, 3, number))
        focal, *distortion = rows[0]
        if focal == 0:
            continue
        if any(distortion):
            raise FormatError(path, f"image {i}: expected no distortion, got {distortion}; undistort the images first")
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = _SIGNS[:, None] * rows[1:4], _SIGNS * rows[4]
        kept.append(i)
        matrices.append(matrix)
        cameras.add(f"image {i}", np.array([focal, focal, size[0] / 2, size[1] / 2]), size)
    if not kept:
        raise FormatError(path, f"expected images that are registered, got none of {count}")
    if len(kept) < count:
        missing = sorted(set(range(count)) - set(kept))
        suspect(f"{path}: {len(missing)} of {count} images are not registered and left out, such as {missing[0]}")
    times = options.times(path, count)
    stacked = np.array(matrices)
    poses = poses_of(path, stacked, [times[i] for i in kept], lambda i: f"image {kept[i]}", "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())
