"""View-conditioned retrieval: top-64 of 200 000 patches for one camera, beside a vectorised scan of their centres."""

import numpy as np
import pytest

from bench_index import K, fill, keyframes  # noqa: F401
from conftest import peer
from mosaicmem import CameraPose

pytestmark = pytest.mark.benchmark(group="top-64 of 200 000 patches")

POSE = CameraPose.look_at([0, 0, -3], [0, 0, 5], timestamp=300.0)


@pytest.fixture(scope="module")
def store(keyframes):  # noqa: F811
    return fill(keyframes)


def test_mosaicmem(benchmark, store):
    found = benchmark(store.retrieve, K, POSE, top_k=64, half_life=100.0)
    assert len(found) == 64


def test_mosaicmem_with_diversity(benchmark, store):
    found = benchmark(store.retrieve, K, POSE, top_k=64, half_life=100.0, diversity_radius=32.0)
    assert len(found) == 64


def test_torch_scan(benchmark, store, threads):
    """Scores every centre (its footprint taken as 1) and takes the best; tokens are not looked at."""
    torch = peer("torch")
    torch.set_num_threads(threads)
    described = store.describe_patches(store.patch_ids)
    centres = torch.from_numpy(described["centre"].astype(np.float32))
    age = torch.from_numpy((POSE.timestamp - described["timestamp"]).astype(np.float32))
    view = torch.from_numpy(POSE.camera_from_world.astype(np.float32))

    def run():
        p = centres @ view[:3, :3].T + view[:3, 3]
        u, v = K.fx * p[:, 0] / p[:, 2] + K.cx, K.fy * p[:, 1] / p[:, 2] + K.cy
        inside = (p[:, 2] > 0.05) & (u >= 0) & (u < K.width) & (v >= 0) & (v < K.height)
        centrality = 1 - torch.hypot((u - K.cx) / K.width, (v - K.cy) / K.height)
        score = centrality / (1 + 0.1 * p[:, 2]) * 0.5 ** (age / 100.0)
        return torch.where(inside, score, 0).topk(64)

    benchmark(run)
