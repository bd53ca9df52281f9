"""What commands share: options, error reports, frame ranges, output folders."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.progress import Progress

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that is there.")]
Seed = Annotated[int, typer.Option(help="Of all noise.", min=0)]
Threads = Annotated[int, typer.Option(help="0: all cores. No result depends on it.", min=0)]

console = Console()

SUMMARY = "summary.json"

_unfinished: list[tuple[Path, list[Path]]] = []  # temporary folders, and the parents made for them

_P = ParamSpec("_P")


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """A failure becomes one line on standard error and exit code 1; with ``debug=True``, its traceback."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except Exception as error:
            if kwargs.get("debug"):
                raise
            message = _message(error)
            typer.echo(f"mosaicmem: error: {' '.join(message.split())}", err=True)
            raise typer.Exit(1) from None

    return run


def _message(error: Exception) -> str:
    from pydantic import ValidationError

    from mosaicmem.errors import describe_validation

    return describe_validation(error) if isinstance(error, ValidationError) else str(error) or type(error).__name__


def parse_range(name: str, text: str, count: int) -> range:
    """``A:B`` or ``A:B:STEP`` as a range within [0, count]; A, B and STEP may be left out."""
    parts = text.split(":")
    try:
        if not 2 <= len(parts) <= 3:
            raise ValueError
        start, stop, step = (
            int(part) if part else default for part, default in zip([*parts, ""][:3], (0, count, 1), strict=True)
        )
    except ValueError:
        raise ValueError(f"{name}: expected A:B or A:B:STEP, got {text!r}") from None
    if not (0 <= start < stop <= count and step >= 1):
        raise ValueError(f"{name}: expected 0 <= A < B <= {count} (the number of frames) and STEP >= 1, got {text!r}")
    return range(start, stop, step)


def warn_of_overlap(targets: list[int], remembered: list[int]) -> None:
    """Say so where frames are compared with themselves."""
    both = len(set(targets) & set(remembered))
    if both:
        typer.echo(
            f"mosaicmem: warning: {both} of {len(targets)} target frames are remembered too, which flatters "
            "their figures",
            err=True,
        )


def check_output(path: Path, force: bool, *, folder: bool) -> Path:
    """The absolute path of an output, if it may be written there; refused before any work is done."""
    path = path.resolve()
    if path == Path.cwd() or path in Path.cwd().parents:
        raise ValueError(f"--output: expected a new place, got {path}, which the current folder lies in")
    if path.exists() and not force:
        raise FileExistsError(f"--output: {path} is there already; --force replaces it")
    if path.exists() and folder and not _is_run(path):
        raise FileExistsError(f"--output: {path} is there and no earlier run (it has no {SUMMARY}): it is left alone")
    if path.exists() and not folder and (path.is_dir() or path.suffix != ".ply"):
        raise FileExistsError(f"--output: {path} is there and no PLY file: it is left alone")
    parent = next(p for p in path.parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise PermissionError(f"--output: {parent} cannot be written to")
    return path


def _is_run(path: Path) -> bool:
    return path.is_dir() and ((path / SUMMARY).is_file() or not any(path.iterdir()))


@contextmanager
def output_folder(path: Path, force: bool) -> Iterator[Path]:
    """A new folder that takes its place whole when the block ends without an error.

    With ``force``, an earlier run (a folder with a summary in it, or an empty one) makes way for it, and nothing else.
    """
    path = check_output(path, force, folder=True)
    made = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _unfinished.append((temporary, made))  # before it is there, so that no signal comes in between
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except BaseException:
        _remove(temporary, made)
        raise
    finally:
        _unfinished.remove((temporary, made))
    _put_in_place(temporary, path)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished folder to ``path``. What was there is deleted after that, never before."""
    if not path.exists():
        temporary.rename(path)
        return
    old = temporary.with_name(f"{temporary.name}.old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _remove(temporary: Path, made: list[Path]) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    for parent in made:  # innermost first
        with suppress(OSError):  # somebody else put something there
            parent.rmdir()


def end_on_signal(number: int, frame: FrameType | None) -> None:
    """A signal handler that removes unfinished output, then lets the signal do what it does.

    An exception would not be as sure: extension code that runs Python may swallow it.
    """
    for temporary, made in _unfinished:
        _remove(temporary, made)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def progress_bar() -> Progress:
    """A progress bar that shows nothing when the output is not a terminal."""
    return Progress(console=console, disable=not console.is_terminal, transient=True)
