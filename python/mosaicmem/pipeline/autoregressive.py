"""Generates a video along a camera path, window by window, with a memory of the space it shows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import ArrayLike, check_instance, check_integer
from mosaicmem._copies import Uncopied
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import (
    VAE,
    DiffusionBackbone,
    HashedTextEncoder,
    MemoryContext,
    NoiseScheduler,
    SyntheticBackbone,
    SyntheticVAE,
    TemporalLayout,
    TextEncoder,
)
from mosaicmem.geometry import DepthCompletion, DepthEstimator, PoseCheck, RegistrationCheck, StreamingFusion
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.pipeline.checkpoint import Checkpoint
from mosaicmem.pipeline.conditioning import Conditioner
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.keyframes import KeyframeWriter, as_generated, as_observed
from mosaicmem.pipeline.loop import WindowLoop
from mosaicmem.pipeline.parts import check_parts, scheduler_of
from mosaicmem.pipeline.results import GenerationResult, Progress, Window
from mosaicmem.pipeline.windows import WindowPlan

_FIXED = (  # settings of the shared parts, which `varied` cannot change
    *("latent_patch_size", "latent_dtype", "max_patches", "max_bytes", "eviction"),
    *("vae_stride", "latent_channels", "temporal_kind", "temporal_factor"),
    *("scheduler", "noise_schedule", "flow_shift"),
)


class AutoregressivePipeline(Uncopied):
    """Drives a diffusion backbone along a camera path with spatial memory.

    Each window: retrieve what its cameras see, align it to them, denoise, decode, blend with the previous window,
    choose keyframes by motion, remember them. The result has exactly as many frames as the trajectory.

    Image sizes need not be multiples of the latent cell: images are padded at the right and the bottom for the VAE.
    Observed images repeat their edge pixels there, without depth; generated padding is cropped.

    Parameters
    ----------
    config : PipelineConfig, optional
    backbone, vae, scheduler : optional
        Any implementations of `DiffusionBackbone`, `VAE`, `NoiseScheduler`. If not given: synthetic ones, and the
        scheduler that ``config`` names, for the backbone's prediction type.
    depth_estimator : DepthEstimator, optional
        Depth of generated keyframes; `DepthCompletion` if not given.
    text_encoder : TextEncoder, optional
        For the contexts' ``text``; `HashedTextEncoder` if not given.
    store : MosaicMemoryStore, optional
        An existing memory; a new one if not given. The loop runs on the store's device: with a store on a GPU, mosaics,
        canvases and latents stay there from retrieval until the VAE has decoded them, if the parts support it.

    Attributes
    ----------
    store : MosaicMemoryStore
        The memory, which carries over from one call to the next. A run with a checkpoint replaces it with the memory
        in the checkpoint.
    fusion : StreamingFusion or None
        The map of all frames that this pipeline has remembered, if ``fusion_voxel_size`` is set:
        ``pipeline.fusion.point_cloud().save_ply("scene.ply")``. Windows restored from a checkpoint are not in it, so a
        resumed run counts fewer voxels.
    pose_check : PoseCheck
        Compares the observed frames; its ``conclusion`` states the result, also if nothing could be compared.
    registration_check : RegistrationCheck
        Compares their colours: whether colour and depth have the same camera.
    """

    _instead = "use copy.copy or varied() for a second one, and a checkpoint or store.save() for another process"

    def __init__(
        self,
        config: PipelineConfig | None = None,
        *,
        backbone: DiffusionBackbone | None = None,
        vae: VAE | None = None,
        scheduler: NoiseScheduler | None = None,
        depth_estimator: DepthEstimator | None = None,
        text_encoder: TextEncoder | None = None,
        store: MosaicMemoryStore | None = None,
    ) -> None:
        self.config = c = PipelineConfig() if config is None else check_instance("config", config, PipelineConfig)
        temporal = TemporalLayout(c.temporal_kind, c.temporal_factor)
        self.vae: VAE = SyntheticVAE(c.vae_stride, c.latent_channels, temporal) if vae is None else vae
        self.scheduler: NoiseScheduler = scheduler_of(c, backbone) if scheduler is None else scheduler
        self.backbone: DiffusionBackbone = (
            SyntheticBackbone(self.scheduler, num_threads=c.num_threads) if backbone is None else backbone
        )
        self.depth_estimator: DepthEstimator = DepthCompletion() if depth_estimator is None else depth_estimator
        self.text_encoder: TextEncoder = HashedTextEncoder() if text_encoder is None else text_encoder
        check_parts(c, self.backbone, self.vae, self.scheduler, self.depth_estimator, self.text_encoder)
        self.store = self._new_store() if store is None else check_instance("store", store, MosaicMemoryStore)
        if self.store.channels not in (None, self.vae.channels):
            raise ValueError(f"store: expected latents of {self.vae.channels} channels, got {self.store.channels}")
        self.pose_check = PoseCheck(times=c.half_life > 0)
        self.registration_check = RegistrationCheck()
        self._conditioner = Conditioner(c, self.vae, self.text_encoder)
        self.fusion = self._new_fusion()

    def varied(self, **changes: Any) -> AutoregressivePipeline:
        """A pipeline with the same parts, other settings, and a copy of this memory.

        Parameters
        ----------
        changes
            Fields of `PipelineConfig`.

        Raises
        ------
        ValueError
            A field belongs to the store, the VAE or the scheduler, which exist already and are shared.
        """
        config = PipelineConfig(**{**self.config.model_dump(), **changes})
        fixed = [name for name in _FIXED if getattr(config, name) != getattr(self.config, name)]
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)}: cannot be varied, as the store, the VAE and the scheduler are shared"
            )
        other = AutoregressivePipeline(
            config,
            backbone=self.backbone,
            vae=self.vae,
            scheduler=self.scheduler,
            depth_estimator=self.depth_estimator,
            text_encoder=self.text_encoder,
            store=self.store.fork(),
        )
        if self.fusion is not None and config.fusion_voxel_size == self.config.fusion_voxel_size:
            other.fusion = copy.copy(self.fusion)
        return other

    @property
    def _keyframes(self) -> KeyframeWriter:
        """Made for each use: parts may have been replaced."""
        return KeyframeWriter(self.config, self.vae, self._cell, self.depth_estimator, self._conditioner, self.fusion)

    @property
    def _cell(self) -> int:
        """Pixels along what images are padded to whole numbers of: latent cells, or a backbone's tokens of them."""
        return self.vae.stride * int(getattr(self.backbone, "patch", 1))

    def __copy__(self) -> AutoregressivePipeline:
        return self.varied()

    def _new_fusion(self) -> StreamingFusion | None:
        c = self.config
        if c.fusion_voxel_size is None:
            return None
        return StreamingFusion(c.fusion_voxel_size, num_threads=c.num_threads)

    def reset_memory(self) -> None:
        """Forget everything: begin with an empty store of the same settings, an empty map, and no compared frames.

        The store that there was is not changed.
        """
        old = self.store
        names = ("latent_dtype", "max_patches", "max_bytes", "eviction", "num_threads", "device", "device_bytes")
        self.store = MosaicMemoryStore(old.latent_patch_size, **{name: getattr(old, name) for name in names})
        self.pose_check = PoseCheck(times=self.config.half_life > 0)
        self.registration_check = RegistrationCheck()
        self.fusion = self._new_fusion()

    def _new_store(self) -> MosaicMemoryStore:
        c = self.config
        return MosaicMemoryStore(
            c.latent_patch_size,
            latent_dtype=c.latent_dtype,
            max_patches=c.max_patches,
            max_bytes=c.max_bytes,
            eviction=c.eviction,
            num_threads=c.num_threads,
        )

    def observe(
        self,
        image: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        dynamic: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
    ) -> None:
        """Remember a real frame.

        Parameters
        ----------
        image : (H, W, 3) array
            uint8, or float in [0, 1].
        depth : (H, W) array
            Metres; invalid where not finite or <= 0.
        intrinsics, pose
            Of the frame.
        dynamic : (H, W) bool array, optional
            Pixels of things that move: they are not remembered.
        confidence : (H, W) array, optional
            Of depth, in [0, 1]; 1 if not given. Memory weights what it shows by it.

        Warns
        -----
        SuspiciousInput
            Depth looks like millimetres; or the depth of the frames so far does not fit their poses, but would if the
            poses were inverted or had OpenGL axes; or their colours do not fit their depth.
        """
        self._observed(image, depth, intrinsics, pose, dynamic, confidence).fuse()

    def _observed(
        self,
        image: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        dynamic: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
    ) -> KeyframeWriter:
        """`observe`, without fusing the frame yet."""
        pixels, z, sure, moving = as_observed(image, depth, intrinsics, dynamic, confidence)
        self.pose_check.add(z, intrinsics, pose)
        self.registration_check.add(pixels, z, intrinsics, pose)
        writer = self._keyframes
        writer.observe(self.store, pixels, z, intrinsics, pose, sure, moving)
        return writer

    def remember(
        self,
        image: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        depth: ArrayLike | None = None,
    ) -> None:
        """Remember a frame that a model has generated, as `generate` does with its own keyframes.

        With ``remember="novel"`` only the cells that memory does not show yet are kept.

        Parameters
        ----------
        image : (H, W, 3) array
            uint8, or float in [0, 1].
        intrinsics, pose
            Of the frame.
        depth : (H, W) array, optional
            Metres; if not given, the depth estimator provides it.
        """
        pixels, z = as_generated(image, intrinsics, pose, depth)
        writer = self._keyframes
        writer.generated(self.store, pixels, intrinsics, pose, z)
        writer.fuse()

    def align(self, cameras: CameraTrajectory, *, window: int = 0) -> MemoryContext:
        """What memory shows to the cameras of some latent frames, with images padded to whole latent cells."""
        return self._conditioner.context(self.store, cameras.padded(self._cell), window)

    def windows(self, trajectory: CameraTrajectory) -> list[range]:
        """The frames of each window of a run along a path."""
        return WindowPlan(self.config, self.vae.temporal, trajectory).ranges

    def generate(
        self,
        trajectory: CameraTrajectory,
        *,
        on_window: Callable[[Window], None] | None = None,
        on_step: Callable[[int, int, int], None] | None = None,
        checkpoint: str | Path | Checkpoint | None = None,
        image: ArrayLike | None = None,
        depth: ArrayLike | None = None,
    ) -> GenerationResult:
        """Generate one frame for each pose.

        Parameters
        ----------
        trajectory : CameraTrajectory
        on_window : callable, optional
            Called with each finished `Window`.
        on_step : callable, optional
            Called after each denoising step with the window's index, its number of finished steps and its total number
            of steps: for a progress bar. A window restored from a checkpoint has no steps.
        checkpoint : path or Checkpoint, optional
            Folder that keeps each window and the memory after it. If a run of the same configuration and path has begun
            there, it resumes after its last window, whatever ended it, and gives the same bytes. A resumed run takes
            its memory from the folder and replaces ``self.store`` with it. (Under ``max_bytes``, a run with a
            checkpoint may forget other keyframes than one without, because a reopened store is smaller.)
        image : (H, W, 3) array, optional
            What the first camera sees, as for `observe`: it is remembered before the first window, and backbones with
            ``uses_anchor`` begin with it.
        depth : (H, W) array, optional
            Of the image; if not given, the depth estimator provides it.

        Raises
        ------
        WindowError
            A stage of a window failed; the error carries the windows completed before.
        ValueError
            The checkpoint belongs to another run; the message names the differences.

        Warns
        -----
        SuspiciousInput
            Memory is not empty, but shows next to nothing to the first target; the message names the likely causes.
        """
        check_instance("trajectory", trajectory, CameraTrajectory)
        size = trajectory.size[::-1]
        run = Progress(size, np.zeros((len(trajectory), *size, 3), dtype=np.float32))
        first = self._keyframes.first_frame(trajectory, image, depth)
        for window in WindowLoop(self).windows(trajectory, run, checkpoint, first, on_window, on_step):
            del window
        assert run.video is not None
        return GenerationResult(run.video, run.done)

    def stream(
        self,
        trajectory: CameraTrajectory,
        *,
        checkpoint: str | Path | Checkpoint | None = None,
        image: ArrayLike | None = None,
        depth: ArrayLike | None = None,
    ) -> Iterator[Window]:
        """`generate` as an iterator over finished windows.

        Parameters and errors are those of `generate`. Each window is generated when it is requested.
        """
        check_instance("trajectory", trajectory, CameraTrajectory)
        run = Progress(trajectory.size[::-1])
        first = self._keyframes.first_frame(trajectory, image, depth)
        return WindowLoop(self).windows(trajectory, run, checkpoint, first, None)

    def generate_window(
        self,
        cameras: CameraTrajectory,
        *,
        number: int = 0,
        on_step: Callable[[int, int, int], None] | None = None,
        image: ArrayLike | None = None,
        depth: ArrayLike | None = None,
    ) -> Window:
        """Generate one window, and remember its keyframes: a step of a loop whose path is decided as it goes.

        Nothing but memory continues from one call to the next; `stream` also blends the frames that windows share.

        Parameters
        ----------
        cameras : CameraTrajectory
            At most ``window_size`` frames.
        number : int
            Of the window: it decides the noise, and which of ``events`` gives the prompt.
        on_step, image, depth
            As for `generate`.

        Raises
        ------
        WindowError
            A stage failed; memory is as before.
        """
        check_instance("cameras", cameras, CameraTrajectory)
        check_integer("number", number, minimum=0, maximum=2**31 - 1)
        if self.config.chunks or hasattr(self.backbone, "finish_window"):
            raise ValueError(
                "generate_window: expected a model whose windows stand alone; chunks, and backbones with "
                "finish_window, continue from window to window: use stream"
            )
        if len(self.windows(cameras)) != 1:
            raise ValueError(
                f"cameras: expected one window, at most {self.config.window_size} frames, got {len(cameras)}; "
                "generate follows longer paths"
            )
        run = Progress(cameras.size[::-1])
        first = self._keyframes.first_frame(cameras, image, depth)
        (window,) = WindowLoop(self, number).windows(cameras, run, None, first, None, on_step)
        return window
