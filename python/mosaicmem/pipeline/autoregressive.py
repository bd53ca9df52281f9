"""A video along a camera path, window after window, with a memory of the space it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, Bool, as_array, as_depth, as_pixels, check_instance
from mosaicmem.attention import WarpedLatent
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import (
    VAE,
    DDPMScheduler,
    DiffusionBackbone,
    MemoryContext,
    NoiseScheduler,
    SyntheticBackbone,
    SyntheticVAE,
    TemporalLayout,
)
from mosaicmem.geometry import DepthCompletion, DepthEstimator, depth_to_grid
from mosaicmem.memory import MemoryRetrieval, MosaicMemoryStore
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.noise import window_noise


@dataclass(frozen=True)
class WindowStatistics:
    """What happened in one window.

    Attributes
    ----------
    window : int
    first_frame, last_frame : int
        Both inclusive.
    patches, tokens : int
        Retrieved, over all latent frames.
    coverage : float
        Part of the window's latent cells that memory covered.
    keyframes : int
        Remembered from this window.
    store_patches : int
        In the store afterwards.
    seconds : dict of str to float
        Time of each stage: retrieve, denoise, decode, remember.
    """

    window: int
    first_frame: int
    last_frame: int
    patches: int
    tokens: int
    coverage: float
    keyframes: int
    store_patches: int
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Window:
    """A finished window, as callbacks get it.

    Attributes
    ----------
    frames : range
        Its frames of the trajectory.
    video : (len(frames), H, W, 3) float32
        As decoded, before blending with the window before.
    context : MemoryContext
        What conditioned it.
    statistics : WindowStatistics
    """

    frames: range
    video: F32
    context: MemoryContext
    statistics: WindowStatistics


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A generated video.

    Attributes
    ----------
    frames : (T, H, W, 3) float32 in [0, 1]
        One for each pose of the trajectory.
    windows : list of WindowStatistics
    """

    frames: F32
    windows: list[WindowStatistics] = field(default_factory=list)


class WindowError(RuntimeError):
    """A window failed; what was done before it is kept.

    Attributes
    ----------
    window : int
    frames : range
        Of the failed window.
    stage : str
        retrieve, denoise, decode, remember or callback.
    completed : GenerationResult
        All windows before it.
    """

    def __init__(self, window: int, frames: range, stage: str, completed: GenerationResult, cause: Exception) -> None:
        super().__init__(
            f"window {window} (frames {frames.start}-{frames.stop - 1}) failed in stage {stage!r}: "
            f"{type(cause).__name__}: {cause}"
        )
        self.window = window
        self.frames = frames
        self.stage = stage
        self.completed = completed


