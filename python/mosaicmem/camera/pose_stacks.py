"""Checks and builds the poses of whole files, thousands at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem.camera.pose import (
    OPENGL_FROM_OPENCV,
    CameraPose,
    are_rigid,
    can_be_unit,
    describe_coarse,
    is_coarse,
    make_rigid,
    rotation_from_quaternion,
)
from mosaicmem.errors import suspect

_BLOCK = 4096  # frames


def make_poses(
    matrices: F64,
    times: Sequence[float] | F64,
    one: Callable[[int], CameraPose],
    *,
    are_inverse: bool = False,
    are_opengl: bool = False,
) -> list[CameraPose]:
    """Check and build the poses of all frames, thousands at a time.

    Parameters
    ----------
    matrices : (N, 4, 4) float64
        world_from_camera, finite or not.
    times : (N,)
        Seconds.
    one : function
        Builds the pose of a single frame. It is called for invalid frames, to raise an error that says what is wrong.
    are_inverse : bool
        The matrices are camera_from_world.
    are_opengl : bool
        The camera axes are OpenGL's.
    """
    poses: list[CameraPose] = []
    for first in range(0, len(matrices), _BLOCK):
        block = matrices[first : first + _BLOCK]
        stamps = np.asarray(times[first : first + _BLOCK], dtype=np.float64)
        for index in np.flatnonzero(~(are_rigid(block) & np.isfinite(stamps))):
            one(first + int(index))
        rigid = make_rigid(block)
        if are_inverse:
            rotation = rigid[:, :3, :3].transpose(0, 2, 1).copy()
            rigid[:, :3, 3] = -(rotation @ rigid[:, :3, 3:])[..., 0]
            rigid[:, :3, :3] = rotation
        if are_opengl:
            rigid = rigid @ OPENGL_FROM_OPENCV
        poses += (CameraPose._of_rigid(matrix, time) for matrix, time in zip(rigid, stamps.tolist(), strict=True))
    return poses


def matrices_of_quaternions(wxyz: F64, positions: F64, where: Callable[[int], str], path: Path) -> F64:
    """Transforms (N, 4, 4) from quaternions (N, 4), which are normalised, and positions (N, 3).

    Warns of coarse quaternions. Those too far from unit norm become NaN, which `make_poses` refuses.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(wxyz, axis=1)
        can_be = can_be_unit(norms)
        units = np.where(can_be[:, None], wxyz / norms[:, None], np.nan)
    coarse = Coarse()
    for index in np.flatnonzero(can_be & is_coarse(norms)):
        coarse.add(where(int(index)), float(norms[index]))
    coarse.say(path)
    matrices = np.tile(np.eye(4), (len(wxyz), 1, 1))
    matrices[:, :3, :3] = rotation_from_quaternion(units)
    matrices[:, :3, 3] = positions
    return matrices


class Coarse:
    """Counts the quaternions of one file with a coarse norm (`is_coarse`), and names the first."""

    def __init__(self) -> None:
        self._first: tuple[str, float] | None = None
        self._count = 0

    def add(self, where: str, norm: float) -> None:
        """Count a quaternion of this norm if it is coarse."""
        if is_coarse(norm):
            self._first = self._first or (where, norm)
            self._count += 1

    def say(self, path: Path) -> None:
        """Warn with `SuspiciousInput` if there were any."""
        if self._first is not None:
            where, norm = self._first
            more = f" and {self._count - 1} more" if self._count > 1 else ""
            suspect(f"{path}: {where}{more}: {describe_coarse(norm)}")
