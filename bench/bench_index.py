"""Spatial index over patches on the walls of a large building: filling it keyframe by keyframe, and k = 8 queries."""

import time

import numpy as np
import pytest

from building import COLUMNS, PATCHES, ROWS, K, depth_of, fill, random_pose
from conftest import peer

PATCH_COUNT = 200_000


@pytest.fixture(scope="module")
def store():
    return fill(PATCH_COUNT)


@pytest.fixture(scope="module")
def centres(store):
    return store.describe_patches(store.patch_ids)["centre"].astype(np.float32)


@pytest.mark.benchmark(group="fill an index with 200 000 patches, 1 thread")
class TestBuild:
    def test_mosaicmem_keyframe_by_keyframe(self, benchmark, store):
        """Inserts the keyframes of the building; depth is ready, so that only the memory works."""
        rng = np.random.default_rng(0)
        poses = [random_pose(rng, float(i)) for i in range(-(-PATCH_COUNT // PATCHES))]
        frames = [(depth_of(pose), pose) for pose in poses]
        latents = np.zeros((ROWS, COLUMNS, 4), dtype=np.float32)
        longest = []

        def run():
            own = type(store)(2, num_threads=1)
            slowest = 0.0
            for depth, pose in frames:
                start = time.perf_counter()
                own.insert_keyframe(latents, depth, K, pose)
                slowest = max(slowest, time.perf_counter() - start)
            longest.append(slowest)
            return own

        filled = benchmark.pedantic(run, rounds=3)
        benchmark.extra_info["longest_insert_ms"] = round(1000 * float(np.median(longest)), 1)
        benchmark.extra_info["index_bytes_a_patch"] = round(filled.statistics().index_bytes / len(filled), 1)

    def test_scipy_rebuilt_at_every_tenth_keyframe(self, benchmark, centres):
        spatial = peer("scipy.spatial")

        def run():
            for count in range(10 * PATCHES, len(centres) + 1, 10 * PATCHES):
                spatial.cKDTree(centres[:count])

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
        np.testing.assert_allclose(distances, expected, atol=1e-4)

    def test_scipy(self, benchmark, centres, queries):
        tree = peer("scipy.spatial").cKDTree(centres)
        benchmark(tree.query, queries, 8)
