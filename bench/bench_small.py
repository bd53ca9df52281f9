"""The sizes of the Rust implementation's own benchmarks, on one thread: a memory of 10,000 patches, one view of it.

Its figures are in measured/elsewhere.json. Those of PRoPE do not say their sizes: here (1, 12, 4096, 128).
"""

import numpy as np
import pytest

from building import COLUMNS, ROWS, K, depth_of, fill, random_pose
from mosaicmem import MosaicMemoryStore, PRoPE, WarpedLatent

PATCHES = 10_000
THREADS = 1


@pytest.fixture
def frames():
    """As many keyframes as make 10,000 patches of one room, and one more."""
    rng = np.random.default_rng(0)
    poses = [random_pose(rng, float(i), 1) for i in range(PATCHES * 4 // (ROWS * COLUMNS) + 2)]
    return [(np.zeros((ROWS, COLUMNS, 16), np.float32), depth_of(pose), K, pose) for pose in poses]


def filled(frames):
    store = MosaicMemoryStore(2, num_threads=THREADS)
    for frame in frames:
        store.insert_keyframe(*frame, copy=False)
    return store


@pytest.mark.benchmark(group="small: fill 10,000 patches")
def test_mosaicmem_fill(benchmark, frames):
    store = benchmark(filled, frames[:-1])
    assert 0.9 * PATCHES < len(store) < 1.1 * PATCHES


@pytest.mark.benchmark(group="small: one keyframe into 10,000 patches")
def test_mosaicmem_insert(benchmark, frames):
    benchmark.pedantic(
        lambda store: store.insert_keyframe(*frames[-1], copy=False),
        setup=lambda: ((filled(frames[:-1]),), {}),
        rounds=50,
    )


@pytest.mark.benchmark(group="small: top-64 with diversity of 10,000 patches")
def test_mosaicmem_top_64(benchmark):
    store = fill(PATCHES)
    pose = random_pose(np.random.default_rng(0), 0.0)
    found = benchmark(store.retrieve, K, pose, top_k=64, diversity_radius=24.0, diversity_penalty=0.5)
    assert len(found.ids) == 64


@pytest.mark.benchmark(group="small: gather tokens and positions of 1200 patches")
def test_mosaicmem_gather(benchmark, frames):
    store, pose = filled(frames), frames[0][3]
    ids = store.patch_ids[:1200]
    found = benchmark(store.project_tokens, ids, K, pose)
    assert len(found["latents"]) > 3000


@pytest.mark.benchmark(group="small: splat a canvas of 60x80x16")
def test_mosaicmem_splat(benchmark):
    rng = np.random.default_rng(0)
    places = np.stack(np.mgrid[:60, :80], axis=-1).reshape(-1, 2) + rng.uniform(-0.4, 0.4, (4800, 2))
    tokens = rng.standard_normal((4800, 16), np.float32), places.astype(np.float32), rng.uniform(1, 4, 4800)
    canvas = benchmark(WarpedLatent("nearest").splat, tokens[0], tokens[1], tokens[2].astype(np.float32), 60, 80)
    assert canvas.coverage.mean() > 0.5


@pytest.mark.parametrize("parts", [1, 2], ids=["q", "q and k"])
def test_mosaicmem_prope(benchmark, parts):
    benchmark.group = f"small: PRoPE on {'q' if parts == 1 else 'q and k'}"
    rng = np.random.default_rng(0)
    views = np.tile(np.eye(4), (4, 1, 1))
    views[:, :3, 3] = rng.standard_normal((4, 3))
    encoding = PRoPE(128, views, patches_x=32, patches_y=32)
    q, k = (rng.standard_normal((1, 12, 4096, 128), np.float32) for _ in range(2))

    def apply():
        encoding.apply_to_q(q, num_threads=THREADS)
        if parts == 2:
            encoding.apply_to_kv(k, num_threads=THREADS)

    benchmark(apply)
