"""Ensures that each folder has a single writer."""

from __future__ import annotations

import fcntl
import os
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosaicmem.errors import StoreLockedError


@dataclass(frozen=True, eq=False)
class FolderLock:
    """The lock of a folder. The operating system releases it when the process ends, however it ends."""

    descriptor: int
    process: int
    _finalizer: list[weakref.finalize[Any, Any]] = field(default_factory=list)

    @classmethod
    def take(cls, folder: Path) -> FolderLock:
        """Acquire the lock of a folder without waiting, or raise StoreLockedError naming the process that holds it."""
        path = folder / "lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot be opened as a regular file to lock: {error.strerror}", str(path)
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            writer = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreLockedError(
                f"{folder}: another store writes here (process {writer}); close it, or save to another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        lock = cls(descriptor, os.getpid())
        lock._finalizer.append(weakref.finalize(lock, _release, descriptor, lock.process))
        return lock

    def is_own(self) -> bool:
        """Whether this process acquired the lock, rather than one that it was forked from."""
        return self.process == os.getpid()

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` still leads to the locked file."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock."""
        self._finalizer[0]()


def _release(descriptor: int, process: int) -> None:
    try:
        if process == os.getpid():  # a forked process shares the lock, and must not release it
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
