"""Attention on the GPU equals the formula for all kinds of keys, angles and times, with and without tensor cores."""

import ml_dtypes
import numpy as np
import pytest

from conftest import assert_within_twice, random_pose
from mosaicmem import MemoryCrossAttention, PRoPE, WarpedRoPE, grid_positions
from mosaicmem.attention import attention, merge_attention
from reference.attention import attention as reference
from reference.attention import rope as reference_rope

pytestmark = pytest.mark.kernel

# The first three run on the tensor cores in half precision.
SHAPES = [  # heads, key_heads, queries, keys, head_dim, value_dim
    (2, 1, 131, 150, 64, 64),
    (1, 1, 1, 64, 128, 128),
    (4, 2, 33, 65, 128, 128),
    (1, 1, 5, 40, 33, 70),
    (2, 2, 1, 1, 1, 1),
]
HALVES = {"float32": None, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def inputs(rng, shape, dtype):
    heads, key_heads, queries, keys, head_dim, value_dim = shape
    sizes = ((heads, queries, head_dim), (key_heads, keys, head_dim), (key_heads, keys, value_dim))
    return [rng.standard_normal((2, *size)).astype(dtype) for size in sizes]


def options_of(rng, queries, keys):
    return {
        "mask": rng.random((2, keys)) < 0.8,
        "bias": rng.standard_normal((2, keys)).astype(np.float32),
        "query_time": 1e6 + 10 * rng.random(queries),
        "key_time": 1e6 + 10 * rng.random(keys),
    }


def attend(device, q, k, v, *, half_life=None, **options):
    given = {name: device.put(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    parts = attention(*map(device.put, (q, k, v)), return_lse=True, half_life=half_life, **given)
    return tuple(map(device.get, parts))


def formula(q, k, v, *, half=None, dtype=np.float64, mask=None, bias=None, times=None):
    """The formula in `dtype`; `half` also rounds weights and result, as the tensor cores do."""
    wide = [x.astype(dtype) for x in (q, k, v)]
    options = {"mask": mask, "bias": bias, "decay": times, "dtype": dtype, "weights_dtype": half}
    out, lse = reference(*wide, q.shape[-1] ** -0.5, **options)
    return (out if half is None else out.astype(half).astype(np.float64)), lse


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("with_options", [False, True])
def test_equals_the_formula(device, rng, shape, dtype, with_options):
    half = HALVES[dtype]
    q, k, v = inputs(rng, shape, half or np.float32)
    options, as_formula = {}, {}
    if with_options:
        options = {**options_of(rng, *shape[2:4]), "half_life": 3.0}
        as_formula = {name: options[name] for name in ("mask", "bias")}
        as_formula["times"] = options["query_time"], options["key_time"], 3.0
    out, lse = attend(device, q, k, v, **options)
    assert out.dtype == q.dtype
    exact, exact_lse = formula(q, k, v, **as_formula)
    single, single_lse = formula(q, k, v, half=half, dtype=np.float32, **as_formula)
    assert_within_twice(out.astype(np.float64), single, exact)
    there = np.isfinite(exact_lse)
    np.testing.assert_array_equal(np.isfinite(lse), there)
    assert_within_twice(lse[there], single_lse[there], exact_lse[there])


@pytest.mark.parametrize("dtype", HALVES)
def test_keys_without_a_part_may_hold_anything(device, rng, dtype):
    q, k, v = inputs(rng, SHAPES[0], HALVES[dtype] or np.float32)
    mask = rng.random((2, 150)) < 0.5
    expected = attend(device, q, k, v, mask=mask)
    for x in (k, v):
        x[np.broadcast_to(~mask[:, None], x.shape[:3])] = np.nan
    bias = np.where(mask, 0, -np.inf).astype(np.float32)
    for how in ({"mask": mask}, {"bias": bias}):
        for part, same in zip(attend(device, q, k, v, **how), expected, strict=True):
            assert part.tobytes() == same.tobytes()


@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
@pytest.mark.parametrize("dim", [64, 128, 40])
@pytest.mark.parametrize("dtype", HALVES)
def test_warped_rope_while_loading_equals_a_pass_before(device, rng, dtype, dim, pairing):
    half = HALVES[dtype]
    q, k, v = inputs(rng, (2, 1, 70, 90, dim, dim), half or np.float32)
    rope = WarpedRoPE(dim, pairing=pairing)
    places = [rng.uniform(-3, 40, (n, 3)) for n in (70, 90)]
    tables = {"query_table": rope.table(places[0]), "key_table": rope.table(places[1]), "pairing": pairing}
    out, lse = attend(device, q, k, v, **tables)
    turned = [reference_rope(x, p, rope.axes_dims, 1e4, pairing) for x, p in zip((q, k), places, strict=True)]
    exact, exact_lse = formula(*turned, v)
    if half is not None and dim != 40:
        turned = [x.astype(half) for x in turned]
    single, single_lse = formula(*turned, v, half=half, dtype=np.float32)
    assert_within_twice(out.astype(np.float64), single, exact)
    assert_within_twice(lse, single_lse, exact_lse)
    # A table made on the device, for the keys only.
    one_side = {"key_table": rope.table(device.put(places[1])), "pairing": pairing}
    expected = attend(device, q, k, v, key_table=tables["key_table"], pairing=pairing)
    for part, same in zip(attend(device, q, k, v, **one_side), expected, strict=True):
        np.testing.assert_allclose(part.astype(np.float64), same.astype(np.float64), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dim", [64, 24])
def test_no_keys_and_no_queries(device, rng, dim):
    for dtype in (np.float32, ml_dtypes.bfloat16):
        q, k, v = inputs(rng, (2, 1, 130, 0, dim, dim), dtype)
        out, lse = attend(device, q, k, v)
        assert (out.astype(np.float32) == 0).all()
        assert np.isneginf(lse).all()
        q, k, v = inputs(rng, (2, 1, 0, 5, dim, dim), dtype)
        assert attend(device, q, k, v)[0].shape == (2, 2, 0, dim)
        masked = attend(device, *inputs(rng, (2, 1, 3, 70, dim, dim), dtype), mask=np.zeros((2, 70), bool))
        assert (masked[0].astype(np.float32) == 0).all()
        assert np.isneginf(masked[1]).all()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_strides_and_repetition_change_nothing(device, rng, dtype):
    q, k, v = inputs(rng, (2, 2, 150, 170, 64, 64), dtype)
    expected = attend(device, q, k, v)
    for _ in range(10):
        assert attend(device, q, k, v)[0].tobytes() == expected[0].tobytes()
    tokens_first = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (q, k, v)]
    np.testing.assert_array_equal(attend(device, *tokens_first)[0], expected[0])
    room = np.zeros((2, 2, 150, 67), dtype)  # rows that are not aligned to 16 bytes
    room[..., 3:] = q
    np.testing.assert_array_equal(attend(device, room[..., 3:], k, v)[0], expected[0])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_parts_merge_to_the_whole(device, rng, dtype):
    q, k, v = inputs(rng, (2, 2, 20, 100, 64, 64), dtype)
    whole, whole_lse = attend(device, q, k, v)
    parts = [map(device.put, attend(device, q, k[:, :, part], v[:, :, part])) for part in (slice(70), slice(70, None))]
    out, lse = map(device.get, merge_attention(*parts[0], *parts[1]))
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-6)
    tolerance = 1e-6 if dtype == np.float32 else 2e-2
    np.testing.assert_allclose(out.astype(np.float64), whole.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_bad_input_is_named(device, rng):
    q, k, v = map(device.put, inputs(rng, (2, 1, 5, 7, 64, 64), np.float32))
    half = device.put(np.zeros((2, 1, 7, 64), np.float16))
    for arguments, options, message in (
        ((q, half, v), {}, "q, k, v: expected one dtype, got float32 for q, float16 for k, float32 for v"),
        ((q, np.zeros((2, 1, 7, 64)), v), {}, "k: expected an array on cuda:0, where q is, got ndarray"),
        ((q, device.put(np.zeros((2, 1, 7, 32), np.float32)), v), {}, r"k: expected shape \(2, key_heads, N_k, 64\)"),
        ((q, k, v), {"mask": device.put(np.ones((2, 8), bool))}, r"mask: expected shape \(2, 7\), got \(2, 8\)"),
        ((q, k, v), {"mask": device.put(np.ones((2, 7)))}, "mask: expected dtype bool, got float64"),
        ((q, k, v), {"half_life": 1.0}, "query_time, key_time, half_life: expected all three or none"),
        ((q, k, v), {"pairing": "odd"}, "pairing: expected one of interleaved, split_half"),
        ((q, k, v), {"key_table": WarpedRoPE(64).table(np.zeros((6, 3)))}, r"key_table: expected shape \(7, 32\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            attention(*arguments, **options)
    wide = device.put(np.zeros((1, 1, 1, 513), np.float32))
    with pytest.raises(ValueError, match="q: expected a head dimension from 1 to 512, got 513"):
        attention(wide, wide, wide)


class TestCrossAttention:
    """The layer on the GPU against the layer on the host."""

    def data(self, rng, tokens=40):
        hidden = rng.standard_normal((2, 30, 48)).astype(np.float32)
        memory = rng.standard_normal((2, tokens, 16)).astype(np.float32)
        return hidden, memory, grid_positions(1, 5, 6), rng.uniform(0, 6, (tokens, 3))

    @pytest.mark.parametrize("cameras", [False, True])
    @pytest.mark.parametrize("positions_there", [False, True])
    def test_is_that_of_the_host(self, device, rng, cameras, positions_there):
        layer = MemoryCrossAttention(48, 16, num_heads=3, head_dim=24, half_life=2.0, gate=0.6)
        hidden, memory, where, landed = self.data(rng)
        prope = None
        if cameras:
            views = [np.stack([random_pose(rng).camera_from_world for _ in range(n)]) for n in (1, 4)]
            queries = PRoPE(24, views[0], patches_x=6, patches_y=5)
            prope = (queries, PRoPE(24, views[1], camera=rng.integers(0, 4, 40), positions=landed[:, 1:]))
        mask, times = rng.random((2, 40)) < 0.7, (rng.uniform(0, 5, 30), rng.uniform(0, 5, 40))
        expected = layer(
            hidden, memory, where, landed, mask=mask, prope=prope, query_time=times[0], memory_time=times[1]
        )
        put = device.put if positions_there else np.asarray  # positions, mask and times may stay on the host
        got = layer(
            device.put(hidden),
            device.put(memory),
            put(where),
            put(landed),
            mask=put(mask),
            prope=prope,
            query_time=put(times[0]),
            memory_time=put(times[1]),
        )
        np.testing.assert_allclose(device.get(got), expected, atol=3e-5)

    def test_in_bfloat16(self, device, rng):
        layer = MemoryCrossAttention(48, 16, num_heads=2, head_dim=64)
        hidden, memory, where, landed = self.data(rng)
        expected = layer(hidden, memory, where, landed)
        halves = [device.put(x.astype(ml_dtypes.bfloat16)) for x in (hidden, memory)]
        got = device.get(layer(*halves, where, landed))
        assert got.dtype == ml_dtypes.bfloat16
        np.testing.assert_allclose(got.astype(np.float32), expected, atol=0.08)

    def test_new_weights_are_taken_along(self, device, rng):
        layer = MemoryCrossAttention(48, 16, num_heads=3, head_dim=24)
        hidden, memory, where, landed = self.data(rng)
        before = device.get(layer(device.put(hidden), device.put(memory), where, landed))
        layer.load_weights({**layer.weights, "gate": [0.1, -0.2, 0.3]})
        after = device.get(layer(device.put(hidden), device.put(memory), where, landed))
        np.testing.assert_allclose(after, layer(hidden, memory, where, landed), atol=3e-5)
        assert np.abs(after - before).max() > 0.01

    def test_of_nothing_it_is_the_input(self, device, rng):
        hidden, memory, where, landed = self.data(rng, tokens=0)
        layer = MemoryCrossAttention(48, 16, num_heads=3, head_dim=24)
        got = layer(device.put(hidden), device.put(memory), where, landed)
        np.testing.assert_array_equal(device.get(got), hidden)

    def test_what_does_not_fit_is_named(self, device, rng):
        layer = MemoryCrossAttention(48, 16, num_heads=3, head_dim=24)
        hidden, memory, where, landed = self.data(rng)
        with pytest.raises(ValueError, match=r"hidden: expected shape \(B, N, 48\), got \(2, 30, 9\)"):
            layer(device.put(hidden[..., :9].copy()), device.put(memory), where, landed)
        with pytest.raises(ValueError, match=r"mask: expected shape \(2, 40\)"):
            layer(device.put(hidden), device.put(memory), where, landed, mask=np.ones((2, 39), bool))
        with pytest.raises(ValueError, match="memory: expected it where hidden is, on a device, got it on the CPU"):
            layer(device.put(hidden), memory, where, landed)
