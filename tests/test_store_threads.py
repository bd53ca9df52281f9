"""Many threads use one store at once, in every way. Run under ThreadSanitizer too (CONTRIBUTING.md says how)."""

import os
import threading

import numpy as np
import pytest

from memory_helpers import K, fingerprint, random_keyframe, run_at_once
from mosaicmem import (
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
)
from test_fork import exit_code_of_child

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

_WRITERS = 4
_KEYFRAMES = 12  # per writer
_PATCHES = 15  # per keyframe


def keyframe(number):
    return random_keyframe(np.random.default_rng(number), float(number), holes=0)


keyframe(0)  # triggers NumPy's lazy import of its generators, which would fail in a child forked in the middle


def insert(store, number):
    latents, depth, pose = keyframe(number)
    return store.insert_keyframe(latents, depth, K, pose, frame_id=number)


class Crowd:
    """What the threads do with a store, and what must hold meanwhile."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder
        self.first_ids = {}
        self.written = threading.Event()

    def write(self, writer):
        """Inserts frames; of each three, deletes one, and half of the patches of another."""
        for i in range(_KEYFRAMES):
            number = writer * _KEYFRAMES + i
            first = self.first_ids[number] = insert(self.store, number)
            if i % 3 == 1:
                assert self.store.delete_frame(number) == _PATCHES
            if i % 3 == 2:
                assert self.store.delete_patches(np.arange(first, first + _PATCHES, 2)) == 8

    def writers(self):
        return [lambda writer=writer: self.write(writer) for writer in range(_WRITERS)]

    def until_written(self, work):
        def repeat():
            while not self.written.is_set():
                work()
            work()

        return repeat

    def look(self):
        pose = keyframe(0)[2]
        found = self.store.retrieve(K, pose, top_k=8)
        assert len(set(found.ids.tolist())) == len(found.ids)
        assert len(self.store.project_tokens(found.ids, K, pose)["latents"]) <= 4 * len(found.ids)
        distances, ids = self.store.query_nearest(np.zeros((2, 3)), 3)
        assert distances.shape == ids.shape
        KeyframeRetrieval().retrieve(self.store, CameraTrajectory([pose, keyframe(1)[2]], K), 8)
        self.store.statistics()

    def fork(self):
        """A copy changes on its own, and does not change when the store does."""
        copy = self.store.fork()
        before = copy.patch_ids
        mine = insert(copy, 1000)
        SpatialManipulation(copy).translate((0.0, 1.0, 0.0), before[::2])
        assert copy.delete_patches(np.arange(mine, mine + _PATCHES)) == _PATCHES
        np.testing.assert_array_equal(copy.patch_ids, before)

    def snapshot(self):
        kept = self.store.snapshot()
        other = self.store.fork()
        other.restore(kept)
        ids = other.patch_ids
        other.delete_patches(ids[::2])
        other.restore(kept)
        np.testing.assert_array_equal(other.patch_ids, ids)

    def save(self):
        self.store.save(self.folder)
        # Others keep writing: the saved state is one of those in between.
        opened = MosaicMemoryStore.open(self.folder)
        assert len(opened) == len(opened.patch_ids)
        opened.close()

    def branch(self):
        """The child of a fork can use the store on its own."""
        if not hasattr(os, "fork"):
            return

        def go_on():
            self.store.num_threads = 1  # ThreadSanitizer cannot start threads in a child
            insert(self.store, 2000)
            self.look()

        assert exit_code_of_child(go_on) == 0


def expected_ids(first_ids):
    ids = []
    for number, first in first_ids.items():
        kind = number % _KEYFRAMES % 3
        if kind != 1:
            ids.extend(range(first + (kind == 2), first + _PATCHES, 1 + (kind == 2)))
    return sorted(ids)


def crowd_around(store, folder, works):
    crowd = Crowd(store, folder)

    def write_all():
        try:
            run_at_once(*crowd.writers())
        finally:
            crowd.written.set()

    run_at_once(write_all, *[crowd.until_written(getattr(crowd, work)) for work in works])
    return crowd


@pytest.mark.parametrize(
    "works",
    [
        ("look", "fork", "snapshot", "save", "branch", "look"),
        ("look", "look", "look"),
        ("fork", "fork", "snapshot", "snapshot"),
        ("save", "snapshot", "look"),
    ],
    ids="-".join,
)
def test_a_crowd(tmp_path, works):
    store = MosaicMemoryStore(latent_patch_size=2, num_threads=2)
    crowd = crowd_around(store, tmp_path / "store", works)
    assert sorted(crowd.first_ids.values()) == list(range(0, _WRITERS * _KEYFRAMES * _PATCHES, _PATCHES))
    assert store.patch_ids.tolist() == expected_ids(crowd.first_ids)
    # A store filled by one thread, in the order of the insertions, is the same.
    twin = MosaicMemoryStore(latent_patch_size=2)
    for number in sorted(crowd.first_ids, key=crowd.first_ids.get):
        insert(twin, number)
    twin.delete_patches(np.setdiff1d(twin.patch_ids, store.patch_ids))
    poses = [keyframe(number)[2] for number in range(3)]
    for pose in poses:
        mine, theirs = store.retrieve(K, pose, top_k=50), twin.retrieve(K, pose, top_k=50)
        np.testing.assert_array_equal(mine.ids, theirs.ids)
        np.testing.assert_array_equal(mine.scores, theirs.scores)
    if "save" in works:
        store.save(tmp_path / "store")
        store.close()
        assert fingerprint(MosaicMemoryStore.open(tmp_path / "store"), poses[0]) == fingerprint(store, poses[0])


@pytest.mark.parametrize("eviction", ["oldest", "redundant"])
def test_a_crowd_around_a_store_with_limits(tmp_path, eviction):
    store = MosaicMemoryStore(latent_patch_size=2, max_patches=10 * _PATCHES, eviction=eviction)

    def write(writer):
        for i in range(_KEYFRAMES):
            insert(store, writer * _KEYFRAMES + i)
            assert len(store) <= 10 * _PATCHES

    crowd = Crowd(store, tmp_path / "store")
    writers = [lambda writer=writer: write(writer) for writer in range(_WRITERS)]

    def write_all():
        try:
            run_at_once(*writers)
        finally:
            crowd.written.set()

    run_at_once(write_all, crowd.until_written(crowd.look), crowd.until_written(crowd.snapshot))
    assert len(store) == 10 * _PATCHES
    assert len(np.unique(store.patch_ids)) == 10 * _PATCHES
    assert store.statistics().patches == 10 * _PATCHES


def test_room_for_patches_that_come_meanwhile(monkeypatch):
    """An answer shows one state of the store, even if patches arrive after its arrays were allocated."""
    store = MosaicMemoryStore(latent_patch_size=2)
    insert(store, 0)
    pose = keyframe(0)[2]
    late = iter(range(1, 4))

    def growing(self):
        count = self._core.alive_count
        for number in late:
            insert(store, number)
            break
        return count

    monkeypatch.setattr(MosaicMemoryStore, "__len__", growing)
    found = store.retrieve(K, pose, top_k=1000, min_visibility=0.0)
    mosaic = MemoryRetrieval(top_k=1000, min_visibility=0.0).retrieve(store, CameraTrajectory([pose], K), 8)
    monkeypatch.undo()
    assert len(store) == 4 * _PATCHES
    np.testing.assert_array_equal(found.ids, store.retrieve(K, pose, top_k=1000, min_visibility=0.0).ids)
    np.testing.assert_array_equal(mosaic.patch_ids[0].astype(np.uint64), found.ids)
