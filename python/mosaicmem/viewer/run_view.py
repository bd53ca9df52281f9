"""A run as it goes on: the growing map, the window at work, statistics and stage times."""

from __future__ import annotations

import html
import time
from collections import deque
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import U8
from mosaicmem._copies import Uncopied
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.summary import COVERAGE
from mosaicmem.pipeline import AutoregressivePipeline, Window, WindowStatistics
from mosaicmem.viewer.run_pictures import WindowPicture, WindowPictures
from mosaicmem.viewer.viewer import MemoryViewer

_EVENTS = 8
_STAGES = {
    "retrieve": "#2c608c",
    "denoise": "#888888",
    "decode": "#26a082",
    "remember": "#d08020",
    "checkpoint": "#704090",
}


class RunView(Uncopied):
    """Shows a run of a pipeline in the browser while it goes on.

    Pass `on_step` and `on_window` to `AutoregressivePipeline.generate`.

    Parameters
    ----------
    pipeline : AutoregressivePipeline
    path : CameraTrajectory
        That the run follows.
    options
        Of `MemoryViewer`: host, port, token.

    Attributes
    ----------
    viewer : MemoryViewer

    Examples
    --------
    >>> with RunView(pipeline, path) as view:  # doctest: +SKIP
    ...     print(view.viewer.url)
    ...     pipeline.generate(path, on_step=view.on_step, on_window=view.on_window)
    """

    _instead = "make another one"

    def __init__(self, pipeline: AutoregressivePipeline, path: CameraTrajectory, **options: Any) -> None:
        self._path, self._windows = path, pipeline.windows(path)
        self._pictures = WindowPictures(pipeline, path)
        self._done: list[WindowStatistics] = []
        self._begun = time.perf_counter()
        self.viewer = MemoryViewer(
            lambda: pipeline.store, trajectory=path, retrieval=pipeline.config.keyframe_options(), **options
        )
        gui = self.viewer.gui
        with gui.add_folder("Run", order=-1):
            self._state = gui.add_markdown(f"Waiting for the first of {len(self._windows)} windows")
            self._bar = gui.add_progress_bar(0.0)
            self._picture = gui.add_image(np.full((48, 120, 3), 24, np.uint8), label="memory before (top) | generated")
            self._times = gui.add_html("")
            self._log = gui.add_markdown("")
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self.viewer.log = self.event

    def on_step(self, window: int, done: int, steps: int) -> None:
        """A denoising step is done."""
        if self._is_over:
            return
        frames = self._windows[window]
        told = f"Window **{window + 1}** of {len(self._windows)}, frames {frames.start} to {frames.stop - 1}"
        self._state.content = f"{told}: step {done} of {steps}"
        self._bar.value = 100 * (window + done / steps) / len(self._windows)
        if done == 1:
            self.viewer.scene.draw_window(self._path, frames)

    def on_window(self, window: Window) -> None:
        """A window is done. What follows the last one, a run without memory say, is not shown."""
        if self._is_over:
            return
        statistics = window.statistics
        self._done.append(statistics)
        self._picture.image = _sheet(self._pictures(window))
        self._times.content = _bars(self._done)
        self._bar.value = 100 * len(self._done) / len(self._windows)
        covered, seen, made_up = (100 * getattr(statistics, name) for name in COVERAGE)
        self.event(
            f"window {statistics.window + 1}: memory covered {covered:.0f} % ({seen:.0f} % seen, {made_up:.0f} % "
            f"generated); {statistics.keyframes} keyframes remembered; {statistics.store_patches:,} patches"
        )
        if self._is_over:
            seconds = time.perf_counter() - self._begun
            self._state.content = f"Done: {len(self._windows)} windows in {seconds:.1f} s"

    def event(self, text: str) -> None:
        """Add a line to the list of what has happened."""
        self._events.appendleft(text)
        self._log.content = "\n".join(f"- {line}" for line in self._events)

    @property
    def _is_over(self) -> bool:
        return len(self._done) >= len(self._windows)

    def close(self) -> None:
        """Close the viewer."""
        self.viewer.close()

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sheet(pictures: list[WindowPicture]) -> U8:
    """Memory above, the generated frames below."""
    width = 120
    columns = []
    for each in pictures:
        height = round(width * each.generated.shape[0] / each.generated.shape[1])
        cells = [np.asarray(Image.fromarray(p).resize((width, height))) for p in (each.memory, each.generated)]
        columns.append(np.concatenate(cells))
    return np.concatenate(columns, axis=1)


def _bars(done: list[WindowStatistics]) -> str:
    """Mean time of each stage as bars, HTML."""
    stages = {name: 1000 * float(np.mean([each.seconds.get(name, 0.0) for each in done])) for name in _STAGES}
    longest = max(*stages.values(), 1e-9)
    rows = [
        f'<div style="display:flex;align-items:center;font-size:0.8em;margin:2px 0">'
        f'<span style="width:5.5em">{html.escape(name)}</span>'
        f'<span style="background:{_STAGES[name]};height:0.7em;width:{45 * ms / longest:.1f}%"></span>'
        f"&nbsp;{ms:.1f} ms</div>"
        for name, ms in stages.items()
        if ms
    ]
    return f'<div style="padding:0 0.75em">{"".join(rows)}</div>'
