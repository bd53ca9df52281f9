"""Choosing frames for groups of poses and fusing their latents, as Matrix-Game 3.5's handler is asked to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicmem._arrays import F32, F64, I64, ArrayLike, Bool, check_choice, check_integer
from mosaicmem.published import _matrix_game_cameras as cameras
from mosaicmem.published._matrix_game_fusion import FUSE_MODES, Fused, Fusing, Source, View, fuse
from mosaicmem.published._matrix_game_selection import CoverageGrid, Suppression, by_coverage, by_pose


class Candidates:
    """`select_candidates` and `fuse_candidates`: of the arrays that they get, and K of registered frames."""

    _stride: int
    _Kpixs: list[F64]
    _Kpix: F64 | None
    _reporter: Any = None

    def set_timing_reporter(self, reporter: Any) -> None:
        """An object with ``enabled`` and ``scope(name, metadata=)`` that times choosing and fusing."""
        self._reporter = reporter

    def select_candidates(
        self,
        *,
        query_extrinsics: ArrayLike,
        depths: ArrayLike | None,
        w2c: ArrayLike,
        K: ArrayLike | None = None,
        memory_K: ArrayLike | None = None,
        query_K: ArrayLike | None = None,
        H_lat: int,
        W_lat: int,
        total_latents: int | None = None,
        candidates_per_query_group: int = 1,
        selection_mode: str = "projection_iou",
        query_reference_frame: int = 2,
        candidate_nms_mode: str | None = None,
        candidate_nms_min_temporal_gap: int = 0,
        candidate_nms_pose_distance_threshold: float = 0.0,
        candidate_nms_pool_multiplier: float = 2.0,
        coverage_grid_downsample: int = 4,
        coverage_pool_stride: int = 2,
        **other: Any,
    ) -> list[list[int]]:
        """Frames for each group of four poses; -1 where there are no more.

        Parameters
        ----------
        query_extrinsics : (Q, 4, 4) array
            If Q is no multiple of four, each pose is a group.
        depths, w2c : (N, H', W') and (N, 4, 4) array
            Metres; depths are not read with ``selection_mode="pose_nearest"``.
        K, memory_K, query_K : array, optional
            (3, 3), or memory_K (N, 3, 3) and query_K (Q, 3, 3); by default as registered. K or memory_K, not both.
        selection_mode : {"pose_nearest", "projection_iou"}
            The second with ``candidate_nms_mode="coverage"`` only, the first with None, "pose" or "temporal".
        query_reference_frame : int
            The pose of four that stands for its group, from 1.
        other
            The other parameters of the published method: thresholds None, and what these modes do not read.
        """
        _check_unused(other)
        poses = cameras.matrices("w2c", w2c, 4)
        if total_latents is not None and total_latents != len(poses):
            raise ValueError(f"total_latents: expected {len(poses)}, one a pose of w2c, got {total_latents}")
        query, where = cameras.groups(query_extrinsics, query_reference_frame)
        picks = check_integer("candidates_per_query_group", candidates_per_query_group, minimum=1)
        with self._timed("select_candidates", groups=len(query), candidates=picks):
            if selection_mode == "pose_nearest" and candidate_nms_mode in (None, "pose", "temporal"):
                suppression = Suppression(
                    candidate_nms_mode,
                    candidate_nms_pose_distance_threshold,
                    candidate_nms_min_temporal_gap,
                    candidate_nms_pool_multiplier,
                )
                return by_pose(poses, query, picks, suppression)
            if selection_mode == "projection_iou" and candidate_nms_mode == "coverage":
                grid = CoverageGrid(int(H_lat), int(W_lat), int(coverage_grid_downsample), self._stride)
                memory = cameras.of_memory(K, memory_K, len(poses))
                own = cameras.of_query(query_K, query_extrinsics, where)
                step = check_integer("coverage_pool_stride", coverage_pool_stride, minimum=1)
                return self._covering(grid, poses, depths, memory, query, own, step, picks)
        raise NotImplementedError(
            "selection_mode, candidate_nms_mode: expected pose_nearest with None, pose or temporal, or projection_iou "
            f"with coverage, got {selection_mode} with {candidate_nms_mode}"
        )

    def _covering(
        self,
        grid: CoverageGrid,
        poses: F64,
        depths: ArrayLike | None,
        memory: F64 | None,
        query: F64,
        own: F64 | None,
        step: int,
        picks: int,
    ) -> list[list[int]]:
        if min(*grid.shape, len(poses)) < 1:
            return [[-1] * picks for _ in query]
        if memory is None:
            registered = self._Kpixs[: len(poses)]
            memory = np.array(registered) if len(registered) == len(poses) else self._default()
        if own is None:
            own = memory if memory.ndim == 2 else self._default()
        frames = np.arange(0, len(poses), step)
        k, depth = np.broadcast_to(memory, (len(poses), 3, 3)), _depths(depths, len(poses))
        points = [grid.points(cameras.sampled(depth[i], *grid.shape), k[i], poses[i]) for i in frames.tolist()]
        return by_coverage(grid, points, frames, query, np.broadcast_to(own, (len(query), 3, 3)), picks)

    def fuse_candidates(
        self,
        *,
        query_extrinsics: ArrayLike,
        candidate_frame_ids: Sequence[Sequence[int]],
        latents: Tensor,
        w2c: ArrayLike,
        depths: ArrayLike,
        K: ArrayLike | None = None,
        memory_K: ArrayLike | None = None,
        query_K: ArrayLike | None = None,
        fuse_mode: str = "masked_mean",
        fill_ratio_threshold: float = 0.95,
        fill_candidate_limit: int | None = None,
        zbuffer_depth_preference: str = "near",
        query_reference_frame: int = 2,
        special_query_frame: Sequence[int] | None = None,
        fuse_block_size: int = 1,
        source_valid_masks: ArrayLike | Tensor | None = None,
        return_revgrid: bool = False,
        return_view_change: bool = False,
        return_source_frame_ids: bool = False,
        **other: Any,
    ) -> Any:
        """Latents (C, T, h, w) of chosen frames in each group's view.

        Parameters
        ----------
        candidate_frame_ids : G sequences of int
            Negative ids and repeats are skipped, ids beyond the end mean the last frame; none at all means frame 0.
        fuse_mode : {"fill_stop_zbuffer", "fill_stop", "masked_mean"}
            Of several frames in a cell: the "near" or "far" one as ``zbuffer_depth_preference`` says, the first, or
            their mean. The first two stop at ``fill_ratio_threshold`` or after ``fill_candidate_limit`` frames.
        special_query_frame, fuse_block_size
            Frames before the candidates of each group; 1 to splat cells, 2 for blocks of 2 x 2.
        source_valid_masks : (T, h, w) bool array or tensor, optional
            The cells that may be used.
        other
            Unread; the rest is as `select_candidates` takes it.

        Returns
        -------
        (C, G, h, w) tensor, or a tuple
            Zero where nothing lands, of the dtype and on the device of ``latents``. Then, as asked for: (G, h, w, 2)
            float32, x and y in cells where the source lands, -1 for none; (G, h, w, 3) float32, the ratio of distances
            and turns from source to view; (G, h / 2, w / 2) int64, the frame, -1 for none.
        """
        _check_unused(other)
        most = None if fill_candidate_limit is None else max(1, int(fill_candidate_limit))
        near = check_choice("zbuffer_depth_preference", zbuffer_depth_preference, ("near", "far")) == "near"
        enough = min(max(float(fill_ratio_threshold), 0.0), 1.0)
        how = Fusing(fuse_mode, near, most, enough, fuse_block_size, return_view_change)
        _check_fusion(how, latents)
        query, where = cameras.groups(query_extrinsics, query_reference_frame)
        if len(candidate_frame_ids) != len(query):
            raise ValueError(f"candidate_frame_ids: expected {len(query)} groups, got {len(candidate_frame_ids)}")
        poses = cameras.matrices("w2c", w2c, 4)
        memory = cameras.of_memory(K, memory_K, len(poses))
        own = self._own(cameras.of_query(query_K, query_extrinsics, where), memory, len(query))
        depth, usable = _depths(depths, len(poses)), _masks(source_valid_masks, latents)
        frames = _Frames(depth, self._of_frames(memory, len(poses)), poses.astype(np.float32), latents, usable)
        with self._timed("fuse_candidates", groups=len(query), fuse_mode=fuse_mode):
            fused = [
                frames.shown([*(special_query_frame or ()), *ids], View(k, pose), self._stride, how)
                for pose, k, ids in zip(query.astype(np.float32), own, candidate_frame_ids, strict=True)
            ]
        outputs, *extra = zip(*fused, strict=True)
        asked = (return_revgrid, return_view_change, return_source_frame_ids)
        named = [np.stack(each) for each, wanted in zip(extra, asked, strict=True) if wanted]
        output = torch.stack(outputs, dim=1)
        return (output, *named) if named else output

    def _own(self, given: F64 | None, memory: F64 | None, groups: int) -> F32:
        """K (G, 3, 3) of the groups' views."""
        if given is None and memory is not None and memory.ndim == 3:
            raise ValueError("query_K: expected it with memory_K (N, 3, 3), got None")
        if given is None:
            given = self._default() if memory is None else memory
        return np.broadcast_to(given, (groups, 3, 3)).astype(np.float32)

    def _of_frames(self, memory: F64 | None, count: int) -> F32:
        """K (N, 3, 3) of the frames."""
        if memory is None:
            more = count - len(self._Kpixs)
            memory = np.array(self._Kpixs[:count] + ([self._default()] * more if more > 0 else []))
        return np.broadcast_to(memory, (count, 3, 3)).astype(np.float32)

    def _default(self) -> F64:
        """K where nothing else gives it."""
        if self._Kpix is None:
            raise ValueError("K, query_K: expected them, or frames registered before, got neither")
        return self._Kpix

    def _timed(self, name: str, **metadata: Any) -> AbstractContextManager[Any]:
        if self._reporter is None or not getattr(self._reporter, "enabled", False):
            return nullcontext()
        return self._reporter.scope(f"materialize.{name}", metadata=metadata)  # type: ignore[no-any-return]


