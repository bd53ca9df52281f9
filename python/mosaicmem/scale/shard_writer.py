"""Writes samples as WebDataset tar files: members in order, without times or owners, so that equal content has equal
bytes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mosaicmem.scale.places import Place

SHARDS = "shards"  # folder of a build
STORES = "stores"
_END = bytes(1024)  # of a tar file


def fragment_of(key: str, members: Iterable[tuple[str, bytes]]) -> bytes:
    """The part of a tar file that holds a sample; ``members`` are its files by extension."""
    file = io.BytesIO()
    with _tar(file) as tar:
        for name, content in members:
            _add(tar, f"{key}.{name}", io.BytesIO(content), len(content))
        end = tar.offset
    return file.getvalue()[:end]


def shard_name(group: str, part: int) -> str:
    """Of a group's file."""
    return f"{SHARDS}/{group}-{part:03d}.tar"


class ShardWriter:
    """Writes the samples of one group of sequences, for ``with``: shards ``GROUP-PART.tar`` of a limited size.

    Attributes
    ----------
    shards : list of dict
        Of each finished shard: name, nbytes, sha256, and the key, begin and end of each sample in it.
    """

    def __init__(self, place: Place, group: str, most_bytes: int) -> None:
        self._place, self._group, self._most = place, group, most_bytes
        self.shards: list[dict[str, Any]] = []
        self._open: ExitStack | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None and kind is None:
            self._finish()
        elif self._open is not None:
            self._open.__exit__(kind, error, trace)

    def add(self, key: str, fragment: bytes) -> None:
        """Append a sample, as `fragment_of` makes it."""
        if self._open is None:
            self._begin()
        begin = self._file.nbytes
        self._file.write(fragment)
        self._samples.append((key, begin, self._file.nbytes))
        if self._file.nbytes >= self._most:
            self._finish()

    def _begin(self) -> None:
        self._name = shard_name(self._group, len(self.shards))
        self._open = ExitStack()
        self._file = _Hashed(self._open.enter_context(self._place.writing(self._name)))
        self._samples: list[tuple[str, int, int]] = []

    def _finish(self) -> None:
        assert self._open is not None
        self._file.write(_END)
        stack, self._open = self._open, None
        stack.__exit__(None, None, None)
        self.shards.append({"name": self._name, **self._file.about(), "samples": self._samples})


def write_folder(place: Place, name: str, folder: Path) -> dict[str, Any]:
    """Write the files of a folder as one tar file; returns its name, nbytes and sha256."""
    with place.writing(name) as file:
        hashed = _Hashed(file)
        with _tar(hashed) as tar:
            for path in sorted(folder.iterdir()):
                with open(path, "rb") as content:
                    _add(tar, f"{folder.name}/{path.name}", content, path.stat().st_size)
    return {"name": name, **hashed.about()}


def _tar(file: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], nbytes: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = nbytes
    tar.addfile(member, content)


class _Hashed:
    """A file that knows what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest, self.nbytes = hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        """Append bytes."""
        self._digest.update(content)
        self.nbytes += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        """How many bytes were written."""
        return self.nbytes

    def about(self) -> dict[str, Any]:
        """nbytes and sha256 of what was written."""
        return {"nbytes": self.nbytes, "sha256": self._digest.hexdigest()}
