import ml_dtypes
import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import COLUMNS, ROWS, STRIDE, K, filled_store, random_keyframe, reference_patches
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, MemoryRetrieval, MosaicMemoryStore, WarpedLatent
from reference import retrieval as reference

pytestmark = pytest.mark.kernel

OPTIONS = {"near": 0.3, "far": 3.5, "half_life": 0.0, "min_visibility": 0.01}


def greedy(patches, top_k, radius, penalty):
    """Ids in the order in which greedy selection takes them; ties to the smaller id."""
    by_id = np.argsort(patches.ids)
    ids, scores, pixels = patches.ids[by_id], patches.scores[by_id].copy(), patches.pixels[by_id]
    taken = []
    for _ in range(min(top_k, len(ids))):
        best = int(np.argmax(scores))
        taken.append(ids[best])
        scores[((pixels - pixels[best]) ** 2).sum(axis=1) <= radius**2] *= penalty
        scores[best] = -1
    return np.array(taken)


class TestTopK:
    @pytest.mark.parametrize("count", [1, 60])
    @pytest.mark.parametrize("half_life", [0.0, 7.0])
    @pytest.mark.parametrize(("radius", "penalty"), [(0.0, 0.5), (9.0, 0.5), (25.0, 0.0), (9.0, 1.0)])
    def test_equals_the_formula(self, rng, count, half_life, radius, penalty):
        store, keyframes = filled_store(rng, count)
        store.delete_patches(rng.choice(store.patch_ids, len(store) // 4, replace=False))
        alive = set(store.patch_ids.tolist())
        patches = [p for p in reference_patches(keyframes) if p["id"] in alive]
        options = {**OPTIONS, "half_life": half_life}
        for _ in range(4):
            pose = random_pose(rng, 0.5, timestamp=count / 2)
            found = reference.score_patches(patches, K, pose.camera_from_world, pose.timestamp, stride=8, **options)
            for top_k in (1, 13, 5000):
                expected = reference.select(found, top_k, radius, penalty)
                got = store.retrieve(
                    K, pose, top_k=top_k, diversity_radius=radius, diversity_penalty=penalty, **options
                )
                np.testing.assert_array_equal(got.ids, [p[0] for p in expected])
                if expected:
                    np.testing.assert_allclose(got.scores, [p[1] for p in expected], rtol=1e-9)
                    np.testing.assert_allclose(got.pixels, [p[2:4] for p in expected], rtol=1e-9)
                    np.testing.assert_allclose(got.depth, [p[4] for p in expected], rtol=1e-9)

    def test_exact_after_much_coming_and_going(self, rng):
        """Inserts and deletions that merge trees, rebuild half-dead ones, and empty some."""
        store, keyframes = MosaicMemoryStore(), []
        for step in range(12):
            for _ in range(60):
                keyframes.append(random_keyframe(rng, float(len(keyframes)), holes=0.0))
                store.insert_keyframe(*keyframes[-1][:2], K, keyframes[-1][2])
            ids = store.patch_ids
            if step % 3 == 0:
                store.delete_patches(rng.choice(ids, int(0.7 * len(ids)), replace=False))
            elif step % 3 == 1:
                store.delete_patches(ids[: len(ids) // 2])
            alive = set(store.patch_ids.tolist())
            patches = [p for p in reference_patches(keyframes) if p["id"] in alive]
            assert len(patches) == len(store)
            pose = random_pose(rng, 0.5, timestamp=float(len(keyframes)))
            options = {**OPTIONS, "half_life": 300.0}
            found = reference.score_patches(patches, K, pose.camera_from_world, pose.timestamp, stride=8, **options)
            expected = reference.select(found, 20, 9.0, 0.5)
            got = store.retrieve(K, pose, top_k=20, diversity_radius=9.0, **options)
            np.testing.assert_array_equal(got.ids, [p[0] for p in expected])
            centres = np.array([p["centre"] for p in patches])
            queries = rng.standard_normal((20, 3)).astype(np.float32)
            distances, _ = store.query_nearest(queries, 5)
            exact = np.sort(np.linalg.norm(queries[:, None] - centres, axis=2), axis=1)[:, :5]
            np.testing.assert_allclose(distances, exact, rtol=1e-5)

    @pytest.mark.parametrize("half_life", [0.0, 40.0])
    def test_the_best_few_are_the_best_of_all(self, rng, half_life):
        """Retrieving everything uses no bounds; its best k are what the bounded search must find."""
        store = MosaicMemoryStore(1)
        latents = np.zeros((ROWS, COLUMNS, 1), np.float32)
        for i in range(400):
            depth = rng.uniform(0.5, 60, (ROWS, COLUMNS)).astype(np.float32)
            store.insert_keyframe(latents, depth, K, random_pose(rng, 3.0, timestamp=float(i)))
        for _ in range(15):
            pose = random_pose(rng, 3.0, timestamp=400.0)
            options = {"min_visibility": 0.0, "half_life": half_life, "far": 50.0}
            everything = store.retrieve(K, pose, top_k=10**6, **options)
            order = np.lexsort((everything.ids, -everything.scores))
            for top_k in (1, 20, 300):
                found = store.retrieve(K, pose, top_k=top_k, **options)
                np.testing.assert_array_equal(np.sort(found.ids), np.sort(everything.ids[order[:top_k]]))
            for radius in (8.0, 25.0):
                found = store.retrieve(K, pose, top_k=60, diversity_radius=radius, **options)
                np.testing.assert_array_equal(np.sort(found.ids), np.sort(greedy(everything, 60, radius, 0.5)))

    def test_ties_go_to_the_smaller_id(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        for _ in range(5):
            store.insert_keyframe(latents, depth, K, pose)
        (best,) = store.retrieve(K, pose, top_k=1).ids
        np.testing.assert_array_equal(store.retrieve(K, pose, top_k=3).ids, best + np.array([0, 15, 30], np.uint64))

    def test_newer_is_better_and_the_future_is_new(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0, holes=0.0)
        for time in (0.0, 5.0, 10.0):
            store.insert_keyframe(latents, depth, K, pose.at(time))
        found = store.retrieve(K, pose.at(5.0), top_k=1000, half_life=5.0)
        by_frame = {f: found.scores[(found.ids // 15) == f] for f in range(3)}
        np.testing.assert_allclose(by_frame[0] * 2, by_frame[1])
        np.testing.assert_allclose(by_frame[2], by_frame[1])

    def test_empty_store(self):
        assert len(MosaicMemoryStore().retrieve(K, CameraPose())) == 0

    def test_a_rigid_motion_of_the_world_changes_nothing(self, rng):
        _, keyframes = filled_store(rng, 10)
        target, move = random_pose(rng, 0.5), random_pose(rng)
        results = []
        for transform in (np.eye(4), move.world_from_camera):
            store = MosaicMemoryStore()
            for latents, depth, pose in keyframes:
                moved = CameraPose(transform @ pose.world_from_camera, pose.timestamp)
                store.insert_keyframe(latents, depth, K, moved)
            camera = CameraPose(transform @ target.world_from_camera)
            results.append(store.retrieve(K, camera, top_k=40, diversity_radius=5.0))
        np.testing.assert_array_equal(results[0].ids, results[1].ids)
        np.testing.assert_allclose(results[0].scores, results[1].scores, rtol=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"top_k": 0}, "top_k: expected at least 1, got 0"),
            ({"near": 0.0}, "near: expected more than 0"),
            ({"near": 2.0, "far": 1.0}, "far: expected more than near = 2.0, got 1.0"),
            ({"half_life": -1.0}, "half_life: expected at least 0"),
            ({"diversity_penalty": 2}, "diversity_penalty: expected at most 1"),
            ({"far": float("nan")}, "far: expected a finite number"),
            ({"far": "x"}, "far: expected a number"),
            ({"top_k": 2**40}, "top_k: expected at most"),
        ],
    )
    def test_bad_options_are_named(self, rng, change, message):
        store, _ = filled_store(rng, 1)
        with pytest.raises((TypeError, ValueError), match=message):
            store.retrieve(K, CameraPose(), **change)
        with pytest.raises((TypeError, ValueError), match=message):
            MemoryRetrieval(**change)

    def test_far_from_the_origin(self, rng):
        """Half a million metres away, projected pixels are still exact to a thousandth of a pixel."""
        _, keyframes = filled_store(rng, 5)
        far_away = np.eye(4)
        far_away[:3, 3] = [5e5, -3e5, 4e5]
        results = []
        for transform in (np.eye(4), far_away):
            store = MosaicMemoryStore()
            for latents, depth, pose in keyframes:
                store.insert_keyframe(latents, depth, K, CameraPose(transform @ pose.world_from_camera, pose.timestamp))
            camera = CameraPose(transform @ keyframes[3][2].world_from_camera)
            results.append(store.retrieve(K, camera, top_k=100))
        np.testing.assert_array_equal(results[0].ids, results[1].ids)
        np.testing.assert_allclose(results[0].pixels, results[1].pixels, atol=1e-3)


class TestMosaic:
    def targets(self, rng, count=3):
        return CameraTrajectory([random_pose(rng, 0.3, timestamp=50.0 + i) for i in range(count)], K)

    def test_a_patch_seen_from_its_own_camera_lands_on_itself(self, rng):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0, spread=100.0)
        store.insert_keyframe(latents, depth, K, pose)
        mosaic = MemoryRetrieval(min_visibility=0.0).retrieve(store, CameraTrajectory([pose], K), STRIDE).packed()
        assert len(mosaic) == (depth > 0).sum()
        np.testing.assert_allclose(mosaic.positions[:, 1:], mosaic.source_positions, atol=1e-3)
        row, column = mosaic.source_positions.T
        np.testing.assert_array_equal(mosaic.tokens, latents[row, column])
        np.testing.assert_allclose(mosaic.depth, depth[row, column], rtol=1e-6)
        np.testing.assert_array_equal(mosaic.coverage[0][row, column], True)
        canvas = mosaic.compose(WarpedLatent("nearest"))[0]
        np.testing.assert_array_equal(canvas.latents, np.where(depth[..., None] > 0, latents, 0))
        np.testing.assert_array_equal(canvas.coverage, depth > 0)

    def test_arrays_fit_together(self, rng):
        store, _ = filled_store(rng, 20)
        targets = self.targets(rng)
        padded = MemoryRetrieval(top_k=30).retrieve(store, targets, STRIDE)
        mosaic = padded.packed()
        assert padded.tokens.shape == (3, padded.patch_ids.shape[1] * 4, store.channels)
        assert padded.valid.sum() == len(mosaic)
        assert padded.patch_ids.shape[1] == np.bincount(mosaic.patch_frames).max()
        for name in ("tokens", "positions", "depth", "confidence", "source_positions"):
            assert not getattr(padded, name)[~padded.valid].any()
        assert mosaic.tokens.shape == (len(mosaic), store.channels)
        assert mosaic.coverage.shape == (3, ROWS, COLUMNS)
        np.testing.assert_allclose(padded.coverage_ratio, mosaic.coverage.mean(axis=(1, 2)))
        np.testing.assert_array_equal(mosaic.positions[:, 0], mosaic.token_frames)
        assert (np.diff(mosaic.token_frames) >= 0).all()
        for frame in range(3):
            expected = store.retrieve(K, targets[frame], top_k=30)
            np.testing.assert_array_equal(mosaic.patch_ids[mosaic.patch_frames == frame], expected.ids)
        described = store.describe_patches(mosaic.patch_ids)
        source = mosaic.source_camera_from_world[mosaic.patch_sources]
        world = np.einsum("pij,pj->pi", described["world_from_camera"][:, :, :3], np.zeros((len(source), 3)))
        world = world + described["world_from_camera"][:, :, 3]
        at_origin = np.einsum("pij,pj->pi", source[:, :3, :3], world) + source[:, :3, 3]
        np.testing.assert_allclose(at_origin, 0, atol=1e-9)

    def test_time_offsets(self, rng):
        store, _ = filled_store(rng, 5)
        targets = self.targets(rng, 2)
        mosaic = MemoryRetrieval(temporal="offset").retrieve(store, targets, STRIDE, seconds_per_latent=0.5).packed()
        times = store.describe_patches(mosaic.patch_ids)["timestamp"][mosaic.token_patches]
        now = np.array([50.0, 51.0])[mosaic.token_frames]
        np.testing.assert_allclose(mosaic.positions[:, 0], (times - now) / 0.5)
        with pytest.raises(TypeError, match="seconds_per_latent"):
            MemoryRetrieval(temporal="offset").retrieve(store, targets, STRIDE)

    def test_empty_memory(self, rng):
        store = MosaicMemoryStore()
        mosaic = MemoryRetrieval().retrieve(store, self.targets(rng), STRIDE)
        assert mosaic.tokens.shape == (3, 0, 0)
        assert len(mosaic.packed()) == 0
        assert not mosaic.coverage.any()
        assert not any(canvas.coverage.any() for canvas in mosaic.compose(WarpedLatent()))

    def test_same_bytes_for_any_thread_count(self, rng):
        mosaics = []
        for threads in (1, 2):
            store, _ = filled_store(np.random.default_rng(5), 30, num_threads=threads)
            targets = self.targets(np.random.default_rng(6))
            mosaics.append(MemoryRetrieval(diversity_radius=6.0).retrieve(store, targets, STRIDE))
        for name, value in vars(mosaics[0]).items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == getattr(mosaics[1], name).tobytes(), name


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_number_of_half_precision_comes_back(dtype):
    numbers = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
    latents = np.where(np.isfinite(numbers), numbers, 0).reshape(64, 64, 16)
    camera = CameraIntrinsics.from_fov(512, 512, fov_x=1.0)
    pose = CameraPose.look_at([0, 0, 0], [0, 0, 1])
    store = MosaicMemoryStore(1, latent_dtype=np.dtype(dtype).name)
    store.insert_keyframe(latents, np.ones((64, 64), np.float32), camera, pose)
    mosaic = MemoryRetrieval(top_k=4096, min_visibility=0.0).retrieve(store, CameraTrajectory([pose], camera), 8)
    rows, columns = mosaic.source_positions[mosaic.valid].T
    assert len(rows) == 4096
    tokens = mosaic.tokens[mosaic.valid]
    np.testing.assert_array_equal(tokens.view(np.uint32), latents[rows, columns].view(np.uint32))
