"""Where a build goes: a local folder, or what fsspec reaches by a URI."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mosaicmem._extras import fsspec
from mosaicmem._files import atomic_write, make_folder, sync_folder
from mosaicmem._opening import open_regular

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")  # as `atomic_write` names a file until it is complete


class Place(ABC):
    """Files by name, with / between folders. What is written appears whole, replacing what was there."""

    uri: str

    @abstractmethod
    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder; none if there is no such folder."""

    @abstractmethod
    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Some bytes of a file, or all. Raises FileNotFoundError if it is missing."""

    @abstractmethod
    def writing(self, name: str) -> Any:
        """A binary file for ``with``, which becomes ``name`` when the block ends without an error."""

    @abstractmethod
    def remove(self, name: str) -> bool:
        """Remove a file; False if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.writing(name) as file:
            file.write(content)


class LocalFolder(Place):
    """A folder of this machine; writes are durable."""

    def __init__(self, path: Path) -> None:
        self.path, self.uri = path, str(path)

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder."""
        try:
            with os.scandir(self.path / folder) as entries:
                return {entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")}
        except FileNotFoundError:
            return set()

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Some bytes of a file, or all."""
        with open_regular(self.path / name) as file:
            file.seek(begin)
            return file.read() if end is None else file.read(end - begin)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that appears under its name when it is complete and on the disk."""
        path = self.path / name
        make_folder(path.parent)
        with atomic_write(path) as file:
            yield file

    def remove(self, name: str) -> bool:
        """Remove a file, durably."""
        try:
            (self.path / name).unlink()
        except FileNotFoundError:
            return False
        sync_folder((self.path / name).parent)
        return True

    def remove_leftovers(self, folder: str) -> None:
        """Remove unfinished files that a killed process has left."""
        with suppress(FileNotFoundError), os.scandir(self.path / folder) as entries:
            for entry in entries:
                if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)


class RemoteFolder(Place):
    """A folder that fsspec reaches: s3://bucket/name, gs://..., memory://..., with the credentials of its package."""

    def __init__(self, uri: str, work: Path | None = None) -> None:
        self.uri, self._work = uri, work
        self._fsspec = fsspec(f"--output {uri}")
        self._opened: tuple[int, Any, str] | None = None  # by this process: file systems do not survive a fork
        self._reached()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fsspec": None, "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _fsspec=fsspec(f"--output {state['uri']}"))

    def _reached(self) -> tuple[Any, str]:
        """The file system, and the path of the folder in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._fsspec.core.url_to_fs(self.uri))
        return self._opened[1:]

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder."""
        files, root = self._reached()
        with _as_os_errors():
            files.invalidate_cache()
            try:
                found = files.ls(f"{root}/{folder}", detail=True)
            except FileNotFoundError:
                return set()
            return {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Some bytes of a file, or all."""
        files, root = self._reached()
        with _as_os_errors():
            content: bytes = files.cat_file(f"{root}/{name}", begin, end)
            return content

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A temporary local file, uploaded when it is complete."""
        with tempfile.NamedTemporaryFile(prefix="mosaicmem-", dir=self._work) as file:
            yield file
            file.flush()
            files, root = self._reached()
            path = f"{root}/{name}"
            with _as_os_errors():
                files.makedirs(path.rpartition("/")[0], exist_ok=True)
                files.put_file(file.name, path)

    def remove(self, name: str) -> bool:
        """Remove a file."""
        files, root = self._reached()
        with _as_os_errors():
            files.invalidate_cache()
            if not files.exists(f"{root}/{name}"):  # object stores remove what is not there without a word
                return False
            files.rm_file(f"{root}/{name}")
            return True


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Services raise errors of their own classes."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def open_place(uri: str | Path, work: Path | None = None) -> Place:
    """The place that a path or a URI names; nothing is created before something is written.

    ``work`` is a local folder for what is uploaded; the system's for temporary files if it is None.

    Raises
    ------
    ModuleNotFoundError
        A URI, and fsspec or its package for the URI's protocol is not installed.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        return RemoteFolder(text, work)
    return LocalFolder(Path(rest if separator else text).absolute())
