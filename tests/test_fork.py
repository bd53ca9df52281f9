"""A fork while another thread is inside a call, as data loaders do it: the child finds consistent objects."""

import contextlib
import os
import signal
import subprocess
import sys
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


def test_threads_of_the_core_end_before_a_fork_and_start_again():
    """So that a fork finds one thread, here and in the child; Python 3.12 and later warn of more."""
    script = """
import os, numpy as np
from mosaicmem import depth_to_grid
threads = lambda: len(os.listdir("/proc/self/task"))
depth = np.random.default_rng(0).uniform(1, 2, (2048, 2048)).astype(np.float32)
alone = threads()
expected = depth_to_grid(depth, 8, num_threads=4)
assert threads() == alone + 3
for _ in range(3):
    child = os.fork()
    assert threads() == (alone if child else 1), threads()
    np.testing.assert_array_equal(depth_to_grid(depth, 8, num_threads=4), expected)
    assert threads() == (alone if child else 1) + 3, threads()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", script]
    subprocess.run(command, env=environment, check=True, timeout=_PATIENCE)


def test_a_fork_waits_for_no_kernel():
    """While another thread is in a long kernel that has the threads of the core, a fork and its child go on."""
    script = """
import os, threading, time, numpy as np
from mosaicmem import depth_to_grid
from mosaicmem.attention import attention
q, k = np.ones((1, 8, 4096, 64), np.float32), np.ones((1, 8, 16384, 64), np.float32)
depth = np.random.default_rng(0).uniform(1, 2, (2048, 2048)).astype(np.float32)
expected = depth_to_grid(depth, 8, num_threads=2)
ended = []
busy = threading.Thread(target=lambda: (attention(q, k, k, num_threads=2), ended.append(time.monotonic())))
busy.start()
time.sleep(0.1)
child = os.fork()
if not child:
    np.testing.assert_array_equal(depth_to_grid(depth, 8, num_threads=2), expected)
    os._exit(0)
forked = time.monotonic()
assert os.waitpid(child, 0)[1] == 0
busy.join()
assert forked < ended[0] - 0.1, (forked, ended)
np.testing.assert_array_equal(depth_to_grid(depth, 8, num_threads=2), expected)
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=2 * _PATIENCE)


def test_threads_of_the_core_leave_signals_to_others():
    script = """
import os, pathlib, signal, time, numpy as np
from mosaicmem import depth_to_grid
depth_to_grid(np.ones((2048, 2048), np.float32), 8, num_threads=4)
own = str(os.getpid())
numbers = {name: getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "ALRM", "BUS", "FPE", "ILL", "SEGV")}
wanted = {"INT": 1, "TERM": 1, "ALRM": 1, "BUS": 0, "FPE": 0, "ILL": 0, "SEGV": 0}

def blocked():
    masks = [
        int(line.split()[1], 16)
        for task in pathlib.Path("/proc/self/task").iterdir() if task.name != own
        for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk")
    ]
    return [{name: mask >> number - 1 & 1 for name, number in numbers.items()} for mask in masks]

until = time.monotonic() + 10
while blocked() != [wanted] * 3 and time.monotonic() < until:
    time.sleep(0.01)  # a thread that has not begun to run still blocks all signals, by the C library
assert blocked() == [wanted] * 3, blocked()
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=_PATIENCE)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no affinity here")
def test_all_cores_are_those_that_the_process_may_use():
    script = """
import os, numpy as np
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from mosaicmem import depth_to_grid
before = len(os.listdir("/proc/self/task"))
depth_to_grid(np.ones((2048, 2048), np.float32), 8)
assert len(os.listdir("/proc/self/task")) == before
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("MOSAICMEM_NUM_THREADS", None)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=_PATIENCE)
