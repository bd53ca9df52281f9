"""Shared by commands: options, and outputs that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._errors import WRONG_USAGE, UsageError
from mosaicmem.cli._staging import Staging
from mosaicmem.cli._terminal import restore_terminal

if TYPE_CHECKING:
    from mosaicmem.memory import MosaicMemoryStore


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Callback of every float option: NaN and infinity would pass its range check."""
    if value is not None and not math.isfinite(value):
        typer.echo(f"mosaicmem: error: {parameter.opts[0]}: expected a finite number, got {value}", err=True)
        raise typer.Exit(WRONG_USAGE)
    return value


Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that is there.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of all noise. Default: that of --config, or 0.", min=0, max=2**64 - 1)
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", help="0: all cores. No result depends on it. Default: that of --config, or 0.", min=0, max=1024
    ),
]
Config = Annotated[Path | None, typer.Option("--config", help="JSON file of settings; see show-config.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, window_size=8 say; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables.")]

SUMMARY = "summary.json"
MANIFEST = "manifest.json"
_KINDS = {SUMMARY: "earlier run", MANIFEST: "store"}  # the kind of a folder that has such a file
_FILE_SUFFIXES = (
    *(".bin", ".csv", ".gif", ".glb", ".html", ".jpeg", ".jpg", ".json", ".mkv", ".mov", ".mp4", ".npy", ".npz"),
    *(
        ".obj",
        ".onnx",
        ".pdf",
        ".ply",
        ".png",
        ".safetensors",
        ".svg",
        ".tar",
        ".txt",
        ".webm",
        ".yaml",
        ".yml",
        ".zip",
    ),
)  # that no output folder is meant to have

_unfinished: list[Staging] = []
_checkpoints: list[Path] = []  # folders in which the run saves each window
_workspaces: list[Path] = []  # folders in which an import keeps what it has done
_builds: list[str] = []  # outputs of builds, which keep what is done


def check_output_folder(path: Path, force: bool, command: str, *, name: str = "--output", mark: str = SUMMARY) -> Path:
    """The absolute path of a folder to write; raises if it may not be written, before any work is done.

    An empty folder is replaced. With ``force``, so is a folder of the same kind, and nothing else: it must hold
    ``mark`` and, if that is a summary, be from the same command and have no files that the command did not write.
    """
    if path.suffix.lower() in _FILE_SUFFIXES and not path.is_dir():
        raise UsageError(f"{name}: expected a folder, got {path}, which has the name of a file")
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
    """Record in the summary which command wrote which files."""
    summary = json.loads((folder / SUMMARY).read_text())
    files = sorted(entry.name for entry in folder.iterdir())
    (folder / SUMMARY).write_text(json.dumps({**summary, "command": command, "files": files}, indent=2) + "\n")


def _check_signed(folder: Path, command: str, name: str) -> None:
    """Check that the same command signed a folder, and that it holds no files that the command did not write."""
    from mosaicmem._files import read_json_object

    try:
        summary = read_json_object(folder / SUMMARY)
        theirs, files = summary["command"], set(summary["files"])
    except (ValueError, KeyError, TypeError):
        raise FileExistsError(f"{name}: {folder} is there and no output of mosaicmem: it is left alone") from None
    if theirs != command:
        raise FileExistsError(f"{name}: {folder} is there and of mosaicmem {theirs}: it is left alone")
    others = sorted({entry.name for entry in folder.iterdir()} - files)
    if others:
        raise FileExistsError(f"{name}: {folder} holds {others[0]!r}, which mosaicmem did not write: it is left alone")


