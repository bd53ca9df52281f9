"""Frames of a run become keyframes of its memory: observed ones, the image that it begins with, generated ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, Bool, as_array, as_depth, as_pixels, check_instance
from mosaicmem._border import to_host
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import VAE, TemporalLayout
from mosaicmem.geometry import DepthCompletion, DepthEstimator, StreamingFusion, depth_to_grid
from mosaicmem.geometry.depth import extended_grids, pooled_confidence, pooled_mask
from mosaicmem.media import to_uint8
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.pipeline.conditioning import Conditioner
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.frames import cropped, extended


def as_observed(
    image: ArrayLike,
    depth: ArrayLike,
    intrinsics: CameraIntrinsics,
    dynamic: ArrayLike | None,
    confidence: ArrayLike | None,
) -> tuple[F32, F32, F32 | None, Bool | None]:
    """The image, depth (0 where something moves), confidence and dynamic pixels of an observed frame, checked."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    pixels = as_pixels("image", image, (intrinsics.height, intrinsics.width, 3))
    z = as_depth("depth", depth, pixels.shape[:2])
    moving = None if dynamic is None else as_array("dynamic", dynamic, np.bool_, z.shape)
    if moving is not None:
        z = np.where(moving, np.float32(0), z)
    sure = None
    if confidence is not None:
        sure = as_array("confidence", confidence, np.float32, z.shape, finite=True)
        if sure.min(initial=0) < 0 or sure.max(initial=0) > 1:
            raise ValueError(f"confidence: expected values in [0, 1], got {sure.min():g} to {sure.max():g}")
    return pixels, z, sure, moving


