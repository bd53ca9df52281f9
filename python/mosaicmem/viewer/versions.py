"""Editing what is shown: forks of a store with undo, which are saved where the user says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from mosaicmem.memory import MosaicMemoryStore, SpatialManipulation
from mosaicmem.viewer.sources import SavedStore, StoreSource

ORIGINAL = "store"


class MemoryVersions:
    """The store that is shown, and its edited forks.

    The store itself stays as it is: the first edit forks it.

    Parameters
    ----------
    source : StoreSource
    may_write : bool
        Whether `write_back` may change the store itself.
    """

    def __init__(self, source: StoreSource, *, may_write: bool = False) -> None:
        self.source, self.may_write = source, may_write
        self.current = ORIGINAL
        self._edited: dict[str, SpatialManipulation] = {}
        self._began: dict[str, object] = {}  # the state of the store that each fork comes from
        self._lock = threading.RLock()

    @property
    def names(self) -> list[str]:
        """Of the store, and its forks in the order they were made."""
        return [ORIGINAL, *self._edited]

    @property
    def store(self) -> MosaicMemoryStore:
        """The version that is shown."""
        edited = self._edited.get(self.current)
        return self.source.store if edited is None else edited.store

    def switch(self, name: str) -> None:
        """Show another version."""
        if name not in self.names:
            raise ValueError(f"name: expected one of {', '.join(self.names)}, got {name!r}")
        self.current = name

    def fork(self) -> str:
        """Fork the version that is shown, and show the fork. Returns its name."""
        with self._lock:
            name, before = f"fork {len(self._edited) + 1}", self.current
            self._began[name] = self._began.get(before, self._state())
            self._edited[name] = SpatialManipulation(self.store.fork())
            self.current = name
            return name

    def _state(self) -> object:
        """What tells whether the store itself has changed."""
        return id(self.source.store._core), self.source.store._revision

    def edit(self, change: Callable[[SpatialManipulation], int]) -> int:
        """Edit the version that is shown; the store itself is forked before. Returns what ``change`` returns."""
        with self._lock:
            if self.current != ORIGINAL:
                return change(self._edited[self.current])
            name = self.fork()
            try:
                changed = change(self._edited[name])
            except BaseException:
                self._discard(name)
                raise
            if not changed:
                self._discard(name)
            return changed

    def undo(self) -> bool:
        """Undo the last edit of the version that is shown. False if there is none."""
        with self._lock:
            return self.current != ORIGINAL and self._edited[self.current].undo()

    def save(self, path: Path) -> None:
        """Save the version that is shown to a new folder.

        Raises
        ------
        FileExistsError
            Something is there.
        """
        if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
            raise FileExistsError(f"{path}: something is there; choose a new folder")
        kept = self.store.fork()
        try:
            kept.save(path)
        finally:
            kept.close()

    def write_back(self) -> None:
        """Make the store itself what is shown: change it in memory, and save it if it is a folder's.

        Raises
        ------
        PermissionError
            ``may_write`` is False.
        ValueError
            The store has changed since the fork was made.
        StoreLockedError, OSError
            It cannot be saved; it is unchanged.
        """
        if not self.may_write:
            raise PermissionError("the store may not be changed: it was opened for viewing; save to a new folder")
        store = self.source.store
        if self.current == ORIGINAL:
            return
        if self._began[self.current] != self._state():
            raise ValueError(
                f"the store has changed since {self.current} was forked, and would lose that; save the fork instead"
            )
        before = store.snapshot()
        store.restore(self.store.snapshot())
        if isinstance(self.source, SavedStore):
            try:
                store.save(self.source.path)
            except BaseException:
                store.restore(before)
                raise
            finally:
                store.close()
        self.current = ORIGINAL

    def _discard(self, name: str) -> None:
        self.current = ORIGINAL
        del self._edited[name], self._began[name]
