"""How Matrix-Game 3.5 splats frames into the view of a group: cells at their corners, or blocks of 2 x 2 cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mosaicmem._arrays import F32, F64, I64, Bool
from mosaicmem.published._matrix_game_selection import Floats, product

FUSE_MODES = ("fill_stop_zbuffer", "fill_stop", "masked_mean")
_LEAST_TARGET = 1e-2  # metres
_NEUTRAL = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class View:
    """A camera: K (3, 3) in pixels and camera_from_world (4, 4), float32 both."""

    intrinsics: F32
    w2c: F32


@dataclass(frozen=True)
class Source(View):
    """A frame of memory: its depth on the grid of cells (h, w), and which cells may be used."""

    frame: int
    depth: F32
    usable: Bool | None


@dataclass(frozen=True)
class Splat:
    """Where a frame lands in a view (h, w): from which of its cells, -1 for none, how deep, and where exactly."""

    source: I64
    z: F32
    x: F32
    y: F32

    @property
    def hit(self) -> Bool:
        return np.asarray(self.source >= 0)


def splat_cells(source: Source, view: View, stride: int) -> Splat:
    """Each cell lands in the nearest cell of the view; the nearest of several is seen, the last of equals."""
    rows, columns = source.depth.shape
    row, column = (i.ravel() * float(stride) for i in np.indices((rows, columns)))
    rays = product(np.linalg.inv(source.intrinsics).astype(np.float64), np.stack([column, row, np.ones_like(row)]))
    with np.errstate(all="ignore"):  # depth may be infinite, of the sky
        x, y, z = _seen_from(view, source, rays * source.depth.ravel().astype(np.float64))
        x, y = x / stride, y / stride
        target_row, target_column = np.rint(y), np.rint(x)
    lands = _valid(z) & (target_row >= 0) & (target_row < rows) & (target_column >= 0) & (target_column < columns)
    if source.usable is not None:
        lands &= source.usable.ravel()
    cell = np.flatnonzero(lands)
    target = target_row[cell].astype(int) * columns + target_column[cell].astype(int)
    winner = _front(target, z[cell].astype(np.float32), rows * columns)
    return _splat((rows, columns), winner, cell, z, x, y)


def splat_blocks(source: Source, view: View, stride: int) -> Splat:
    """Blocks of 2 x 2 cells, of mean depth, land in the nearest even block of the view. In float32."""
    rows, columns = source.depth.shape
    if rows % 2 or columns % 2:
        raise ValueError(f"fuse_block_size: expected 1 with an odd number of cells, {rows} x {columns}, got 2")
    corners = _corners(source.depth)
    depth = np.float32(0.25) * (corners[0] + corners[1] + corners[2] + corners[3])  # infinite where one is
    centres = np.indices(depth.shape).reshape(2, -1).astype(np.float32) + np.float32(0.5)
    row, column = centres * np.float32(stride)
    rays = product(np.linalg.inv(source.intrinsics), np.stack([column, row, np.ones_like(row)]))
    with np.errstate(all="ignore"):
        points = product(source.w2c[:3, :3].T, rays * depth.ravel() - source.w2c[:3, 3:4])
        at = product(view.w2c[:3, :3], points) + view.w2c[:3, 3:4]
        z = at[2]
        x, y, _ = product(view.intrinsics, at / z) / np.float32(stride)
        target_row, target_column = np.floor(y / 2), np.floor(x / 2)
    inside = (target_row >= 0) & (target_row < rows // 2) & (target_column >= 0) & (target_column < columns // 2)
    lands = _valid(z) & inside
    if source.usable is not None:
        lands &= np.logical_and.reduce(_corners(source.usable)).ravel()
    block = np.flatnonzero(lands)
    target = target_row[block].astype(int) * (columns // 2) + target_column[block].astype(int)
    winner = _front(target, z[block], rows // 2 * (columns // 2))
    first = block // (columns - 1) * columns + block % (columns - 1)  # its upper left cell
    coarse = _splat((rows // 2, columns // 2), winner, block, z, x, y)
    fine = np.where(winner >= 0, first[winner] if len(first) else -1, -1).reshape(rows // 2, columns // 2)
    doubled = [np.repeat(np.repeat(each, 2, axis=0), 2, axis=1) for each in (fine, coarse.z, coarse.x, coarse.y)]
    down, right = np.indices((rows, columns)) % 2
    cells = np.where(doubled[0] >= 0, doubled[0] + down * columns + right, -1)
    aside, above = ((each - 0.5).astype(np.float32) for each in (right, down))
    return Splat(cells, doubled[1], doubled[2] + aside, doubled[3] + above)


def _seen_from(view: View, source: View, points: F64) -> tuple[F64, F64, F64]:
    """Pixel x, y and depth z of points (3, N) of a frame's camera in a view."""
    old, new = source.w2c.astype(np.float64), view.w2c.astype(np.float64)
    world = product(old[:3, :3].T, points - old[:3, 3:4])
    at = _paired(new[:3, :3], world) + new[:3, 3:4]
    z = np.where(_valid(at[2]), at[2], 1.0)
    x, y, _ = _paired(view.intrinsics.astype(np.float64), np.stack([at[0] / z, at[1] / z, np.ones_like(z)]))
    return x, y, at[2]


