"""Staging folders: an output folder is made beside its final path, and locked while its process lives."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from mosaicmem._files import make_folder, put_folder_in_place


class Staging:
    """The folder in which the output ``path`` is made.

    Attributes
    ----------
    folder : Path
        ``.NAME.`` and twelve hexadecimal digits, beside ``path``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        self._made = [parent for parent in path.parents if not parent.exists()]  # innermost first
        self._lock: int | None = None

    def begin(self) -> None:
        """Make the folder, and remove what killed runs have left of the same output."""
        make_folder(self.path.parent)
        _sweep(self.path)
        self.folder.mkdir()
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks; the folder is not swept there either
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def finish(self) -> None:
        """Give the folder the name of the output; an old output is deleted only after that."""
        put_folder_in_place(self.folder, self.path)
        self._unlock()

    def discard(self) -> None:
        """Remove the folder, and the parents that were made for it."""
        self._unlock()
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in self._made:
            with suppress(OSError):  # somebody else put something there
                parent.rmdir()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _sweep(path: Path) -> None:
    """Remove staging folders of ``path`` whose processes have ended; restore an old output without a successor."""
    staging = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}(\.old)?")
    for name in sorted(os.listdir(path.parent)):
        left = path.parent / name
        if not staging.fullmatch(name) or not left.is_dir() or left.is_symlink():
            continue
        if name.endswith(".old") and not path.exists():
            left.rename(path)
        elif not _is_in_use(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
