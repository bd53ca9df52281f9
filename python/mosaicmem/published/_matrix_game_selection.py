"""Which frames Matrix-Game 3.5 shows to each group of poses: by pose, and by coverage. In float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F32, F64, I64, Bool

Floats: TypeAlias = NDArray[np.floating[Any]]

_MOST_RANKED = 10
_LEAST_SOURCE, _LEAST_TARGET = 1e-3, 1e-2  # depth, metres


@dataclass(frozen=True)
class Suppression:
    """When two frames are alike: by pose, nearer than ``distance`` metres, or by time, fewer than ``gap`` frames."""

    by: str | None
    distance: float = 0.0
    gap: int = 0
    pool_factor: float = 2.0

    def pool(self, picks: int, frames: int) -> int:
        """How many of the frames that look the same way are candidates."""
        ranked = max(picks, min(_MOST_RANKED, frames))
        if self.by is None:
            return ranked
        return min(max(round(ranked * self.pool_factor), picks), frames)


def by_pose(w2c: F64, query: F64, picks: int, suppression: Suppression) -> list[list[int]]:
    """Frames that look the same way, the nearest first, for each pose (G, 4, 4); -1 where there are no more.

    Frames that are equally good come in the order of their ids.
    """
    centres = np.array([-(m[:3, :3].T @ m[:3, 3]) for m in w2c])
    single = np.array([-(m[:3, :3].T @ m[:3, 3]) for m in w2c.astype(np.float32)])
    directions = _unit(w2c[:, 2, :3])
    found = []
    for pose in query:
        angle = np.degrees(np.arccos(np.clip(directions @ _unit(pose[2, :3]), -1.0, 1.0)))
        pool = np.argsort(angle, kind="stable")[: suppression.pool(picks, len(w2c))]
        away = np.linalg.norm(centres[pool] + pose[:3, :3].T @ pose[:3, 3], axis=1)
        ranked = pool[np.argsort(away, kind="stable")].tolist()
        chosen: list[int] = []
        for frame in ranked:
            if len(chosen) < picks and not any(_alike(frame, other, single, suppression) for other in chosen):
                chosen.append(frame)
        chosen += [frame for frame in ranked if frame not in chosen][: picks - len(chosen)]
        found.append(chosen + [-1] * (picks - len(chosen)))
    return found


def _unit(vectors: F64) -> F64:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12))


def _alike(a: int, b: int, centres: F64, suppression: Suppression) -> bool:
    if suppression.by == "pose":
        return float(np.linalg.norm(centres[a] - centres[b])) < suppression.distance
    return suppression.by == "temporal" and abs(a - b) < suppression.gap


@dataclass(frozen=True)
class CoverageGrid:
    """Coarse cells that frames are to cover: every ``step``-th of (rows, columns) cells, each ``stride`` pixels."""

    rows: int
    columns: int
    step: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows // self.step, self.columns // self.step

    def points(self, depth: F32, intrinsics: F64, w2c: F64) -> F64:
        """World points (3, N) of depth on this grid; not a number where it is unknown."""
        row, column = (i.ravel() * float(self.step * self.stride) for i in np.indices(self.shape))
        rays = product(np.linalg.inv(intrinsics), np.stack([column, row, np.ones_like(row)]))
        z = depth.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):  # depth may be infinite, of the sky
            points = product(w2c[:3, :3].T, rays * z - w2c[:3, 3:4])
        return np.where(np.isfinite(z) & (z > _LEAST_SOURCE), points, np.nan)

    def covered(self, points: F64, intrinsics: F64, w2c: F64) -> Bool:
        """Which coarse cells (N,) of a view points land in."""
        with np.errstate(all="ignore"):
            x, y, z = product(intrinsics, product(w2c[:3, :3], points) + w2c[:3, 3:4])
            row, column = np.rint(y / z / self.stride), np.rint(x / z / self.stride)
        rows, columns = self.shape
        valid = (z > _LEAST_TARGET) & np.isfinite(z)
        valid &= (row >= 0) & (row < rows * self.step) & (column >= 0) & (column < columns * self.step)
        cells = np.zeros(rows * columns, dtype=bool)
        cells[row[valid].astype(int) // self.step * columns + column[valid].astype(int) // self.step] = True
        return cells


def by_coverage(
    grid: CoverageGrid,
    points: list[F64],
    frames: I64,
    query: F64,
    intrinsics: F64,
    picks: int,
) -> list[list[int]]:
    """Frames that together cover most of each view (G, 4, 4); then those that cover most, then the last one again."""
    found = []
    for pose, k in zip(query, intrinsics, strict=True):
        covered = np.array([grid.covered(each, k, pose) for each in points])
        area, left = covered.sum(axis=1), covered.copy()
        chosen: list[int] = []
        while len(chosen) < picks:
            gain = left.sum(axis=1)
            best = int(gain.argmax())
            if gain[best] == 0:
                break
            chosen.append(best)
            left &= ~covered[best]
        ranked = [i for i in np.argsort(-area, kind="stable").tolist() if i not in chosen and area[i] > 0]
        chosen += ranked[: picks - len(chosen)]
        ids = frames[chosen].tolist()
        found.append(ids + [ids[-1] if ids else -1] * (picks - len(ids)))
    return found


def product(matrix: Floats, vectors: Floats) -> Any:
    """A (3, 3) matrix times vectors (3, ...), summed from left to right."""
    return np.stack([row[0] * vectors[0] + row[1] * vectors[1] + row[2] * vectors[2] for row in matrix])