def check_output_file(path: Path, force: bool, suffixes: Sequence[str], *, name: str = "--output") -> Path:
    """`check_output_folder` for a file with one of these ``suffixes``; with ``force``, an existing file is replaced."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{name}: expected a name that ends in {' or '.join(suffixes)}, got {path}")
    path = _check_place(path, force, name)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{name}: {path} is there and no file: it is left alone")
    return path


def _check_place(path: Path, force: bool, name: str) -> Path:
    path = path.resolve()
    if path == Path.cwd() or path in Path.cwd().parents:
        raise UsageError(f"{name}: expected a new place, got {path}, which the current folder lies in")
    if path.exists() and not force:
        raise FileExistsError(f"{name}: {path} is there already; --force replaces it")
    parent = next(p for p in path.parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise PermissionError(f"{name}: {parent} cannot be written to")
    return path


def check_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | None]) -> None:
    """Reject outputs that equal, contain, or lie in an input or another output, which they would destroy.

    This sees through symbolic links, hard links and case-insensitive file systems. The one exception: an output may lie
    in the folder of ``--scene``, since it replaces nothing there but its own files.
    """
    places = {name: path for name, path in {**read, **written}.items() if path is not None}
    for name in (name for name in places if name in written):
        for other in (other for other in places if other != name):
            inside = other != "--scene"
            if _is_in(places[other], places[name]) or (inside and _is_in(places[name], places[other])):
                raise UsageError(
                    f"{name}, {other}: expected places apart from each other, got {places[name]} and {places[other]}"
                )


def same_place(one: Path | None, other: Path | None) -> bool:
    """Whether two paths lead to the same file or folder, through any links, even if it does not exist yet."""
    if one is None or other is None:
        return False
    if one.resolve() == other.resolve():
        return True
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return False


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path equals or lies in a folder, as written or with links resolved."""
    ways = (path.resolve(), Path(os.path.normpath(path.absolute())))
    return any(same_place(place, folder) for way in ways for place in (way, *way.parents))


@contextmanager
def output_folder(
    path: Path, force: bool, command: str, *, name: str = "--output", mark: str = SUMMARY
) -> Iterator[Path]:
    """A staging folder that is moved to ``path`` when the block ends without an error; see `check_output_folder`."""
    path = check_output_folder(path, force, command, name=name, mark=mark)
    replaces = path.exists()
    staging = Staging(path)
    _unfinished.append(staging)  # before the folder exists, so that no signal comes in between
    try:
        staging.begin()
        yield staging.folder
        if mark == SUMMARY:
            _sign(staging.folder, command)
    except BaseException:
        staging.discard()
        raise
    finally:
        _unfinished.remove(staging)
    if path.exists() and not replaces:
        raise FileExistsError(f"{name}: {path} has appeared meanwhile; what was made is in {staging.folder}")
    staging.finish()


def save_store(store: MosaicMemoryStore, path: Path, force: bool, command: str, *, name: str = "--save-memory") -> None:
    """Atomically save a store to a new folder, which the option ``name`` gives; the store stays as it is."""
    with output_folder(path, force, command, name=name, mark=MANIFEST) as folder:
        kept = store.fork()
        kept.save(folder)
        kept.close()
        (folder / "lock").unlink(missing_ok=True)


def keeps_checkpoint(folder: Path) -> None:
    """Register the checkpoint folder of a run, so that an interrupted run says where it resumes."""
    _checkpoints.append(folder)


def keeps_work(output: Path) -> None:
    """Register the output of an import, whose unfinished work stays beside it, so that an interrupted run says so."""
    _workspaces.append(output.with_name(f".{output.name}.importing"))


def keeps_build(output: str) -> None:
    """Register the output of a build, so that an interrupted run says that it can be resumed."""
    _builds.append(output)


_ENDS = {int(signal.SIGINT): "interrupted", int(signal.SIGHUP): "the terminal has gone"}


def end_on_signal(number: int, frame: FrameType | None) -> None:
    """A signal handler that removes unfinished output and says so, then lets the signal take its default action.

    An exception would be less reliable: extension code that runs Python may swallow it.
    """
    with suppress(OSError):  # the terminal itself may have gone
        os.write(1, restore_terminal().encode())
    for staging in _unfinished:
        staging.discard()
    parts = [_ENDS.get(number, "terminated")]
    if _unfinished:
        parts.append("no unfinished output is left")
    begun = [path for path in _checkpoints if any(path.glob("store/attachment-*.safetensors"))]
    parts += [f"the same command resumes from the checkpoint in {path}" for path in begun]
    parts += [f"the same command resumes the work in {path}" for path in _workspaces if path.is_dir()]
    parts += [f"the same command resumes the build in {output}" for output in _builds]
    with suppress(OSError):
        os.write(2, f"mosaicmem: {'; '.join(parts)}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def print_json(value: Any) -> None:
    """Print figures as JSON; nothing else goes to standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))
