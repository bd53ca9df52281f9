"""Where a build goes: a local folder, or what fsspec reaches by a URI."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mosaicmem._extras import fsspec
from mosaicmem._files import atomic_write, make_folder
from mosaicmem._opening import open_regular


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

    def remove_leftovers(self, folder: str) -> None:
        """Remove unfinished files that a killed process has left."""
        with suppress(FileNotFoundError), os.scandir(self.path / folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)


class RemoteFolder(Place):
    """A folder that fsspec reaches: s3://bucket/name, gs://..., memory://..., with the credentials of its package."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, self._root = fsspec(f"--output {uri}").core.url_to_fs(uri)

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return set()
        return {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Some bytes of a file, or all."""
        content: bytes = self._files.cat_file(f"{self._root}/{name}", begin, end)
        return content

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A temporary local file, uploaded when it is complete."""
        with tempfile.NamedTemporaryFile(prefix="mosaicmem-") as file:
            yield file
            file.flush()
            path = f"{self._root}/{name}"
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.put_file(file.name, path)


def open_place(uri: str | Path) -> Place:
    """The place that a path or a URI names; nothing is created before something is written.

    Raises
    ------
    ModuleNotFoundError
        A URI, and fsspec or its package for the URI's protocol is not installed.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        return RemoteFolder(text)
    return LocalFolder(Path(rest if separator else text).absolute())