class _Frames:
    """The frames of memory, from which sources of splats are made, and their latents."""

    def __init__(self, depths: F32, intrinsics: F32, w2c: F32, latents: Tensor, usable: Bool | None) -> None:
        self.depths, self.intrinsics, self.w2c, self.latents, self.usable = depths, intrinsics, w2c, latents, usable

    def sources(self, ids: Sequence[int]) -> list[Source]:
        """Of ids without negative ones and repeats; frame 0 if there are none."""
        last = len(self.w2c) - 1
        frames = dict.fromkeys(min(int(i), last) for i in ids if i >= 0) or {0: None}
        rows, columns = self.latents.shape[2:]
        return [
            Source(
                self.intrinsics[i],
                self.w2c[i],
                i,
                cameras.sampled(self.depths[i], rows, columns),
                None if self.usable is None else self.usable[self._latent(i)],
            )
            for i in frames
        ]

    def shown(self, ids: Sequence[int], view: View, stride: int, how: Fusing) -> tuple[Tensor, F32, F32, I64]:
        """Latents of frames in a view, where they land, changes of view, and frames of every second cell."""
        sources = self.sources(ids)
        fused = fuse(sources, view, stride, how)
        latent = self.mean(fused, sources) if how.mode == "masked_mean" else self.gathered(fused, sources)
        return latent, fused.positions, fused.view_change, fused.frame[::2, ::2].copy()

    def gathered(self, fused: Fused, sources: list[Source]) -> Tensor:
        """The latents (C, h, w) that a view shows."""
        shape = fused.candidate.shape
        output = self.latents.new_zeros(self.latents.shape[0], fused.candidate.size)
        for place, source in enumerate(sources[: len(fused.splats)]):
            cells = np.flatnonzero(fused.candidate == place)
            at = torch.from_numpy(cells).to(output.device)
            output[:, at] = self._cells(source, fused.source.ravel()[cells])
        return output.unflatten(1, shape)

    def mean(self, fused: Fused, sources: list[Source]) -> Tensor:
        """The mean (C, h, w) of all sources that land in a cell."""
        output = self.latents.new_zeros(self.latents.shape[0], fused.candidate.size)
        count = output.new_zeros(fused.candidate.size)
        for source, splat in zip(sources, fused.splats, strict=True):
            cells = np.flatnonzero(splat.hit)
            at = torch.from_numpy(cells).to(output.device)
            output[:, at] += self._cells(source, splat.source.ravel()[cells])
            count[at] += 1
        return (output / count.clamp(min=1)).unflatten(1, fused.candidate.shape)

    def _cells(self, source: Source, cells: I64) -> Tensor:
        at = torch.from_numpy(cells).to(self.latents.device)
        return self.latents[:, self._latent(source.frame)].flatten(1)[:, at]

    def _latent(self, frame: int) -> int:
        return min(frame, int(self.latents.shape[1]) - 1)


