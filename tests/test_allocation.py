"""Memory that runs out in the middle of an operation: it takes full effect or none, and the store stays usable.

The build for tests can make the n-th allocation of the core fail. Each operation meets a failure at its first
allocation, its second, and so on until it makes no more. Each time, it raises MemoryError and leaves the store
unchanged, or it succeeds despite the failure.
"""

import itertools

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import K, fingerprint, random_keyframe
from mosaicmem import (
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    PatchMemory,
    SpatialManipulation,
    StreamingFusion,
    _core,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not hasattr(_core, "fail_allocation_after"),
        reason="allocations fail on demand only where the core is built with MOSAICMEM_FAULTS or MOSAICMEM_SANITIZE",
    ),
]

SEED = 20261128
_KEYFRAMES = 6  # of 60 patches each: the index builds a tree from 256 on
_MOST = 5000  # more allocations than any operation makes


def keyframes(count=_KEYFRAMES + 2):
    rng = np.random.default_rng(SEED)
    return [random_keyframe(rng, float(i)) for i in range(count)]


def make_store(count=_KEYFRAMES, **options):
    store = MosaicMemoryStore(**{"latent_patch_size": 1, "num_threads": 3, **options})
    for i, (latents, depth, pose) in enumerate(keyframes()[:count]):
        store.insert_keyframe(latents, depth, K, pose, frame_id=i)
    return store


def insert(store):
    latents, depth, pose = keyframes()[_KEYFRAMES]
    return store.insert_keyframe(latents, depth, K, pose, frame_id=100)


def erase(store):
    return store.delete_patches(np.concatenate([store.patch_ids[5::2], store.patch_ids[:90]]))


def erase_frame(store):
    return store.delete_frame(3)


def translate(store):
    return SpatialManipulation(store).translate((1.0, 0.0, 0.5), store.patch_ids[::3])


def move_all(store):
    return SpatialManipulation(store).scale(2.0)


def duplicate(store):
    return SpatialManipulation(store).duplicate(np.diag([-1.0, 1, 1, 1]), store.patch_ids[10:200:7])


def splice(store):
    return SpatialManipulation(store).splice(_spliced, np.eye(4))


def restore(store):
    return store.restore(_snapshot)


def everything(store):
    """Every answer of a store, with injected failures switched off."""
    _core.fail_allocation_after(0, False)
    counted = store.statistics()
    parts = fingerprint(store, keyframes()[0][2]), len(store), counted.keyframes, counted.latent_bytes
    return (*parts, counted.depth_bytes, store.channels, store._core.export_observations()["next_id"])


def attempt(action, subject, n, lasting):
    """(result or None, whether it was done, how many allocations failed)."""
    _core.fail_allocation_after(n, lasting)
    try:
        result, done = action(subject), True
    except MemoryError:
        result, done = None, False
    return result, done, _core.fail_allocation_after(0, False)


def assert_done_or_not_done(make, action, lasting, observe=everything):
    """Fail each allocation of an action in turn, on the same subject for as long as it stays unchanged."""
    twin = make()
    before = observe(twin)
    expected = action(twin)
    after = observe(twin)
    subject = make()
    for n in itertools.count(1):
        assert n < _MOST
        result, done, failed = attempt(action, subject, n, lasting)
        assert done or failed, "out of memory without a cause"
        observed = observe(subject)
        assert observed == (after if done else before), f"allocation {n}"
        if done:
            np.testing.assert_equal(result, expected)
            if not failed:
                return
        if observed != before:
            subject = make()


_snapshot, _spliced = None, None


@pytest.fixture(autouse=True)
def others():
    global _snapshot, _spliced
    _snapshot, _spliced = make_store(2).snapshot(), make_store(3)
    yield
    _core.fail_allocation_after(0, False)
    _snapshot, _spliced = None, None


WRITES = (insert, erase, erase_frame, translate, move_all, duplicate, splice, restore)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("write", WRITES)
def test_writes(write, lasting):
    assert_done_or_not_done(make_store, write, lasting)


@pytest.mark.parametrize("write", [insert, erase, erase_frame, translate])
def test_writes_to_what_a_snapshot_shares(write):
    """Observations are copied when they are written to; the snapshot never changes."""
    store = make_store()
    earlier = store.snapshot()
    before = everything(store)
    assert_done_or_not_done(store.fork, write, lasting=False)
    other = MosaicMemoryStore(latent_patch_size=1)
    other.restore(earlier)
    assert everything(other) == before


BOUNDS = (
    {"max_patches": 250},
    {"max_patches": 250, "eviction": "redundant"},
    {"max_bytes": 60_000},
    {"max_bytes": 60_000, "eviction": "redundant"},
)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=lambda bounds: "-".join(map(str, bounds.values())))
def test_inserts_that_evict(bounds, shared):
    base = make_store(**bounds)
    first = len(base)
    assert insert(base.fork()) > 0
    assert_done_or_not_done(base.fork if shared else lambda: make_store(**bounds), insert, lasting=False)
    assert len(base) == first


@pytest.mark.parametrize("write", [erase, duplicate, splice])
def test_other_writes_to_a_store_that_evicts_what_is_redundant(write):
    bounds = {"max_patches": 330, "eviction": "redundant"}
    assert_done_or_not_done(lambda: make_store(**bounds), write, lasting=False)


def test_large_patches_die_without_an_allocation():
    """Deleting a patch needs its centre; the median over its cells must not allocate then."""

    def make():
        return make_store(latent_patch_size=5, eviction="redundant", max_patches=100)

    assert_done_or_not_done(make, lambda store: store.delete_frame(2), lasting=True)


