"""Storage of a million patches (2x2x16 float16): full save, incremental save, open, fork."""

import itertools

import numpy as np
import pytest

from building import COLUMNS, PATCHES, ROWS, K, depth_of, random_pose
from mosaicmem import MosaicMemoryStore

PATCH_COUNT = 1_000_000

pytestmark = pytest.mark.benchmark(group=f"keep {PATCH_COUNT:,} patches of 2x2x16 float16")


@pytest.fixture(scope="module")
def store():
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(2, latent_dtype="float16")
    latents = rng.standard_normal((ROWS, COLUMNS, 16)).astype(np.float32)
    for i in range(-(-PATCH_COUNT // PATCHES)):
        pose = random_pose(rng, float(i))
        store.insert_keyframe(latents, depth_of(pose), K, pose)
    return store


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "store"
    store.save(path)
    return path


def test_mosaicmem_open_and_retrieve(benchmark, store, folder):
    pose = random_pose(np.random.default_rng(9), 0.0)

    def run():
        opened = MosaicMemoryStore.open(folder, num_threads=1)
        return opened.retrieve(K, pose)

    found = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    np.testing.assert_array_equal(found.ids, store.retrieve(K, pose).ids)


def test_save_all(benchmark, store, tmp_path):
    number = itertools.count()

    def run():
        store.fork().save(tmp_path / str(next(number)))

    benchmark.pedantic(run, rounds=3)
    megabytes = sum(path.stat().st_size for path in (tmp_path / "0").iterdir()) / 1e6
    if benchmark.stats:
        benchmark.extra_info["megabytes_a_second"] = round(megabytes / benchmark.stats.stats.median)


def test_save_one_more_keyframe(benchmark, store, folder):
    rng = np.random.default_rng(7)
    latents = rng.standard_normal((ROWS, COLUMNS, 16)).astype(np.float32)

    def insert():
        pose = random_pose(rng, 2000.0)
        store.insert_keyframe(latents, depth_of(pose), K, pose)

    benchmark.pedantic(store.save, args=(folder,), setup=insert, rounds=10)


def test_fork(benchmark, store):
    benchmark.pedantic(store.fork, rounds=20)
