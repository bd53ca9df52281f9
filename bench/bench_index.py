"""Spatial index of patch centres in a large building: kd-tree builds, k = 8 queries, filling keyframe by keyframe."""

import sys
import time

import numpy as np
import pytest

from building import COLUMNS, PATCHES, ROWS, K, depth_of, fill, random_pose
from conftest import peer
from mosaicmem import _core


@pytest.fixture(scope="module", params=[200_000, 1_000_000], ids="{:,}".format)
def store(request):
    return fill(request.param)


@pytest.fixture(scope="module")
def centres(store):
    return store.describe_patches(store.patch_ids)["centre"].astype(np.float32)


@pytest.fixture(scope="module")
def queries(centres):
    rng = np.random.default_rng(1)
    return centres[rng.integers(0, len(centres), 10_000)] + rng.normal(scale=0.05, size=(10_000, 3)).astype("f4")


@pytest.fixture
def pykdtree():
    """Shares torch's OpenMP if both are loaded, and another benchmark may have given torch more threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return peer("pykdtree.kdtree")


def in_group(benchmark, what, centres):
    benchmark.group = f"{what}, {round(len(centres), -4):,} patches, 1 thread"


class TestBuild:
    def test_mosaicmem(self, benchmark, centres):
        in_group(benchmark, "build a kd-tree", centres)
        index = benchmark.pedantic(_core.PointIndex, args=(centres, 1), rounds=9, warmup_rounds=1)
        benchmark.extra_info["index_bytes_a_patch"] = round(index.nbytes / len(centres), 1)

    def test_scipy(self, benchmark, centres):
        in_group(benchmark, "build a kd-tree", centres)
        benchmark.pedantic(peer("scipy.spatial").cKDTree, args=(centres,), rounds=3, warmup_rounds=1)

    def test_pykdtree(self, benchmark, centres, pykdtree):
        in_group(benchmark, "build a kd-tree", centres)
        benchmark.pedantic(pykdtree.KDTree, args=(centres,), rounds=9, warmup_rounds=1)


class TestQuery:
    """The store was filled keyframe by keyframe, so it searches a forest; the others search one tree."""

    def test_mosaicmem(self, benchmark, store, centres, queries):
        in_group(benchmark, "10 000 queries, k = 8", centres)
        distances, _ = benchmark.pedantic(store.query_nearest, args=(queries, 8), rounds=9, warmup_rounds=1)
        expected, _ = peer("scipy.spatial").cKDTree(centres).query(queries, 8)
        np.testing.assert_allclose(distances, expected, atol=1e-4)

    def test_scipy(self, benchmark, centres, queries):
        in_group(benchmark, "10 000 queries, k = 8", centres)
        tree = peer("scipy.spatial").cKDTree(centres)
        benchmark.pedantic(tree.query, args=(queries, 8), rounds=9, warmup_rounds=1)

    def test_pykdtree(self, benchmark, centres, queries, pykdtree):
        in_group(benchmark, "10 000 queries, k = 8", centres)
        tree = pykdtree.KDTree(centres)
        benchmark.pedantic(tree.query, args=(queries, 8), rounds=9, warmup_rounds=1)


class TestFill:
    def test_mosaicmem_keyframe_by_keyframe(self, benchmark, store, centres):
        """Inserts the keyframes of the building; depth is computed before, so that only inserts are timed."""
        in_group(benchmark, "fill keyframe by keyframe", centres)
        rng = np.random.default_rng(0)
        poses = [random_pose(rng, float(i)) for i in range(-(-len(centres) // PATCHES))]
        frames = [(depth_of(pose), pose) for pose in poses]
        latents = np.zeros((ROWS, COLUMNS, 4), dtype=np.float32)
        longest, means = [], []

        def run():
            own = type(store)(2, num_threads=1)
            seconds = []
            for depth, pose in frames:
                start = time.perf_counter()
                own.insert_keyframe(latents, depth, K, pose, copy=False)
                seconds.append(time.perf_counter() - start)
            longest.append(max(seconds))
            means.append(np.mean(seconds))
            return own

        filled = benchmark.pedantic(run, rounds=3)
        benchmark.extra_info["mean_insert_ms"] = round(1000 * float(np.median(means)), 2)
        benchmark.extra_info["longest_insert_ms"] = round(1000 * float(np.median(longest)), 1)
        benchmark.extra_info["index_bytes_a_patch"] = round(filled.statistics().index_bytes / len(filled), 1)

    def test_scipy_rebuilt_at_every_tenth_keyframe(self, benchmark, centres):
        in_group(benchmark, "fill keyframe by keyframe", centres)
        spatial = peer("scipy.spatial")

        def run():
            for count in range(10 * PATCHES, len(centres) + 1, 10 * PATCHES):
                spatial.cKDTree(centres[:count])

        if len(centres) > 300_000:
            pytest.skip("takes minutes")
        benchmark.pedantic(run, rounds=1)
