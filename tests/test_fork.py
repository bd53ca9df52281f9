"""A fork while another thread is inside a call, as data loaders do it: the child finds consistent objects."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    PatchMemory,
    StreamingFusion,
)
from mosaicmem._locks import ForkSafeLock

K = CameraIntrinsics.from_fov(320, 192, fov_x=1.3)
_FORKS = 12
_PATIENCE = 20.0  # seconds; a child that hangs never ends

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def insert(store):
    store.insert_keyframe(np.zeros((24, 40, 8), np.float32), np.full((24, 40), 2.0), K, CameraPose())
    if len(store) > 10_000:
        store.delete_frame(0)
        store.delete_patches(store.patch_ids[:5000])


def retrieve(store):
    found = KeyframeRetrieval().retrieve(store, CameraTrajectory([CameraPose()], K), 8)
    assert found.coverage_ratio[0] > 0.9


def fuse(fusion):
    fusion.add_frame(np.full((192, 320), 2.0, np.float32), K, CameraPose())


def append(memory):
    k = np.tile(K.matrix.astype(np.float32), (4, 1, 1))
    poses = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    memory.append(np.zeros((2, 4, 24, 40), np.float32), poses, k, np.ones((4, 192, 320), np.float32))


def select(memory):
    memory.select_candidate_frame_ids(np.tile(np.eye(4, dtype=np.float32), (4, 1, 1)))


def a_store():
    store = MosaicMemoryStore(num_threads=1)
    for _ in range(20):
        insert(store)
    return store


def a_patch_memory():
    memory = PatchMemory()
    append(memory)
    return memory


@contextlib.contextmanager
def kept_busy(action, subject):
    """Run ``action(subject)`` over and over in another thread."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            action(subject)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def exit_code_of_child(action):
    """The exit code of a forked child that runs ``action``; None if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if (ended := os.waitpid(child, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.parametrize(
    ("make", "busy", "action"),
    [
        (a_store, insert, insert),
        (a_store, insert, retrieve),
        (a_store, retrieve, insert),
        (a_store, retrieve, retrieve),
        (StreamingFusion, fuse, fuse),
        (a_patch_memory, append, append),
        (a_patch_memory, append, select),
        (a_patch_memory, select, append),
    ],
)
def test_children_go_on_where_a_thread_of_the_parent_was_inside(make, busy, action):
    subject = make()
    with kept_busy(busy, subject):
        codes = [exit_code_of_child(lambda: action(subject)) for _ in range(_FORKS)]
    assert codes == [0] * _FORKS


def test_a_child_may_use_a_store_that_was_being_saved(tmp_path):
    store = a_store()

    def change_and_save(store):
        insert(store)
        store.save(tmp_path / "store")

    def save_elsewhere():
        insert(store)
        store.save(tmp_path / f"of-{os.getpid()}")

    with kept_busy(change_and_save, store):
        codes = [exit_code_of_child(save_elsewhere) for _ in range(4)]
    assert codes == [0] * 4


def test_what_a_lock_guards_is_whole_in_the_child():
    """Two counters that only a lock keeps equal."""
    lock, counts = ForkSafeLock(), [0, 0]

    def count(counts):
        with lock:
            counts[0] += 1
            time.sleep(0.001)
            counts[1] += 1

    def check():
        with lock:
            assert counts[0] == counts[1]

    with kept_busy(count, counts):
        codes = [exit_code_of_child(check) for _ in range(_FORKS)]
    assert codes == [0] * _FORKS


def test_locks_within_locks_and_forks_of_several_threads():
    outer, inner = ForkSafeLock(), ForkSafeLock(rank=1)

    def nest(_):
        with outer, inner:
            time.sleep(0.0005)

    def fork(_):
        assert exit_code_of_child(lambda: nest(None)) == 0

    with kept_busy(nest, None), kept_busy(fork, None):
        codes = [exit_code_of_child(lambda: nest(None)) for _ in range(_FORKS)]
    assert codes == [0] * _FORKS


def test_a_lock_of_an_object_that_is_gone_is_forgotten():
    for make in (a_store, StreamingFusion, a_patch_memory):
        make()
    assert exit_code_of_child(lambda: None) == 0
