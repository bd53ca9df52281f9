"""What memory has to beat: the same frames and cameras, shown without it, or by other ways of moving what was seen."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, Bool, check_choice
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.evaluation.frames import GridFrame
from mosaicmem.evaluation.strategies import Canvases, Composer

BASELINES = ("copy", "warp", "plain", "tsdf")
_NEAREST = 5  # frames that the pixel warp uses
_METRES_PER_RADIAN = 1.0  # of a pose's distance
_VOXEL = 0.01  # metres
_TRUNCATION = 4.0  # voxels
_BLOCK, _BLOCKS, _FARTHEST = 16, 40_000, 1e3  # voxels along an edge; at first; metres
_RAY_STRIDE = 4  # pixels


class Baseline:
    """Shows targets by one of the `BASELINES`; called as a `Composer` is.

    - ``copy``: the colours of the frame with the nearest pose, as they are
    - ``warp``: every pixel of the 5 nearest frames is moved to where its depth says; the nearest surface shows
    - ``plain``: cells of the chosen keyframes are moved as blocks, and averaged, wherever
      they were seen from
    - ``tsdf``: frames are fused to a surface, in voxels of 1 cm, which is seen by the target; needs Open3D

    Parameters
    ----------
    name : str
    memory : sequence of GridFrame
    camera : CameraIntrinsics
        Of the images that the grids were made from.
    stride : int
        Pixels per cell.

    Raises
    ------
    ModuleNotFoundError
        Open3D is missing.
    """

    def __init__(
        self, name: str, memory: Sequence[GridFrame], camera: CameraIntrinsics, stride: int, *, num_threads: int = 0
    ) -> None:
        check_choice("name", name, BASELINES)
        if not memory:
            raise ValueError("memory: expected at least one frame, got none")
        self.name, self._memory, self._camera, self._stride = name, list(memory), camera, stride
        self.mean_color = np.mean([f.colors for f in memory], axis=(0, 1, 2), dtype=np.float64)
        self._plain: Composer | None = None
        self._surface: _Surface | None = None
        if name == "plain":
            blocks = [_as_blocks(frame) for frame in memory]
            options = {"viewing_angle": 1e6, "field_angle": 1e6}
            self._plain = Composer(blocks, camera, stride, num_threads=num_threads, options=options)
        elif name == "tsdf":
            self._surface = _Surface(self._memory, camera, stride)

    def __call__(self, targets: CameraTrajectory) -> Canvases:
        """Canvases for a window of cameras."""
        if self._plain is not None:
            return self._plain(targets)
        start = time.perf_counter()
        shown = [self._show(pose) for pose in targets]
        seconds = time.perf_counter() - start
        colors, coverage, depth, used = zip(*shown, strict=True)
        depths = None if depth[0] is None else np.stack([each for each in depth if each is not None])
        return Canvases(np.stack(colors), np.stack(coverage), depths, float(np.mean(used)), 0.0, seconds)

    def _show(self, pose: CameraPose) -> tuple[F32, Bool, F32 | None, int]:
        """Colours, coverage, depth if there is any, and how many frames they are of."""
        if self._surface is not None:
            return self._surface(pose)
        return self._copy(pose) if self.name == "copy" else self._warp(pose)

    def _nearest(self, pose: CameraPose, count: int) -> list[GridFrame]:
        apart = [each.pose.distance_to(pose) + _METRES_PER_RADIAN * each.pose.angle_to(pose) for each in self._memory]
        return [self._memory[i] for i in np.argsort(apart, kind="stable")[:count]]

    def _copy(self, pose: CameraPose) -> tuple[F32, Bool, F32 | None, int]:
        frame = self._nearest(pose, 1)[0]
        return frame.colors, np.ones(frame.colors.shape[:2], np.bool_), None, 1

    def _warp(self, pose: CameraPose) -> tuple[F32, Bool, F32 | None, int]:
        camera = self._camera
        front = np.full(camera.width * camera.height, np.inf)
        colors = np.zeros((len(front), 3), np.float32)
        frames = self._nearest(pose, _NEAREST)
        for frame in frames:
            pixel, z, own = self._landed(frame, pose)
            order = np.argsort(-z, kind="stable")  # the nearest is written last
            pixel, z, own = pixel[order], z[order], own[order]
            nearest = np.full(len(front), np.inf)
            nearest[pixel] = z
            shown = np.zeros((len(front), 3), np.float32)
            shown[pixel] = own
            closer = nearest < front
            front[closer], colors[closer] = nearest[closer], shown[closer]
        return *_pooled(colors, front, camera, self._stride), len(frames)

    def _landed(self, frame: GridFrame, pose: CameraPose) -> tuple[np.ndarray, F64, F32]:
        """The target pixels that a frame's pixels land in, their depth there, and their colours."""
        assert frame.image is not None
        camera = self._camera
        rows, columns = np.nonzero(frame.pixel_depth > 0)
        local = camera.unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), frame.pixel_depth[rows, columns])
        target_from_source = pose.camera_from_world @ frame.pose.world_from_camera
        points = local @ target_from_source[:3, :3].T + target_from_source[:3, 3]
        z = points[:, 2]
        ahead = z > 0.05
        u, v = (
            np.floor(f * points[:, axis] / np.where(ahead, z, 1) + c)
            for axis, f, c in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy))
        )
        seen = ahead & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        pixel = (v[seen] * camera.width + u[seen]).astype(np.int64)
        return pixel, z[seen], frame.image[rows, columns][seen].astype(np.float32) / 255


