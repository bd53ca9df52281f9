"""Editing what is shown: forks of a store with undo, which are saved where the user says."""

from __future__ import annotations

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

    @property
    def names(self) -> list[str]:
        """Of the store, and its forks in the order they were made."""
        return [ORIGINAL, *self._edited]

    @property
    def store(self) -> MosaicMemoryStore:
        """The version that is shown."""
        return self.source.store if self.current == ORIGINAL else self._edited[self.current].store

    def switch(self, name: str) -> None:
        """Show another version."""
        if name not in self.names:
            raise ValueError(f"name: expected one of {', '.join(self.names)}, got {name!r}")
        self.current = name

    def fork(self) -> str:
        """Fork the version that is shown, and show the fork. Returns its name."""
        name = f"fork {len(self._edited) + 1}"
        self._edited[name] = SpatialManipulation(self.store.fork())
        self.current = name
        return name

    def edit(self, change: Callable[[SpatialManipulation], int]) -> int:
        """Edit the version that is shown; the store itself is forked before. Returns what ``change`` returns."""
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
        StoreLockedError, OSError
            It cannot be saved; it is unchanged.
        """
        if not self.may_write:
            raise PermissionError("the store may not be changed: it was opened for viewing; save to a new folder")
        store = self.source.store
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
        del self._edited[name]
        self.current = ORIGINAL
