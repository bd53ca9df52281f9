import gc
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import CHANNELS, COLUMNS, ROWS, K, filled_store, random_keyframe
from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore, SpatialManipulation

kernel = pytest.mark.kernel

WALL = CameraIntrinsics.from_fov(160, 96, fov_x=1.2)  # 12 x 20 cells of 8 pixels, 60 patches


def look_at_wall(store, position, distance, frame_id, time):
    """Insert a view facing the wall z = 10 at x = position, from `distance` in front of it."""
    pose = CameraPose.look_at([position, 0, 10 - distance], [position, 0, 10], timestamp=time)
    latents = np.full((12, 20, CHANNELS), frame_id, dtype=np.float32)
    store.insert_keyframe(latents, np.full((12, 20), distance, np.float32), WALL, pose, frame_id=frame_id)


def patches_of(store):
    frames, counts = np.unique(store.describe_patches(store.patch_ids)["frame_id"], return_counts=True)
    return dict(zip(frames.tolist(), counts.tolist(), strict=True))


@kernel
class TestLimits:
    @pytest.mark.parametrize("policy", ["oldest", "redundant"])
    def test_bytes_hold_after_each_insert(self, rng, policy):
        limit = 200_000
        store = MosaicMemoryStore(max_bytes=limit, eviction=policy)
        held = []
        for i in range(400):
            latents, depth, pose = random_keyframe(rng, float(i))
            first = store.insert_keyframe(latents, depth, K, pose, frame_id=i)
            held.append(store.nbytes)
            if policy == "oldest":
                assert store.patch_ids.max() >= first  # the newest keyframe is kept
        assert max(held) <= limit
        assert min(held[150:]) > 0.8 * limit  # and no more than necessary is evicted
        if policy == "oldest":
            assert list(patches_of(store)) == list(range(400 - store.statistics().keyframes, 400))

    @pytest.mark.parametrize("policy", ["oldest", "redundant"])
    def test_patches_hold_after_each_insert(self, rng, policy):
        store = MosaicMemoryStore(max_patches=100, eviction=policy)
        for i in range(50):
            latents, depth, pose = random_keyframe(rng, float(i))
            store.insert_keyframe(latents, depth, K, pose)
            assert len(store) <= 100
        assert len(store) == 100

    def test_a_keyframe_larger_than_the_limit_is_refused(self, rng):
        store = MosaicMemoryStore(max_bytes=2500)
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(ValueError, match=r"fits into max_bytes = 2500, got one of"):
            store.insert_keyframe(latents, depth, K, pose)
        assert len(store) == 0

    @pytest.mark.parametrize("policy", ["oldest", "redundant"])
    def test_few_patches_of_many_keyframes(self, rng, policy):
        """The index of a hundred patches stays small, however many were inserted and evicted."""
        store = MosaicMemoryStore(max_patches=100, max_bytes=200_000, eviction=policy)
        sizes = []
        for i in range(4000):
            latents, depth, pose = random_keyframe(rng, float(i))
            store.insert_keyframe(latents, depth, K, pose)
            sizes.append(store.statistics().index_bytes)
        assert max(sizes) < 60_000
        assert len(store) == 100

    def test_what_an_edit_evicts_is_let_go(self, rng):
        store = MosaicMemoryStore(max_patches=30)
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        gone = weakref.ref(latents)
        store.insert_keyframe(latents, depth, K, pose)
        del latents
        store.insert_keyframe(*random_keyframe(rng, 1.0, holes=0.0)[:2], K, pose)
        SpatialManipulation(store, undo_levels=0).duplicate(np.eye(4), store.patch_ids[15:])
        gc.collect()
        assert gone() is None

    def test_depth_that_was_written_to_does_no_harm(self, rng):
        store = MosaicMemoryStore(max_patches=200, eviction="redundant")
        for i in range(60):
            latents, depth, pose = random_keyframe(rng, float(i))
            store.insert_keyframe(latents, depth, K, pose)
            depth *= 3  # against the rules
        assert len(store) <= 200

    def test_shared_tensors_count_once(self, rng):
        store, _ = filled_store(rng, 20, max_bytes=200_000)
        before = store.statistics()
        for i in range(4):
            SpatialManipulation(store).duplicate(np.diag([1.0 + i, 1, 1, 1]), store.patch_ids[:30])
        assert store.statistics().keyframe_bytes == before.keyframe_bytes
        assert store.statistics().keyframes > before.keyframes

    def test_bad_settings_are_named(self):
        with pytest.raises(ValueError, match="eviction: expected one of oldest, redundant, got 'newest'"):
            MosaicMemoryStore(eviction="newest")
        with pytest.raises(ValueError, match="max_bytes: expected at least 1, got 0"):
            MosaicMemoryStore(max_bytes=0)


