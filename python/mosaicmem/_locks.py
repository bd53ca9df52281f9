"""Fork-safe locks: a forked process finds them free, and the data that they guard consistent.

A fork, as of a data loader's workers, copies the memory that all threads were writing, but only the thread that forks.
So a fork first acquires every lock of this kind, which waits for calls in progress; afterwards the parent releases
them, and the child gets new ones. The locks of the compiled core do the same on their own, after these.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from types import TracebackType


class ForkSafeLock:
    """A reentrant lock for ``with``.

    A thread that holds one may acquire only locks of a larger ``rank``, so that acquiring all of them at a fork cannot
    deadlock. A lock with ``over_io`` may be held during file I/O: no fork waits for it, so the data that it guards may
    change only in single assignments.
    """

    def __init__(self, rank: int = 0, *, over_io: bool = False) -> None:
        self._order = rank, next(_serials)
        self._over_io = over_io
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


_serials = itertools.count()
_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_forking = threading.RLock()  # one thread at a time
_taken: list[ForkSafeLock] = []  # while the process forks


def _take_all() -> None:
    _forking.acquire()
    _taken[:] = sorted((lock for lock in _locks if not lock._over_io), key=lambda lock: lock._order)
    for lock in _taken:
        lock.__enter__()


def _release_all() -> None:
    for lock in reversed(_taken):
        lock.__exit__(None, None, None)
    _taken.clear()
    _forking.release()


def _make_all_new() -> None:
    global _forking
    _forking = threading.RLock()
    for lock in _locks:
        lock._lock = threading.RLock()
    _taken.clear()


os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_make_all_new)
