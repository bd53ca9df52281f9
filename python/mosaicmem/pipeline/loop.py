"""The loop over windows: retrieve, align, denoise, decode, blend, remember; and what continues between windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F32, as_array
from mosaicmem._border import to_host
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion import MemoryContext
from mosaicmem.memory import Mosaic
from mosaicmem.pipeline.checkpoint import Checkpoint, KeptWindow
from mosaicmem.pipeline.conditioning import coverage_of
from mosaicmem.pipeline.denoising import denoise
from mosaicmem.pipeline.first_view import suspect_unseen
from mosaicmem.pipeline.frames import cross_faded, extended
from mosaicmem.pipeline.results import Progress, Window, WindowStatistics
from mosaicmem.pipeline.windows import RunPlan, WindowPlan

if TYPE_CHECKING:
    from mosaicmem.pipeline.autoregressive import AutoregressivePipeline


class WindowLoop:
    """Runs a pipeline along one path.

    Parameters
    ----------
    pipeline : AutoregressivePipeline
    first : int
        Number of the first window, which decides its noise and its prompt.
    """

    def __init__(self, pipeline: AutoregressivePipeline, first: int = 0) -> None:
        self._pipe, self._first = pipeline, first

    def windows(
        self,
        trajectory: CameraTrajectory,
        run: Progress,
        checkpoint: str | Path | Checkpoint | None,
        first: tuple[F32, F32] | None,
        on_window: Callable[[Window], None] | None,
        on_step: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Window]:
        """The windows of a path, each generated when it is requested; see `AutoregressivePipeline.stream`."""
        c = self._pipe.config
        if not isinstance(checkpoint, (str, Path, Checkpoint, type(None))):
            raise TypeError(f"checkpoint: expected a path or Checkpoint, got {type(checkpoint).__name__}")
        kept = Checkpoint(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        path = trajectory.padded(self._pipe._cell)
        keyframes = self._choose_keyframes(trajectory)
        plan = WindowPlan(c, self._pipe.vae.temporal, path)
        given = RunPlan(path, trajectory.cameras, plan, keyframes, None if first is None else first[0])
        with kept or nullcontext():
            known = 0
            if kept is not None:
                self._pipe.store = kept.begin(c, trajectory, self._part_names(), self._pipe.store)
                known = kept.windows or 0
            before = self._pipe.store.snapshot()
            begins = first is not None and not known
            checks = self._pipe.pose_check, self._pipe.registration_check
            if first is not None and not known:
                self._pipe.pose_check, self._pipe.registration_check = copy.deepcopy(checks)
                writer = self._pipe._observed(*first, trajectory.cameras[0], trajectory[0])
            for index, frames in enumerate(plan.ranges):
                run.begin(self._first + index, frames)
                if kept is not None and index < known:
                    images, context, statistics = self._bring_back(given, run, kept, index)
                else:
                    stepped = None if on_step is None else partial(on_step, self._first + index)
                    try:
                        images, context, statistics = self._generate_window(given, run, kept, index, stepped)
                    except BaseException:
                        if index == 0:  # without the image that the run begins with
                            self._pipe.store.restore(before)
                            self._pipe.pose_check, self._pipe.registration_check = checks
                        raise
                if index == 0 and begins:
                    writer.fuse()
                final = plan.ranges[index + 1].start if index + 1 < len(plan) else frames.stop
                finished = run.add(frames, images, final, statistics)
                window = Window(frames, run.images(frames), finished, run.images(finished), context, statistics)
                with run("callback"):
                    if on_window is not None:
                        on_window(window)
                yield window

    def _choose_keyframes(self, trajectory: CameraTrajectory) -> list[int]:
        """The frames of a path to remember."""
        c = self._pipe.config
        if not c.adaptive_keyframes:
            return list(range(0, len(trajectory), c.keyframe_interval))
        return trajectory.select_keyframes(c.keyframe_translation, c.keyframe_angle, c.keyframe_interval)

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
        c = self._pipe.config
        with run("retrieve"):
            context = self._pipe._conditioner.context(
                self._pipe.store, given.windows.cameras(path, index), self._first + index
            )
            context = replace(context, **self._continuation(given, run, index))
        if index == self._first == 0 and not self._pipe._conditioner.has_warned:
            suspect_unseen(self._pipe.store, context, c)
        with run("denoise"):
            latents = denoise(self._pipe.backbone, self._pipe.scheduler, c, self._pipe.vae.channels, context, on_step)
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
        before, writer = self._pipe.store.snapshot(), self._pipe._keyframes
        try:
            with run("remember"):
                new = [i for i in given.keyframes if run.end <= i < frames.stop] if c.use_memory else []
                layout = given.windows.layout(index)
                count = writer.remember(self._pipe.store, new, frames, blended, latents, given.cameras, path, layout)
            coverage: Any = coverage_of(context)
            statistics = WindowStatistics(
                window=self._first + index,
                first_frame=frames.start,
                last_frame=frames.stop - 1,
                patches=_count("patch_ids", context.mosaic, lambda ids: ids >= 0),
                tokens=_count("valid", context.mosaic, lambda valid: valid),
                **coverage,
                keyframes=count,
                store_patches=len(self._pipe.store),
                seconds=dict(run.seconds),
                warp_valid_ratio=0.0 if context.mosaic is None else context.mosaic.warp_valid_ratio,
                fused_points=writer.waiting_points,
            )
            if kept is not None:
                with run("checkpoint"):
                    shown = context.on_host()
                    arrays = (decoded, shown.canvas, shown.coverage, shown.depth, shown.observed)
                    before_next = None if run.latents is None else to_host("latents", run.latents)
                    record = KeptWindow(*arrays, statistics, before_next)
                    self._pipe.store = kept.keep(index, record, self._pipe.store)
        except BaseException:
            self._pipe.store.restore(before)
            raise
        if self._pipe.fusion is not None:
            writer.fuse()
            statistics = replace(statistics, fused_voxels=len(self._pipe.fusion))
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
            empty = self._pipe._conditioner.empty(self._pipe.store, given.windows.cameras(path, index), index)
            kept_arrays = {name: getattr(record, name) for name in ("canvas", "coverage", "depth", "observed")}
            there = self._pipe.store._there({name: array for name, array in kept_arrays.items() if array is not None})
            context = replace(empty, **{**kept_arrays, **there}, **self._continuation(given, run, index))
            if record.latents is not None:
                run.latents = self._pipe.store._there({"latents": record.latents})["latents"]
                if self._pipe.config.chunks:
                    self._decode(run.latents, len(frames), index)  # so that the VAE continues from here
                self._finish(run.latents, context)
        return images, context, record.statistics

    def _part_names(self) -> dict[str, str]:
        parts = ("backbone", "vae", "scheduler", "depth_estimator", "text_encoder")
        return {name: _name_of(getattr(self._pipe, name)) for name in parts}

    @property
    def _keeps_latents(self) -> bool:
        """Whether later windows depend on the latents of earlier ones."""
        asks = getattr(self._pipe.backbone, "uses_previous", False) or hasattr(self._pipe.backbone, "finish_window")
        return bool(asks or self._pipe.config.chunks)

    def _continuation(self, given: RunPlan, run: Progress, index: int) -> dict[str, Any]:
        """The fields of a context that continue a video: cameras of frames, and what the backbone begins with."""
        frames = given.windows.ranges[index]
        shared = run.shared(frames)
        fields: dict[str, Any] = {"frames": given.path[frames.start : frames.stop], "shared": len(shared)}
        fields |= {"temporal": given.windows.layout(index), "previous": run.latents}
        if getattr(self._pipe.backbone, "uses_anchor", False):
            first = None if given.image is None or index else extended(given.image, given.path.cameras[0], "edge")
            begins = shared[0] if len(shared) else first
            if begins is not None:
                anchor = self._pipe.vae.encode(begins[None])
                on_host = isinstance(anchor, np.ndarray)
                fields["anchor"] = self._pipe.store._there({"anchor": anchor})["anchor"] if on_host else anchor
        return fields

    def _decode(self, latents: Any, frames: int, index: int) -> Any:
        """The video of a window; with chunks, as what follows the chunks before."""
        if self._pipe.config.chunks and hasattr(self._pipe.vae, "decode_chunk"):
            return self._pipe.vae.decode_chunk(latents, frames, first=index == 0)
        return self._pipe.vae.decode(latents, frames)

    def _finish(self, latents: Any, context: MemoryContext) -> None:
        """Tell a backbone that wants to know that a window is done: it may keep the keys and values of its latents."""
        finish = getattr(self._pipe.backbone, "finish_window", None)
        if finish is not None:
            finish(latents, context)


def _name_of(part: Any) -> str:
    """The class of a part: a remote one says which it stands for."""
    return str(getattr(part, "part_name", type(part).__name__))


def _count(name: str, mosaic: Mosaic | None, is_there: Callable[[Any], Any]) -> int:
    """The number of existing entries in an array of a window's mosaic; 0 without a mosaic."""
    return 0 if mosaic is None else int(is_there(to_host(name, getattr(mosaic, name))).sum())