@kernel
class TestRedundant:
    """Views of one long wall; from 3 metres away, a view is 3.9 metres wide. 60 patches each."""

    def test_what_a_newer_view_holds_goes_first(self):
        store = MosaicMemoryStore(max_patches=120, eviction="redundant")
        look_at_wall(store, 0, 3, frame_id=0, time=0.0)
        look_at_wall(store, 20, 3, frame_id=1, time=1.0)
        look_at_wall(store, 0, 3, frame_id=2, time=2.0)
        assert patches_of(store) == {1: 60, 2: 60}
        look_at_wall(store, 40, 3, frame_id=3, time=3.0)  # no other view covers these: age decides
        assert patches_of(store) == {2: 60, 3: 60}

    def test_what_a_closer_view_holds_goes_first(self):
        store = MosaicMemoryStore(1, max_patches=600, eviction="redundant")
        look_at_wall(store, 0, 3, frame_id=0, time=0.0)
        look_at_wall(store, 20, 3, frame_id=1, time=1.0)
        look_at_wall(store, 0, 6, frame_id=2, time=2.0)  # 120 patches too many; 60 of its own lie on view 0's
        left = store.describe_patches(store.patch_ids)
        assert patches_of(store)[1] == 240
        distant = left["centre"][left["frame_id"] == 2]
        assert not ((np.abs(distant[:, 0]) < 1.9) & (np.abs(distant[:, 1]) < 1.2)).any()
        assert (np.abs(distant[:, 0]) > 2.1).sum() == 120  # what only the distant view shows is kept

    def test_by_bytes_the_least_useful_keyframe_goes(self):
        unbounded = MosaicMemoryStore(eviction="redundant")
        for i, x in enumerate((0, 20, 40)):
            look_at_wall(unbounded, x, 3, frame_id=i, time=float(i))
        # Room for three views; of the four, two show the same.
        store = MosaicMemoryStore(max_bytes=unbounded.nbytes + 4000, eviction="redundant")
        for i, x in enumerate((0, 20, 40, 20.05)):
            look_at_wall(store, x, 3, frame_id=i, time=float(i))
        assert sorted(patches_of(store)) == [0, 2, 3]

    def test_the_two_sides_of_a_wall_are_two_places(self):
        store = MosaicMemoryStore(max_patches=120, eviction="redundant")
        look_at_wall(store, 20, 3, frame_id=0, time=0.0)
        behind = CameraPose.look_at([0, 0, 13], [0, 0, 10], timestamp=1.0)
        latents = np.zeros((12, 20, CHANNELS), np.float32)
        store.insert_keyframe(latents, np.full((12, 20), 3, np.float32), WALL, behind, frame_id=1)
        look_at_wall(store, 0, 3, frame_id=2, time=2.0)  # the view from behind covers none of this
        assert patches_of(store) == {1: 60, 2: 60}

    def test_coming_and_going_leaves_no_trace(self, rng):
        """Eviction depends on the store's content, not on its history."""
        one = MosaicMemoryStore(max_patches=600, eviction="redundant")
        two = MosaicMemoryStore(max_patches=600, eviction="redundant")
        keyframes = [random_keyframe(rng, float(i)) for i in range(60)]
        for latents, depth, pose in keyframes[:30]:
            for store in (one, two):
                store.insert_keyframe(latents, depth, K, pose)
        # One store is edited and brought back by undo; a fork of it changes independently.
        edit = SpatialManipulation(one)
        edit.translate([1, 0, 0], one.patch_ids[::2])
        edit.duplicate(np.eye(4), one.patch_ids[::5])
        fork = one.fork()
        fork.insert_keyframe(*keyframes[40][:2], K, keyframes[40][2])
        fork.delete_patches(fork.patch_ids[::3])
        edit.undo()
        edit.undo()
        for latents, depth, pose in keyframes[30:]:
            for store in (one, two):
                store.insert_keyframe(latents, depth, K, pose)
        for name in ("centre", "timestamp", "row", "column"):
            np.testing.assert_array_equal(
                one.describe_patches(one.patch_ids)[name], two.describe_patches(two.patch_ids)[name]
            )

    def test_bookkeeping_ends_with_what_it_is_about(self, rng):
        store, _ = filled_store(rng, 100, eviction="redundant")
        assert store.statistics().bookkeeping_bytes > 100 * 1000
        store.delete_patches(store.patch_ids)
        assert store.statistics().bookkeeping_bytes < 10_000


