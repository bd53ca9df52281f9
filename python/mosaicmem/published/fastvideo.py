"""FastVideo's patch memories of Matrix-Game 3.5, under its names, on `PatchMemory`. Needs torch.

Its code calls them unchanged: the distilled stage takes ``memory_factory=MatrixGame35DistilledPatchMemory``; for the
base stage, set the name in its module::

    import fastvideo.pipelines.basic.matrixgame35.base_stages as stages
    from mosaicmem.published.fastvideo import MatrixGame35BasePatchMemory

    stages.MatrixGame35BasePatchMemory = MatrixGame35BasePatchMemory

Two things differ from the published classes. Frames that are equally good are taken in the order of their ids; the
published order comes from NumPy's unstable sort and depends on the processor. And cells are splatted in float32, which
moves about one cell in 80,000. Latents, poses and intrinsics with NaN are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mosaicmem._arrays import F32, ArrayLike, to_numpy
from mosaicmem._border import to_host
from mosaicmem.published.patch_memory import SUBFRAMES, PatchMemory

_BLOCK = 84  # poses of a query of the base model
_COVERAGE_STEP = 4  # cells along a cell of the distilled policy's grid


class MatrixGame35DepthAdapter(Protocol):
    """Estimates depth."""

    def estimate_depth(self, frames: Sequence[Any]) -> ArrayLike:
        """The depth (F, H, W), metres, of F images (H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class MatrixGame35PatchMemoryResult:
    """The mosaic of one block of G groups of four poses.

    Attributes
    ----------
    latents : (C, G, h, w) float32 tensor
        Zero where nothing projected.
    valid_mask : (G, h, w) bool tensor
    candidate_frame_ids : tuple of G tuples of 5 int
        -1 for none.
    aligned_query_w2c : (4 G, 4, 4) float32 array
    """

    latents: Tensor
    valid_mask: Tensor
    candidate_frame_ids: tuple[tuple[int, ...], ...]
    aligned_query_w2c: F32


@dataclass(frozen=True)
class MatrixGame35DistilledMemoryResult(MatrixGame35PatchMemoryResult):
    """The same, of the distilled model."""


class _Bank:
    """Frames with depth, and their poses and intrinsics as attributes."""

    _policy = "base"

    def __init__(self) -> None:
        self._memory = PatchMemory(self._policy)
        self._kept: dict[str, Any] = {}  # each array of all frames

    def append(
        self,
        *,
        latents: Tensor,
        w2c: ArrayLike,
        intrinsics: ArrayLike,
        depths: ArrayLike | None = None,
        frames: Sequence[Any] | None = None,
        depth_adapter: MatrixGame35DepthAdapter | None = None,
    ) -> None:
        """Remember frames; if anything is wrong, none of them.

        Parameters
        ----------
        latents : (C, F, h, w) tensor
        w2c, intrinsics : (F, 4, 4) and (F, 3, 3) array
            camera_from_world, and K in pixels.
        depths : (F, H, W) array, optional
            Metres; if not given, ``depth_adapter.estimate_depth(frames)``.
        frames : sequence of F images (H, W, 3), optional
        depth_adapter : MatrixGame35DepthAdapter, optional
        """
        if not isinstance(latents, Tensor) or latents.dim() != 4 or latents.shape[1] == 0:
            got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"latents must have shape [channels, frames, height, width], got {got}")
        count = latents.shape[1]
        new: dict[str, Any] = {"latents": latents.detach().to("cpu", torch.float32, copy=True).contiguous()}
        new |= {name: _matrices(name, value) for name, value in (("w2c", w2c), ("intrinsics", intrinsics))}
        if not len(new["w2c"]) == len(new["intrinsics"]) == count:
            raise ValueError("latents, w2c, and intrinsics must contain the same number of frames.")
        if depths is None:
            if frames is None or depth_adapter is None:
                raise ValueError("depths or both frames and a depth_adapter are required.")
            if len(frames) != count:
                raise ValueError(f"frames must contain {count} items, got {len(frames)}.")
            depths = depth_adapter.estimate_depth(frames)
        new["depths"] = to_numpy("depths", to_host("depths", depths), values=True).astype(np.float32)
        if new["depths"].ndim != 3 or len(new["depths"]) != count:
            raise ValueError(f"depths must have shape [{count}, height, width], got {new['depths'].shape}")
        for name, what in (("latents", "channel and spatial"), ("depths", "spatial")):
            known = self._kept.get(name)
            if known is not None and _of_a_frame(known) != _of_a_frame(new[name]):
                raise ValueError(
                    f"appended {what} dimensions of {name} must match the bank, {_of_a_frame(known)}, got "
                    f"{_of_a_frame(new[name])}"
                )
        self._memory.append(new["latents"], new["w2c"], new["intrinsics"], new["depths"])
        for name, value in new.items():
            known = self._kept.get(name)
            if known is None:
                self._kept[name] = value
            elif name == "latents":
                self._kept[name] = torch.cat([known, value], dim=1)
            else:
                self._kept[name] = np.concatenate([known, value])

    @property
    def num_frames(self) -> int:
        """Frames appended so far."""
        return self._memory.num_frames

    @property
    def latents(self) -> Tensor:
        """(C, N, h, w) float32 on the CPU; not for writing."""
        return self._all("latents")

    @property
    def w2c(self) -> F32:
        """camera_from_world, (N, 4, 4) float32."""
        return np.asarray(self._all("w2c"))

    @property
    def intrinsics(self) -> F32:
        """K in pixels, (N, 3, 3) float32."""
        return np.asarray(self._all("intrinsics"))

    @property
    def depths(self) -> F32:
        """(N, H, W) float32, metres."""
        return np.asarray(self._all("depths"))

    def _all(self, name: str) -> Any:
        if not self._kept:
            raise RuntimeError("Patch Memory is empty.")
        return self._kept[name]

    def _aligned(self, anchor_w2c: ArrayLike, query_w2c: ArrayLike) -> F32:
        self._all("w2c")
        anchor = to_numpy("anchor_w2c", to_host("anchor_w2c", anchor_w2c)).astype(np.float32)
        if anchor.shape != (4, 4):
            raise ValueError(f"anchor_w2c must have shape [4, 4], got {anchor.shape}")
        return np.asarray(self._memory.align_query_trajectory(anchor, _matrices("query_w2c", query_w2c)))

    def _fused(self, query: F32, ids: Any, intrinsics: ArrayLike | None) -> tuple[Tensor, Tensor]:
        given = None if intrinsics is None else _matrices("query_intrinsics", intrinsics)
        latents, valid = self._memory.fuse_candidates(query, ids, query_intrinsics=given)
        return torch.as_tensor(latents), torch.as_tensor(valid)


