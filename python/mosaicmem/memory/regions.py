"""Regions of the world, which select patches by their centres."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F64, U64, ArrayLike, Bool, as_array, as_ids, check_instance, check_number, to_numpy
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.memory.store import MosaicMemoryStore


@dataclass(frozen=True, eq=False)
class Sphere:
    """All points within ``radius`` metres of ``centre`` (3,)."""

    centre: ArrayLike
    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", as_array("centre", self.centre, np.float64, (3,), finite=True).copy())
        object.__setattr__(self, "radius", check_number("radius", self.radius, minimum=0.0))

    def contains(self, points: ArrayLike) -> Bool:
        """Which of the world points (N, 3) lie inside, bounds included, (N,) bool."""
        places = as_array("points", points, np.float64, ("N", 3), finite=True)
        return np.asarray(((places - self.centre) ** 2).sum(axis=1) <= self.radius**2)


class _Convex(ABC):
    """A region that half spaces bound."""

    @property
    @abstractmethod
    def half_spaces(self) -> F64:
        """(P, 4): normals that point inwards, and offsets."""

    def contains(self, points: ArrayLike) -> Bool:
        """Which of the world points (N, 3) lie inside, bounds included, (N,) bool."""
        places = as_array("points", points, np.float64, ("N", 3), finite=True)
        planes = self.half_spaces
        return np.asarray((places @ planes[:, :3].T + planes[:, 3] >= 0).all(axis=1))


@dataclass(frozen=True, eq=False)
class Box(_Convex):
    """All points between two corners, ``low`` and ``high`` (3,) metres, bounds included.

    Attributes
    ----------
    world_from_box : (4, 4) array, optional
        Rigid: the corners are given in the frame of a rotated box; in the world's frame if not given.
    """

    low: ArrayLike
    high: ArrayLike
    world_from_box: ArrayLike | None = None

    def __post_init__(self) -> None:
        low = as_array("low", self.low, np.float64, (3,), finite=True)
        high = as_array("high", self.high, np.float64, (3,), finite=True)
        if (low > high).any():
            raise ValueError(f"high: expected at least low = {low.tolist()}, got {high.tolist()}; swapped?")
        object.__setattr__(self, "low", low.copy())
        object.__setattr__(self, "high", high.copy())
        if self.world_from_box is not None:
            object.__setattr__(self, "world_from_box", CameraPose(self.world_from_box).world_from_camera)

    @property
    def half_spaces(self) -> F64:
        """(6, 4): normals that point inwards, and offsets."""
        planes = np.zeros((6, 4))
        planes[:3, :3], planes[3:, :3] = np.eye(3), -np.eye(3)
        planes[:3, 3], planes[3:, 3] = -np.asarray(self.low), np.asarray(self.high)
        if self.world_from_box is None:
            return planes
        return planes @ CameraPose(self.world_from_box).camera_from_world


@dataclass(frozen=True, eq=False)
class Frustum(_Convex):
    """All points in a camera's image at depths from ``near`` to ``far`` metres, including occluded ones."""

    intrinsics: CameraIntrinsics
    pose: CameraPose
    near: float = 0.05
    far: float = math.inf

    def __post_init__(self) -> None:
        check_instance("intrinsics", self.intrinsics, CameraIntrinsics)
        check_instance("pose", self.pose, CameraPose)
        check_number("near", self.near, above=0.0)
        if self.far != math.inf:
            check_number("far", self.far)
        if not self.far > self.near:
            raise ValueError(f"far: expected more than near = {self.near}, got {self.far}")

    @property
    def half_spaces(self) -> F64:
        """(5 or 6, 4): normals that point inwards, and offsets."""
        k = self.intrinsics
        planes = [
            [k.fx, 0, k.cx, 0],  # u >= 0
            [-k.fx, 0, k.width - k.cx, 0],  # u <= width
            [0, k.fy, k.cy, 0],
            [0, -k.fy, k.height - k.cy, 0],
            [0, 0, 1, -self.near],
        ]
        if self.far != math.inf:
            planes.append([0, 0, -1, self.far])
        return np.array(planes, dtype=np.float64) @ self.pose.camera_from_world


Region = Sphere | Box | Frustum


def choose(store: MosaicMemoryStore, where: Region | ArrayLike) -> U64:
    """Ids of the patches that ``where`` selects.

    Parameters
    ----------
    store : MosaicMemoryStore
    where : Sphere, Box, Frustum, ids or mask
        A region selects the live patches whose centres it contains. Ids (N,) are returned as they are; the store skips
        those of no live patch. A mask is bool, with one entry per id of ``store.patch_ids``.
    """
    if isinstance(where, Sphere):
        centre = as_array("centre", where.centre, np.float64, (3,))
        x, y, z = centre.tolist()
        return store._inside_sphere((x, y, z), where.radius)
    if isinstance(where, Box | Frustum):
        return store._inside(where.half_spaces)
    if where is None:
        raise TypeError("where: expected a Sphere, Box or Frustum, ids, or a mask, got None")
    array = to_numpy("where", where)
    if array.dtype != np.bool_:
        return as_ids("where", where)
    living = store.patch_ids
    if array.shape != living.shape:
        raise ValueError(
            f"where: expected a mask of shape {living.shape}, one entry for each living patch, got {array.shape}"
        )
    chosen: U64 = living[array]
    return chosen
