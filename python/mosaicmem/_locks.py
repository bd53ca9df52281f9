"""Locks that a forked process finds free, and what they guard whole.

A fork, as of a data loader's workers, copies what all threads were writing but only the thread that forks. So before a
fork every lock of this kind is taken, which waits for calls that are under way; afterwards the parent lets go of them,
and the child has new ones. Locks of the compiled core do the same by themselves, after these.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from types import TracebackType


class ForkSafeLock:
    """A lock for ``with``; the thread that holds it may take it again.

    Whoever holds one may take those of a larger ``rank`` only, so that no two wait for each other when all are taken.
    One ``over_io`` may be held while files are read and written: no fork waits for it, so what it guards may change in
    single assignments only.
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