class MatrixGame35BasePatchMemory(_Bank):
    """The memory of the base models: candidates by pose, the nearest surface wins, 84 poses per query."""

    def align_query_trajectory(self, anchor_w2c: ArrayLike, query_w2c: ArrayLike) -> F32:
        """Move 84 poses so that their anchor falls on the last frame, (84, 4, 4) float32."""
        _expect_block(query_w2c, "query poses")
        return self._aligned(anchor_w2c, query_w2c)

    def select_candidate_frame_ids(self, aligned_query_w2c: ArrayLike) -> tuple[tuple[int, ...], ...]:
        """Five frames for each of the 21 groups; -1 where there are no more."""
        self._all("w2c")
        _expect_block(aligned_query_w2c, "aligned query poses")
        return self._memory.select_candidate_frame_ids(_matrices("aligned_query_w2c", aligned_query_w2c))  # type: ignore[no-any-return]

    def fuse_candidates(
        self,
        aligned_query_w2c: ArrayLike,
        candidate_frame_ids: Sequence[Sequence[int]],
        *,
        query_intrinsics: ArrayLike | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents (C, 21, h, w) and their mask (21, h, w); without intrinsics, those of the last frame."""
        self._all("w2c")
        _expect_block(aligned_query_w2c, "aligned query poses")
        return self._fused(_matrices("aligned_query_w2c", aligned_query_w2c), candidate_frame_ids, query_intrinsics)

    def query(
        self, *, anchor_w2c: ArrayLike, query_w2c: ArrayLike, query_intrinsics: ArrayLike | None = None
    ) -> MatrixGame35PatchMemoryResult:
        """Align, choose and fuse."""
        aligned = self.align_query_trajectory(anchor_w2c, query_w2c)
        ids = self.select_candidate_frame_ids(aligned)
        latents, valid = self.fuse_candidates(aligned, ids, query_intrinsics=query_intrinsics)
        return MatrixGame35PatchMemoryResult(latents, valid, ids, aligned)


class MatrixGame35DistilledPatchMemory(_Bank):
    """The memory of the distilled models: candidates by coverage, the farthest surface wins; intrinsics come second."""

    _policy = "distilled"

    def select_candidate_frame_ids(
        self, query_w2c: ArrayLike, query_intrinsics: ArrayLike
    ) -> tuple[tuple[int, ...], ...]:
        """Five frames for each group of four poses."""
        if min(self._all("latents").shape[2:]) < _COVERAGE_STEP:
            raise ValueError("latent dimensions must be at least the coverage downsample factor.")
        poses = _matrices("query_w2c", query_w2c)
        if len(poses) % SUBFRAMES:
            raise ValueError(f"distilled memory query poses must have shape [4*k,4,4], got {poses.shape}")
        given = _matrices("query_intrinsics", query_intrinsics)
        return self._memory.select_candidate_frame_ids(poses, given)  # type: ignore[no-any-return]

    def fuse_candidates(
        self, query_w2c: ArrayLike, query_intrinsics: ArrayLike, candidate_frame_ids: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Latents (C, G, h, w) and their mask (G, h, w)."""
        self._all("w2c")
        return self._fused(_matrices("query_w2c", query_w2c), candidate_frame_ids, query_intrinsics)

    def query(
        self, *, anchor_w2c: ArrayLike, query_w2c: ArrayLike, query_intrinsics: ArrayLike
    ) -> MatrixGame35DistilledMemoryResult:
        """Align, choose and fuse."""
        aligned = self._aligned(anchor_w2c, query_w2c)
        ids = self.select_candidate_frame_ids(aligned, query_intrinsics)
        latents, valid = self.fuse_candidates(aligned, query_intrinsics, ids)
        return MatrixGame35DistilledMemoryResult(latents, valid, ids, aligned)


def _matrices(name: str, value: ArrayLike) -> F32:
    """(F, n, n) float32, a copy; n is 3 for intrinsics."""
    size = 3 if name.endswith("intrinsics") else 4
    array = to_numpy(name, to_host(name, value), values=True).astype(np.float32)
    if array.ndim != 3 or array.shape[1:] != (size, size):
        raise ValueError(f"{name} must have shape [frames, {size}, {size}], got {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name} must contain at least one frame.")
    return array


def _expect_block(query: ArrayLike, what: str) -> None:
    if len(query) != _BLOCK:
        raise ValueError(f"Base Patch Memory requires exactly {_BLOCK} {what}, got {len(query)}")


def _of_a_frame(array: Any) -> tuple[int, ...]:
    """The shape without frames: of latents (C, F, h, w), or of depth (F, H, W)."""
    return (array.shape[0], *array.shape[2:]) if array.ndim == 4 else tuple(array.shape[1:])
