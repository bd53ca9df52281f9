import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import CHANNELS, COLUMNS, ROWS, K, filled_store, random_keyframe, reference_patches
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, MemoryRetrieval, MosaicMemoryStore
from mosaicmem.memory.keyframe import as_keyframe

pytestmark = pytest.mark.kernel


class TestInsert:
    def test_ids_are_consecutive_and_patches_without_depth_are_not_remembered(self, rng):
        store = MosaicMemoryStore()
        keyframes = [random_keyframe(rng, float(i), holes=0.7) for i in range(3)]
        for latents, depth, pose in keyframes:
            store.insert_keyframe(latents, depth, K, pose)
        expected = [patch["id"] for patch in reference_patches(keyframes)]
        np.testing.assert_array_equal(store.patch_ids, expected)
        assert len(store) == len(expected) < 3 * 15

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
    def test_centres_lie_on_the_surface(self, rng, size):
        store, keyframes = filled_store(rng, 2, latent_patch_size=size)
        expected = reference_patches(keyframes, size)
        described = store.describe_patches(store.patch_ids)
        np.testing.assert_allclose(described["centre"], [p["centre"] for p in expected], atol=1e-6)

    def test_latents_are_shared_and_let_go_with_the_last_patch(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0)
        alive = weakref.ref(latents)
        store.insert_keyframe(latents, depth, K, pose, frame_id=7, copy=False)
        latents[:] = 3.0  # seen by the store: it holds no copy
        assert (store.project_tokens(store.patch_ids, K, pose)["latents"] == 3.0).all()
        del latents
        gc.collect()
        assert alive() is not None
        assert store.delete_frame(7) > 0
        gc.collect()
        assert alive() is None
        assert store.statistics().keyframe_bytes == 0

    def test_a_buffer_that_is_used_again_changes_nothing(self, rng):
        """By default all arrays are copied, also views of larger ones and those that look read-only."""
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        ring, confidence = latents[None].repeat(3, axis=0), np.full((ROWS, COLUMNS), 0.25, np.float32)
        disguised = ring[1]
        disguised.flags.writeable = False
        store.insert_keyframe(disguised, depth, K, pose, confidence=confidence)
        before = store.project_tokens(store.patch_ids, K, pose)
        ring[:], depth[:], confidence[:] = 9.0, 50.0, 0.0
        after = store.project_tokens(store.patch_ids, K, pose)
        for name in ("latents", "projected", "confidence"):
            np.testing.assert_array_equal(after[name], before[name])

    @pytest.mark.parametrize("mapped", [True, False])
    def test_read_only_arrays_are_shared(self, rng, tmp_path, mapped):
        latents, depth, pose = random_keyframe(rng, 0.0)
        if mapped:
            np.save(tmp_path / "latents.npy", latents)
            latents = np.load(tmp_path / "latents.npy", mmap_mode="r")
        else:
            latents.flags.writeable = False
        kept = as_keyframe(
            latents, depth, None, K, pose, None, None, None, None, 2, "observed", None, "float32", own=True
        )
        assert np.shares_memory(kept["latents"], latents)
        assert not np.shares_memory(kept["depth"], depth)

    def test_copy_is_checked(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(TypeError, match="copy: expected True or False, got 'no'"):
            MosaicMemoryStore().insert_keyframe(latents, depth, K, pose, copy="no")

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
    def test_latent_dtypes(self, rng, dtype, tolerance):
        store = MosaicMemoryStore(latent_dtype=dtype)
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        latents[0, 0] = [0.0, 6e-8, 1e-5, -65000.0]
        store.insert_keyframe(latents, depth, K, pose)
        tokens = store.project_tokens(store.patch_ids, K, pose)
        got = tokens["latents"]
        sent = latents[tokens["source_row"], tokens["source_column"]]
        assert (np.abs(got - sent) <= tolerance * np.abs(sent) + (2**-25 if dtype == "float16" else 0)).all()
        if dtype != "float32":
            assert store.statistics().keyframe_bytes == ROWS * COLUMNS * (2 * CHANNELS + 4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"latents": np.zeros((ROWS, COLUMNS))}, r"latents: expected shape \(h, w, C\), got \(6, 10\)"),
            ({"latents": np.full((ROWS, COLUMNS, 4), np.nan)}, r"latents: expected finite values, got nan at"),
            ({"latents": np.zeros((ROWS, COLUMNS, 5), np.float32)}, "latents: expected 4 channels as before, got 5"),
            ({"depth": np.ones((COLUMNS, ROWS))}, r"depth: expected shape \(6, 10\), got \(10, 6\)"),
            ({"intrinsics": K.scaled(81, 48)}, "whole multiple of the 6x10 grid"),
            ({"intrinsics": K.scaled(80, 96)}, "whole multiple of the 6x10 grid"),
            ({"valid": np.ones((ROWS, COLUMNS))}, "valid: expected dtype bool, got float64"),
            ({"confidence": np.full((ROWS, COLUMNS), 2.0)}, r"confidence: expected values in \[0, 1\]"),
            ({"frame_id": 1.5}, "frame_id: expected an integer, got 1.5"),
        ],
    )
    def test_bad_input_is_named_and_changes_nothing(self, rng, change, message):
        store, _ = filled_store(rng, 1)
        before = store.statistics()
        latents, depth, pose = random_keyframe(rng, 0.0)
        arguments = {"latents": latents, "depth": depth, "intrinsics": K, "pose": pose, **change}
        with pytest.raises((TypeError, ValueError), match=message):
            store.insert_keyframe(**arguments)
        assert store.statistics() == before

    def test_float16_overflow_is_refused(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(ValueError, match="within float16"):
            MosaicMemoryStore(latent_dtype="float16").insert_keyframe(latents * 1e6, depth, K, pose)

    def test_absurd_depth_and_places_are_not_remembered(self, rng):
        """Depth of FLT_MAX is a common mark for the sky; distances to centres that far away overflow float32."""
        store = MosaicMemoryStore(1)
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        depth[0] = np.finfo(np.float32).max
        for _ in range(40):  # enough for the index to build trees
            store.insert_keyframe(latents, depth, K, pose)
        assert len(store) == 40 * (ROWS - 1) * COLUMNS
        far = np.eye(4)
        far[0, 3] = 9e11
        store.insert_keyframe(latents, depth, K, CameraPose(far))
        distances, _ = store.query_nearest([[9e11, 0, 0], [0, 0, 0]], 3)
        assert np.isfinite(distances).all()
        far[0, 3] = 2e12
        with pytest.raises(ValueError, match="world_from_camera: expected values within 1e"):
            CameraPose(far)

    def test_bfloat16_overflow_is_refused(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        latents[0, 0, 0] = 3.4e38
        with pytest.raises(ValueError, match="within bfloat16"):
            MosaicMemoryStore(latent_dtype="bfloat16").insert_keyframe(latents, depth, K, pose)

    def test_other_objects_for_cameras_are_named(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(TypeError, match="pose: expected CameraPose, got ndarray"):
            MosaicMemoryStore().insert_keyframe(latents, depth, K, np.eye(4))
        with pytest.raises(TypeError, match="intrinsics: expected CameraIntrinsics, got ndarray"):
            MosaicMemoryStore().insert_keyframe(latents, depth, K.matrix, pose)
        with pytest.raises(TypeError, match="millimetres"):
            MosaicMemoryStore().insert_keyframe(latents, (1000 * depth).astype(np.uint16), K, pose)


class TestForget:
    def test_delete_patches(self, rng):
        store, _ = filled_store(rng, 4)
        ids = store.patch_ids
        gone = rng.choice(ids, 20, replace=False)
        assert store.delete_patches(np.concatenate([gone, gone, np.array([10**9], np.uint64)])) == 20
        np.testing.assert_array_equal(store.patch_ids, np.setdiff1d(ids, gone))
        _, found = store.query_nearest(rng.standard_normal((50, 3)), k=len(ids))
        assert not np.isin(found, gone).any()
        assert not np.isin(store.retrieve(K, CameraPose(), top_k=1000, min_visibility=0).ids, gone).any()
        with pytest.raises(KeyError, match=str(gone[0])):
            store.describe_patches(gone[:1])

    def test_delete_frame(self, rng):
        store, _ = filled_store(rng, 4)
        frames = store.describe_patches(store.patch_ids)["frame_id"]
        assert store.delete_frame(2) == (frames == 2).sum()
        assert store.delete_frame(2) == 0
        assert set(store.describe_patches(store.patch_ids)["frame_id"]) == {0, 1, 3}

    def test_ids_are_never_used_again(self, rng):
        store, _ = filled_store(rng, 1)
        last = store.patch_ids[-1]
        store.delete_frame(0)
        latents, depth, pose = random_keyframe(rng, 1.0)
        assert store.insert_keyframe(latents, depth, K, pose) > last

    def test_the_oldest_go_first(self, rng):
        store, _ = filled_store(rng, 30, max_patches=100)
        assert len(store) == 100
        unbounded, _ = filled_store(np.random.default_rng(20261122), 30)
        np.testing.assert_array_equal(store.patch_ids, unbounded.patch_ids[-100:])

    def test_memory_of_forgotten_patches_is_given_back(self, rng):
        store = MosaicMemoryStore(max_patches=2000)
        sizes = []
        for i in range(600):
            latents, depth, pose = random_keyframe(rng, float(i))
            store.insert_keyframe(latents, depth, K, pose)
            sizes.append(store.nbytes)
        assert max(sizes[300:]) <= 1.6 * max(sizes[150:300])

    def test_the_index_shrinks_with_what_is_erased(self, rng):
        store, _ = filled_store(rng, 400)
        before = store.statistics().index_bytes
        store.delete_patches(rng.choice(store.patch_ids, int(0.9 * len(store)), replace=False))
        assert store.statistics().index_bytes < 0.3 * before

    def test_coming_and_going_does_not_fill_the_index(self, rng):
        store, _ = filled_store(rng, 30)
        sizes = []
        for i in range(600):
            latents, depth, pose = random_keyframe(rng, float(i))
            store.insert_keyframe(latents, depth, K, pose, frame_id=1000 + i)
            store.delete_frame(1000 + i)
            sizes.append(store.statistics().index_bytes)
        assert max(sizes[300:]) <= 1.2 * max(sizes[:100])

    def test_a_keyframe_larger_than_the_limit_is_refused(self, rng):
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(ValueError, match="at most max_patches = 14 patches in a keyframe, got 15"):
            MosaicMemoryStore(max_patches=14).insert_keyframe(latents, depth, K, pose)


class TestNearest:
    @pytest.mark.parametrize("count", [1, 40, 300])
    @pytest.mark.parametrize("k", [1, 8])
    def test_equals_brute_force(self, rng, count, k):
        store, keyframes = filled_store(rng, count)
        store.delete_patches(rng.choice(store.patch_ids, len(store) // 3, replace=False))
        alive = set(store.patch_ids.tolist())
        patches = [p for p in reference_patches(keyframes) if p["id"] in alive]
        centres = np.array([p["centre"] for p in patches])
        ids = np.array([p["id"] for p in patches])
        queries = rng.standard_normal((40, 3)).astype(np.float32)
        distances, found = store.query_nearest(queries, k)
        exact = np.linalg.norm(queries[:, None] - centres, axis=2)
        k = min(k, len(ids))
        np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :k], rtol=1e-5)
        clear = np.diff(np.sort(exact, axis=1)[:, : k + 1], axis=1).min(axis=1, initial=1) > 1e-5
        np.testing.assert_array_equal(found[clear], ids[np.argsort(exact, axis=1)[:, :k]][clear])

    @pytest.mark.parametrize("count", [1, 300])
    def test_radius_equals_brute_force(self, rng, count):
        store, keyframes = filled_store(rng, count)
        store.delete_patches(rng.choice(store.patch_ids, len(store) // 3, replace=False))
        alive = set(store.patch_ids.tolist())
        patches = [p for p in reference_patches(keyframes) if p["id"] in alive]
        queries = rng.standard_normal((30, 3))
        offsets, distances, ids = store.query_radius(queries, 0.7)
        exact = np.linalg.norm(queries[:, None] - np.array([p["centre"] for p in patches]), axis=2)
        assert (np.abs(exact - 0.7) > 1e-6).all()
        for i, query in enumerate(exact):
            part = slice(offsets[i], offsets[i + 1])
            near = {p["id"] for p, d in zip(patches, query, strict=True) if d <= 0.7}
            assert set(ids[part].tolist()) == near
            np.testing.assert_allclose(distances[part], np.sort(query[query <= 0.7]), rtol=1e-5, atol=1e-6)
        assert len(MosaicMemoryStore().query_radius(queries, 1.0)[1]) == 0
        with pytest.raises(ValueError, match="radius: expected at least 0"):
            store.query_radius(queries, -1.0)

    def test_ties_go_to_the_smaller_id(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        firsts = [store.insert_keyframe(latents, depth, K, pose) for _ in range(200)]  # the same place again and again
        centre = store.describe_patches([4])["centre"]
        distances, found = store.query_nearest(centre, k=5)
        np.testing.assert_allclose(distances, 0, atol=1e-6)
        np.testing.assert_array_equal(found[0], np.array(firsts[:5]) + 4)

    def test_empty_store_and_large_k(self, rng):
        distances, ids = MosaicMemoryStore().query_nearest([[0, 0, 0]], 3)
        assert distances.shape == ids.shape == (1, 0)
        store, _ = filled_store(rng, 1)
        assert store.query_nearest([[0, 0, 0]], 1000)[0].shape == (1, len(store))

    def test_far_queries(self, rng):
        store, _ = filled_store(rng, 2)
        points = [[0, 0, 0], [1e13, 0, 0], [0, -1e13, 1e13]]
        for order in (points, points[::-1]):
            distances, ids = store.query_nearest(order, 4)
            assert distances.shape == ids.shape == (3, 4)
            assert np.isfinite(distances).all()
            assert np.isin(ids, store.patch_ids).all()
        with pytest.raises(ValueError, match=r"points: expected values within 1e\+13, got 1e\+25"):
            store.query_nearest([[0, 0, 0], [1e25, 0, 0]], 2)

    def test_bad_queries(self, rng):
        store, _ = filled_store(rng, 1)
        with pytest.raises(ValueError, match=r"points: expected shape \(N, 3\)"):
            store.query_nearest([0, 0, 0])
        with pytest.raises(ValueError, match="points: expected finite values"):
            store.query_nearest([[0, 0, np.inf]])
        with pytest.raises(ValueError, match="k: expected at least 1"):
            store.query_nearest([[0, 0, 0]], 0)


def test_statistics_count_bytes(rng):
    store, _ = filled_store(rng, 5)
    statistics = store.statistics()
    assert statistics.keyframes == 5
    assert statistics.keyframe_bytes == 5 * ROWS * COLUMNS * (CHANNELS + 1) * 4
    assert (statistics.first_time, statistics.last_time) == (0.0, 4.0)
    assert store.nbytes == statistics.nbytes > statistics.keyframe_bytes + statistics.index_bytes
    empty = MosaicMemoryStore().statistics()
    assert (empty.patches, empty.first_time, empty.channels) == (0, None, None)


def test_reading_beside_a_writer(rng):
    """Readers of whole mosaics beside a writer that evicts: each call sees one state of the store."""
    store, _ = filled_store(rng, 30, max_patches=400)
    keyframes = [random_keyframe(rng, 30.0 + i) for i in range(400)]
    targets = CameraTrajectory([CameraPose(timestamp=500.0), random_pose(rng, 0.3, 501.0)], K)
    failures = []

    def read():
        try:
            while writer.is_alive():
                mosaic = MemoryRetrieval(top_k=50, min_visibility=0.0).retrieve(store, targets, 8)
                assert ((mosaic.patch_sources >= 0) == (mosaic.patch_ids >= 0)).all()
                distances, _ = store.query_nearest(np.zeros((4, 3)), 5)
                assert np.isfinite(distances).all()
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=lambda: [store.insert_keyframe(z, d, K, p) for z, d, p in keyframes])
    readers = [threading.Thread(target=read) for _ in range(2)]
    writer.start()
    for reader in readers:
        reader.start()
    for thread in (writer, *readers):
        thread.join()
    assert not failures
    assert len(store) == 400


def test_a_writer_gets_its_turn(rng):
    """Beside readers that never pause."""
    store, _ = filled_store(rng, 200)
    done, exhausted = threading.Event(), []

    def read():
        for _ in range(3000):  # if readers went first, the writer would wait for all of them
            if done.is_set():
                return
            store.query_nearest(np.zeros((300, 3)), 50)
        exhausted.append(True)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    latents, depth, pose = random_keyframe(rng, 0.0)
    for _ in range(10):
        store.insert_keyframe(latents, depth, K, pose)
    done.set()
    for reader in readers:
        reader.join()
    assert not exhausted


def test_copies(rng):
    store, _ = filled_store(rng, 2)
    twin = copy.copy(store)
    twin.delete_frame(0)
    assert len(twin) < len(store)
    for way in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="use fork"):
            way(store)


def test_stride_is_that_of_the_image(rng):
    latents, depth, _ = random_keyframe(rng, 0.0, holes=0.0)
    wide = CameraIntrinsics.from_fov(COLUMNS * 16, ROWS * 16, fov_x=1.0)
    store = MosaicMemoryStore(1)
    pose = random_pose(rng)
    store.insert_keyframe(latents, depth, wide, pose)
    landed = store.project_tokens(store.patch_ids, wide, pose)
    np.testing.assert_allclose(landed["projected"][:, 0], (landed["source_column"] + 0.5) * 16, atol=1e-2)
