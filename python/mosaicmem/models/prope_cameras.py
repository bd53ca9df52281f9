"""The cameras of a batch, for PRoPE between the tokens of video and of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from mosaicmem._arrays import F64, I64
from mosaicmem.attention import PRoPE
from mosaicmem.camera import CameraPose
from mosaicmem.camera.pose import rigid_part
from mosaicmem.diffusion.temporal import TemporalLayout
from mosaicmem.memory.results import KeyframeTable


@dataclass(frozen=True, eq=False)
class PRoPECameras:
    """What `PRoPE` needs to know about B samples, whose tokens it sees as one sequence.

    Attributes
    ----------
    targets : (B, T, S, 4, 4) float64
        camera_from_world of the S sub-frames of each latent frame, relative to the sample's first target.
    target_matrices : (B, T, S, 3, 3) float64
        K of these, pixels.
    sources : (B, V, 4, 4) float64
        Of the keyframes of memory, relative to the same camera.
    source_matrices : (B, V, 3, 3) float64
    source : (B, M) int64
        The keyframe of each memory token.
    source_positions : (B, M, 2) float64
        (y, x) of each memory token in its keyframe, in the transformer's patches.
    grid : (int, int)
        Rows and columns of the transformer's patches.
    size : (int, int)
        Height and width of the images, pixels.
    options : dict
        Of `PRoPE`: layout and more.
    """

    targets: F64
    target_matrices: F64
    sources: F64
    source_matrices: F64
    source: I64
    source_positions: F64
    grid: tuple[int, int]
    size: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        """Of the head."""
        return str(self.options.get("layout", "half"))

    @cached_property
    def _made(self) -> dict[int, tuple[PRoPE, PRoPE]]:
        return {}

    def _pair(self, head_dim: int) -> tuple[PRoPE, PRoPE]:
        """PRoPE of the queries and of the memory tokens of all samples."""
        if head_dim not in self._made:
            batch, _, subframes = self.targets.shape[:3]
            views = self.sources.shape[1]
            common = {"image_width": self.size[1], "image_height": self.size[0], **self.options}
            of_queries = PRoPE(
                head_dim,
                self.targets.reshape(-1, subframes, 4, 4),
                self.target_matrices.reshape(-1, subframes, 3, 3),
                patches_y=self.grid[0],
                patches_x=self.grid[1],
                **common,
            )
            of_memory = PRoPE(
                head_dim,
                self.sources.reshape(-1, 1, 4, 4).repeat(subframes, axis=1),
                self.source_matrices.reshape(-1, 1, 3, 3).repeat(subframes, axis=1),
                camera=(self.source + views * np.arange(batch)[:, None]).ravel(),
                positions=self.source_positions.reshape(-1, 2),
                **common,
            )
            self._made[head_dim] = of_queries, of_memory
        return self._made[head_dim]

    def prepare(self, head_dim: int) -> None:
        """Compute the matrices of all cameras."""
        self._pair(head_dim)

    def on_queries(self, q: Tensor) -> Tensor:
        """P^T q of video queries (B, H, N, d)."""
        return _together(self._pair(q.shape[-1])[0].apply_to_q, q)

    def on_memory(self, x: Tensor) -> Tensor:
        """P^-1 x of memory's keys or values (B, H, M, d)."""
        return _together(self._pair(x.shape[-1])[1].apply_to_kv, x)

    def on_outputs(self, o: Tensor) -> Tensor:
        """P o of what video queries read from memory (B, H, N, d)."""
        return _together(self._pair(o.shape[-1])[0].apply_to_o, o)

    def padded(self, tokens: int, views: int) -> PRoPECameras:
        """With room for more tokens and keyframes of memory."""
        more, more_views = tokens - self.source.shape[1], views - self.sources.shape[1]
        eye = np.broadcast_to(np.eye(4), (len(self.sources), more_views, 4, 4))
        matrices = np.repeat(self.source_matrices[:, :1], more_views, axis=1)
        return replace(
            self,
            sources=np.concatenate([self.sources, eye], axis=1),
            source_matrices=np.concatenate([self.source_matrices, matrices], axis=1),
            source=np.pad(self.source, ((0, 0), (0, more))),
            source_positions=np.pad(self.source_positions, ((0, 0), (0, more), (0, 0))),
        )

    def samples(self, which: I64) -> PRoPECameras:
        """Some of the samples, or some repeatedly."""
        picked: dict[str, Any] = {name: getattr(self, name)[which] for name in _BY_SAMPLE}
        return replace(self, **picked)

    @staticmethod
    def cat(parts: Sequence[PRoPECameras]) -> PRoPECameras:
        """The samples of all parts; they have the same grid, image size and options."""
        for part in parts[1:]:
            if (part.options, part.size) != (parts[0].options, parts[0].size):
                raise ValueError(
                    f"batches: expected the same prope and image size in all, got {parts[0].options} at "
                    f"{parts[0].size} and {part.options} at {part.size}"
                )
        tokens = max(part.source.shape[1] for part in parts)
        views = max(part.sources.shape[1] for part in parts)
        parts = [part.padded(tokens, views) for part in parts]
        joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _BY_SAMPLE}
        return replace(parts[0], **joined)


_BY_SAMPLE = ("targets", "target_matrices", "sources", "source_matrices", "source", "source_positions")


def prope_options(prope: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Options of `PRoPE` from a layout or from options; None for none."""
    return {"layout": prope} if isinstance(prope, str) else None if prope is None else dict(prope)


def _together(apply: Any, x: Tensor) -> Tensor:
    """Apply a PRoPE of all samples' tokens to features (B, H, N, d)."""
    batch, heads, tokens, dim = x.shape
    joined = x.transpose(0, 1).reshape(heads, batch * tokens, dim)
    return apply(joined).reshape(heads, batch, tokens, dim).transpose(0, 1)


def subframes_of(count: int, temporal: TemporalLayout | None, subframes: int) -> I64:
    """Which of ``count`` frames are the sub-frames of each latent frame, (T, S).

    Without ``temporal``, frames are latent frames, whose sub-frames share one camera.
    """
    if temporal is None:
        return np.arange(count)[:, None].repeat(subframes, axis=1)
    if subframes == 1:
        return np.array(temporal.reference_frames(count))[:, None]
    rows = []
    for latent in range(temporal.num_latents(count)):
        frames = temporal.frames_of(latent, count)
        rows.append([frames[min(i * len(frames) // subframes, len(frames) - 1)] for i in range(subframes)])
    return np.array(rows)


def relative_sources(sources: KeyframeTable | None, reference: CameraPose, matrix: F64) -> tuple[F64, F64]:
    """camera_from_world of keyframes (V, 4, 4), V at least 1, relative to a camera; and K (V, 3, 3).

    Edits may have scaled or mirrored a keyframe: then it is the nearest rigid transform. Rows without a keyframe have
    ``matrix`` for K.
    """
    if sources is None or not len(sources):
        return np.eye(4)[None], matrix[None]
    views = rigid_part(sources.camera_from_world) @ reference.world_from_camera
    return views, np.where(sources.intrinsics[:, :1, None] > 0, sources.matrices, matrix)
