"""From a store to what a video transformer takes: 21 latent frames of 1280 x 704 pixels, 40 keyframes.

`test_attention` shows what memory costs the transformer: one head of the self-attention of one block, with memory read
in several ways, beside the same attention without memory.
"""

import numpy as np
import pytest

from conftest import QUICK, peer
from mosaicmem import CameraIntrinsics, MosaicMemoryStore, SyntheticWorld, WarpedRoPE

SHAPES = {"stride 16, 48 channels": (16, 48), "stride 8, 16 channels": (8, 16)}
FRAMES = 21
ROPE = WarpedRoPE(128)


@pytest.fixture(scope="module")
def scene():
    """Stores by shape, and the target cameras: a look back over what 40 keyframes have seen."""
    size = (320, 192) if QUICK else (1280, 704)
    camera, world, rng = CameraIntrinsics.from_fov(*size, fov_x=1.3), SyntheticWorld(), np.random.default_rng(0)
    path = world.leave_and_return(camera, 61)
    stores = {}
    for name, (stride, channels) in SHAPES.items():
        grid, store = camera.latent_grid(stride), MosaicMemoryStore(2)
        for pose in list(path)[:40]:
            latents = rng.standard_normal((grid.height, grid.width, channels), dtype=np.float32)
            store.insert_keyframe(latents, world.depth(grid, pose).astype(np.float32), camera, pose)
        stores[name] = store
    return stores, path[20 : 20 + FRAMES]


@pytest.fixture(autouse=True)
def torch_threads(threads):
    peer("torch").set_num_threads(threads)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("canvas", [False, True], ids=["tokens", "tokens and canvas"])
def test_build(benchmark, scene, shape, canvas):
    from mosaicmem.models import MemoryBatch

    stores, targets = scene
    stride, channels = SHAPES[shape]

    def build():
        batch = MemoryBatch.build(stores[shape], targets, vae_stride=stride, rope=ROPE, canvas=canvas)
        return batch, batch.canvas() if canvas else None

    benchmark.group = f"from store to batch, {shape}"
    batch, made = benchmark.pedantic(build, rounds=9, warmup_rounds=1)
    assert batch.mask.any()
    assert made is None or made.shape[:3] == (1, channels + 1, FRAMES)


WAYS = {
    "no memory": None,
    "frame by frame, top 64": {"top_k": 64},
    "frame by frame, top 256": {"top_k": 256},
    "frame by frame, top 1024": {"top_k": 1024},
    "all to all, top 64": {"top_k": 64, "distinct": False},
    "all to all, top 64, distinct": {"top_k": 64, "distinct": True},
    "all to all, top 256, distinct": {"top_k": 256, "distinct": True},
    "all to all, top 1024, distinct": {"top_k": 1024, "distinct": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_attention(benchmark, scene, way):
    torch = peer("torch")
    from mosaicmem.models import MemoryBatch
    from mosaicmem.models.softmax import attend, merge
    from mosaicmem.models.wan_attention import Layout, _frame_by_frame

    name = "stride 16, 48 channels"
    stores, targets = scene
    options = WAYS[way] or {"top_k": 1}
    batch = MemoryBatch.build(stores[name], targets, vae_stride=16, rope=ROPE, canvas=False, **options)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, FRAMES * batch.rows * batch.columns, 128) for _ in range(3))
    more_k, more_v = (torch.randn(1, 1, batch.mask.shape[1], 128) for _ in range(2))
    layout = Layout(batch.mask, FRAMES, 0 if "distinct" in options else batch.per_frame)

    def run():
        out, lse = attend(q, k, v)
        if way == "no memory":
            return out
        read = (
            _frame_by_frame(q, more_k, more_v, layout) if layout.per_frame else attend(q, more_k, more_v, layout.mask)
        )
        return merge(out, lse, *read)

    benchmark.group = f"self-attention of {q.shape[2]:,} video tokens, one head of 128"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(
        memory_tokens=0 if way == "no memory" else int(batch.mask.sum()), shown=round(shown(batch, way), 3)
    )


def shown(batch, way):
    """The part of the transformer's cells near which memory has a token: within half a cell along both axes."""
    if way == "no memory":
        return 0.0
    cells = np.zeros((FRAMES, batch.rows, batch.columns), bool)
    there = batch.mask[0].numpy()
    y, x = np.rint(batch.positions[0].numpy()[there, 1:]).astype(int).T
    inside = (y >= 0) & (y < batch.rows) & (x >= 0) & (x < batch.columns)
    cells[batch.frame[0].numpy()[there][inside], y[inside], x[inside]] = True
    return float(cells.mean())
