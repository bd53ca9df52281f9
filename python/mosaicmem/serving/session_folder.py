"""What a session has on disk: its store when it is spilled or saved, and its last snapshot."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from mosaicmem._files import put_folder_in_place
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage import linked_copy

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

    @property
    def has_snapshot(self) -> bool:
        """Whether a snapshot is there."""
        return (self._snapshot / "manifest.json").is_file()

    def spill(self, store: MosaicMemoryStore) -> None:
        """Save a store."""
        store.save(self._store)

    def open_store(self, num_threads: int) -> MosaicMemoryStore:
        """The store that was spilled or, if none was, that of the snapshot."""
        if not (self._store / "manifest.json").is_file():
            return self.open_snapshot(num_threads)
        return MosaicMemoryStore.open(self._store, num_threads=num_threads)

    def snapshot(self, store: MosaicMemoryStore) -> None:
        """Save a store as the snapshot, in place of the one before, of which nothing is lost until it is durable."""
        store.save(self._store)
        new = self.path / "snapshot.new"
        shutil.rmtree(new, ignore_errors=True)
        linked_copy(self._store, new)
        put_folder_in_place(new, self._snapshot)

    def open_snapshot(self, num_threads: int) -> MosaicMemoryStore:
        """The store as of the snapshot."""
        self.discard_store()
        linked_copy(self._snapshot, self._store)
        return MosaicMemoryStore.open(self._store, num_threads=num_threads)

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
