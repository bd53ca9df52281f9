"""View-conditioned retrieval in a large building: the best 64 patches, against a vectorised scan.

Times are for 200 queries by random cameras on one thread; divide by 200 for one query. MOSAICMEM_BENCH_PATCHES sets
other sizes, separated by commas.
"""

import time

import numpy as np
import pytest

from building import K, fill, random_pose, sizes
from conftest import peer

QUERIES = 200
HALF_LIFE = 2000.0


@pytest.fixture(scope="module", params=sizes(1_000_000), ids="{:,}".format)
def store(request):
    return fill(request.param)


@pytest.fixture(scope="module")
def poses(store):
    rng = np.random.default_rng(9)
    return [random_pose(rng, store.statistics().last_time) for _ in range(QUERIES)]


@pytest.fixture(autouse=True)
def group(benchmark, store):
    benchmark.group = f"{QUERIES} x top-64 of {round(len(store), -4):,} patches"


def measure(benchmark, store, poses, **options):
    seconds = []

    def run():
        for pose in poses:
            start = time.perf_counter()
            found = store.retrieve(K, pose, top_k=64, **options)
            seconds.append(time.perf_counter() - start)
        return found

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    milliseconds = 1000 * np.array(seconds)
    benchmark.extra_info.update(
        median_ms=round(float(np.median(milliseconds)), 3), p99_ms=round(float(np.percentile(milliseconds, 99)), 3)
    )


def test_mosaicmem(benchmark, store, poses):
    measure(benchmark, store, poses)


def test_mosaicmem_with_recency(benchmark, store, poses):
    measure(benchmark, store, poses, half_life=HALF_LIFE)


def test_mosaicmem_with_diversity(benchmark, store, poses):
    measure(benchmark, store, poses, diversity_radius=16.0)


def test_torch_scan(benchmark, store, poses):
    """Scores every centre, with its footprint taken as 1, and takes the best; ignores tokens."""
    torch = peer("torch")
    torch.set_num_threads(1)
    ids = store.patch_ids
    centres = torch.from_numpy(store.describe_patches(ids)["centre"].astype(np.float32))

    def scan(pose):
        view = torch.from_numpy(pose.camera_from_world.astype(np.float32))
        p = centres @ view[:3, :3].T + view[:3, 3]
        u, v = K.fx * p[:, 0] / p[:, 2] + K.cx, K.fy * p[:, 1] / p[:, 2] + K.cy
        inside = (p[:, 2] > 0.05) & (u >= 0) & (u < K.width) & (v >= 0) & (v < K.height)
        centrality = 1 - torch.hypot((u - K.cx) / K.width, (v - K.cy) / K.height)
        return torch.where(inside, centrality / (1 + 0.1 * p[:, 2]), 0).topk(64)

    few = poses[: QUERIES // 10]
    benchmark.pedantic(lambda: [scan(pose) for pose in few], rounds=3, warmup_rounds=1)
    milliseconds = 1000 * benchmark.stats.stats.median / len(few) if benchmark.stats else 0.0
    benchmark.extra_info.update(note=f"of {len(few)} queries, not {QUERIES}", median_ms=round(milliseconds, 1))
    # Both choose the same patches where footprints are 1, as most are near the optical axis.
    for pose in poses[:5]:
        best = set(ids[scan(pose).indices.numpy()].tolist())
        assert len(best & set(store.retrieve(K, pose, top_k=64).ids.tolist())) >= 48