def _paired(matrix: F64, vectors: F64) -> F64:
    """A product whose outer two terms are summed first, as the published code's einsum rounds it."""
    return np.stack([row[0] * vectors[0] + row[2] * vectors[2] + row[1] * vectors[1] for row in matrix])


def _valid(z: Floats) -> Bool:
    return np.asarray(np.isfinite(z) & (z > _LEAST_TARGET))


def _corners(grid: F32 | Bool) -> list[F32 | Bool]:
    return [grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]]


def _front(target: I64, z: F32, size: int) -> I64:
    """For each of ``size`` places the item with the least z that lands there, the last of equals; -1 for none."""
    front = np.full(size, np.inf, dtype=np.float32)
    np.minimum.at(front, target, z)
    ahead = np.flatnonzero(z == front[target])
    winner = np.full(size, -1)
    winner[target[ahead]] = ahead
    return winner


def _splat(shape: tuple[int, int], winner: I64, items: I64, z: Floats, x: Floats, y: Floats) -> Splat:
    chosen = np.where(winner >= 0, items[winner] if len(items) else -1, -1)
    found = [np.where(chosen >= 0, each[chosen], -1).astype(np.float32).reshape(shape) for each in (z, x, y)]
    return Splat(chosen.reshape(shape), *found)


@dataclass
class Fused:
    """What a group's view shows: of each cell the place of its candidate, -1 for none, and the cell there."""

    candidate: I64
    source: I64
    depth: F32
    positions: F32  # where the source's cell lands, (h, w, 2) as x, y; -1 for none
    view_change: F32  # (h, w, 3)
    frame: I64
    splats: list[Splat] = field(default_factory=list)  # of the candidates that were used

    @classmethod
    def empty(cls, shape: tuple[int, int], depth: float) -> Fused:
        nowhere = np.full(shape, -1)
        neutral = np.tile(np.array(_NEUTRAL, dtype=np.float32), (*shape, 1))
        positions = np.full((*shape, 2), -1, dtype=np.float32)
        return cls(nowhere, nowhere.copy(), np.full(shape, depth, np.float32), positions, neutral, nowhere.copy())


@dataclass(frozen=True)
class Fusing:
    """How splats are laid on top of each other, until ``enough`` of the view is filled or ``most`` of them are used.

    ``block`` is the number of cells along an edge of what is splatted; ``changes`` whether view changes are wanted.
    """

    mode: str
    near: bool
    most: int | None
    enough: float
    block: int
    changes: bool


def fuse(sources: Sequence[Source], view: View, stride: int, how: Fusing) -> Fused:
    """What a view shows of sources."""
    splat_of = splat_blocks if how.block == 2 else splat_cells
    fused = Fused.empty(sources[0].depth.shape, np.inf if how.near else -np.inf)
    for place, source in enumerate(sources):
        splat = splat_of(source, view, stride)
        if how.mode == "fill_stop_zbuffer":
            won = splat.hit & ((splat.z < fused.depth) if how.near else (splat.z > fused.depth))
        else:
            won = splat.hit & (fused.candidate < 0)
        traced = won if how.mode != "masked_mean" else splat.hit & (fused.positions[..., 0] < 0)
        fused.candidate[won], fused.source[won], fused.depth[won] = place, splat.source[won], splat.z[won]
        traced &= splat.x >= 0
        fused.positions[traced] = np.stack([splat.x[traced], splat.y[traced]], axis=-1)
        fused.frame[traced] = source.frame
        if how.changes and traced.any():
            fused.view_change[traced] = _view_change(source, splat.source[traced], view, stride)
        fused.splats.append(splat)
        filled = np.float32((fused.candidate >= 0).sum()) / np.float32(fused.candidate.size)
        if how.mode != "masked_mean" and (float(filled) >= how.enough or place + 1 == how.most):
            break
    return fused


def _view_change(source: Source, cells: I64, view: View, stride: int) -> F32:
    """Ratio of distances, and the turns about y and x, from a frame to the view, as seen from points of the scene."""
    row, column = np.divmod(cells, source.depth.shape[1])
    pixels = np.stack([(column + 0.5) * stride, (row + 0.5) * stride, np.ones(len(cells))])
    old, new = source.w2c.astype(np.float64), view.w2c.astype(np.float64)
    depth = source.depth.ravel()[cells].astype(np.float64)
    points = np.linalg.inv(source.intrinsics.astype(np.float64)) @ pixels * depth
    world = old[:3, :3].T @ (points - old[:3, 3:4])
    to_new, to_old = (-(m[:3, :3].T @ m[:3, 3:4]) - world for m in (new, old))
    far, near = (np.linalg.norm(each, axis=0) for each in (to_new, to_old))
    with np.errstate(all="ignore"):
        a, b = (
            turned / np.maximum(np.linalg.norm(turned, axis=0), 1e-8)
            for turned in (new[:3, :3] @ to_new, new[:3, :3] @ to_old)
        )
        yaw = np.arctan2(b[0], -b[2]) - np.arctan2(a[0], -a[2])
        pitch = np.arcsin(np.clip(-b[1], -1, 1)) - np.arcsin(np.clip(-a[1], -1, 1))
        change = np.stack([far / np.maximum(near, 1e-8), np.arctan2(np.sin(yaw), np.cos(yaw)), pitch], axis=-1)
    known = np.isfinite(change).all(axis=1) & (change[:, 0] > 0)
    return np.where(known[:, None], change, _NEUTRAL).astype(np.float32)
