"""Many sessions under one budget of memory."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mosaicmem._arrays import check_instance, check_integer
from mosaicmem._copies import Uncopied
from mosaicmem._files import make_folder
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion import MemoryContext
from mosaicmem.errors import StoreLockedError
from mosaicmem.memory import MosaicMemoryStore, SpatialManipulation
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.pipeline import AutoregressivePipeline
from mosaicmem.serving.session import MemorySession
from mosaicmem.serving.session_folder import SessionFolder, sessions_in


@dataclass(frozen=True)
class SessionStatistics:
    """How many sessions there are, and where.

    Attributes
    ----------
    sessions, spilled : int
        Open ones; those of them on disk.
    nbytes : int
        Of the memories that are not spilled.
    spills, returns : int
        How often one went to disk, and came back, so far.
    """

    sessions: int
    spilled: int
    nbytes: int
    spills: int
    returns: int


class MemorySessions(Uncopied):
    """The memories of many sessions in one process, each a `MemorySession`.

    The least recently used memories go to disk when all together are larger than ``max_bytes``, and come back when they
    are asked. Threads share all of it; calls to different sessions run at once.

    Parameters
    ----------
    folder : path
        Of this object alone. Sessions that were snapshotted there by an earlier process can be opened again; what was
        not snapshotted is lost with the process.
    pipeline : AutoregressivePipeline
        Its configuration and parts serve all sessions, from several threads at once; new sessions begin with a copy of
        its memory. Its backbone is not called.
    max_bytes : int
        Of all memories together. Memories in use are never spilled, so they may exceed it.
    session_bytes : int, optional
        Of one memory: beyond it, the session forgets as ``max_bytes`` of `MosaicMemoryStore` says; by default that of
        the pipeline's configuration.

    Raises
    ------
    StoreLockedError
        Another process uses the folder.
    """

    _instead: ClassVar[str] = "share it between threads; processes need a folder each"

    def __init__(
        self,
        folder: str | Path,
        pipeline: AutoregressivePipeline,
        *,
        max_bytes: int,
        session_bytes: int | None = None,
    ) -> None:
        self._pipeline = check_instance("pipeline", pipeline, AutoregressivePipeline)
        if pipeline.fusion is not None:
            raise ValueError("pipeline: expected fusion_voxel_size = None: sessions have no fused map")
        if pipeline.store.device is not None:
            raise ValueError("pipeline: expected a store on the host: stores on a GPU cannot be spilled")
        self._most = check_integer("max_bytes", max_bytes, minimum=1)
        self._template = _limited(pipeline.store, session_bytes)
        self._num_threads = pipeline.config.num_threads
        self._writer = pipeline._keyframes
        self._folder = Path(folder).absolute()
        make_folder(self._folder)
        try:
            self._held = FolderLock.take(self._folder)
        except StoreLockedError:
            raise StoreLockedError(f"folder: another process serves sessions in {self._folder}") from None
        self._process = os.getpid()
        for session in sessions_in(self._folder):
            self.folder_of(session).recover()
        self._lock = ForkSafeLock(rank=0)
        self._open: dict[str, MemorySession] = {}
        self._loaded: OrderedDict[str, MemorySession] = OrderedDict()  # not spilled, the least recently used first
        self._nbytes = self._spills = self._returns = 0
        self._is_ended = False

    def open(self, session: str) -> MemorySession:
        """The session of an id: the open one; or that of its last snapshot; or a new one."""
        while True:
            with self._lock:
                found = self._open.get(session)
            if found is None:
                found = self._begin(session)
            if not found._is_closed:
                return found
            with found._moving:  # until it has ended
                pass

    def __contains__(self, session: object) -> bool:
        """Whether a session is open."""
        with self._lock:
            return session in self._open

    def __iter__(self) -> Iterator[str]:
        """The ids of open sessions."""
        with self._lock:
            return iter(list(self._open))

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def saved(self) -> list[str]:
        """The ids of all sessions with a snapshot, open or not."""
        return sorted(session for session in sessions_in(self._folder) if self.folder_of(session).has_snapshot)

    def statistics(self) -> SessionStatistics:
        """Counts and bytes as of now."""
        with self._lock:
            spilled = len(self._open) - len(self._loaded)
            return SessionStatistics(len(self._open), spilled, self._nbytes, self._spills, self._returns)

    def close(self) -> None:
        """End all sessions; each can be opened again at its last snapshot, by another object."""
        with self._lock:
            if self._is_ended:
                return
            self._check_usable()
        for session in list(self):
            with self._lock:
                found = self._open.get(session)
            if found is not None:
                found.close()
        self._is_ended = True
        self._held.release()

    def __enter__(self) -> MemorySessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def folder_of(self, session: str) -> SessionFolder:
        """What a session has on disk."""
        return SessionFolder(self._folder, session)

    # --- For sessions.

    def _context(self, store: MosaicMemoryStore, cameras: CameraTrajectory, window: int) -> MemoryContext:
        return self._pipeline._conditioner.context(store, cameras.padded(self._pipeline._cell), window)

    def _begin(self, session: str, store: MosaicMemoryStore | None = None) -> MemorySession:
        """Add a session: a new one with ``store``; without it, one that may be there, or have a snapshot."""
        made = MemorySession(self, session)
        with self._lock:
            self._check_usable()
            found, has_snapshot = self._open.get(session), made._folder.has_snapshot
            if store is not None and (found is not None or has_snapshot):
                raise ValueError(f"session: expected a new id, got {session!r}, which is there already")
            if found is None:
                self._open[session] = found = made
                if not has_snapshot:
                    self._load(made, self._template.fork() if store is None else store)
        self._make_room()
        return found

    def _take(self, session: MemorySession, changes: bool) -> MosaicMemoryStore:
        """The store of a session, which stays in memory until `_give_back`; ``changes``: the caller may change it."""
        store = self._taken(session, changes)
        while store is None:
            with session._moving:  # waits while another thread brings it back
                store = self._taken(session, changes)
                if store is None:
                    folder, was_spilled = session._folder, session._saved >= 0
                    opened = (folder.open_store if was_spilled else folder.open_snapshot)(self._num_threads)
                    self._replace(session, opened)
                    store = self._taken(session, changes)
        return store

    def _taken(self, session: MemorySession, changes: bool) -> MosaicMemoryStore | None:
        with self._lock:
            self._check_open(session)
            session._is_stuck = False
            if session._store is not None:
                self._loaded.move_to_end(session.id)
                session._users += 1
                session._changes += changes
            return session._store

    def _give_back(self, session: MemorySession, changes: bool) -> None:
        self._release(session, changes)
        self._make_room()

    def _release(self, session: MemorySession, changes: bool) -> None:
        with self._lock:
            session._users -= 1
            session._changes += changes  # again: what was saved meanwhile may lack a part of it
            if session._store is not None:
                self._count(session, session._store.nbytes)

    def _replace(self, session: MemorySession, store: MosaicMemoryStore) -> None:
        """Give a session the store that has come from disk."""
        with self._lock:
            self._load(session, store)
            session._saved = session._changes
            self._returns += 1

    def _make_room(self) -> None:
        """Spill the least recently used memories while all together are too large.

        One that cannot be spilled stays, with a warning: it is not the fault of the call that has made room necessary.
        """
        while True:
            with self._lock:
                if self._nbytes <= self._most:
                    return
                loaded = self._loaded.values()
                idle = (each for each in loaded if not (each._users or each._is_leaving or each._is_stuck))
                session = next(idle, None)
                if session is None:
                    return
                session._is_leaving = True
                self._count(session, 0)
            try:
                with session._moving:
                    self._spill(session)
            except (OSError, ValueError) as error:
                session._is_stuck = True
                warnings.warn(
                    f"session {session.id!r} cannot be spilled, so memories may exceed max_bytes: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            finally:
                with self._lock:
                    session._is_leaving = False
                    if session._store is not None:
                        self._count(session, session._store.nbytes)

    def _spill(self, session: MemorySession) -> None:
        """Take a store to disk, unless it is used meanwhile."""
        with self._lock:
            store, changes = session._store, session._changes
        if store is None:  # it has ended
            return
        if changes != session._saved:
            session._folder.spill(store)
            session._saved = changes
        with self._lock:
            if session._store is store and session._changes == changes and not session._users:
                self._unload(session)
                self._spills += 1
                store.close()

    def _end(self, session: MemorySession, forget: bool) -> None:
        with session._moving:
            with self._lock:
                self._check_usable()
                if session._is_closed:
                    return
                session._is_closed = True
                store = session._store
                self._unload(session)
            if store is not None:
                store.close()
            if forget:
                session._folder.remove()
            else:
                session._folder.discard_store()
            with self._lock:
                del self._open[session.id]

    # --- With the lock.

    def _load(self, session: MemorySession, store: MosaicMemoryStore) -> None:
        session._store = store
        self._loaded[session.id] = session
        self._loaded.move_to_end(session.id)
        self._count(session, store.nbytes)

    def _unload(self, session: MemorySession) -> None:
        session._store = None
        self._loaded.pop(session.id, None)
        self._count(session, 0)

    def _count(self, session: MemorySession, nbytes: int) -> None:
        self._nbytes += nbytes - session._counted
        session._counted = nbytes

    def _check_open(self, session: MemorySession) -> None:
        self._check_usable()
        if session._is_closed:
            raise ValueError(f"session {session.id!r} is closed: MemorySessions.open begins it again")

    def _check_usable(self) -> None:
        if self._is_ended:
            raise ValueError("sessions are closed: make another MemorySessions of the same folder")
        if os.getpid() != self._process:
            raise RuntimeError("sessions belong to the process that made them, not to one that was forked from it")


def _limited(store: MosaicMemoryStore, max_bytes: int | None) -> MosaicMemoryStore:
    """A copy of a store, with another limit of bytes if one is given."""
    if max_bytes is None:
        return store.fork()
    check_integer("session_bytes", max_bytes, minimum=1)
    names = ("latent_dtype", "max_patches", "eviction", "num_threads")
    options = {name: getattr(store, name) for name in names}
    other = MosaicMemoryStore(store.latent_patch_size, max_bytes=max_bytes, **options)
    if len(store):
        SpatialManipulation(other).splice(store, np.eye(4))
    return other
