"""Saves that free memory: the store stays the same, and reads from its files."""

import subprocess
import sys

import numpy as np
import pytest

from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import CameraPose, CameraTrajectory, KeyframeRetrieval, MosaicMemoryStore, SpatialManipulation
from mosaicmem.memory.storage import compact, verify
from mosaicmem.memory.storage.tensors import MappedFile

POSE = CameraPose.look_at([0.2, 0.1, -1.0], [0, 0, 2], timestamp=50.0)


def is_mapped(store):
    return [MappedFile.of(arrays[0]) is not None for arrays in store._exported().arrays]


def canvas(store):
    return KeyframeRetrieval().retrieve(store, CameraTrajectory([POSE], K), 8).latents


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nothing_else_changes(rng, tmp_path, dtype):
    store, _ = filled_store(rng, 5, latent_dtype=dtype)
    before, shown, size = fingerprint(store, POSE), canvas(store), store.nbytes
    store.save(tmp_path / "store", release=True)
    assert all(is_mapped(store))
    assert fingerprint(store, POSE) == before
    np.testing.assert_array_equal(canvas(store), shown)
    assert store.nbytes == size


@pytest.mark.kernel
def test_images_subcells_and_confidence(rng, tmp_path):
    store = MosaicMemoryStore()
    latents, depth, pose = random_keyframe(rng, 0.0)
    camera = K
    image = rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
    store.insert_keyframe(
        *(latents, depth, camera, pose),
        image=image,
        confidence=rng.random(depth.shape, dtype=np.float32),
        subcell_depth=np.kron(depth, np.ones((2, 2), np.float32)),
    )
    before = [None if array is None else array.copy() for array in store._exported().arrays[0]]
    store.save(tmp_path / "store", release=True)
    after = store._exported().arrays[0]
    assert all(array is not None for array in before)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
        assert MappedFile.of(other) is not None


@pytest.mark.kernel
def test_forks_and_snapshots_keep_what_they_have(rng, tmp_path):
    store, _ = filled_store(rng, 3)
    other, snapshot, before = store.fork(), store.snapshot(), fingerprint(store, POSE)
    store.save(tmp_path / "store", release=True)
    assert (any(is_mapped(other)), all(is_mapped(store))) == (False, True)
    store.delete_frame(0)
    store.restore(snapshot)
    assert fingerprint(store, POSE) == fingerprint(other, POSE) == before


@pytest.mark.kernel
def test_shared_keyframes_stay_shared(rng, tmp_path):
    store, _ = filled_store(rng, 3)
    aside = np.eye(4)
    aside[0, 3] = 0.5
    copies = SpatialManipulation(store).duplicate(aside)
    size, before = store.nbytes, fingerprint(store, POSE)
    store.save(tmp_path / "store", release=True)
    assert fingerprint(store, POSE) == before
    assert store.nbytes == size
    store.delete_patches(copies)
    store.delete_frame(1)
    reopened = MosaicMemoryStore.open(tmp_path / "store")
    reopened.delete_patches(copies)
    reopened.delete_frame(1)
    assert fingerprint(store, POSE) == fingerprint(reopened, POSE)
    assert store.nbytes == pytest.approx(reopened.nbytes, rel=0.01)


@pytest.mark.kernel
def test_a_store_goes_on_in_turns(rng, tmp_path):
    store, reference = MosaicMemoryStore(), MosaicMemoryStore()
    for turn in range(5):
        for i in range(3):
            latents, depth, pose = random_keyframe(rng, float(3 * turn + i))
            for each in (store, reference):
                each.insert_keyframe(latents, depth, K, pose, frame_id=3 * turn + i)
        for each in (store, reference):
            each.delete_frame(2 * turn)
        assert not all(is_mapped(store))
        store.save(tmp_path / "store", release=True)
        assert all(is_mapped(store))
        assert fingerprint(store, POSE) == fingerprint(reference, POSE)
    verify(tmp_path / "store")
    store.close()
    compact(tmp_path / "store")
    assert fingerprint(store, POSE) == fingerprint(reference, POSE)  # of files that are gone
    assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), POSE) == fingerprint(reference, POSE)


@pytest.mark.kernel
def test_eviction_of_released_ones(rng, tmp_path):
    store, _ = filled_store(rng, 6)
    limited, _ = filled_store(np.random.default_rng(5), 6, max_bytes=int(0.8 * store.nbytes))
    limited.save(tmp_path / "store", release=True)
    for i in range(6):
        latents, depth, pose = random_keyframe(rng, float(10 + i))
        limited.insert_keyframe(latents, depth, K, pose)
        limited.save(tmp_path / "store", release=True)
        assert limited.nbytes <= 0.8 * store.nbytes
    assert min(limited.describe_patches(limited.patch_ids)["timestamp"]) > 0


_MANY_FILES = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore
from mosaicmem.memory.storage import keyframe_files

keyframe_files._SEGMENT_BYTES, keyframe_files._SMALL_BYTES = 1, 0  # a file for each keyframe
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
camera, store = CameraIntrinsics.from_fov(16, 16, fov_x=1.0), MosaicMemoryStore()
for i in range(100):
    store.insert_keyframe(np.zeros((2, 2, 3)), np.full((2, 2), 2.0), camera, CameraPose(np.eye(4), float(i)))
store.save(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 2000))
assert len(MosaicMemoryStore.open(sys.argv[1])) == 100
if sys.version_info < (3, 13):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        MosaicMemoryStore.open(sys.argv[1])
    except OSError as error:
        assert "the limit of this process, 64: raise it" in str(error), error
    else:
        raise AssertionError
"""


def test_more_files_than_the_soft_limit(tmp_path):
    subprocess.run([sys.executable, "-c", _MANY_FILES, str(tmp_path / "store"), "."], check=True)


_GROWTH = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore

def resident():  # bytes of this process alone: pages of files do not count
    return 1024 * sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

camera, store = CameraIntrinsics.from_fov(512, 512, fov_x=1.0), MosaicMemoryStore(8)
for turn in range(12):
    for i in range(4):
        latents, depth = np.full((64, 64, 64), turn, np.float32), np.full((64, 64), 2.0, np.float32)  # 1 MB
        store.insert_keyframe(latents, depth, camera, CameraPose(np.eye(4), 4.0 * turn + i))
    store.save(sys.argv[1], release=True)
    if turn == 2:
        before = resident()
print(resident() - before)
"""


def test_memory_does_not_grow_with_latents(tmp_path):
    run = [sys.executable, "-c", _GROWTH, str(tmp_path / "store"), "."]
    grown = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert grown < 8e6  # of 36 MB
