"""Only the thread that saves waits for the disk."""

import contextlib
import os
import threading

import pytest

from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import CameraPose, MosaicMemoryStore, SpatialManipulation, Sphere
from mosaicmem.memory import storage

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk whose syncs block until it is released."""
    reached, go_on = threading.Event(), threading.Event()
    fsync, process = os.fsync, os.getpid()

    def wait(descriptor):
        if os.getpid() == process:
            reached.set()
            assert go_on.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    yield reached, go_on
    go_on.set()


@contextlib.contextmanager
def while_it_saves(store, folder, slow_disk):
    reached, go_on = slow_disk
    errors = []

    def save():
        try:
            store.save(folder)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        assert reached.wait(60)
        yield thread
        assert thread.is_alive()
    finally:
        go_on.set()
        thread.join(60)
    assert not errors
    assert not thread.is_alive()


def test_all_calls_go_on_and_the_save_is_of_the_store_as_it_was(rng, tmp_path, slow_disk):
    store, _ = filled_store(rng, 4)
    before = fingerprint(store, POSE)
    with while_it_saves(store, tmp_path / "store", slow_disk):
        store.insert_keyframe(*random_keyframe(rng, 5.0)[:2], K, POSE)
        store.delete_frame(0)
        assert len(store.retrieve(K, POSE, top_k=5)) == 5
        SpatialManipulation(store).erase(Sphere([0, 0, 2], 0.5))
        other, snapshot = store.fork(), store.snapshot()
        store.restore(snapshot)
        assert len(other) == len(store)
    assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == before
    store.save(tmp_path / "store")
    assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(store, POSE)


def test_a_second_save_waits_for_the_first(rng, tmp_path, slow_disk):
    store, _ = filled_store(rng, 4)
    ended = []
    with while_it_saves(store, tmp_path / "store", slow_disk) as first:
        store.delete_frame(0)
        second = threading.Thread(target=lambda: (store.save(tmp_path / "store"), ended.append(first.is_alive())))
        second.start()
        second.join(0.1)
        assert not ended
    second.join(60)
    assert ended
    storage.verify(tmp_path / "store")
    assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(store, POSE)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_goes_on_without_waiting(rng, tmp_path, slow_disk):
    store, _ = filled_store(rng, 4)
    with while_it_saves(store, tmp_path / "store", slow_disk):
        for number in range(10):
            pid = os.fork()
            if pid == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    store.insert_keyframe(*random_keyframe(rng, 5.0)[:2], K, POSE)
                    store.retrieve(K, POSE, top_k=5)
                    store.close()
                    store.save(tmp_path / f"child{number}")
                    code = 0
                os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert len(MosaicMemoryStore.open(tmp_path / f"child{number}")) > len(store)
    assert len(MosaicMemoryStore.open(tmp_path / "store")) == len(store)