def as_generated(
    image: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, depth: ArrayLike | None
) -> tuple[F32, F32 | None]:
    """The image and, if it is given, the depth of a generated frame, checked."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    check_instance("pose", pose, CameraPose)
    pixels = as_pixels("image", image, (intrinsics.height, intrinsics.width, 3))
    if depth is None:
        return pixels, None
    z = as_depth("depth", depth, pixels.shape[:2])
    return pixels, np.where(np.isfinite(z), z, np.float32(0))


class KeyframeWriter:
    """Encodes frames, gives them a depth, and inserts them.

    Parameters
    ----------
    config : PipelineConfig
    vae : VAE
    cell : int
        Images are padded to multiples of this, pixels.
    depth_estimator : DepthEstimator
    conditioner : Conditioner
        Knows what memory shows already.
    fusion : StreamingFusion, optional
        Takes the points of all frames, when `fuse` is called.
    """

    def __init__(
        self,
        config: PipelineConfig,
        vae: VAE,
        cell: int,
        depth_estimator: DepthEstimator,
        conditioner: Conditioner,
        fusion: StreamingFusion | None = None,
    ) -> None:
        self._config, self._vae, self._cell = config, vae, cell
        self._depth, self._conditioner, self._fusion = depth_estimator, conditioner, fusion
        self._waiting: list[tuple[F32, CameraIntrinsics, CameraPose, Any]] = []

    def observe(
        self,
        store: MosaicMemoryStore,
        image: F32,
        depth: F32,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        confidence: F32 | None = None,
        dynamic: Bool | None = None,
    ) -> None:
        """Insert a real frame; depth is 0 where something moves."""
        padded = intrinsics.padded(self._cell)
        sure: float | F32 = 1.0
        if confidence is not None:
            sure = pooled_confidence(
                extended(confidence, padded, "constant"), extended(depth, padded, "constant"), self._vae.stride
            )
        left_out = np.ones((padded.height, padded.width), np.bool_)
        left_out[: depth.shape[0], : depth.shape[1]] = False if dynamic is None else dynamic
        self._insert(
            store,
            extended(image, padded, "edge"),
            depth,
            padded,
            pose,
            "observed",
            confidence=sure,
            valid=None,
            left_out=left_out,
        )
        self._fuse(image, depth, intrinsics, pose)

    def _fuse(self, image: F32, depth: F32, intrinsics: CameraIntrinsics, pose: CameraPose) -> None:
        if self._fusion is not None:
            self._waiting.append((depth, intrinsics, pose, to_uint8("image", image)))

    @property
    def waiting_points(self) -> int:
        """Pixels with depth of the frames that `fuse` would fuse."""
        return sum(int((np.isfinite(depth) & (depth > 0)).sum()) for depth, *_ in self._waiting)

    def fuse(self) -> int:
        """Fuse the frames inserted by this writer since the last call; returns how many points.

        Call it when nothing can fail any more that would take the frames back.
        """
        frames, self._waiting = self._waiting, []
        return 0 if self._fusion is None else sum(self._fusion.add_frame(*frame).points for frame in frames)

    def first_frame(
        self, trajectory: CameraTrajectory, image: ArrayLike | None, depth: ArrayLike | None
    ) -> tuple[F32, F32] | None:
        """The image that a run begins with, and its depth."""
        if image is None:
            if depth is not None:
                raise ValueError("depth: expected image, whose depth it is")
            return None
        camera = trajectory.cameras[0]
        pixels = as_pixels("image", image, (camera.height, camera.width, 3))
        if depth is None:
            if isinstance(self._depth, DepthCompletion):
                raise ValueError(
                    "depth: expected the depth of image, or a depth_estimator that sees it in the image: "
                    "DepthCompletion only extends what memory knows"
                )
            depth = self._depth.estimate(pixels, camera, trajectory[0], np.zeros(pixels.shape[:2], np.float32))
        return pixels, as_depth("depth", depth, pixels.shape[:2])

    def remember(
        self,
        store: MosaicMemoryStore,
        new: list[int],
        frames: range,
        images: F32,
        latents: Any,
        cameras: tuple[CameraIntrinsics, ...],
        path: CameraTrajectory,
        layout: TemporalLayout,
    ) -> int:
        """Insert generated frames of a window; by default only the cells that memory does not show yet.

        Returns how many.

        Parameters
        ----------
        new : list of int
            Frames of the path.
        frames : range
            Of the window.
        images : (F, H, W, 3) float32
            Of the window, padded to whole latent cells.
        latents : (C, T, h, w) float32
        cameras : tuple of CameraIntrinsics
            Of each frame of the path, without padding.
        path : CameraTrajectory
        layout : TemporalLayout
            Of the window.
        """
        if self._config.keyframe_latents == "encoded":
            for i in new:
                self._generated(store, images[i - frames.start], cameras[i], path[i])
            return len(new)
        here = to_host("latents", latents)
        shown = sorted({layout.latent_of(i - frames.start) for i in new})
        for latent in shown:
            at = layout.reference_frame(latent, len(frames))
            grid = np.ascontiguousarray(here[:, latent].transpose(1, 2, 0), dtype=np.float32)
            frame = frames.start + at
            self._generated(store, images[at], cameras[frame], path[frame], grid)
        return len(shown)

    def generated(
        self,
        store: MosaicMemoryStore,
        image: F32,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        depth: F32 | None,
    ) -> None:
        """Insert a generated frame."""
        self._generated(store, extended(image, intrinsics.padded(self._cell), "edge"), intrinsics, pose, depth=depth)

    def _generated(
        self,
        store: MosaicMemoryStore,
        image: F32,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        latents: F32 | None = None,
        depth: F32 | None = None,
    ) -> None:
        """Without ``latents`` (h, w, C), they are those of the image; without ``depth``, it is estimated."""
        s = self._vae.stride
        padded = intrinsics.padded(self._cell)
        covered, shown = self._conditioner.known(store, padded, pose)
        if depth is None:
            known = cropped(np.kron(shown, np.ones((s, s), dtype=np.float32))[None], intrinsics)[0]
            estimated = self._depth.estimate(cropped(image[None], intrinsics)[0], intrinsics, pose, known)
            depth = as_array("estimated depth", estimated, np.float32, known.shape)
            if np.isnan(depth).any():
                raise ValueError("estimated depth: expected numbers, got NaN; 0 says that there is none")
        self._insert(
            store,
            image,
            depth,
            padded,
            pose,
            "generated",
            confidence=self._config.generated_confidence,
            valid=~covered if self._config.remember == "novel" else None,
            latents=latents,
        )
        if self._config.remember == "novel":
            fine = np.kron(covered, np.ones((s, s), np.bool_))[: intrinsics.height, : intrinsics.width]
            depth = np.where(fine, np.float32(0), depth)
        self._fuse(cropped(image[None], intrinsics)[0], depth, intrinsics, pose)

    def _insert(
        self,
        store: MosaicMemoryStore,
        image: F32,
        depth: F32,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        provenance: str,
        *,
        confidence: float | F32,
        valid: Bool | None,
        latents: F32 | None = None,
        left_out: Bool | None = None,
    ) -> None:
        """Image and ``intrinsics`` are padded to whole latent cells; depth may be smaller: the rest is unknown.

        Depth is not continued to pixels that are ``left_out``.
        """
        stride = self._vae.stride
        parts = math.gcd(stride, self._config.depth_subcells)
        whole = extended(depth, intrinsics, "constant")
        grid = depth_to_grid(whole, stride)
        shape = (*grid.shape, self._vae.channels)
        parts_grid = None if parts == 1 else depth_to_grid(whole, stride // parts)
        sure = np.broadcast_to(np.float32(confidence), grid.shape).copy()
        reach = self._config.extend_depth if provenance == "observed" else 0
        cells_out = None if left_out is None else pooled_mask(left_out, stride)
        grid, parts_grid, extended_sure = extended_grids(grid, parts_grid, sure, reach, cells_out)
        encoded = latents if latents is not None else to_host("encoded image", self._vae.encode_image(image))
        store.insert_keyframe(
            as_array("encoded image", encoded, np.float32, shape, values=True, own=True),  # a model may reuse its array
            grid,
            intrinsics,
            pose,
            subcell_depth=parts_grid,
            valid=valid,
            confidence=extended_sure,
            image=image if self._config.thumbnails else None,
            image_pixels=self._config.image_pixels,
            provenance=provenance,
            copy=False,  # the pipeline owns all of these
        )
