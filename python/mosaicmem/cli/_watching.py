"""Who is told how a run goes on: progress bars, a live view in the browser, a recording."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.pipeline import AutoregressivePipeline, Window
    from mosaicmem.viewer import RunView


class Watchers:
    """Passes on what a run tells to all that have the methods ``on_step`` or ``on_window``."""

    def __init__(self) -> None:
        self._all: list[Any] = []

    def add(self, watcher: Any) -> None:
        """One more."""
        self._all.append(watcher)

    def on_step(self, window: int, done: int, steps: int) -> None:
        """A step of a window is done."""
        for watcher in self._all:
            if hasattr(watcher, "on_step"):
                watcher.on_step(window, done, steps)

    def on_window(self, window: Window) -> None:
        """A window is done."""
        for watcher in self._all:
            watcher.on_window(window)


class Watched:
    """How a run is watched. The live view stays until the block ends.

    Parameters
    ----------
    port : int, optional
        Of a live view; none if not given.
    recording : Path, optional
        A file for rerun, which appears when the run has ended.

    Raises
    ------
    ModuleNotFoundError
        A package for it is missing.
    """

    def __init__(self, port: int | None, recording: Path | None) -> None:
        from mosaicmem._extras import rerun, viser

        self._port, self._recording = port, recording
        self._view: RunView | None = None
        if port is not None:
            viser("--view")
        if recording is not None:
            rerun("--rerun")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._view is not None:
            self._view.close()

    @contextmanager
    def over(self, pipeline: AutoregressivePipeline, path: CameraTrajectory) -> Iterator[Watchers]:
        """Watch the run that the block makes."""
        watchers = Watchers()
        if self._port is not None:
            from mosaicmem.viewer import RunView

            self._view = RunView(pipeline, path, port=self._port)
            typer.echo(f"mosaicmem: the run is shown at {self._view.viewer.url}", err=True)
            watchers.add(self._view)
        if self._recording is None:
            yield watchers
            return
        from mosaicmem.viewer import RerunLog

        self._recording.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._recording.with_name(f".{self._recording.name}.writing")
        try:
            with RerunLog(unfinished, pipeline, path) as log:
                watchers.add(log)
                yield watchers
            os.replace(unfinished, self._recording)
        finally:
            unfinished.unlink(missing_ok=True)

    def linger(self) -> None:
        """In a terminal, leave the view open until the user ends it."""
        if self._view is not None and sys.stdout.isatty():
            typer.echo(f"mosaicmem: still shown at {self._view.viewer.url} until Ctrl-C", err=True)
            self._view.viewer.wait()