GROWTH = """
import ctypes, gc, sys
import numpy as np
from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore

rows, columns, channels, count = map(int, sys.argv[1:5])
dtype, eviction = sys.argv[5:]
rng = np.random.default_rng(0)
camera = CameraIntrinsics.from_fov(8 * columns, 8 * rows, fov_x=1.2)

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not the store's
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])

def filled(count):
    store = MosaicMemoryStore(2, latent_dtype=dtype, eviction=eviction)
    for i in range(count):
        pose = CameraPose.look_at(20 * rng.normal(size=3), 20 * rng.normal(size=3), timestamp=float(i))
        latents = rng.standard_normal((rows, columns, channels), dtype=np.float32)
        store.insert_keyframe(latents, rng.uniform(1, 4, (rows, columns)).astype(np.float32), camera, pose)
    return store

warm = filled(3)
before = resident()
store = filled(count)
print(store.nbytes / (resident() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "case",
    [
        (44, 80, 16, 400, "float16", "oldest"),
        (22, 40, 16, 600, "float32", "redundant"),
        (6, 10, 4, 8000, "float32", "oldest"),
        (2, 2, 4, 12000, "bfloat16", "redundant"),
    ],
    ids=lambda case: "-".join(map(str, case)),
)
def test_nbytes_is_what_the_process_grows_by(case):
    ratio = float(subprocess.check_output([sys.executable, "-c", GROWTH, *map(str, case)], text=True))
    assert 0.95 < ratio < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["oldest", "redundant"])
def test_soak(policy):
    """100 000 keyframes through a bounded store: memory stays flat, and so does the work of a call.

    Latencies are printed; the sizes that determine them are asserted.
    """
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(max_bytes=4_000_000, eviction=policy)
    resident, contents, inserts, retrievals = [], [], np.zeros(100_000), np.zeros(100_000)
    for i in range(100_000):
        latents, depth, pose = random_keyframe(rng, float(i), spread=8.0)
        start = time.perf_counter()
        store.insert_keyframe(latents, depth, K, pose)
        middle = time.perf_counter()
        store.retrieve(K, random_pose(rng, 8.0, float(i)), half_life=1000.0)
        retrievals[i], inserts[i] = time.perf_counter() - middle, middle - start
        if i % 1000 == 999:
            with open("/proc/self/statm") as file:
                resident.append(4096 * int(file.read().split()[1]))
            assert store.nbytes <= 4_000_000
            held = store.statistics()
            contents.append((held.patches, held.keyframes, held.index_bytes, held.bookkeeping_bytes))
    megabytes = np.array(resident) / 1e6
    print(f"{policy}: {megabytes[10]:.1f} MB after 11 000 keyframes, {megabytes[-1]:.1f} MB at the end; ", end="")
    for name, seconds in (("insert", inserts), ("retrieve", retrievals)):
        early, late = (1e6 * np.median(part) for part in (seconds[10_000:20_000], seconds[90_000:]))
        print(f"{name} {early:.0f} µs, then {late:.0f} µs; ", end="")
    print()
    early, late = (np.max(part, axis=0) for part in (contents[10:20], contents[90:]))
    assert (late < 1.1 * early).all(), f"patches, keyframes, bytes of index and of bookkeeping: {early}, then {late}"
    assert megabytes[-10:].max() < megabytes[10:20].max() + 3
    assert ROWS * COLUMNS * (CHANNELS + 1) * 4 * store.statistics().keyframes > 0.3 * 4_000_000