class AutoregressivePipeline:
    """Drives a diffusion backbone along a camera path with spatial memory.

    Each window: retrieve what its cameras see, align it to them, denoise, decode, blend with the window before, choose
    keyframes by motion, remember them. The result has exactly as many frames as the trajectory.

    Parameters
    ----------
    config : PipelineConfig, optional
    backbone, vae, scheduler : optional
        Anything that follows :class:`DiffusionBackbone`, :class:`VAE`, :class:`NoiseScheduler`; synthetic ones if not
        given.
    depth_estimator : DepthEstimator, optional
        Depth of generated keyframes; :class:`~mosaicmem.geometry.DepthCompletion` if not given.
    store : MosaicMemoryStore, optional
        Carried over from before; a new one if not given.
    """

    def __init__(
        self,
        config: PipelineConfig | None = None,
        *,
        backbone: DiffusionBackbone | None = None,
        vae: VAE | None = None,
        scheduler: NoiseScheduler | None = None,
        depth_estimator: DepthEstimator | None = None,
        store: MosaicMemoryStore | None = None,
    ) -> None:
        self.config = c = PipelineConfig() if config is None else check_instance("config", config, PipelineConfig)
        temporal = TemporalLayout(c.temporal_kind, c.temporal_factor)
        self.vae: VAE = SyntheticVAE(c.vae_stride, c.latent_channels, temporal) if vae is None else vae
        self.scheduler: NoiseScheduler = DDPMScheduler(schedule=c.noise_schedule) if scheduler is None else scheduler
        self.backbone: DiffusionBackbone = SyntheticBackbone(self.scheduler) if backbone is None else backbone
        self.depth_estimator: DepthEstimator = DepthCompletion() if depth_estimator is None else depth_estimator
        for name, part, protocol in (
            ("vae", self.vae, VAE),
            ("scheduler", self.scheduler, NoiseScheduler),
            ("backbone", self.backbone, DiffusionBackbone),
            ("depth_estimator", self.depth_estimator, DepthEstimator),
        ):
            if not isinstance(part, protocol):
                raise TypeError(f"{name}: expected the methods of {protocol.__name__}, got {type(part).__name__}")
        expected = getattr(self.scheduler, "prediction_type", self.backbone.prediction_type)
        if self.backbone.prediction_type != expected:
            raise ValueError(
                f"backbone: expected prediction_type {expected!r} as the scheduler's, "
                f"got {self.backbone.prediction_type!r}"
            )
        self.store = self._new_store() if store is None else check_instance("store", store, MosaicMemoryStore)
        if self.store.channels not in (None, self.vae.channels):
            raise ValueError(f"store: expected latents of {self.vae.channels} channels, got {self.store.channels}")
        self.retrieval = MemoryRetrieval(
            top_k=c.top_k,
            near=c.near,
            far=c.far,
            half_life=c.half_life,
            min_visibility=c.min_visibility,
            diversity_radius=c.diversity_radius,
            diversity_penalty=c.diversity_penalty,
        )
        self.warped_latent = WarpedLatent(c.splat, depth_tolerance=c.depth_tolerance)

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

    def observe(self, image: ArrayLike, depth: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose) -> None:
        """Remember a real frame.

        Parameters
        ----------
        image : (H, W, 3) array
            uint8, or float in [0, 1].
        depth : (H, W) array
            Metres; invalid where not finite or <= 0.
        intrinsics, pose
            Of the frame; the image size is a multiple of the VAE's stride.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        pixels = as_pixels("image", image, (intrinsics.height, intrinsics.width, 3))
        z = as_depth("depth", depth, pixels.shape[:2])
        self._insert(pixels, depth_to_grid(z, self.vae.stride), intrinsics, pose, confidence=1.0, valid=None)

    def align(self, cameras: CameraTrajectory, *, window: int = 0) -> MemoryContext:
        """What memory shows to the cameras of some latent frames."""
        c = self.config
        grid = cameras.intrinsics.latent_grid(self.vae.stride)
        shape = (len(cameras), grid.height, grid.width)
        mosaic = None
        canvas = np.zeros((*shape, self.vae.channels), dtype=np.float32)
        coverage = np.zeros(shape, dtype=np.bool_)
        depth = np.zeros(shape, dtype=np.float32)
        if c.use_memory and len(self.store):
            mosaic = self.retrieval.retrieve(self.store, cameras, self.vae.stride)
            canvases = mosaic.compose(self.warped_latent)
            canvas = np.stack([one.latents for one in canvases])
            coverage = np.stack([one.coverage for one in canvases])
            depth = np.stack([one.depth for one in canvases])
        return MemoryContext(cameras, self.vae.stride, mosaic, canvas, coverage, depth, c.prompt, c.seed, window)

    def generate(
        self,
        trajectory: CameraTrajectory,
        *,
        on_window: Callable[[Window], None] | None = None,
    ) -> GenerationResult:
        """Generate one frame for each pose.

        Parameters
        ----------
        trajectory : CameraTrajectory
            Its image size is a multiple of the VAE's stride.
        on_window : callable, optional
            Called with each finished :class:`Window`.

        Raises
        ------
        WindowError
            A stage of a window failed; it carries what was done before.
        ValueError
            The image size does not suit the VAE.
        """
        c = self.config
        check_instance("trajectory", trajectory, CameraTrajectory)
        trajectory.intrinsics.latent_grid(self.vae.stride)  # refuses a size that does not fit before any work
        size = (trajectory.intrinsics.height, trajectory.intrinsics.width, 3)
        video = np.zeros((len(trajectory), *size), dtype=np.float32)
        keyframes = trajectory.select_keyframes(c.keyframe_translation, c.keyframe_angle, c.keyframe_interval)
        done: list[WindowStatistics] = []
        end = 0  # frames before this have been generated
        for index, frames in enumerate(trajectory.windows(c.window_size, c.window_overlap)):
            stages = _Stages(index, frames, video[:end], done)
            with stages("retrieve"):
                context = self.align(self._latent_cameras(trajectory, frames), window=index)
            with stages("denoise"):
                latents = self._denoise(context)
            with stages("decode"):
                decoded = as_array(
                    "decoded video",
                    self.vae.decode(latents, len(frames)),
                    np.float32,
                    (len(frames), *size),
                    finite=True,
                )
                blended = _blend(video, decoded, frames, end)
            # Keyframes are remembered as this window shows them, so that the next one, which shares frames with it and
            # is blended into it, is conditioned on them.
            with stages("remember"):
                new = [i for i in keyframes if end <= i < frames.stop] if c.use_memory else []
                for i in new:
                    self._remember(blended[i - frames.start], trajectory.intrinsics, trajectory[i])
            video[frames.start : frames.stop] = blended
            end = frames.stop
            statistics = WindowStatistics(
                window=index,
                first_frame=frames.start,
                last_frame=frames.stop - 1,
                patches=len(context.mosaic.patch_ids) if context.mosaic else 0,
                tokens=len(context.mosaic) if context.mosaic else 0,
                coverage=float(context.coverage.mean()),
                keyframes=len(new),
                store_patches=len(self.store),
                seconds=stages.seconds,
            )
            done.append(statistics)
            stages = _Stages(index, frames, video[:end], done)
            with stages("callback"):
                if on_window is not None:
                    on_window(Window(frames, decoded, context, statistics))
        return GenerationResult(video, done)

    def _latent_cameras(self, trajectory: CameraTrajectory, frames: range) -> CameraTrajectory:
        """The camera that stands for each latent frame of a window."""
        layout, count = self.vae.temporal, len(frames)
        references = [layout.reference_frame(i, count) for i in range(layout.num_latents(count))]
        return CameraTrajectory([trajectory[frames[i]] for i in references], trajectory.intrinsics)

    def _denoise(self, context: MemoryContext) -> F32:
        """From noise to the clean latents (C, T, h, w) of a window."""
        shape = (1, self.vae.channels, *context.coverage.shape)
        noise = window_noise(self.config.seed, context.window)
        sample = noise.standard_normal(shape, dtype=np.float32)
        steps = [*(int(t) for t in self.scheduler.timesteps(self.config.num_inference_steps)), -1]
        for timestep, previous in pairwise(steps):
            prediction = as_array(
                "backbone's prediction",
                self.backbone.predict(sample, timestep, context),
                np.float32,
                shape,
                finite=True,
            )
            fresh = noise.standard_normal(shape, dtype=np.float32)
            sample = self.scheduler.step(prediction, timestep, previous, sample, fresh)
        return np.ascontiguousarray(sample[0])

    def _remember(self, image: F32, intrinsics: CameraIntrinsics, pose: CameraPose) -> None:
        """Insert a generated keyframe; by default only the cells that memory does not show yet."""
        shown = self.align(CameraTrajectory([pose], intrinsics))
        s = self.vae.stride
        known = np.kron(shown.depth[0], np.ones((s, s), dtype=np.float32))
        depth = as_array(
            "estimated depth",
            self.depth_estimator.estimate(image, intrinsics, pose, known),
            np.float32,
            image.shape[:2],
        )
        self._insert(
            image,
            depth_to_grid(depth, s),
            intrinsics,
            pose,
            confidence=self.config.generated_confidence,
            valid=~shown.coverage[0] if self.config.remember == "novel" else None,
        )

    def _insert(
        self,
        image: F32,
        depth: F32,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        confidence: float,
        valid: Bool | None,
    ) -> None:
        self.store.insert_keyframe(
            self.vae.encode_image(image),
            depth,
            intrinsics,
            pose,
            valid=valid,
            confidence=np.full(depth.shape, confidence, dtype=np.float32),
        )


class _Stages:
    """Times the stages of a window and gives a failure in one of them its place."""

    def __init__(self, window: int, frames: range, video: F32, done: list[WindowStatistics]) -> None:
        self.seconds: dict[str, float] = {}
        self._window, self._frames, self._video, self._done = window, frames, video, done

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            completed = GenerationResult(self._video.copy(), list(self._done))
            raise WindowError(self._window, self._frames, stage, completed, error) from error
        self.seconds[stage] = time.perf_counter() - start


def _blend(video: F32, decoded: F32, frames: range, end: int) -> F32:
    """The frames of a window; those before ``end`` exist already and pass over into the new ones linearly."""
    shared = end - frames.start
    ramp = (np.arange(shared, dtype=np.float32) + 1) / (shared + 1)
    weight = np.concatenate([ramp, np.ones(len(frames) - shared, dtype=np.float32)])[:, None, None, None]
    return np.asarray((1 - weight) * video[frames.start : frames.stop] + weight * np.clip(decoded, 0, 1))
