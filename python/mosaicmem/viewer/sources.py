"""Where the store that is shown comes from: this process, or a folder that another process may be saving to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage.manifest import MANIFEST


class StoreSource(Protocol):
    """A store that may grow, or be replaced, while it is shown."""

    @property
    def store(self) -> MosaicMemoryStore:
        """Its latest state."""

    def poll(self) -> str | None:
        """Bring the store up to date. Returns what is wrong with its place, for the user; None if nothing is."""


class LiveStore:
    """A store of this process.

    Parameters
    ----------
    store : MosaicMemoryStore, or callable that returns one
        A function follows a pipeline whose store is replaced.
    """

    def __init__(self, store: MosaicMemoryStore | Callable[[], MosaicMemoryStore]) -> None:
        self._get = store if callable(store) else lambda: store

    @property
    def store(self) -> MosaicMemoryStore:
        """The store itself, not a copy."""
        return self._get()

    def poll(self) -> str | None:
        """Nothing to do: the store is always up to date."""
        return None


class SavedStore:
    """The folder of a saved store, opened again whenever it has been saved to.

    If the folder is removed or damaged, the last state that could be read stays.

    Parameters
    ----------
    path : Path
    num_threads : int
        Of the opened store.

    Raises
    ------
    FileNotFoundError, FormatError
        As `MosaicMemoryStore.open`.
    """

    def __init__(self, path: Path, num_threads: int = 0) -> None:
        self.path = path.resolve()
        self._threads = num_threads
        self._seen = self._stamp()
        self._store = MosaicMemoryStore.open(self.path, num_threads=num_threads)
        self._trouble: str | None = None

    @property
    def store(self) -> MosaicMemoryStore:
        """The store as last read."""
        return self._store

    def poll(self) -> str | None:
        """Open the store again if its manifest has changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return self._trouble
        if stamp is None:
            self._seen, self._trouble = stamp, f"{self.path} is gone: this is the last state that was read"
            return self._trouble
        try:
            self._store = MosaicMemoryStore.open(self.path, num_threads=self._threads)
            self._seen, self._trouble = stamp, None
        except (OSError, ValueError) as error:  # it may be in the middle of being replaced: the next poll tries again
            self._trouble = f"cannot be read now, so this is an earlier state: {error}"
        return self._trouble

    def _stamp(self) -> tuple[int, int, int] | None:
        """Changes whenever the store is saved, since a save replaces the manifest."""
        try:
            status = (self.path / MANIFEST).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