_UNREAD = (
    *("H_lat", "W_lat", "memory_total_frames", "memory_frames", "recent_first_cfg", "interpolation_mode"),
    *("coarse_candidate_groups", "iou_mode", "geometry_rep_mode", "query_frame_indices", "depth_downsample_pool"),
    "candidate_nms_projection_iou_threshold",
)
_UNSUPPORTED = ("distance_threshold", "temporal_threshold", "angle_threshold", "latent_merge_4frames")


def _check_unused(other: dict[str, Any]) -> None:
    for name, value in other.items():
        if name in _UNSUPPORTED and (value is None or value is False):
            continue
        if name in _UNSUPPORTED:
            raise NotImplementedError(f"{name}: expected None or False, got {value!r}; it is not supported here")
        if name not in _UNREAD:
            raise TypeError(f"expected no parameter {name!r}")


def _check_fusion(how: Fusing, latents: Any) -> None:
    if how.mode not in FUSE_MODES:
        raise NotImplementedError(f"fuse_mode: expected one of {', '.join(FUSE_MODES)}, got {how.mode}")
    if how.block not in (1, 2):
        raise ValueError(f"fuse_block_size: expected 1 or 2, got {how.block!r}")
    if not isinstance(latents, Tensor) or latents.dim() != 4:
        got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents: expected a tensor (C, T, h, w), got {got}")


def _depths(depths: ArrayLike | None, count: int) -> F32:
    array = cameras.host_array("depths", depths).astype(np.float32, copy=False)
    if array.ndim != 3 or len(array) != count:
        raise ValueError(f"depths: expected shape ({count}, H, W), one a pose of w2c, got {array.shape}")
    return array


def _masks(masks: ArrayLike | Tensor | None, latents: Tensor) -> Bool | None:
    if masks is None:
        return None
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    shape = tuple(latents.shape[1:])
    if array.shape != shape:
        raise ValueError(f"source_valid_masks: expected shape {shape}, got {array.shape}")
    return np.asarray(array, dtype=bool)
