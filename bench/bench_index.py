"""Spatial index over 200 000 points on the surfaces of rooms: build by inserting keyframes, and k = 8 queries."""

import numpy as np
import pytest

from conftest import peer
from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore

ROWS, COLUMNS, KEYFRAMES = 44, 80, 228
K = CameraIntrinsics.from_fov(COLUMNS * 8, ROWS * 8, fov_x=1.2)


@pytest.fixture(scope="module")
def keyframes():
    rng = np.random.default_rng(0)
    frames = []
    for i in range(KEYFRAMES):
        quaternion = rng.standard_normal(4)
        pose = CameraPose.from_quaternion(
            quaternion / np.linalg.norm(quaternion), rng.uniform([-20, -1, -20], [20, 1, 20]), float(i)
        )
        frames.append((rng.uniform(1, 4, (ROWS, COLUMNS)).astype(np.float32), pose))
    return frames


def fill(keyframes):
    store = MosaicMemoryStore(2, num_threads=1)
    latents = np.zeros((ROWS, COLUMNS, 16), dtype=np.float32)
    for depth, pose in keyframes:
        store.insert_keyframe(latents, depth, K, pose)
    return store


@pytest.fixture(scope="module")
def store(keyframes):
    return fill(keyframes)


@pytest.fixture(scope="module")
def centres(store):
    return store.describe_patches(store.patch_ids)["centre"].astype(np.float32)


@pytest.mark.benchmark(group="fill an index with 200 000 patches")
class TestBuild:
    def test_mosaicmem_keyframe_by_keyframe(self, benchmark, keyframes):
        store = benchmark.pedantic(fill, args=(keyframes,), rounds=3)
        benchmark.extra_info["index_bytes_a_patch"] = round(store.statistics().index_bytes / len(store), 1)

    def test_scipy_rebuilt_at_every_tenth_keyframe(self, benchmark, centres):
        spatial = peer("scipy.spatial")
        a_keyframe = len(centres) // KEYFRAMES

        def run():
            for i in range(10, KEYFRAMES + 1, 10):
                spatial.cKDTree(centres[: i * a_keyframe])

        benchmark.pedantic(run, rounds=1)

    def test_scipy_once(self, benchmark, centres):
        benchmark.pedantic(peer("scipy.spatial").cKDTree, args=(centres,), rounds=3)


@pytest.mark.benchmark(group="10 000 queries, k = 8, of 200 000 patches, 1 thread")
class TestQuery:
    @pytest.fixture
    def queries(self, centres):
        rng = np.random.default_rng(1)
        return centres[rng.integers(0, len(centres), 10_000)] + rng.normal(scale=0.05, size=(10_000, 3)).astype("f4")

    def test_mosaicmem(self, benchmark, store, centres, queries):
        distances, _ = benchmark(store.query_nearest, queries, 8)
        expected, _ = peer("scipy.spatial").cKDTree(centres).query(queries, 8)
        np.testing.assert_allclose(distances, expected, atol=1e-5)

    def test_scipy(self, benchmark, centres, queries):
        tree = peer("scipy.spatial").cKDTree(centres)
        benchmark(tree.query, queries, 8)
