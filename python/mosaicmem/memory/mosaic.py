"""What memory hands to the model for a window of target frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, I32, I64, U64, Bool
from mosaicmem.attention.warped_latent import LatentCanvas, WarpedLatent


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Patches retrieved for T target latent frames, and their N tokens aligned to those views.

    Tokens and patches are grouped by target frame; within one, patches run front to back.

    Attributes
    ----------
    frames : int
        T.
    rows, columns : int
        The target latent grid.
    patch_ids : (P,) uint64
    patch_frames : (P,) int32
        Target frame of each patch.
    patch_scores : (P,) float64
    patch_generated : (P,) bool
        Whether a model made the patch's keyframe up; False for those that were observed.
    source_camera_from_world : (S, 4, 4) float64
        The cameras of the distinct keyframes that patches come from.
    source_intrinsics : (S, 3, 3) float64
        K in pixels.
    patch_sources : (P,) int32
        Which of those cameras saw the patch.
    tokens : (N, C) float32
        Latents.
    positions : (N, 3) float64
        Fractional (t, y, x): target frame (or time offset), and where the token lands in cell coordinates of the target
        grid, integers at cell centres.
    source_positions : (N, 2) int32
        (row, column) of the token in its keyframe's grid.
    depth : (N,) float32
        In the target camera, metres.
    confidence : (N,) float32
    token_patches : (N,) int32
        Which patch each token belongs to.
    coverage : (T, rows, columns) bool
        Cells that the bilinear footprint of a token reaches.
    observed : (T, rows, columns) bool
        Those of them that a token of an observed keyframe reaches; the others are known from generated ones alone.
    """

    frames: int
    rows: int
    columns: int
    patch_ids: U64
    patch_frames: I32
    patch_scores: F64
    patch_generated: Bool
    source_camera_from_world: F64
    source_intrinsics: F64
    patch_sources: I32
    tokens: F32
    positions: F64
    source_positions: I32
    depth: F32
    confidence: F32
    token_patches: I32
    coverage: Bool
    observed: Bool

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @property
    def token_frames(self) -> I32:
        """Target frame of each token, (N,) int32."""
        return self.patch_frames[self.token_patches]

    @property
    def scores(self) -> F64:
        """Score of each token's patch, (N,) float64."""
        return self.patch_scores[self.token_patches]

    @property
    def coverage_ratio(self) -> F64:
        """The part of each target frame's cells that is covered, (T,) float64."""
        return np.asarray(self.coverage.mean(axis=(1, 2)))

    @property
    def observed_ratio(self) -> F64:
        """The part of each target frame's cells that observed keyframes cover, (T,) float64."""
        return np.asarray(self.observed.mean(axis=(1, 2)))

    def unwarped(self) -> Mosaic:
        """The same tokens, each at the (y, x) that it has in its own keyframe: what Warped RoPE is there to mend."""
        positions = np.concatenate([self.positions[:, :1], self.source_positions], axis=1)
        return replace(self, positions=positions)

    def tokens_of(self, frame: int) -> I64:
        """Indices of the tokens of one target frame."""
        return np.flatnonzero(self.token_frames == frame)

    def compose(self, warped_latent: WarpedLatent) -> list[LatentCanvas]:
        """Splat the tokens of each target frame into its grid; weights are score times confidence."""
        canvases = []
        weights = np.clip(self.scores * self.confidence, 1e-6, 1e6).astype(np.float32)
        for frame in range(self.frames):
            tokens = self.tokens_of(frame)
            canvases.append(
                warped_latent.splat(
                    self.tokens[tokens],
                    self.positions[tokens, 1:],
                    self.depth[tokens],
                    self.rows,
                    self.columns,
                    weights=weights[tokens],
                )
            )
        return canvases


@dataclass(frozen=True, eq=False)
class PaddedMosaic:
    """A mosaic in arrays of one size, on a device: each of T target frames has room for N = top_k * patch_size^2
    tokens, and ``valid`` says which are there. Nothing waits to learn their number; attention takes ``valid`` as its
    mask.

    Attributes
    ----------
    patch_ids : (T, top_k) int64
        Front to back, -1 beyond those that were found.
    patch_scores : (T, top_k) float64
    tokens : (T, N, C) float32
        Latents; zero where not valid.
    positions : (T, N, 3) float32
        As of `Mosaic`; zero where not valid.
    depth : (T, N) float32
        In the target camera, metres.
    confidence : (T, N) float32
    valid : (T, N) bool
    coverage, observed : (T, rows, columns) bool
        As of `Mosaic`.
    """

    patch_ids: Any
    patch_scores: Any
    tokens: Any
    positions: Any
    depth: Any
    confidence: Any
    valid: Any
    coverage: Any
    observed: Any
