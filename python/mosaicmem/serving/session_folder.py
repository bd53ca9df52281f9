"""What a session has on disk: its store when it is spilled or saved, and its last snapshot."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from mosaicmem._files import put_folder_in_place
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage import linked_copy
from mosaicmem.memory.storage.manifest import MANIFEST

_MARK = "session-"
_MOST_LETTERS = 200  # of a folder's name


class SessionFolder:
    """The folder of one session.

    ``store`` is where its store is saved incrementally, and ``snapshot`` has hard links to the files of the last
    snapshot. After a crash only the snapshot counts.

    Parameters
    ----------
    root : Path
    session : str
    """

    def __init__(self, root: Path, session: str) -> None:
        self.path = root / folder_name(session)
        self._store, self._snapshot = self.path / "store", self.path / "snapshot"
        self._new, self._replaced = self.path / "snapshot.new", self.path / "snapshot.new.old"

    @property
    def has_snapshot(self) -> bool:
        """Whether a snapshot is there."""
        return (self._snapshot / MANIFEST).is_file()

    def recover(self) -> None:
        """Put in order what a killed process has left: only the snapshot counts.

        Where names cannot be exchanged, the snapshot has another name for an instant while it is replaced.
        """
        if self._replaced.is_dir():
            if self.has_snapshot:
                shutil.rmtree(self._replaced)
            else:
                self._replaced.rename(self._snapshot)
        shutil.rmtree(self._new, ignore_errors=True)
        self.discard_store()

    def spill(self, store: MosaicMemoryStore) -> None:
        """Save a store, for this process alone."""
        store.save(self._store, durable=False)

    def open_store(self, num_threads: int) -> MosaicMemoryStore:
        """The store that was spilled."""
        return MosaicMemoryStore.open(self._store, num_threads=num_threads)

    def snapshot(self, store: MosaicMemoryStore) -> None:
        """Save a store as the snapshot, in place of the one before, of which nothing is lost until it is durable."""
        store.save(self._store)
        for left in (self._new, self._replaced):  # by a failure
            shutil.rmtree(left, ignore_errors=True)
        linked_copy(self._store, self._new)
        put_folder_in_place(self._new, self._snapshot)

    def open_snapshot(self, num_threads: int) -> MosaicMemoryStore:
        """The store as of the snapshot."""
        self.discard_store()
        linked_copy(self._snapshot, self._store)
        return self.open_store(num_threads)

    def discard_store(self) -> None:
        """Forget what is not in the snapshot."""
        shutil.rmtree(self._store, ignore_errors=True)
        with suppress(OSError):  # there is a snapshot
            self.path.rmdir()

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def folder_name(session: str) -> str:
    """The name of a session's folder."""
    if not isinstance(session, str):
        raise TypeError(f"session: expected str, got {type(session).__name__}")
    name = _MARK + quote(session, safe="")
    if not session or len(name) > _MOST_LETTERS:
        raise ValueError(f"session: expected 1 to about 190 characters, got {len(session)}")
    return name


def sessions_in(root: Path) -> list[str]:
    """The sessions that have a folder."""
    return [unquote(path.name.removeprefix(_MARK)) for path in root.iterdir() if path.name.startswith(_MARK)]
