"""What commands share: options, error reports, frame ranges, output folders."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.progress import Progress

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that is there.")]
Seed = Annotated[int, typer.Option(help="Of all noise.", min=0)]
Threads = Annotated[int, typer.Option(help="0: all cores. No result depends on it.", min=0)]

console = Console()

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
            message = str(error) or type(error).__name__
            typer.echo(f"mosaicmem: error: {' '.join(message.split())}", err=True)
            raise typer.Exit(1) from None

    return run


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


@contextmanager
def output_folder(path: Path, force: bool) -> Iterator[Path]:
    """A new folder that takes its place whole when the block ends without an error."""
    if path.exists() and not force:
        raise FileExistsError(f"--output: {path} is there already; --force replaces it")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"--output: {path} is a file, not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def progress_bar() -> Progress:
    """A progress bar that shows nothing when the output is not a terminal."""
    return Progress(console=console, disable=not console.is_terminal, transient=True)
