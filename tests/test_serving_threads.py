"""Sessions that several threads, stale handles and forked processes use at once."""

import os
import random
import threading
from contextlib import suppress
from functools import partial

import pytest

from memory_helpers import run_at_once
from mosaicmem.serving import MemorySessions
from serving_helpers import NO_LIMIT, PATH, check_shows, observe, pipeline


class TestStaleHandles:
    """A session that was closed, and whose id has begun again, is left alone by handles from before."""

    @pytest.mark.parametrize("budget", [1, NO_LIMIT])
    def test_nothing_reaches_the_new_one(self, tmp_path, budget):
        with MemorySessions(tmp_path, pipeline(), max_bytes=budget) as sessions:
            old = sessions.open("a")
            observe(old, [0])
            old.snapshot()
            old.close()
            new = sessions.open("a")
            observe(new, [3])
            for call in (old.restore, old.snapshot, lambda: old.context(PATH[:1]), lambda: old.fork("b")):
                with pytest.raises(ValueError, match="session 'a' is closed"):
                    call()
            old.close(forget=True)
            check_shows(new, [0, 3])
            new.restore()
            check_shows(new, [0])

    def test_nor_does_a_closed_pool(self, tmp_path):
        sessions = MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT)
        session = sessions.open("a")
        sessions.close()
        sessions.close()
        with pytest.raises(ValueError, match="sessions are closed: make another"):
            sessions.open("a")
        with pytest.raises(ValueError, match="sessions are closed"):
            session.snapshot()

    def test_a_forked_process_closes_nothing(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            session = sessions.open("a")
            observe(session, [0])
            session.snapshot()
            observe(session, [3])
            child = os.fork()
            if child == 0:
                with suppress(BaseException):
                    session.close()
                with suppress(BaseException):
                    sessions.close()
                os._exit(0)
            os.waitpid(child, 0)
            check_shows(session, [0, 3])


class TestRaces:
    def test_snapshots_restores_and_spills_of_one_session(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            session, other = sessions.open("a"), sessions.open("b")
            observe(session, [0])
            session.snapshot()
            works = (session.snapshot, session.restore, lambda: session.context(PATH[:1]), lambda: observe(other, [0]))
            run_at_once(*works, session.snapshot, other.snapshot, times=30)
            check_shows(session, [0])
            session.restore()
            check_shows(session, [0])

    def test_opening_and_closing_keeps_the_snapshot(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT) as sessions:
            observe(sessions.open("a"), [0])
            sessions.open("a").snapshot()

            def work():
                with suppress(ValueError):  # closed by another thread
                    session = sessions.open("a")
                    count = session.with_store(lambda store: store.statistics().keyframes)
                    assert count == 1
                    session.snapshot()
                    session.close()

            run_at_once(work, work, work, times=30)
            check_shows(sessions.open("a"), [0])

    def test_forgetting_during_a_snapshot(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT) as sessions:
            for round_ in range(10):
                session = sessions.open(str(round_))
                observe(session, [0])

                def snapshot(session=session):
                    with suppress(ValueError):
                        session.snapshot()

                run_at_once(snapshot, snapshot, snapshot, partial(session.close, forget=True))
                assert sessions.saved() == []


class TestThreads:
    def test_many_threads_on_few_sessions(self, tmp_path):
        one = pipeline()
        observe(one, [0, 3])
        with MemorySessions(tmp_path, pipeline(), max_bytes=2 * one.store.nbytes) as sessions:
            seen = {str(i): [] for i in range(5)}
            lock = threading.Lock()

            def work(seed):
                chance = random.Random(seed)
                for _ in range(25):
                    id, what = str(chance.randrange(5)), chance.random()
                    session = sessions.open(id)
                    if what < 0.3:
                        frame = chance.randrange(12)
                        with lock:
                            seen[id].append(frame)
                        observe(session, [frame])
                    elif what < 0.4:
                        session.snapshot()
                    else:
                        session.context(PATH[:2])

            run_at_once(*(partial(work, seed) for seed in range(6)))
            assert sessions.statistics().spills > 0
            for id, frames in seen.items():
                count = sessions.open(id).with_store(lambda store: store.statistics().keyframes)
                assert count == len(frames)

    def test_closing_while_others_open(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT) as sessions:

            def work():
                session = sessions.open("a")
                with suppress(ValueError):  # closed
                    observe(session, [0])
                    session.close()

            run_at_once(work, work, work, work, times=50)

    def test_a_forked_process_is_refused(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT) as sessions:
            session = sessions.open("a")
            child = os.fork()
            if child == 0:
                try:
                    session.context(PATH[:1])
                except RuntimeError:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
