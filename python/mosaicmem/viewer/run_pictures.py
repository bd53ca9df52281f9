"""Pictures of a run's windows: what memory showed before each, and what was generated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import U8
from mosaicmem.camera import CameraTrajectory
from mosaicmem.media import to_uint8
from mosaicmem.memory import KeyframeRetrieval
from mosaicmem.memory.canvas_colors import canvas_colors
from mosaicmem.memory.scene_colors import SceneColors
from mosaicmem.pipeline import AutoregressivePipeline, Window

_PICTURES = 3  # frames of a window
_PIXELS = 2  # along the edge of a cell


@dataclass(frozen=True, eq=False)
class WindowPicture:
    """One frame of a window.

    Attributes
    ----------
    frame : int
        Of the path.
    generated : (H, W, 3) uint8
    memory : (h, w, 3) uint8
        What memory showed to its camera before the window, black where nothing.
    """

    frame: int
    generated: U8
    memory: U8


class WindowPictures:
    """Follows a run of a pipeline along a path.

    Parameters
    ----------
    pipeline : AutoregressivePipeline
        Whose memory is now what the first window is given.
    path : CameraTrajectory
    """

    def __init__(self, pipeline: AutoregressivePipeline, path: CameraTrajectory) -> None:
        self._pipeline, self._path = pipeline, path
        self._before = pipeline.store.fork()
        self._retrieval = KeyframeRetrieval(**pipeline.config.keyframe_options())
        self._retrieval._has_warned = True  # the run itself has warned

    def __call__(self, window: Window) -> list[WindowPicture]:
        """The first, the last, and a frame in the middle of a window that has just finished."""
        before, self._before = self._before, self._pipeline.store.fork()
        chosen = np.unique(np.linspace(0, len(window.frames) - 1, _PICTURES).round().astype(int)).tolist()
        color_of = SceneColors.of_store(before)
        stride = self._pipeline.vae.stride
        pictures = []
        for i in chosen:
            frame = window.frames[i]
            target = self._path[frame : frame + 1].padded(stride)
            height, width = (-(-size // stride) * _PIXELS for size in self._path.size[::-1])
            shown = np.zeros((height, width, 3), np.uint8)
            if len(before):
                composed = self._retrieval.retrieve(before, target, stride)
                told = {"scale": _PIXELS, "of_latents": color_of.components}
                shown = to_uint8("memory", canvas_colors(before, composed, target, stride, **told)[0])  # type: ignore[arg-type]
            pictures.append(WindowPicture(frame, to_uint8("video", window.video[i]), shown))
        return pictures
