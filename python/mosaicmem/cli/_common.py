"""What commands share: options, error reports, frame ranges, output folders."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from mosaicmem.memory import MosaicMemoryStore

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that is there.")]
Seed = Annotated[int, typer.Option(help="Of all noise.", min=0)]
Threads = Annotated[int, typer.Option(help="0: all cores. No result depends on it.", min=0)]

Config = Annotated[Path | None, typer.Option("--config", help="JSON file of settings; see show-config.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, window_size=8 say; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables.")]
OptionalSeed = Annotated[int | None, typer.Option("--seed", help="Of all noise.", min=0)]
OptionalThreads = Annotated[int | None, typer.Option("--threads", help="0: all cores. No result depends on it.", min=0)]

console = Console()

SUMMARY = "summary.json"
MANIFEST = "manifest.json"
_KINDS = {SUMMARY: "earlier run", MANIFEST: "store"}  # what a folder is that has such a file

_unfinished: list[tuple[Path, list[Path]]] = []  # temporary folders, and the parents made for them

_P = ParamSpec("_P")


def reports_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """A failure becomes one line on standard error and exit code 1; with ``debug=True``, its traceback."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        """The command, whose failures become a line on standard error."""
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

    if isinstance(error, ValidationError):
        return describe_validation(error)
    if type(error) is FileNotFoundError and error.filename and error.strerror:
        return f"{error.filename}: no such file or folder"
    return str(error) or type(error).__name__


def parse_size(name: str, text: str) -> tuple[int, int]:
    """``640x480`` as (width, height)."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{name}: expected WIDTHxHEIGHT in pixels, 640x480 say, got {text!r}")
    return int(parts[0]), int(parts[1])


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


def check_output_folder(path: Path, force: bool, command: str, *, name: str = "--output", mark: str = SUMMARY) -> Path:
    """The absolute path of a folder to write, if it may be written there; refused before any work is done.

    An empty folder makes way. With ``force``, so does one of the same kind, and nothing else: one that holds ``mark``,
    and where that is a summary, of the same command and without files that it did not write.
    """
    if path.is_dir() and not any(path.iterdir()):
        return _check_place(path, True, name)
    path = _check_place(path, force, name)
    if not path.exists():
        return path
    if not (path.is_dir() and (path / mark).is_file()):
        kind = _KINDS.get(mark, "such folder")
        raise FileExistsError(f"{name}: {path} is there and no {kind} (it has no {mark}): it is left alone")
    if mark == SUMMARY:
        _check_signed(path, command, name)
    return path


def _sign(folder: Path, command: str) -> None:
    """Note in the summary which command wrote which files."""
    summary = json.loads((folder / SUMMARY).read_text())
    files = sorted(entry.name for entry in folder.iterdir())
    (folder / SUMMARY).write_text(json.dumps({**summary, "command": command, "files": files}, indent=2) + "\n")


def _check_signed(folder: Path, command: str, name: str) -> None:
    """A folder that was signed by the same command, and holds nothing since that it did not write."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        theirs, files = summary["command"], set(summary["files"])
    except (ValueError, KeyError, TypeError):
        raise FileExistsError(f"{name}: {folder} is there and no output of mosaicmem: it is left alone") from None
    if theirs != command:
        raise FileExistsError(f"{name}: {folder} is there and of mosaicmem {theirs}: it is left alone")
    others = sorted({entry.name for entry in folder.iterdir()} - files)
    if others:
        raise FileExistsError(f"{name}: {folder} holds {others[0]!r}, which mosaicmem did not write: it is left alone")


def check_output_file(path: Path, force: bool, suffixes: Sequence[str], *, name: str = "--output") -> Path:
    """The same of a file; with ``force``, a file of one of these ``suffixes`` makes way."""
    path = _check_place(path, force, name)
    if path.exists() and (path.is_dir() or path.suffix not in suffixes):
        raise FileExistsError(f"{name}: {path} is there and no {' or '.join(suffixes)} file: it is left alone")
    return path


def _check_place(path: Path, force: bool, name: str) -> Path:
    path = path.resolve()
    if path == Path.cwd() or path in Path.cwd().parents:
        raise ValueError(f"{name}: expected a new place, got {path}, which the current folder lies in")
    if path.exists() and not force:
        raise FileExistsError(f"{name}: {path} is there already; --force replaces it")
    parent = next(p for p in path.parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise PermissionError(f"{name}: {parent} cannot be written to")
    return path


def check_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Refuse outputs that are, hold, or lie in another output or an input, which would end with them."""
    places = {name: path.resolve() for name, path in {**read, **written}.items() if path is not None}
    for name, path in places.items():
        for other, place in places.items():
            if name == other or name not in written:
                continue
            if path == place or path in place.parents or (place in path.parents and other != "--scene"):
                raise ValueError(f"{name}, {other}: expected places apart from each other, got {path} and {place}")


@contextmanager
def output_folder(
    path: Path, force: bool, command: str, *, name: str = "--output", mark: str = SUMMARY
) -> Iterator[Path]:
    """A new folder that takes its place whole when the block ends without an error; see `check_output_folder`."""
    path = check_output_folder(path, force, command, name=name, mark=mark)
    replaces = path.exists()
    made = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    _unfinished.append((temporary, made))  # before it is there, so that no signal comes in between
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if mark == SUMMARY:
            _sign(temporary, command)
    except BaseException:
        _remove(temporary, made)
        raise
    finally:
        _unfinished.remove((temporary, made))
    if path.exists() and not replaces:
        raise FileExistsError(f"{name}: {path} has appeared meanwhile; what was made is in {temporary}")
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


def save_store(store: MosaicMemoryStore, path: Path, force: bool, command: str) -> None:
    """Keep a store in a new folder, which is there whole or not at all."""
    with output_folder(path, force, command, name="--save-memory", mark=MANIFEST) as folder:
        kept = store.fork()
        kept.save(folder)
        kept.close()
        (folder / "lock").unlink(missing_ok=True)


def end_on_signal(number: int, frame: FrameType | None) -> None:
    """A signal handler that removes unfinished output and says so, then lets the signal do what it does.

    An exception would not be as sure: extension code that runs Python may swallow it.
    """
    for temporary, made in _unfinished:
        _remove(temporary, made)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    os.write(2, f"mosaicmem: {word}; no unfinished output is left, and a checkpoint goes on where it is\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def print_json(value: Any) -> None:
    """Figures as JSON on standard output, and nothing else there."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def progress_bar() -> Progress:
    """A progress bar that shows nothing when the output is not a terminal."""
    return Progress(console=console, disable=not console.is_terminal, transient=True)
