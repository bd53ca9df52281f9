"""What memory provides to the model for a window of target frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mosaicmem._arrays import F32, F64, I32, I64, U64, Bool
from mosaicmem._border.device import on_host, owned
from mosaicmem.attention.warped_latent import LatentCanvas, WarpedLatent
from mosaicmem.memory.results import KeyframeTable, part_of_cells


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Patches retrieved for T target latent frames, and their tokens aligned to those views, in padded arrays.

    Each target has room for K patches and N = K * latent_patch_size^2 tokens, patch by patch, front to back; ``valid``
    marks the tokens that exist, and is the attention mask. Arrays are on the store's device: on the host K is the
    largest number of patches of any target; on a GPU, where learning that number would synchronize, K is ``top_k``.
    `packed` returns the same without padding.

    Attributes
    ----------
    patch_ids : (T, K) int64
        -1 where there is no patch.
    patch_scores : (T, K) float64
    patch_generated : (T, K) bool
        Whether a model generated the patch's keyframe; False if it was observed.
    patch_sources : (T, K) int32
        Index into ``sources`` of the keyframe that a patch comes from; -1 where there is no patch.
    sources : KeyframeTable
        Keyframes, on the host: at least those that patches come from.
    tokens : (T, N, C) float32
        Latents. This and the following arrays are zero where not valid.
    positions : (T, N, 3) float64
        Fractional (t, y, x): target frame (or time offset), and where the token lands in cell coordinates of the target
        grid, integers at cell centres.
    source_positions : (T, N, 2) int32
        (row, column) of the token in its keyframe's grid.
    depth : (T, N) float32
        In the target camera, metres.
    confidence : (T, N) float32
    valid : (T, N) bool
    coverage : (T, rows, columns) bool
        Cells that the bilinear footprint of a token reaches.
    observed : (T, rows, columns) bool
        Covered cells that a token of an observed keyframe reaches; the other covered cells are known only from
        generated keyframes.
    """

    patch_ids: Any
    patch_scores: Any
    patch_generated: Any
    patch_sources: Any
    sources: KeyframeTable
    tokens: Any
    positions: Any
    source_positions: Any
    depth: Any
    confidence: Any
    valid: Any
    coverage: Any
    observed: Any
    _warped: ClassVar[Any] = None  # of a mosaic without warping: the positions with it

    @property
    def frames(self) -> int:
        """T."""
        return int(self.coverage.shape[0])

    @property
    def rows(self) -> int:
        """Of the target latent grid."""
        return int(self.coverage.shape[1])

    @property
    def columns(self) -> int:
        """Of the target latent grid."""
        return int(self.coverage.shape[2])

    @property
    def coverage_ratio(self) -> F64:
        """The fraction of each target frame's cells that is covered, (T,) float64, on the host."""
        return part_of_cells(self.coverage)

    @property
    def observed_ratio(self) -> F64:
        """The fraction of each target frame's cells that observed keyframes cover, (T,) float64, on the host."""
        return part_of_cells(self.observed)

    @property
    def warp_valid_ratio(self) -> float:
        """The fraction of the cells of all retrieved patches that land in their target's image, on the host; 0 if no
        patch was retrieved.

        Cells without depth, and those behind the camera, land nowhere. A low value says that patches were retrieved by
        their centres, but show the view little: they are close, or at its border.
        """
        positions = self.positions if self._warped is None else self._warped
        here = on_host({"patch_ids": self.patch_ids, "valid": self.valid, "positions": positions})
        patches = int((here["patch_ids"] >= 0).sum())
        if not patches:
            return 0.0
        y, x = here["positions"][..., 1], here["positions"][..., 2]
        inside = here["valid"] & (y > -0.5) & (y < self.rows - 0.5) & (x > -0.5) & (x < self.columns - 0.5)
        cells = int(here["valid"].shape[1] // here["patch_ids"].shape[1])
        return int(inside.sum()) / (patches * cells)

    def unwarped(self) -> Mosaic:
        """The same tokens, each at its (y, x) in its own keyframe: the misalignment that Warped RoPE corrects."""
        positions = owned(self.positions)
        positions[..., 1:] = self.source_positions
        other = replace(self, positions=positions)
        object.__setattr__(other, "_warped", self.positions if self._warped is None else self._warped)
        return other

    def on_host(self) -> Mosaic:
        """The same on the host. On a GPU this synchronizes."""
        here = self._here()
        warped = here.pop("_warped", None)
        other = Mosaic(sources=self.sources, **here)
        if warped is not None:
            object.__setattr__(other, "_warped", warped)
        return other

    def _here(self) -> dict[str, Any]:
        return on_host({name: value for name, value in vars(self).items() if name != "sources"})

    def packed(self) -> PackedMosaic:
        """The same without padding, on the host. On a GPU this synchronizes."""
        here = self._here()
        is_patch, valid = here["patch_ids"] >= 0, here["valid"]
        used, sources = np.unique(here["patch_sources"][is_patch], return_inverse=True)
        order = np.argsort(self.sources.observations[used])
        frame, token = np.nonzero(valid)
        cells = valid.shape[1] // max(is_patch.shape[1], 1)
        number = np.cumsum(is_patch).reshape(is_patch.shape) - 1  # index of each patch
        table = self.sources.rows(used[order])
        return PackedMosaic(
            frames=self.frames,
            rows=self.rows,
            columns=self.columns,
            patch_ids=here["patch_ids"][is_patch].astype(np.uint64),
            patch_frames=np.nonzero(is_patch)[0].astype(np.int32),
            patch_scores=here["patch_scores"][is_patch],
            patch_generated=here["patch_generated"][is_patch],
            source_camera_from_world=table.camera_from_world,
            source_intrinsics=table.matrices,
            patch_sources=np.argsort(order)[sources].astype(np.int32),
            tokens=here["tokens"][valid],
            positions=here["positions"][valid],
            source_positions=here["source_positions"][valid],
            depth=here["depth"][valid],
            confidence=here["confidence"][valid],
            token_patches=number[frame, token // max(cells, 1)].astype(np.int32),
            coverage=here["coverage"],
            observed=here["observed"],
        )

    def compose(self, warped_latent: WarpedLatent) -> list[LatentCanvas]:
        """`PackedMosaic.compose` of the same tokens."""
        return self.packed().compose(warped_latent)


@dataclass(frozen=True, eq=False)
class PackedMosaic:
    """A `Mosaic` without padding, on the host: P patches and their N tokens.

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
    source_camera_from_world : (S, 4, 4) float64
        The cameras of the distinct keyframes that patches come from.
    source_intrinsics : (S, 3, 3) float64
        K in pixels.
    patch_sources : (P,) int32
        Which of those cameras saw the patch.
    tokens, positions, source_positions, depth, confidence : (N, ...)
        As in `Mosaic`.
    token_patches : (N,) int32
        Which patch each token belongs to.
    coverage, observed : (T, rows, columns) bool
        As in `Mosaic`.
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