class _Surface:
    """Frames fused to a mesh, of which targets see the colours."""

    def __init__(self, memory: Sequence[GridFrame], camera: CameraIntrinsics, stride: int) -> None:
        if importlib.util.find_spec("open3d") is None:
            raise ModuleNotFoundError("the baseline tsdf needs Open3D: pip install open3d")
        import open3d  # type: ignore[import-not-found]

        self._camera, self._stride, self._used = camera, stride, len(memory)
        self._step = math.gcd(stride, _RAY_STRIDE)
        core, geometry = open3d.core, open3d.t.geometry
        kinds = (core.float32, core.float32, core.float32)
        grid: Any = geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"), kinds, (1, 1, 3), _VOXEL, _BLOCK, _BLOCKS, core.Device("CPU:0")
        )
        k = core.Tensor(camera.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # its pixel centres are integers
        for frame in memory:
            assert frame.image is not None
            where = core.Tensor(np.ascontiguousarray(frame.pose.camera_from_world))
            depth = geometry.Image(frame.pixel_depth)
            image = geometry.Image(frame.image.astype(np.float32) / 255)
            blocks = grid.compute_unique_block_coordinates(depth, k, where, 1.0, _FARTHEST, _TRUNCATION)
            grid.integrate(blocks, depth, image, k, where, 1.0, _FARTHEST, _TRUNCATION)
        mesh = grid.extract_triangle_mesh(0.5)
        self._colors, self._corners = mesh.vertex.colors.numpy(), mesh.triangle.indices.numpy()
        self._scene: Any = geometry.RaycastingScene()
        self._scene.add_triangles(mesh)

    def __call__(self, pose: CameraPose) -> tuple[F32, Bool, F32 | None, int]:
        import open3d

        camera, step = self._camera, self._step
        grid = camera.scaled(camera.width // step, camera.height // step)
        rows, columns = np.mgrid[: grid.height, : grid.width].reshape(2, -1)
        local = grid.unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), np.ones(len(rows)))
        matrix = pose.world_from_camera
        rays = np.concatenate([np.broadcast_to(matrix[:3, 3], local.shape), local @ matrix[:3, :3].T], axis=1)
        hit = self._scene.cast_rays(open3d.core.Tensor(rays.astype(np.float32)))
        z, triangle, uv = (hit[name].numpy() for name in ("t_hit", "primitive_ids", "primitive_uvs"))
        found = np.isfinite(z)
        corners = self._colors[self._corners[np.where(found, triangle, 0)]]
        weights = np.stack([1 - uv.sum(axis=1), uv[:, 0], uv[:, 1]], axis=1)[..., None]
        colors = np.where(found[:, None], (corners * weights).sum(axis=1), 0).astype(np.float32)
        return *_pooled(colors, z.astype(np.float64), grid, self._stride // step), self._used


def _pooled(colors: F32, depth: F64, camera: CameraIntrinsics, stride: int) -> tuple[F32, Bool, F32]:
    """The means of the pixels (N, 3) with depth in each cell, where there are any, and the least of their depth."""
    rows, columns = camera.height // stride, camera.width // stride
    tiles = (rows, stride, columns, stride)
    shown = np.isfinite(depth).reshape(camera.height, camera.width)[: rows * stride, : columns * stride]
    count = shown.reshape(tiles).sum(axis=(1, 3))
    pixels = colors.reshape(camera.height, camera.width, 3)[: rows * stride, : columns * stride]
    total = (pixels * shown[..., None]).reshape(*tiles, 3).sum(axis=(1, 3))
    near = depth.reshape(camera.height, camera.width)[: rows * stride, : columns * stride].reshape(tiles)
    return (
        np.asarray(total / np.maximum(count, 1)[..., None], np.float32),
        count > 0,
        np.where(count > 0, near.min(axis=(1, 3)), 0).astype(np.float32),
    )


def _as_blocks(frame: GridFrame) -> GridFrame:
    return replace(frame, subcell_depth=None)
