"""Arrays whose elements lie at odd addresses, as in packed records and files: the core is given aligned copies.

Most processors read them anyway, so results alone prove nothing: the tests also inspect what the core is given.
"""

import inspect

import ml_dtypes
import numpy as np
import pytest

from memory_helpers import K, filled_store, random_keyframe
from mosaicmem import (
    CameraPose,
    CameraTrajectory,
    DepthCompletion,
    KeyframeRetrieval,
    MemoryCrossAttention,
    MemoryRetrieval,
    MosaicMemoryStore,
    PatchMemory,
    PRoPE,
    RotaryTable,
    SpatialManipulation,
    Sphere,
    StreamingFusion,
    WarpedLatent,
    WarpedRoPE,
    _core,
    bilinear_sample,
    depth_to_grid,
    grid_positions,
    merge_attention,
    prope_attention,
    reproject_depth_grid,
    unproject_depth,
    unproject_to_image,
    warped_positions,
)
from mosaicmem.attention import attention

pytestmark = pytest.mark.kernel


def at_odd_address(array):
    """A contiguous copy, as `np.frombuffer` gives it behind a header of odd size."""
    array = np.asarray(array)
    raw = np.zeros(array.nbytes + 16, np.uint8)
    start = 1 - raw.ctypes.data % 8 + 8
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def field_of_records(array):
    """A field of packed records that begin with a one-byte field."""
    array = np.asarray(array)
    records = np.zeros(array.shape, [("tag", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def as_it_is(array):
    return np.asarray(array)


WRAPS = (at_odd_address, field_of_records)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from arrays_in(part)


@pytest.fixture
def looked_at(monkeypatch):
    """Fail if the core is given a misaligned array. Returns a list with an entry per array given."""
    seen = []

    def watched(function):
        def call(*args, **options):
            for array in arrays_in([*args, *options.values()]):
                seen.append(array.flags.aligned)
                assert array.flags.aligned, f"{function.__name__}: a misaligned {array.dtype} array of {array.shape}"
            return function(*args, **options)

        return call

    for owner in (_core, _core.MemoryStore, _core.VoxelMap, _core.PatchMemory):
        for name, function in list(vars(owner).items()):
            if callable(function) and not inspect.isclass(function) and not name.startswith("__"):
                monkeypatch.setattr(owner, name, watched(function))
    return seen


RNG = np.random.default_rng(7)
DEPTH = RNG.uniform(1, 3, (48, 80)).astype(np.float32)
GRID = RNG.uniform(1, 3, (6, 10)).astype(np.float32)
X = RNG.standard_normal((1, 2, 6, 16))
POSE = CameraPose(np.eye(4), 1.0)
SIX = grid_positions(1, 2, 3)
VIEWS = np.tile(np.eye(4), (4, 1, 1))
VIEWS[:, 0, 3] = range(4)
CAMERAS = np.tile(K.matrix, (4, 1, 1))


def f4(array):
    return np.asarray(array, np.float32)


def layer(wrap):
    made = MemoryCrossAttention(16, 16, 1, 12, half_life=2.0)
    made.load_weights({name: wrap(weight) for name, weight in made.weights.items()})
    ready = made.project_memory(wrap(f4(X[0])), wrap(SIX), mask=np.ones((2, 6), bool), time=wrap(np.arange(6.0)))
    return made.attend(wrap(f4(X[0])), ready, wrap(SIX), query_time=wrap(np.arange(6.0)))


def rotary_table(wrap):
    table = WarpedRoPE(16).table(SIX)
    return WarpedRoPE(16).apply(wrap(f4(X)), RotaryTable(wrap(table.cos), wrap(table.sin)))


def prope(wrap, dtype=np.float32):
    camera, place = np.array([0, 1, 2, 3, 0, 1]), np.ones((6, 2))
    made = PRoPE(
        16, wrap(VIEWS), wrap(CAMERAS), camera=wrap(camera), positions=wrap(place), image_width=80, image_height=48
    )
    return [apply(wrap(X.astype(dtype))) for apply in (made.apply_to_q, made.apply_to_kv, made.apply_to_o)]


def attend(wrap):
    times = {"query_time": wrap(np.arange(6.0)), "key_time": wrap(np.arange(6)), "half_life": 2.0}
    heads = wrap(f4(X))
    return attention(heads, heads, heads, bias=wrap(f4(X[:, 0, :, 0])), **times, return_lse=True)


def attend_half(wrap):
    heads = [wrap(X.astype(ml_dtypes.bfloat16).view(np.uint16)).view(ml_dtypes.bfloat16) for _ in range(3)]
    return np.asarray(attention(*heads), np.float32)


def merge(wrap):
    out, lse = wrap(f4(X)), wrap(f4(X[..., 0]))
    return merge_attention(out, lse, out, lse)


def splat(wrap, dtype=np.float32):
    tokens, place, z = X[0, 0].astype(dtype), SIX[:, 1:], np.arange(1, 7)
    canvas = WarpedLatent("bilinear").splat(wrap(tokens), wrap(place), wrap(f4(z)), 3, 3, weights=wrap(f4(z)))
    return canvas.latents, canvas.depth


def sample(wrap, dtype=np.float32):
    return bilinear_sample(wrap(X[0].astype(dtype)), wrap(SIX[:, 1:]))


def fuse(wrap):
    fusion = StreamingFusion(voxel_size=0.1)
    fusion.add_frame(wrap(DEPTH), K, POSE)
    fusion.add_frame(wrap(DEPTH.astype(np.float64)), K, wrap(np.eye(4)))
    return fusion.point_cloud().points


def patch_memory(wrap):
    memory = PatchMemory()
    latents, depths = f4(np.sin(np.arange(2 * 4 * 64.0)).reshape(2, 4, 8, 8)), np.ones((4, 48, 80), np.float32)
    memory.append(wrap(latents), wrap(f4(VIEWS)), wrap(f4(CAMERAS)), wrap(depths))
    found = memory.query(wrap(f4(VIEWS[0])), wrap(f4(VIEWS)), wrap(f4(CAMERAS)))
    ids = memory.fuse_candidates(wrap(f4(VIEWS)), [wrap(np.arange(2))])
    return found.valid_mask, ids[1]


def store(wrap, copy=True, dtype="float32"):
    made = MosaicMemoryStore(latent_patch_size=2, latent_dtype=dtype)
    rng = np.random.default_rng(1)
    for i in range(3):
        latents, depth, pose = random_keyframe(rng, float(i))
        confidence = f4(rng.uniform(0, 1, depth.shape))
        made.insert_keyframe(wrap(latents), wrap(depth), K, pose, confidence=wrap(confidence), copy=copy)
    ids = wrap(made.patch_ids[::2])
    edits = SpatialManipulation(made)
    edits.transform(wrap(np.diag([1.0, 1, -1, 1])), wrap(made.patch_ids[:9]))
    edits.translate(wrap(np.ones(3)), Sphere(wrap(np.zeros(3)), 3.0))
    copies = edits.duplicate(wrap(np.eye(4)), wrap(made.patch_ids[5:]))
    told = [*made.describe_patches(ids).values(), made.project_tokens(ids, K, POSE)["latents"]]
    told += [*made.query_nearest(wrap(np.zeros((2, 3))), 3), *made.query_radius(wrap(f4(np.ones((2, 3)))), 3.0)]
    return [*told, copies, made.delete_patches(wrap(copies.astype(np.int64)))]


def retrieval(wrap):
    """Retrieval with cameras made from wrapped matrices."""
    made, _ = filled_store(np.random.default_rng(1), 3)
    poses = [CameraPose(wrap(VIEWS[i]), float(i)) for i in range(2)]
    targets = CameraTrajectory(poses, K)
    top = MemoryRetrieval().retrieve(made, targets, 8)
    keyframes = KeyframeRetrieval().retrieve(made, targets, 8)
    return top.tokens, keyframes.latents


CALLS = {
    "unproject_depth": lambda wrap: unproject_depth(wrap(DEPTH), K, CameraPose(wrap(VIEWS[1]))),
    "unproject_to_image": lambda wrap: unproject_to_image(
        wrap(DEPTH.astype(np.float64)), K, CameraPose(wrap(VIEWS[1]))
    ),
    "depth_to_grid": lambda wrap: depth_to_grid(wrap(DEPTH), 8),
    "reproject": lambda wrap: reproject_depth_grid(wrap(GRID), 8, K, POSE, K, POSE),
    "complete": lambda wrap: DepthCompletion().estimate(wrap(f4(np.zeros((48, 80, 3)))), K, POSE, wrap(DEPTH - 1.5)),
    "positions": lambda wrap: warped_positions(wrap(f4(SIX)), 8, wrap(np.arange(6))),
    "rope": lambda wrap: WarpedRoPE(16).apply(wrap(f4(X)), wrap(SIX)),
    "rope double": lambda wrap: WarpedRoPE(16).apply(wrap(X), wrap(f4(SIX)), inverse=True),
    "rope half": lambda wrap: WarpedRoPE(16).apply(wrap(X.astype(np.float16)), wrap(SIX)),
    "rotary table": rotary_table,
    "prope": prope,
    "prope double": lambda wrap: prope(wrap, np.float64),
    "prope_attention": lambda wrap: prope_attention(
        *[wrap(f4(X)) for _ in range(3)], wrap(VIEWS[:1]), None, patches_x=3, patches_y=2
    ),
    "attention": attend,
    "attention bfloat16": attend_half,
    "merge": merge,
    "splat": splat,
    "splat double": lambda wrap: splat(wrap, np.float64),
    "sample": sample,
    "sample double": lambda wrap: sample(wrap, np.float64),
    "layer": layer,
    "fusion": fuse,
    "patch memory": patch_memory,
    "store": store,
    "store, shared": lambda wrap: store(wrap, copy=False),
    "store, float16": lambda wrap: store(wrap, dtype="float16"),
    "store, bfloat16": lambda wrap: store(wrap, dtype="bfloat16"),
    "retrieval": retrieval,
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", CALLS)
def test_the_answer_is_that_to_aligned_arrays(name, wrap, looked_at):
    np.testing.assert_equal(CALLS[name](wrap), CALLS[name](as_it_is))


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_is_given_here_is_misaligned(wrap):
    for dtype in (np.float32, np.float64, np.int64, np.uint16):
        array = wrap(np.arange(12, dtype=dtype).reshape(3, 4))
        assert not array.flags.aligned
        np.testing.assert_array_equal(array, np.arange(12).reshape(3, 4))


def test_the_core_copies_what_reaches_it_misaligned():
    """Even if Python leaves out a check, the core does not read at odd addresses."""
    depth, pose = at_odd_address(DEPTH), at_odd_address(np.eye(4))
    grids = np.empty((2, DEPTH.shape[0], DEPTH.shape[1]), np.float32)
    for z, matrix, grid in ((depth, pose, grids[0]), (DEPTH, np.eye(4), grids[1])):
        valid, points = np.empty(DEPTH.shape, bool), np.empty((*DEPTH.shape, 3), np.float32)
        _core.unproject_dense(z, DEPTH.shape, K.params, matrix[None], points, valid, 1)
        grid[...] = points.sum(axis=2)
    np.testing.assert_array_equal(*grids)
    stores = []
    for wrap in (as_it_is, at_odd_address):
        store = _core.MemoryStore(2, None, None, _core.Eviction.oldest)
        latents, grid = wrap(f4(X[0, :, :, :2].reshape(2, 6, 2))), wrap(GRID[:2, :6].copy())
        kinds = _core.LatentType.float32, _core.Provenance.observed
        store.insert(latents, kinds[0], grid, None, None, None, 8.0, K.params, wrap(np.eye(4)), 0.0, kinds[1], 0)
        exported = store.export_observations()["arrays"][0]
        assert all(array.flags.aligned for array in exported if array is not None)
        stores.append(exported)
    np.testing.assert_array_equal(stores[0][0], stores[1][0])


@pytest.mark.torch
def test_tensors(looked_at):
    torch = pytest.importorskip("torch")

    def tensor(array):
        raw = bytearray(array.nbytes + 1)
        raw[1:] = array.tobytes()
        made = torch.frombuffer(raw, dtype=getattr(torch, array.dtype.name), offset=1, count=array.size)
        assert made.data_ptr() % array.itemsize
        return made.reshape(array.shape)

    for name in ("rope", "prope", "attention", "merge", "splat", "sample", "fusion", "store", "unproject_depth"):
        given = CALLS[name](lambda array: tensor(np.ascontiguousarray(array)))
        np.testing.assert_equal([np.asarray(part) for part in given], [np.asarray(p) for p in CALLS[name](as_it_is)])