def retrieve(store):
    found = store.retrieve(K, keyframes()[0][2], top_k=20)
    return found.ids, found.scores


def look(store):
    targets = CameraTrajectory([pose for _, _, pose in keyframes()[:2]], K)
    mosaic = MemoryRetrieval(top_k=5).retrieve(store, targets, 8).packed()
    return mosaic.patch_ids, store.describe_patches(mosaic.patch_ids)["centre"], mosaic.tokens


def compose(store):
    targets = CameraTrajectory([pose for _, _, pose in keyframes()[:2]], K)
    return np.asarray(KeyframeRetrieval().retrieve(store, targets, 8).latents)


def ask(store):
    nearest = store.query_nearest(np.zeros((4, 3)), 5)
    within = store.query_radius(np.zeros((4, 3)), 2.0)
    return *nearest, *within, store.bounds, store._core.export_observations()["first_id"]


@pytest.mark.parametrize("read", [retrieve, look, compose, ask])
def test_reads(read):
    assert_done_or_not_done(make_store, read, False, lambda store: store.patch_ids.tobytes())


def given_without_a_change(operation, store, lasting):
    """The result of an operation that may fail at any allocation, and that never changes the store."""
    before = everything(store)
    for n in itertools.count(1):
        result, done, failed = attempt(operation, store, n, lasting)
        assert everything(store) == before
        if done and not failed:
            return result


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_forks(lasting):
    store = make_store()
    before = everything(store)
    copy = given_without_a_change(MosaicMemoryStore.fork, store, lasting)
    store.delete_frame(1)
    assert everything(copy) == before


def test_snapshots():
    store = make_store()
    before = everything(store)
    kept = given_without_a_change(MosaicMemoryStore.snapshot, store, False)
    store.delete_frame(1)
    store.restore(kept)
    assert everything(store)[:2] == before[:2]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_open(tmp_path, lasting):
    store = make_store()
    store.save(tmp_path / "store")
    store.close()

    def open_it(_):
        opened = MosaicMemoryStore.open(tmp_path / "store", num_threads=2)
        return opened

    for n in itertools.count(1):
        opened, done, failed = attempt(open_it, None, n, lasting)
        if done:
            assert everything(opened) == everything(store)
        if not failed:
            break
    insert(opened)
    insert(store)
    assert everything(opened) == everything(store)


def test_saving(tmp_path):
    store = make_store()
    before = everything(store)
    for n in itertools.count(1):
        _, done, failed = attempt(lambda store: store.save(tmp_path / "store"), store, n, False)
        assert everything(store) == before
        if done and not failed:
            break
    assert everything(MosaicMemoryStore.open(tmp_path / "store")) == before


def test_objects_of_the_core():
    """If pybind11's table of objects cannot grow, neither the process nor the object is lost."""
    scales, camera = _core.ViewWeightScales(1.0, 1.0, 1.0, 1.0), np.array([(*K.params, 80, 48, 0.1, 10.0)])
    for make in (
        lambda _: _core.ViewWeightScales(1.0, 1.0, 1.0, 1.0),
        lambda _: _core.KeyframeParams(1, 1, 0.1, scales),
        lambda _: _core.BlendOptions(_core.Direction.forward, 0.1, scales),
        lambda _: _core.TargetGrids(camera, np.eye(4)[None], np.zeros(1), 6, 10, 8.0),
        lambda _: _core.MemoryStore(2, None, None, _core.Eviction.redundant),
        lambda _: _core.VoxelMap(0.1),
        lambda _: _core.VoxelMap(0.1).fork(),
        lambda _: _core.PatchMemory(4, 8, 8),
        lambda _: _core.PatchMemory(4, 8, 8).fork(),
        lambda _: _core.PointIndex(np.zeros((5, 3), np.float32)),
    ):
        for lasting in (False, True):
            for n in itertools.count(1):
                made, done, failed = attempt(make, None, n, lasting)
                assert done or failed
                if not failed:
                    break
            assert made is not None


def test_fusion():
    """A frame is added whole or not at all."""
    rng = np.random.default_rng(SEED)
    depth = rng.uniform(1, 3, (48, 80)).astype(np.float32)
    poses = [random_pose(rng) for _ in range(3)]

    def make():
        fusion = StreamingFusion(voxel_size=0.05, num_threads=3)
        for pose in poses[:2]:
            fusion.add_frame(depth, K, pose)
        return fusion

    def observe(fusion):
        _core.fail_allocation_after(0, False)
        exported = fusion._export(1)
        return b"".join(np.asarray(exported[name]).tobytes() for name in sorted(exported))

    def add(fusion):
        fusion.add_frame(depth, K, poses[2])

    assert_done_or_not_done(make, add, False, observe)


def test_patch_memory():
    rng = np.random.default_rng(SEED)
    poses = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    k = np.tile(K.matrix.astype(np.float32), (4, 1, 1))
    latents, depth = rng.standard_normal((2, 4, 8, 8)).astype(np.float32), np.ones((4, 48, 80), np.float32)

    def append(memory):
        memory.append(latents, poses, k, depth)

    def make():
        memory = PatchMemory(num_threads=2)
        append(memory)
        return memory

    def observe(memory):
        _core.fail_allocation_after(0, False)
        found = memory.query(poses[0], poses)
        return memory.num_frames, found.candidate_frame_ids, found.latents.tobytes()

    assert_done_or_not_done(make, append, False, observe)
