"""The published patch memory of Matrix-Game 3.5: same names, same results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, I64, ArrayLike, ArrayT, as_array, check_choice, check_threads, like
from mosaicmem._border import Call, check_place
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock

SUBFRAMES = 4
"""Poses per group. A group stands for one latent; its last pose is its reference."""

STRIDE = 16
"""Pixels per latent cell."""

PICKS = 5
"""Candidates per group."""

POLICIES = ("base", "distilled")


@dataclass(frozen=True, eq=False)
class PatchMemoryResult:
    """The mosaic of one block of G groups.

    Attributes
    ----------
    latents : (C, G, h, w) float32
        Zero where nothing projected.
    valid_mask : (G, h, w) bool
    candidate_frame_ids : tuple of G tuples of 5 int, or (G, 5) int64 on the GPU
        -1 for none.
    aligned_query_w2c : (4 G, 4, 4) float32
    """

    latents: Any
    valid_mask: Any
    candidate_frame_ids: Any
    aligned_query_w2c: Any


class PatchMemory(Uncopied):
    """Keeps latent frames, and chooses and splats them by the published rules.

    For models trained on mosaics composed by these rules. The rules do not test for occlusion, search the whole history
    of frames, and treat a cell without depth as a point at its camera. `KeyframeRetrieval` does better.

    Unlike everywhere else in this library, cell (r, c) is at its corner, pixel (16 c, 16 r), and its depth is that of
    pixel (floor(c W / w), floor(r H / h)). Matrices are used as given: rotations are not made orthonormal.

    Latents may be torch tensors of any dtype; results are then tensors too. With latents and depths on the GPU, the
    memory, candidates and results are there too; poses and intrinsics stay on the host. ``copy.copy`` and
    ``copy.deepcopy`` return an independent memory that shares the frames so far. A memory on the GPU cannot be copied,
    and none can be pickled.

    Parameters
    ----------
    policy : {"base", "distilled"}
        ``base``: ``pose_nearest`` candidates, keeping the nearest surface. ``distilled``: ``coverage`` candidates,
        keeping the farthest.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). No result depends on it.
    """

    _instead = "the compiled core keeps its frames; append the same frames to another one"

    def __init__(self, policy: str = "base", *, num_threads: int = 0) -> None:
        self.policy = check_choice("policy", policy, POLICIES)
        self.num_threads = check_threads(num_threads)
        self._core: Any = None  # of the host or CUDA core, where the first latents are
        self._shape: tuple[int, int, int] | None = None  # channels, rows, columns
        self._last_w2c: F32 | None = None
        self._last_intrinsics: F32 | None = None
        self._place: Any = None  # an array in the framework and on the device of the latents
        self._lock = ForkSafeLock()  # guards all of these

    def __copy__(self) -> PatchMemory:
        other = PatchMemory(self.policy, num_threads=self.num_threads)
        with self._lock:
            if self._core is not None and not hasattr(self._core, "fork"):
                raise TypeError(f"cannot copy a PatchMemory on a GPU: {self._instead}")
            other._core = None if self._core is None else self._core.fork()
            other._shape, other._place = self._shape, self._place
            other._last_w2c, other._last_intrinsics = (
                self._last_w2c,
                self._last_intrinsics,
            )  # replaced, never written to
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchMemory:
        return self.__copy__()

    @property
    def num_frames(self) -> int:
        """Frames appended so far."""
        return 0 if self._core is None else len(self._core)

    def append(self, latents: ArrayLike, w2c: ArrayLike, intrinsics: ArrayLike, depths: ArrayLike) -> None:
        """Remember frames; all arguments are copied.

        Parameters
        ----------
        latents : (C, F, h, w) array
            Of the same shape in each call, except F.
        w2c : (F, 4, 4) array
            camera_from_world.
        intrinsics : (F, 3, 3) array
            K, pixels.
        depths : (F, H, W) array
            Metres; 0 where unknown.
        """
        call = Call("latents", latents, self.num_threads)
        values = call.detached(latents)
        grid = call.array("latents", values, "float32", ("C", "F", "h", "w"), values=True, finite=True)
        channels, frames, rows, columns = grid.shape
        if 0 in grid.shape:
            raise ValueError(f"latents: expected at least one frame, channel and cell, got shape {tuple(grid.shape)}")
        shape = (channels, rows, columns)
        if self._shape not in (None, shape):
            expected = "({}, F, {}, {})".format(*self._shape)
            raise ValueError(f"latents: expected shape {expected} as before, got {tuple(grid.shape)}")
        poses = as_array("w2c", w2c, np.float32, (frames, 4, 4), finite=True)
        cameras = as_array("intrinsics", intrinsics, np.float32, (frames, 3, 3), finite=True)
        depth = call.depth("depths", depths, (frames, "H", "W"))
        if 0 in depth.shape:
            raise ValueError(f"depths: expected at least one pixel, got shape {tuple(depth.shape)}")
        inverse = _inverse("intrinsics", cameras), _inverse("intrinsics", cameras.astype(np.float64))
        with self._lock:
            if self._core is not None:
                check_place("latents", call, "memory", self._call())
            core = call.core.PatchMemory(*shape) if self._core is None else self._core
            core.append(grid, poses, *inverse, depth, call.handle)
            self._core, self._shape = core, shape
            self._place = call.empty((1,), "uint8")[0]
            self._last_w2c, self._last_intrinsics = poses[-1].copy(), cameras[-1].copy()

    def align_query_trajectory(self, anchor_w2c: ArrayLike, query_w2c: ArrayT) -> ArrayT:
        """Move a trajectory so that its anchor falls on the last frame of memory.

        aligned[t] = query[t] anchor^-1 last, all camera_from_world.

        Parameters
        ----------
        anchor_w2c : (4, 4) array
            The pose, in the query's world, of the last frame of memory.
        query_w2c : (T, 4, 4) array

        Returns
        -------
        (T, 4, 4) float32
        """
        self._filled()
        anchor = as_array("anchor_w2c", anchor_w2c, np.float32, (4, 4), finite=True)
        query = as_array("query_w2c", query_w2c, np.float32, ("T", 4, 4), finite=True)
        aligned = np.ascontiguousarray(query @ (_inverse("anchor_w2c", anchor) @ self._last_w2c))
        result: ArrayT = like(query_w2c, aligned)
        return result

    def select_candidate_frame_ids(self, query_w2c: ArrayLike, query_intrinsics: ArrayLike | None = None) -> Any:
        """Five candidates for each group of four poses, by the policy.

        Parameters
        ----------
        query_w2c : (4 G, 4, 4) array
            Aligned camera_from_world.
        query_intrinsics : (4 G, 3, 3) array, optional
            K, pixels; those of the last frame of memory if not given.

        Returns
        -------
        tuple of G tuples of 5 int, or, for a memory on the GPU, (G, 5) int64 there
            Frame ids in order; -1 where ``pose_nearest`` has no more, or if no frame covers anything.
        """
        core = self._filled()
        poses, cameras = self._references(query_w2c, query_intrinsics)
        call = self._call()
        picks, to_picks = call.own((len(poses), PICKS), "int64")
        if self.policy == "base":
            core.select_pose_nearest(poses.astype(np.float64), to_picks, call.handle)
        else:
            core.select_coverage(poses.astype(np.float64), cameras.astype(np.float64), to_picks, call.handle)
        return call.id_lists(picks)

    def fuse_candidates(
        self,
        query_w2c: ArrayLike,
        candidate_frame_ids: Any,
        *,
        query_intrinsics: ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        """Splat the candidates of each group into its reference view.

        Parameters
        ----------
        query_w2c : (4 G, 4, 4) array
            Aligned camera_from_world.
        candidate_frame_ids : G sequences of int, or (G, N) int64 on the GPU
            Negative ids are skipped; a group with no other ids uses frame 0. Candidates after 95 % of the cells are
            filled are ignored.
        query_intrinsics : (4 G, 3, 3) array, optional
            K, pixels; those of the last frame of memory if not given.

        Returns
        -------
        latents : (C, G, h, w) float32
        valid_mask : (G, h, w) bool
        """
        core = self._filled()
        poses, cameras = self._references(query_w2c, query_intrinsics)
        call = self._call()
        if call.has(candidate_frame_ids):
            ids = call.array("candidate_frame_ids", candidate_frame_ids, "int64", (len(poses), "N"))
        else:
            ids = self._ids(candidate_frame_ids, len(poses))
        assert self._shape is not None
        channels, *grid = self._shape
        latents, to_latents = call.empty((channels, len(poses), *grid), "float32")
        valid, to_valid = call.empty((len(poses), *grid), "bool")
        core.fuse(poses, cameras, ids, self.policy == "base", to_latents, to_valid, call.handle)
        return latents, valid

    def query(
        self, anchor_w2c: ArrayLike, query_w2c: ArrayLike, query_intrinsics: ArrayLike | None = None
    ) -> PatchMemoryResult:
        """Align, select and fuse: the mosaic of one block."""
        aligned = self.align_query_trajectory(anchor_w2c, query_w2c)
        ids = self.select_candidate_frame_ids(aligned, query_intrinsics)
        latents, valid = self.fuse_candidates(aligned, ids, query_intrinsics=query_intrinsics)
        return PatchMemoryResult(latents, valid, ids, aligned)

    def _call(self) -> Any:
        """A call on the device of the memory."""
        return Call("PatchMemory", self._place, self.num_threads)

    def _filled(self) -> Any:
        if self._core is None:
            raise ValueError("PatchMemory: expected frames to choose from, got none; append some first")
        return self._core

    def _references(self, query_w2c: ArrayLike, query_intrinsics: ArrayLike | None) -> tuple[F32, F32]:
        """The reference pose (G, 4, 4) and K (G, 3, 3) of each group."""
        poses = as_array("query_w2c", query_w2c, np.float32, ("4 G", 4, 4), finite=True)
        if len(poses) == 0 or len(poses) % SUBFRAMES:
            raise ValueError(f"query_w2c: expected groups of {SUBFRAMES} poses, got {len(poses)} poses")
        if query_intrinsics is None:
            cameras = np.broadcast_to(self._last_intrinsics, (len(poses), 3, 3))  # type: ignore[arg-type]
        else:
            cameras = as_array("query_intrinsics", query_intrinsics, np.float32, (len(poses), 3, 3), finite=True)
        last = slice(SUBFRAMES - 1, None, SUBFRAMES)
        return np.ascontiguousarray(poses[last]), np.ascontiguousarray(cameras[last])

    def _ids(self, candidate_frame_ids: Sequence[ArrayLike], groups: int) -> I64:
        """(G, N) frame ids, padded with -1."""
        if not isinstance(candidate_frame_ids, (Sequence, np.ndarray)):
            raise TypeError(
                "candidate_frame_ids: expected a sequence of ids for each group, "
                f"got {type(candidate_frame_ids).__name__}"
            )
        if len(candidate_frame_ids) != groups:
            raise ValueError(
                f"candidate_frame_ids: expected one sequence a group, {groups}, got {len(candidate_frame_ids)}"
            )
        lists = [
            as_array(f"candidate_frame_ids[{group}]", ids, np.int64, ("N",))
            for group, ids in enumerate(candidate_frame_ids)
        ]
        padded = np.full((groups, max(len(ids) for ids in lists)), -1, dtype=np.int64)
        for row, ids in zip(padded, lists, strict=True):
            row[: len(ids)] = ids
        if padded.size and padded.max() >= self.num_frames:
            raise ValueError(
                f"candidate_frame_ids: expected ids below {self.num_frames}, the frames appended, got {padded.max()}"
            )
        return padded


def _inverse(name: str, matrices: F32 | F64) -> Any:
    try:
        with np.errstate(all="ignore"):
            inverse = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        inverse = np.full_like(matrices, np.nan)
    if not np.isfinite(inverse).all():
        raise ValueError(f"{name}: expected invertible matrices, got a singular one")
    return np.ascontiguousarray(inverse)
