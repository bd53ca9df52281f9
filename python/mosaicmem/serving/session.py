"""One session: a memory that its requests observe with, ask, and branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, TypeVar

from mosaicmem._arrays import ArrayLike, check_instance, check_integer
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import MemoryContext
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.pipeline.keyframes import as_generated, as_observed

if TYPE_CHECKING:
    from mosaicmem.serving.sessions import MemorySessions

_T = TypeVar("_T")


class MemorySession(Uncopied):
    """The memory of one session of `MemorySessions`, which makes it.

    Any number of threads may use it at once. Its memory may lie on disk between two calls; the next one brings it back.

    Attributes
    ----------
    id : str
    """

    _instead: ClassVar[str] = "use fork() for a second session, snapshot() and MemorySessions.open for another process"

    def __init__(self, sessions: MemorySessions, session: str) -> None:
        self.id = session
        self._sessions, self._folder = sessions, sessions.folder_of(session)
        self._moving = ForkSafeLock(over_io=True)  # one thread at a time takes the store to disk, or back
        # Guarded by the lock of all sessions:
        self._store: MosaicMemoryStore | None = None  # None: on disk
        self._counted = 0  # its bytes, as they are counted against the budget
        self._users = 0  # calls that use it now
        self._changes, self._saved = 0, -1  # calls that may have changed it, and those of them that are on disk
        self._is_closed = self._is_leaving = self._is_stuck = False  # stuck: it could not be spilled

    def observe(
        self,
        image: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        dynamic: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
    ) -> None:
        """Remember a real frame; as `AutoregressivePipeline.observe`, but frames are not compared with each other."""
        check_instance("pose", pose, CameraPose)
        pixels, z, sure, moving = as_observed(image, depth, intrinsics, dynamic, confidence)
        with self._used(changes=True) as store:
            self._sessions._writer.observe(store, pixels, z, intrinsics, pose, sure, moving)

    def remember(
        self, image: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, *, depth: ArrayLike | None = None
    ) -> None:
        """Remember a frame that a model has generated; as `AutoregressivePipeline.remember`."""
        pixels, z = as_generated(image, intrinsics, pose, depth)
        with self._used(changes=True) as store:
            self._sessions._writer.generated(store, pixels, intrinsics, pose, z)

    def context(self, cameras: CameraTrajectory, *, window: int = 0) -> MemoryContext:
        """What memory shows to the cameras of some latent frames; as `AutoregressivePipeline.align`."""
        check_instance("cameras", cameras, CameraTrajectory)
        check_integer("window", window, minimum=0)
        with self._used() as store:
            return self._sessions._context(store, cameras, window)

    def with_store(self, use: Callable[[MosaicMemoryStore], _T]) -> _T:
        """What ``use`` returns for the session's store: for edits, statistics and other strategies of retrieval.

        It must not keep the store, which may be spilled afterwards.
        """
        with self._used(changes=True) as store:
            return use(store)

    def fork(self, session: str) -> MemorySession:
        """A new session with the memory of this one; changes to one never show in the other.

        Raises
        ------
        ValueError
            There is a session of this id.
        """
        with self._used() as store:
            return self._sessions._begin(session, store.fork())

    def snapshot(self) -> None:
        """Save the memory durably, in place of the last snapshot. What is there already is not written again."""
        with self._moving:
            store = self._sessions._take(self, False)
            try:
                changes = self._changes
                self._folder.snapshot(store)
                self._saved = changes
            finally:
                self._sessions._release(self, False)
        self._sessions._make_room()

    def restore(self) -> None:
        """Return to the last snapshot.

        Raises
        ------
        ValueError
            There is none.
        """
        with self._moving:
            self._sessions._check_open(self)
            if not self._folder.has_snapshot:
                raise ValueError(f"session {self.id!r}: expected a snapshot to restore, but none was taken")
            if self._store is not None:
                self._store.close()
            self._sessions._replace(self, self._folder.open_snapshot(self._sessions._num_threads))
        self._sessions._make_room()

    def close(self, *, forget: bool = False) -> None:
        """End the session. `MemorySessions.open` begins again at its last snapshot, unless ``forget`` removes it."""
        self._sessions._end(self, forget)

    @property
    def nbytes(self) -> int:
        """Of its memory; 0 while it is on disk."""
        return self._counted

    @property
    def is_spilled(self) -> bool:
        """Whether its memory lies on disk."""
        return self._store is None

    def __enter__(self) -> MemorySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _used(self, *, changes: bool = False) -> Iterator[MosaicMemoryStore]:
        """The store, which stays in memory during the block, in which it may be changed if ``changes``."""
        store = self._sessions._take(self, changes)
        try:
            yield store
        finally:
            self._sessions._give_back(self, changes)
