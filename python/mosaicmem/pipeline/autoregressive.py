"""Generates a video along a camera path, window by window, with a memory of the space it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, as_array, as_depth, as_pixels, check_instance
from mosaicmem._border import to_host
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
from mosaicmem.geometry import DepthCompletion, DepthEstimator, PoseCheck
from mosaicmem.memory import Mosaic, MosaicMemoryStore
from mosaicmem.pipeline.checkpoint import Checkpoint, KeptWindow
from mosaicmem.pipeline.conditioning import Conditioner, coverage_of
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.denoising import denoise
from mosaicmem.pipeline.first_view import suspect_unseen
from mosaicmem.pipeline.frames import cross_faded, extended
from mosaicmem.pipeline.keyframes import KeyframeWriter
from mosaicmem.pipeline.parts import check_parts, scheduler_of
from mosaicmem.pipeline.results import GenerationResult, Progress, Window, WindowStatistics
from mosaicmem.pipeline.windows import RunPlan, WindowPlan

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
    pose_check : PoseCheck
        Compares the observed frames; its ``conclusion`` states the result, also if nothing could be compared.
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
        self._conditioner = Conditioner(c, self.vae.stride, self.vae.channels, self.text_encoder)

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
        return AutoregressivePipeline(
            config,
            backbone=self.backbone,
            vae=self.vae,
            scheduler=self.scheduler,
            depth_estimator=self.depth_estimator,
            text_encoder=self.text_encoder,
            store=self.store.fork(),
        )

    @property
    def _keyframes(self) -> KeyframeWriter:
        """Made for each use: parts may have been replaced."""
        return KeyframeWriter(self.config, self.vae, self._cell, self.depth_estimator, self._conditioner)

    @property
    def _cell(self) -> int:
        """Pixels along what images are padded to whole numbers of: latent cells, or a backbone's tokens of them."""
        return self.vae.stride * int(getattr(self.backbone, "patch", 1))

    def __copy__(self) -> AutoregressivePipeline:
        return self.varied()

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
            poses were inverted or had OpenGL axes.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        pixels = as_pixels("image", image, (intrinsics.height, intrinsics.width, 3))
        z = as_depth("depth", depth, pixels.shape[:2])
        if dynamic is not None:
            z = np.where(as_array("dynamic", dynamic, np.bool_, z.shape), np.float32(0), z)
        self.pose_check.add(z, intrinsics, pose)
        sure = None
        if confidence is not None:
            sure = as_array("confidence", confidence, np.float32, z.shape, finite=True)
            if sure.min(initial=0) < 0 or sure.max(initial=0) > 1:
                raise ValueError(f"confidence: expected values in [0, 1], got {sure.min():g} to {sure.max():g}")
        self._keyframes.observe(self.store, pixels, z, intrinsics, pose, sure)

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
        for window in self._windows(trajectory, run, checkpoint, first, on_window, on_step):
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
        return self._windows(trajectory, run, checkpoint, self._keyframes.first_frame(trajectory, image, depth), None)

    def _windows(
        self,
        trajectory: CameraTrajectory,
        run: Progress,
        checkpoint: str | Path | Checkpoint | None,
        first: tuple[F32, F32] | None,
        on_window: Callable[[Window], None] | None,
        on_step: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Window]:
        c = self.config
        if not isinstance(checkpoint, (str, Path, Checkpoint, type(None))):
            raise TypeError(f"checkpoint: expected a path or Checkpoint, got {type(checkpoint).__name__}")
        kept = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        path = trajectory.padded(self._cell)
        keyframes = trajectory.select_keyframes(c.keyframe_translation, c.keyframe_angle, c.keyframe_interval)
        plan = WindowPlan(c, self.vae.temporal, path)
        given = RunPlan(path, trajectory.cameras, plan, keyframes, None if first is None else first[0])
        with kept or nullcontext():
            known = 0
            if kept is not None:
                self.store = kept.begin(c, trajectory, self._part_names(), self.store)
                known = kept.windows or 0
            before = self.store.snapshot()
            if first is not None and not known:
                self.observe(*first, trajectory.cameras[0], trajectory[0])
            for index, frames in enumerate(plan.ranges):
                run.begin(index, frames)
                if kept is not None and index < known:
                    images, context, statistics = self._bring_back(given, run, kept, index)
                else:
                    stepped = None if on_step is None else partial(on_step, index)
                    try:
                        images, context, statistics = self._generate_window(given, run, kept, index, stepped)
                    except BaseException:
                        if index == 0:
                            self.store.restore(before)  # without the image that the run begins with
                        raise
                final = plan.ranges[index + 1].start if index + 1 < len(plan) else frames.stop
                finished = run.add(frames, images, final, statistics)
                window = Window(frames, run.images(frames), finished, run.images(finished), context, statistics)
                with run("callback"):
                    if on_window is not None:
                        on_window(window)
                yield window

    def _generate_window(
        self,
        given: RunPlan,
        run: Progress,
        kept: Checkpoint | None,
        index: int,
        on_step: Callable[[int, int], None] | None,
    ) -> tuple[F32, MemoryContext, WindowStatistics]:
        """A window's images, padded to whole latent cells, context and statistics. On failure, memory is restored."""
        path, frames = given.path, given.windows.ranges[index]
        c = self.config
        with run("retrieve"):
            context = self._conditioner.context(self.store, given.windows.cameras(path, index), index)
            context = replace(context, **self._continuation(given, run, index))
        if index == 0 and not self._conditioner.has_warned:
            suspect_unseen(self.store, context, c)
        with run("denoise"):
            latents = denoise(self.backbone, self.scheduler, c, self.vae.channels, context, on_step)
            self._finish(latents, context)
        with run("decode"):
            decoded = as_array(
                "decoded video",
                to_host("decoded video", self._decode(latents, len(frames), index)),
                np.float32,
                (len(frames), *path.size[::-1], 3),
                finite=True,
                values=True,
            )
            blended = cross_faded(run.shared(frames), decoded)
        run.latents = latents if self._keeps_latents else None
        # Keyframes are remembered as this window shows them, before the next window is blended over its last frames,
        # because the next window is conditioned on them.
        before = self.store.snapshot()
        try:
            with run("remember"):
                new = [i for i in given.keyframes if run.end <= i < frames.stop] if c.use_memory else []
                layout = given.windows.layout(index)
                count = self._keyframes.remember(self.store, new, frames, blended, latents, given.cameras, path, layout)
            statistics = WindowStatistics(
                window=index,
                first_frame=frames.start,
                last_frame=frames.stop - 1,
                patches=_count("patch_ids", context.mosaic, lambda ids: ids >= 0),
                tokens=_count("valid", context.mosaic, lambda valid: valid),
                **coverage_of(context),
                keyframes=count,
                store_patches=len(self.store),
                seconds=dict(run.seconds),
            )
            if kept is not None:
                with run("checkpoint"):
                    shown = context.on_host()
                    arrays = (decoded, shown.canvas, shown.coverage, shown.depth, shown.observed)
                    before_next = None if run.latents is None else to_host("latents", run.latents)
                    record = KeptWindow(*arrays, statistics, before_next)
                    self.store = kept.keep(index, record, self.store)
        except BaseException:
            self.store.restore(before)
            raise
        return blended, context, statistics

    def _bring_back(
        self, given: RunPlan, run: Progress, kept: Checkpoint, index: int
    ) -> tuple[F32, MemoryContext, WindowStatistics]:
        """A window restored from a checkpoint."""
        with run("checkpoint"):
            record, path, frames = kept.load(index), given.path, given.windows.ranges[index]
            expected = (len(frames), *path.size[::-1], 3)
            decoded = as_array("decoded", record.decoded, np.float32, expected, finite=True)
            images = cross_faded(run.shared(frames), decoded)
            empty = self._conditioner.empty(self.store, given.windows.cameras(path, index), index)
            kept_arrays = {name: getattr(record, name) for name in ("canvas", "coverage", "depth", "observed")}
            there = self.store._there({name: array for name, array in kept_arrays.items() if array is not None})
            context = replace(empty, **{**kept_arrays, **there}, **self._continuation(given, run, index))
            if record.latents is not None:
                run.latents = self.store._there({"latents": record.latents})["latents"]
                if self.config.chunks:
                    self._decode(run.latents, len(frames), index)  # so that the VAE continues from here
                self._finish(run.latents, context)
        return images, context, record.statistics

    def _part_names(self) -> dict[str, str]:
        parts = ("backbone", "vae", "scheduler", "depth_estimator", "text_encoder")
        return {name: type(getattr(self, name)).__name__ for name in parts}

    @property
    def _keeps_latents(self) -> bool:
        """Whether later windows depend on the latents of earlier ones."""
        asks = getattr(self.backbone, "uses_previous", False) or hasattr(self.backbone, "finish_window")
        return bool(asks or self.config.chunks)

    def _continuation(self, given: RunPlan, run: Progress, index: int) -> dict[str, Any]:
        """The fields of a context that continue a video: cameras of frames, and what the backbone begins with."""
        frames = given.windows.ranges[index]
        shared = run.shared(frames)
        fields: dict[str, Any] = {"frames": given.path[frames.start : frames.stop], "shared": len(shared)}
        fields |= {"temporal": given.windows.layout(index), "previous": run.latents}
        if getattr(self.backbone, "uses_anchor", False):
            first = None if given.image is None or index else extended(given.image, given.path.cameras[0], "edge")
            begins = shared[0] if len(shared) else first
            if begins is not None:
                anchor = self.vae.encode(begins[None])
                on_host = isinstance(anchor, np.ndarray)
                fields["anchor"] = self.store._there({"anchor": anchor})["anchor"] if on_host else anchor
        return fields

    def _decode(self, latents: Any, frames: int, index: int) -> Any:
        """The video of a window; with chunks, as what follows the chunks before."""
        if self.config.chunks and hasattr(self.vae, "decode_chunk"):
            return self.vae.decode_chunk(latents, frames, first=index == 0)
        return self.vae.decode(latents, frames)

    def _finish(self, latents: Any, context: MemoryContext) -> None:
        """Tell a backbone that wants to know that a window is done: it may keep the keys and values of its latents."""
        finish = getattr(self.backbone, "finish_window", None)
        if finish is not None:
            finish(latents, context)


def _count(name: str, mosaic: Mosaic | None, is_there: Callable[[Any], Any]) -> int:
    """The number of existing entries in an array of a window's mosaic; 0 without a mosaic."""
    return 0 if mosaic is None else int(is_there(to_host(name, getattr(mosaic, name))).sum())
