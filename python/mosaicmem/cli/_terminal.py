"""Terminal output besides results: progress bars, warnings, and the restored terminal after a signal."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from mosaicmem.pipeline import Window

_SHOW_CURSOR = "\x1b[?25h"
_ERASE_LINE = "\r\x1b[2K"


class _Console(Console):
    """A console that never hides the cursor, so that a process that is killed or suspended cannot leave it hidden."""

    def show_cursor(self, show: bool = True) -> bool:
        """Show the cursor; a request to hide it is ignored."""
        return super().show_cursor() if show else False


console = _Console()

_bars: list[Progress] = []  # bars on the screen
_said: set[str] = set()  # warnings already shown


class _Bars(Progress):
    """A progress bar that `warn` knows about."""

    def start(self) -> None:
        """Draw it."""
        super().start()
        if not self.disable:
            _bars.append(self)

    def stop(self) -> None:
        """Remove it."""
        super().stop()
        if self in _bars:
            _bars.remove(self)


def progress_bar() -> Progress:
    """A progress bar that fits a narrow terminal, and shows nothing if the output is not a terminal."""
    return _Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
        redirect_stderr=False,  # standard error may be a file, and warnings belong there
    )


def restore_terminal() -> str:
    """What to write to restore a terminal: it erases the line of a progress bar, and shows the cursor."""
    if not console.is_terminal:
        return ""
    return (_ERASE_LINE if _bars else "") + _SHOW_CURSOR


def warn(message: object) -> None:
    """Show a warning once, as one line on standard error, above the progress bar if there is one."""
    text = f"mosaicmem: warning: {' '.join(str(message).split())}"
    if text in _said:
        return
    _said.add(text)
    if _bars and sys.stderr.isatty():
        _bars[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo(text, err=True)


def show_warnings() -> None:
    """Route Python's warnings to `warn`."""

    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        warn(message)

    warnings.showwarning = show


class WindowBar:
    """Progress over the windows of one or more runs, which advances with each denoising step.

    Parameters
    ----------
    progress : Progress
    description : str
    windows : int
        Per run.
    runs : int
    """

    def __init__(self, progress: Progress, description: str, windows: int, runs: int = 1) -> None:
        self._progress = progress
        self._windows = windows
        self._before = 0  # windows of the runs before this one
        self._done = 0.0  # windows of this run
        self._task = progress.add_task(description, total=windows * runs)

    def on_step(self, window: int, done: int, steps: int) -> None:
        """A step of a window is done."""
        self._reach(window + done / steps)

    def on_window(self, window: Window) -> None:
        """A window is done, or was restored from a checkpoint."""
        self._reach(window.statistics.window + 1.0)

    def _reach(self, done: float) -> None:
        if done < self._done:  # the next run has begun
            self._before += self._windows
        self._done = done
        self._progress.update(self._task, completed=self._before + done)
