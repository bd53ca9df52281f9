"""Sessions: each a memory of its own, whatever is spilled, branched, restored or killed."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    StoreLockedError,
)
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.serving import MemorySessions, RayMemorySessions
from serving_helpers import CAMERA, CONFIG, NO_LIMIT, PATH, WORLD, check_shows, observe, pipeline


@pytest.fixture
def sessions(tmp_path):
    with MemorySessions(tmp_path / "sessions", pipeline(), max_bytes=NO_LIMIT) as made:
        yield made


class TestOneSession:
    def test_it_shows_what_a_pipeline_shows(self, sessions):
        session = sessions.open("a")
        check_shows(session, [])
        observe(session, [0, 3])
        check_shows(session, [0, 3])

    def test_generated_frames_are_remembered_as_such(self, sessions):
        session, theirs = sessions.open("a"), pipeline()
        for memory in (session, theirs):
            observe(memory, [0])
            view = WORLD.render(CAMERA, PATH[4])
            memory.remember(view.image, CAMERA, PATH[4], depth=view.depth)
        context, other = session.context(PATH[:3]), theirs.align(PATH[:3])
        np.testing.assert_array_equal(context.canvas, other.canvas)
        np.testing.assert_array_equal(context.observed, other.observed)
        assert session.with_store(lambda store: store.statistics().keyframes) == 2

    def test_new_ones_begin_with_the_memory_of_the_pipeline(self, tmp_path):
        template = pipeline()
        observe(template, [0, 3])
        with MemorySessions(tmp_path, template, max_bytes=NO_LIMIT) as sessions:
            check_shows(sessions.open("a"), [0, 3])
            observe(sessions.open("a"), [5])
            check_shows(sessions.open("b"), [0, 3])
            check_shows(sessions.open("a"), [0, 3, 5])

    def test_a_fork_goes_its_own_way(self, sessions):
        one = sessions.open("one")
        observe(one, [0])
        other = one.fork("other")
        observe(other, [3])
        check_shows(one, [0])
        check_shows(other, [0, 3])
        with pytest.raises(ValueError, match="expected a new id, got 'other', which is there already"):
            one.fork("other")

    def test_restore_returns_to_the_last_snapshot(self, sessions):
        session = sessions.open("a")
        with pytest.raises(ValueError, match="session 'a': expected a snapshot to restore, but none was taken"):
            session.restore()
        observe(session, [0])
        session.snapshot()
        observe(session, [3])
        session.snapshot()
        observe(session, [5])
        check_shows(session, [0, 3, 5])
        session.restore()
        check_shows(session, [0, 3])
        observe(session, [7])
        check_shows(session, [0, 3, 7])
        session.restore()
        check_shows(session, [0, 3])

    def test_closed_ones_begin_again_at_their_snapshot(self, sessions):
        session = sessions.open("a")
        observe(session, [0])
        session.snapshot()
        observe(session, [3])
        session.close()
        with pytest.raises(ValueError, match="session 'a' is closed"):
            session.context(PATH[:3])
        assert ("a" in sessions, sessions.saved()) == (False, ["a"])
        check_shows(sessions.open("a"), [0])
        sessions.open("a").close(forget=True)
        assert sessions.saved() == []
        check_shows(sessions.open("a"), [])

    def test_snapshots_share_files_and_save_only_what_is_new(self, sessions, tmp_path):
        session = sessions.open("a")
        observe(session, [0, 3])
        session.snapshot()
        folder = tmp_path / "sessions" / "session-a"
        before = {path.name: path.stat().st_ino for path in (folder / "snapshot").glob("keyframes-*")}
        assert before == {path.name: path.stat().st_ino for path in (folder / "store").glob("keyframes-*")}
        observe(session, [5])
        session.snapshot()
        after = {path.name: path.stat().st_ino for path in (folder / "snapshot").glob("keyframes-*")}
        assert before.items() < after.items()

    @pytest.mark.parametrize("id", ["../../etc", "a/b", ".", "ä ö\n", "x" * 150, "CON", "%2e"])
    def test_any_id_will_do(self, sessions, tmp_path, id):
        session = sessions.open(id)
        observe(session, [0])
        session.snapshot()
        assert sessions.saved() == [id]
        assert all(path.parent == tmp_path / "sessions" for path in (tmp_path / "sessions").glob("session-*"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sessions"]

    @pytest.mark.parametrize(("id", "error"), [("", ValueError), ("x" * 500, ValueError), (3, TypeError)])
    def test_almost_any(self, sessions, id, error):
        with pytest.raises(error, match="session: expected"):
            sessions.open(id)

    def test_wrong_input_is_refused_and_changes_nothing(self, sessions):
        session = sessions.open("a")
        observe(session, [0])
        view = WORLD.render(CAMERA, PATH[1])
        with pytest.raises(ValueError, match="depth: expected shape"):
            session.observe(view.image, view.depth[:3], CAMERA, PATH[1])
        with pytest.raises(TypeError, match="pose: expected CameraPose"):
            session.observe(view.image, view.depth, CAMERA, np.eye(4))
        with pytest.raises(TypeError, match="cameras: expected CameraTrajectory"):
            session.context([PATH[0]])
        check_shows(session, [0])


class TestBudget:
    def bytes_of(self, frames):
        made = pipeline()
        observe(made, frames)
        return made.store.nbytes

    def test_least_used_ones_go_to_disk_and_come_back(self, tmp_path):
        each = self.bytes_of([0, 3])
        with MemorySessions(tmp_path, pipeline(), max_bytes=int(2.5 * each)) as sessions:
            made = [sessions.open(str(i)) for i in range(4)]
            for session in made:
                observe(session, [0, 3])
            assert [session.is_spilled for session in made] == [True, True, False, False]
            assert sessions.statistics().nbytes <= 2.5 * each
            check_shows(made[0], [0, 3])
            assert [session.is_spilled for session in made] == [False, True, True, False]
            observe(made[1], [5])
            for session in made:
                check_shows(session, [0, 3, 5] if session is made[1] else [0, 3])
            stats = sessions.statistics()
            assert (stats.sessions, stats.spilled) == (4, 2)
            assert stats.spills >= stats.returns >= 4

    def test_a_snapshot_and_a_spill_are_apart(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            session = sessions.open("a")
            observe(session, [0])
            session.snapshot()
            observe(session, [3])
            assert session.is_spilled
            check_shows(session, [0, 3])
            session.restore()
            check_shows(session, [0])

    def test_a_snapshot_after_a_spill_is_on_the_disk(self, tmp_path, monkeypatch):
        """A spill does not wait for the disk, and what comes back does not know it."""
        synced, fsync = set(), os.fsync

        def logged(descriptor):
            synced.add(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", logged)
        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            session = sessions.open("a")
            observe(session, [0])
            assert session.is_spilled
            session.snapshot()
            files = [path for path in (tmp_path / "session-a" / "snapshot").iterdir() if path.name != "lock"]
            assert len(files) == 3
            assert {path.stat().st_ino for path in files} <= synced

    def test_a_session_has_a_budget_of_its_own(self, tmp_path):
        each = self.bytes_of([0])
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT, session_bytes=int(2.5 * each)) as sessions:
            session = sessions.open("a")
            observe(session, [0, 3, 5, 7])
            assert session.nbytes <= 2.5 * each
            assert session.with_store(lambda store: store.statistics().keyframes) == 2

    def test_forks_do_not_spill_each_other_wrongly(self, tmp_path):
        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            one = sessions.open("one")
            observe(one, [0])
            other = one.fork("other")
            observe(other, [3])
            check_shows(one, [0])
            check_shows(other, [0, 3])

    def test_a_full_disk_loses_nothing(self, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        with MemorySessions(tmp_path, pipeline(), max_bytes=1) as sessions:
            session = sessions.open("a")
            with monkeypatch.context() as patch:
                patch.setattr(MosaicMemoryStore, "save", full)
                view = WORLD.render(CAMERA, PATH[0])
                with pytest.warns(RuntimeWarning, match="session 'a' cannot be spilled.*No space left"):
                    session.observe(view.image, view.depth, CAMERA, PATH[0])
                assert not session.is_spilled
            check_shows(session, [0])
            assert session.is_spilled


class TestProcesses:
    def test_one_process_at_a_time(self, sessions, tmp_path):
        with pytest.raises(StoreLockedError, match="another process serves sessions in"):
            MemorySessions(tmp_path / "sessions", pipeline(), max_bytes=1)

    def test_what_was_snapshotted_survives_a_kill(self, tmp_path):
        for round_ in range(3):
            ready = tmp_path / f"ready{round_}"
            run = subprocess.Popen([sys.executable, __file__, str(tmp_path / "sessions"), str(ready)])
            while not ready.exists():
                assert run.poll() is None
                time.sleep(0.01)
            time.sleep(0.3 * round_)
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            with MemorySessions(tmp_path / "sessions", pipeline(), max_bytes=NO_LIMIT) as sessions:
                assert sessions.saved() == ["kept", "moving"]
                check_shows(sessions.open("kept"), [0])
                count = sessions.open("moving").with_store(lambda store: store.statistics().keyframes)
                check_shows(sessions.open("moving"), list(range(count)))
                check_shows(sessions.open("lost"), [])
                for id in ("kept", "moving", "lost"):
                    sessions.open(id).close(forget=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
class TestRay:
    def test_sessions_on_two_actors(self, tmp_path):
        ray = pytest.importorskip("ray")
        make, options = partial(AutoregressivePipeline, CONFIG), {"actors": 2, "max_bytes": 1, "num_cpus": 0.5}
        try:
            with RayMemorySessions(tmp_path, make, **options) as sessions:
                ids = [str(i) for i in range(6)]
                for number, id in enumerate(ids):
                    observe(sessions.open(id), [number])
                for number, id in enumerate(ids):
                    check_shows(sessions.open(id), [number])
                placed = [stats.sessions for stats in sessions.statistics()]
                assert sum(placed) == 6
                assert min(placed) >= 1
                one = sessions.open("0")
                for id in ("f0", "f1", "f2", "f3"):  # on both actors
                    other = one.fork(id)
                    observe(other, [7])
                    check_shows(other, [0, 7])
                check_shows(one, [0])
                one.snapshot()
                observe(one, [5])
                one.restore()
                check_shows(one, [0])
                assert sessions.saved() == ["0"]
                with pytest.raises(ValueError, match="expected a snapshot to restore"):
                    sessions.open("1").restore()
            with RayMemorySessions(tmp_path, make, **options) as sessions:
                check_shows(sessions.open("0"), [0])
                check_shows(sessions.open("1"), [])
        finally:
            ray.shutdown()


class TestWithoutExchange:
    """File systems that cannot exchange two names."""

    def test_a_kill_between_the_two_renames(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mosaicmem._files._exchange", lambda *_: False)
        sessions = MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT)
        session = sessions.open("a")
        observe(session, [0])
        session.snapshot()
        observe(session, [3])
        session.snapshot()
        check_shows(session, [0, 3])
        folder = tmp_path / "session-a"
        (folder / "snapshot").rename(folder / "snapshot.new.old")  # as the kill leaves it
        sessions._held.release()
        with MemorySessions(tmp_path, pipeline(), max_bytes=NO_LIMIT) as again:
            assert again.saved() == ["a"]
            session = again.open("a")
            check_shows(session, [0, 3])
            session.snapshot()
            (folder / "snapshot.new.old").mkdir()  # as a kill before the last step leaves it
            session.snapshot()
            assert sorted(path.name for path in folder.iterdir()) == ["snapshot", "store"]


class TestArguments:
    def test_what_cannot_be_served(self, tmp_path):
        with pytest.raises(ValueError, match="expected fusion_voxel_size = None"):
            MemorySessions(tmp_path, pipeline(fusion_voxel_size=0.1), max_bytes=1)
        with pytest.raises(TypeError, match="pipeline: expected AutoregressivePipeline"):
            MemorySessions(tmp_path, CONFIG, max_bytes=1)
        with pytest.raises(ValueError, match="max_bytes: expected"):
            MemorySessions(tmp_path, pipeline(), max_bytes=0)
        with pytest.raises(ValueError, match="session_bytes: expected"):
            MemorySessions(tmp_path, pipeline(), max_bytes=1, session_bytes=0)


def serve_until_killed(folder, ready):
    sessions = MemorySessions(folder, pipeline(), max_bytes=1)
    kept, moving, lost = (sessions.open(id) for id in ("kept", "moving", "lost"))
    observe(kept, [0])
    kept.snapshot()
    observe(kept, [3])
    observe(lost, [0])
    for i in range(12):
        observe(moving, [i])
        moving.snapshot()
        if i == 1:
            Path(ready).touch()
    while True:
        moving.context(PATH[:3])


if __name__ == "__main__":
    serve_until_killed(*sys.argv[1:])
