"""A memory in a session of vllm-omni, called as its session manager and its adapters call state objects."""

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, CameraPose
from mosaicmem.published import SpatialMemoryState

CAMERA = CameraIntrinsics.from_fov(64, 48, fov_x=1.2)


class Session:
    """What vllm-omni's sessions do with an object, by their contract."""

    def __init__(self):
        self._objects = {}

    def get_or_create(self, name, factory, cls):
        known = self._objects.get(name)
        if known is None or not isinstance(known, cls) or not known.resident:
            known = self._objects[name] = factory()
        return known

    def reset(self):
        for one in self._objects.values():
            one.reset()

    def nbytes_by_device(self, seen):
        total = {}
        for one in self._objects.values():
            for device, size in one.nbytes_by_device(seen).items():
                total[device] = total.get(device, 0) + size
        return total


def keyframe(number, channels=8):
    rng = np.random.default_rng(number)
    return {
        "latents": rng.standard_normal((6, 8, channels)).astype(np.float32),
        "depth": rng.uniform(1, 3, (6, 8)).astype(np.float32),
        "intrinsics": CAMERA,
        "pose": CameraPose.look_at([0.1 * number, 0, 0], [0, 0, 3], timestamp=number),
    }


def allocated(**options):
    return SpatialMemoryState.allocated(**options)


def test_a_session_makes_it_once_and_frees_it():
    session = Session()
    memory = session.get_or_create("memory", SpatialMemoryState.allocated, SpatialMemoryState)
    memory.append(keyframe(0))
    assert session.get_or_create("memory", SpatialMemoryState.allocated, SpatialMemoryState) is memory
    assert memory.resident
    assert session.nbytes_by_device(set()) == {"cpu": memory.nbytes} == {"cpu": memory.view().nbytes}
    session.reset()
    assert not memory.resident
    assert memory.nbytes == 0
    assert session.get_or_create("memory", SpatialMemoryState.allocated, SpatialMemoryState) is not memory


def test_staged_frames_are_seen_ahead_and_kept_by_commit_alone():
    memory = allocated(latent_patch_size=2)
    memory.commit(keyframe(0))
    size = memory.nbytes
    memory.stage([keyframe(1), keyframe(2)])
    assert memory.view().statistics().keyframes == 3
    assert memory.view(include_staged=False).statistics().keyframes == 1
    assert memory.nbytes == size  # staged bytes are not counted
    memory.discard()
    assert memory.view().statistics().keyframes == 1
    memory.stage(keyframe(1))
    memory.commit()
    assert memory.view(include_staged=False).statistics().keyframes == 2
    with pytest.raises(RuntimeError, match="nothing is staged"):
        memory.commit()
    memory.stage(keyframe(2))
    memory.append(keyframe(3))
    assert memory.view().statistics().keyframes == 4  # what is staged stays


def test_a_commit_that_fails_keeps_nothing_of_it():
    memory = allocated()
    memory.commit(keyframe(0))
    with pytest.raises(ValueError, match="channels"):
        memory.commit([keyframe(1), keyframe(2, channels=5)])
    assert memory.view().statistics().keyframes == 1


def test_forks_count_what_they_share_once():
    memory = allocated()
    memory.append([keyframe(i) for i in range(20)])
    forks = [memory.fork() for _ in range(3)]
    seen = set()
    sizes = [one.nbytes_by_device(seen)["cpu"] for one in (memory, *forks)]
    assert sizes[0] == memory.nbytes
    tensors = 20 * (6 * 8 * 8 + 6 * 8) * 4
    assert all(size < memory.nbytes - 0.9 * tensors for size in sizes[1:])
    assert memory.nbytes_by_device(seen) == {"cpu": 0}


def test_forks_part_and_outlive_their_origin():
    memory = allocated()
    memory.append(keyframe(0))
    fork = memory.fork()
    fork.append(keyframe(1))
    memory.append([keyframe(2), keyframe(3)])
    assert [one.view().statistics().keyframes for one in (memory, fork)] == [3, 2]
    memory.reset()
    assert fork.view().statistics().keyframes == 2


def test_a_snapshot_comes_back():
    memory = allocated()
    memory.append(keyframe(0))
    snapshot, before = memory.snapshot(), memory.view().fork()
    memory.append(keyframe(1))
    memory.stage(keyframe(2))
    memory.restore(snapshot)
    found, expected = (store.retrieve(CAMERA, keyframe(0)["pose"], top_k=9) for store in (memory.view(), before))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_only_what_is_settled_is_forked():
    memory = allocated()
    memory.stage(keyframe(0))
    for act in (memory.fork, memory.snapshot):
        with pytest.raises(RuntimeError, match="expected nothing staged; commit or discard it first"):
            act()


def test_eviction_returns_what_it_freed():
    memory = allocated()
    memory.append(keyframe(0))
    size = memory.nbytes
    assert memory.evict() == size > 0
    assert not memory.resident
    assert memory.evict("lru") == 0


def test_without_a_memory():
    memory = SpatialMemoryState()
    for act in (memory.view, memory.fork, memory.snapshot, lambda: memory.append(keyframe(0))):
        with pytest.raises(RuntimeError, match="expected a memory, got none; call allocate first"):
            act()
    assert not memory.recomputable
    with pytest.raises(TypeError, match="max_byte"):
        SpatialMemoryState.allocated(max_byte=3)


def test_a_budget_is_kept():
    memory = allocated(max_bytes=200_000)
    memory.append([keyframe(i) for i in range(60)])
    assert memory.nbytes <= 200_000
    with pytest.raises(TypeError, match=r"payload\[0\]"):
        memory.append([3])
