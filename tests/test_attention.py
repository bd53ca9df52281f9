import resource

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import assert_within_twice, random_pose
from mosaicmem import FormatError, MemoryCrossAttention, PRoPE, WarpedRoPE, grid_positions
from mosaicmem.attention import attention, merge_attention
from reference.attention import attention as reference
from reference.attention import rope as reference_rope

pytestmark = pytest.mark.kernel

SHAPES = [  # batch, heads, queries, keys, head_dim, value_dim
    (1, 1, 1, 1, 1, 1),
    (2, 3, 7, 5, 8, 8),
    (1, 2, 97, 129, 33, 17),
    (2, 1, 200, 300, 64, 64),
    (1, 2, 13, 257, 128, 128),
    (1, 1, 5, 40, 256, 31),
]


def inputs(rng, batch, heads, queries, keys, head_dim, value_dim):
    shapes = ((queries, head_dim), (keys, head_dim), (keys, value_dim))
    return [rng.standard_normal((batch, heads, *shape)).astype(np.float32) for shape in shapes]


def as_bfloat16(*arrays):
    return [x.astype(ml_dtypes.bfloat16) for x in arrays]


def half_reference(q, k, v, scale, mask=None):
    """The formula as the dot products of bfloat16 compute it: sums in float32, weights and result rounded."""
    out, _ = reference(q, k, v, scale, mask=mask, dtype=np.float32, weights_dtype=ml_dtypes.bfloat16)
    return out.astype(ml_dtypes.bfloat16).astype(np.float64)


class TestKernel:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("masked", [False, True])
    def test_equals_the_formula(self, rng, simd, shape, masked):
        q, k, v = inputs(rng, *shape)
        scale = shape[4] ** -0.5
        options = {}
        if masked:
            options["mask"] = rng.random((shape[0], shape[3])) < 0.7
            options["bias"] = rng.standard_normal((shape[0], shape[3])).astype(np.float32)
        out, lse = attention(q, k, v, return_lse=True, **options)
        exact, exact_lse = reference(q, k, v, scale, **options)
        single, single_lse = reference(q, k, v, scale, dtype=np.float32, **options)
        assert_within_twice(out, single, exact)
        there = np.isfinite(exact_lse)
        np.testing.assert_array_equal(np.isfinite(lse), there)
        assert_within_twice(lse[there], single_lse[there], exact_lse[there])

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("masked", [False, True])
    def test_bfloat16_equals_the_formula(self, rng, simd, shape, masked):
        q, k, v = as_bfloat16(*inputs(rng, *shape))
        scale = shape[4] ** -0.5
        mask = rng.random((shape[0], shape[3])) < 0.7 if masked else None
        out, lse = attention(q, k, v, mask=mask, return_lse=True)
        assert out.dtype == ml_dtypes.bfloat16
        exact, exact_lse = reference(q, k, v, scale, mask=mask)
        half = half_reference(q, k, v, scale, mask)
        assert_within_twice(out.astype(np.float64), half, exact)
        there = np.isfinite(exact_lse)
        np.testing.assert_allclose(lse[there], exact_lse[there], atol=1e-5)

    @pytest.mark.parametrize("dim", [1, 2, 31, 64, 100, 128, 255, 256])
    def test_any_head_dim(self, rng, simd, dim):
        q, k, v = inputs(rng, 1, 1, 50, 130, dim, dim)
        exact, _ = reference(q, k, v, dim**-0.5)
        single, _ = reference(q, k, v, dim**-0.5, dtype=np.float32)
        assert_within_twice(attention(q, k, v), single, exact)
        q, k, v = as_bfloat16(q, k, v)
        exact, _ = reference(q, k, v, dim**-0.5)
        half = half_reference(q, k, v, dim**-0.5)
        assert_within_twice(attention(q, k, v).astype(np.float64), half, exact)

    @pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 1e37])
    def test_values_of_any_size(self, rng, simd, size):
        q, k, v = inputs(rng, 1, 1, 50, 70, 24, 24)
        v = (v / np.abs(v).max() * size).astype(np.float32)
        exact, _ = reference(q, k, v, 24**-0.5)
        single, _ = reference(q, k, v, 24**-0.5, dtype=np.float32)
        assert_within_twice(attention(q, k, v), single, exact)

    def test_infinite_values(self, rng, simd):
        """They stay in their head, also for heads that the same thread computes after it."""
        q, k, v = inputs(rng, 1, 4, 50, 70, 24, 24)
        clean = attention(q, k, v, num_threads=1)
        v[0, 1, 33, 5] = np.inf
        out = attention(q, k, v, num_threads=1)
        assert np.isposinf(out[0, 1, :, 5]).all()
        np.testing.assert_array_equal(np.delete(out, 1, axis=1), np.delete(clean, 1, axis=1))
        np.testing.assert_allclose(np.delete(out[0, 1], 5, axis=-1), np.delete(clean[0, 1], 5, axis=-1), atol=1e-5)

    def test_weights_that_vanish(self, rng, simd):
        """Logits down to -250 beside 0: weights are as small as float32 has numbers."""
        k, v = np.zeros((2, 1, 1, 250, 8), np.float32)
        k[..., 0], v[..., 0] = -np.arange(250), np.arange(250)
        q = np.zeros((1, 1, 3, 8), np.float32)
        q[..., 0] = [1, 0.5, 0.25]
        exact, _ = reference(q, k, v, 1.0)
        single, _ = reference(q, k, v, 1.0, dtype=np.float32)
        assert_within_twice(attention(q, k, v, scale=1.0), single, exact)

    def test_many_keys(self, rng, simd):
        q, k, v = inputs(rng, 1, 1, 9, 5000, 64, 32)
        exact, _ = reference(q, k, v, 64**-0.5)
        single, _ = reference(q, k, v, 64**-0.5, dtype=np.float32)
        assert_within_twice(attention(q, k, v), single, exact)

    @pytest.mark.parametrize("key_heads", [1, 2, 6])
    def test_grouped_heads(self, rng, key_heads):
        q, _, _ = inputs(rng, 2, 6, 20, 1, 16, 16)
        _, k, v = inputs(rng, 2, key_heads, 1, 70, 16, 24)
        out = attention(q, k, v)
        whole = [np.repeat(x, 6 // key_heads, axis=1) for x in (k, v)]
        np.testing.assert_array_equal(out, attention(q, *whole))

    def test_decay_forgets_with_time(self, rng, simd):
        q, k, v = inputs(rng, 2, 2, 60, 150, 32, 32)
        # Times of day in seconds since 1970: far beyond what float32 tells apart.
        decay = {
            "query_time": 1.7e9 + rng.uniform(0, 9, 60),
            "key_time": 1.7e9 + rng.uniform(0, 9, 150),
            "half_life": 1.5,
        }
        mask = rng.random((2, 150)) < 0.8
        bias = rng.standard_normal((2, 150)).astype(np.float32)
        exact, exact_lse = reference(q, k, v, 32**-0.5, mask, bias, tuple(decay.values()))
        single, single_lse = reference(q, k, v, 32**-0.5, mask, bias, tuple(decay.values()), dtype=np.float32)
        out, lse = attention(q, k, v, mask=mask, bias=bias, return_lse=True, **decay)
        assert_within_twice(out, single, exact)
        assert_within_twice(lse, single_lse, exact_lse)
        assert np.abs(out - attention(q, k, v, mask=mask, bias=bias)).max() > 0.05
        half = attention(*as_bfloat16(q, k, v), mask=mask, bias=bias, **decay).astype(np.float64)
        exact, _ = reference(*as_bfloat16(q, k, v), 32**-0.5, mask, bias, tuple(decay.values()))
        np.testing.assert_allclose(half, exact, atol=2**-8 * np.abs(exact).max())

    def test_large_logits_do_not_overflow(self, rng):
        q, k, v = inputs(rng, 1, 1, 20, 300, 16, 16)
        exact, _ = reference(100 * q, 100 * k, v, 0.25)
        out = attention(100 * q, 100 * k, v)
        assert np.isfinite(out).all()
        np.testing.assert_allclose(out, exact, atol=0.01)

    def test_empty_memory_gives_zeros(self, rng):
        q, k, v = inputs(rng, 2, 3, 4, 0, 8, 8)
        out, lse = attention(q, k, v, return_lse=True)
        assert (out == 0).all()
        assert (lse == -np.inf).all()

    def test_a_fully_masked_row_gives_zeros(self, rng):
        q, k, v = inputs(rng, 2, 1, 4, 200, 8, 8)
        mask = np.ones((2, 200), dtype=bool)
        mask[1] = False
        k[1], v[1] = np.nan, np.nan  # masked keys and values are ignored, even NaN
        out = attention(q, k, v, mask=mask)
        assert np.isfinite(out).all()
        assert (out[1] == 0).all()
        assert (out[0] != 0).any()

    @pytest.mark.parametrize("keys", [5, 300])
    def test_nan_is_not_silence(self, rng, keys):
        """A NaN in a query or in the memory gives NaN, never the zeros of an empty memory."""
        q, k, v = inputs(rng, 1, 1, 7, keys, 16, 16)
        expected = attention(q, k, v)
        broken = q.copy()
        broken[0, 0, 3, 0] = np.nan
        out, lse = attention(broken, k, v, return_lse=True)
        assert np.isnan(out[0, 0, 3]).all()
        assert np.isnan(lse[0, 0, 3])
        np.testing.assert_array_equal(np.delete(out, 3, axis=2), np.delete(expected, 3, axis=2))
        for where in (slice(None), slice(2, 3)):
            broken = k.copy()
            broken[0, 0, where] = np.nan
            out, lse = attention(q, broken, v, return_lse=True)
            assert np.isnan(out).all()
            assert np.isnan(lse).all()

    @pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
    def test_tables_turn_queries_and_keys_each_by_its_own(self, rng, pairing):
        q, k, v = inputs(rng, 2, 3, 9, 9, 16, 16)
        rope = WarpedRoPE(16, pairing=pairing)
        own, theirs = (rope.table(rng.uniform(0, 20, (9, 3))) for _ in range(2))
        expected = attention(rope.apply(q, own), rope.apply(k, theirs), v)
        turned = attention(q, k, v, query_table=own, key_table=theirs, pairing=pairing)
        np.testing.assert_allclose(turned, expected, atol=2e-6)
        only_keys = attention(q, k, v, key_table=theirs, pairing=pairing)
        np.testing.assert_allclose(only_keys, attention(q, rope.apply(k, theirs), v), atol=2e-6)

    def test_values_without_width(self, rng):
        q, k, _ = inputs(rng, 1, 2, 7, 9, 16, 16)
        assert attention(q, k, np.zeros((1, 2, 9, 0), np.float32)).shape == (1, 2, 7, 0)

    def test_minus_infinity_is_a_mask(self, rng):
        q, k, v = inputs(rng, 1, 2, 9, 150, 16, 16)
        mask = rng.random((1, 150)) < 0.5
        bias = np.where(mask, 0, -np.inf).astype(np.float32)
        np.testing.assert_array_equal(attention(q, k, v, mask=mask), attention(q, k, v, bias=bias))

    @pytest.mark.parametrize("half", [False, True])
    def test_parts_merge_to_the_whole(self, rng, half):
        q, k, v = inputs(rng, 1, 2, 30, 250, 32, 32)
        q, k, v = as_bfloat16(q, k, v) if half else (q, k, v)
        whole, whole_lse = attention(q, k, v, return_lse=True)
        parts = [attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 90), slice(90, 90))]
        merged = merge_attention(*parts[0], *parts[1])  # the second is empty
        np.testing.assert_array_equal(merged[0], parts[0][0])
        np.testing.assert_array_equal(merged[1], parts[0][1])
        merged, lse = merge_attention(*merged, *attention(q, k[:, :, 90:], v[:, :, 90:], return_lse=True))
        assert merged.dtype == whole.dtype
        tolerance = 2**-8 if half else 2e-6
        np.testing.assert_allclose(merged.astype(np.float64), whole.astype(np.float64), atol=tolerance)
        np.testing.assert_allclose(lse, whole_lse, atol=2e-6)

    def test_merging_rounds_bfloat16_to_the_nearest(self):
        """With equal weights, the means 1 + 2^-8 and 1 + 3 * 2^-8 lie halfway between two bfloat16: round to even."""
        a, b = as_bfloat16(np.array([[1, 1 + 2**-7, np.nan]]), np.array([[1 + 2**-7, 1 + 2**-6, 1]]))
        merged, lse = merge_attention(a, [0.0], b, [0.0])
        np.testing.assert_array_equal(merged.astype(np.float64), [[1, 1 + 2**-6, np.nan]])
        np.testing.assert_allclose(lse, np.log(2), rtol=1e-6)

    def test_nothing_merged_with_nothing_is_nothing(self, rng):
        q, k, v = inputs(rng, 1, 1, 3, 0, 8, 8)
        empty = attention(q, k, v, return_lse=True)
        out, lse = merge_attention(*empty, *empty)
        assert (out == 0).all()
        assert (lse == -np.inf).all()

    def test_layouts_and_threads_give_the_same_bytes(self, rng):
        """Views of (B, N, heads, d), as models have them, are read in place; so are slices and broadcast arrays."""
        q, k, v = inputs(rng, 2, 4, 500, 400, 64, 64)
        for arrays in ((q, k, v), as_bfloat16(q, k, v)):
            expected = attention(*arrays, num_threads=1)
            views = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in arrays]
            packed = np.ascontiguousarray(np.concatenate([arrays[1], arrays[2]], axis=-1))
            slices = [arrays[0], packed[..., :64], packed[..., 64:]]
            for threads in (1, 2, 3):
                got = attention(*views, num_threads=threads)
                assert got.tobytes() == expected.tobytes()
                assert got.strides == views[0].strides
                assert attention(*slices, num_threads=threads).tobytes() == expected.tobytes()
        one_key = np.broadcast_to(k[:, :, :1], k.shape)
        np.testing.assert_array_equal(attention(q, one_key, v), attention(q, one_key.copy(), v))
        np.testing.assert_array_equal(attention(q[:, :, ::-1], k, v), attention(q, k, v)[:, :, ::-1])

    def test_memory_does_not_grow_with_the_product(self, rng):
        """20 000 x 20 000 logits would be 1.6 GB in float32."""
        q, k, v = inputs(rng, 1, 1, 20_000, 20_000, 2, 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        attention(q, k, v)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"k": np.zeros((1, 2, 5, 9))}, r"k: expected shape \(1, key_heads, N_k, 8\), got \(1, 2, 5, 9\)"),
            ({"v": np.zeros((1, 2, 6, 8))}, r"v: expected shape \(1, 2, 5, d_v\), got \(1, 2, 6, 8\)"),
            ({"q": np.zeros((4, 8))}, r"q: expected shape \(B, heads, N_q, d\), got \(4, 8\)"),
            ({"mask": np.ones((1, 5))}, "mask: expected dtype bool, got float64"),
            ({"bias": np.full((1, 5), np.nan)}, "bias: expected finite values or -inf"),
            ({"scale": float("inf")}, "scale: expected a finite number"),
            ({"k": np.zeros((1, 3, 5, 8)), "v": np.zeros((1, 3, 5, 8))}, "k: .* divides the 2 of q, got 3"),
            ({"half_life": 1.0}, "query_time, key_time, half_life: expected all three or none"),
            ({"half_life": 0.0, "query_time": np.zeros(4), "key_time": np.zeros(5)}, "half_life: expected more than 0"),
            (
                {"half_life": 1.0, "query_time": np.zeros(3), "key_time": np.zeros(5)},
                r"query_time: expected shape \(4,",
            ),
            ({"q": np.zeros((1, 2, 4, 8), ml_dtypes.bfloat16)}, "q, k, v: expected one dtype, got bfloat16 for q only"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        good = {"q": np.zeros((1, 2, 4, 8)), "k": np.zeros((1, 2, 5, 8)), "v": np.zeros((1, 2, 5, 8))}
        with pytest.raises((TypeError, ValueError), match=message):
            attention(**{**good, **change})


class TestCrossAttention:
    def layer(self, **options):
        return MemoryCrossAttention(48, 16, num_heads=3, head_dim=24, **options)

    def data(self, rng, tokens=40):
        hidden = rng.standard_normal((2, 30, 48)).astype(np.float32)
        memory = rng.standard_normal((2, tokens, 16)).astype(np.float32)
        return hidden, memory, grid_positions(1, 5, 6), rng.uniform(0, 6, (tokens, 3))

    def test_equals_the_formula(self, rng):
        layer = self.layer()
        layer.load_weights({**layer.weights, "gate": [0.7, -0.2, 1.3]})
        hidden, memory, where, landed = self.data(rng)
        w = {name: value.astype(np.float64) for name, value in layer.weights.items()}

        def heads(x, weight):
            return (x @ weight.T).reshape(2, -1, 3, 24).transpose(0, 2, 1, 3)

        split = layer.rope.axes_dims
        q = reference_rope(heads(hidden, w["query"]), where, split, 10000.0, "interleaved")
        k = reference_rope(heads(memory, w["key"]), landed, split, 10000.0, "interleaved")
        out, _ = reference(q, k, heads(memory, w["value"]), 24**-0.5)
        out = out * np.tanh([0.7, -0.2, 1.3])[:, None, None]
        expected = hidden + out.transpose(0, 2, 1, 3).reshape(2, 30, 72) @ w["output"].T
        np.testing.assert_allclose(layer(hidden, memory, where, landed), expected, atol=2e-5)

    @pytest.mark.parametrize("cameras", [False, True])
    def test_keys_and_values_serve_all_steps(self, rng, cameras):
        """K and V, projected once per window, give the same at each denoising step as the whole layer."""
        layer = self.layer(half_life=2.0)
        _, memory, where, landed = self.data(rng)
        own = {"image_width": 64, "image_height": 48}
        views = [np.stack([random_pose(rng).camera_from_world for _ in range(n)]) for n in (1, 4)]
        prope = None
        if cameras:
            queries = PRoPE(24, views[0], patches_x=6, patches_y=5, **own)
            keys = PRoPE(24, views[1], camera=rng.integers(0, 4, 40), positions=landed[:, 1:], **own)
            prope = (queries, keys)
        options = {"mask": rng.random((2, 40)) < 0.7}
        times = rng.uniform(0, 5, 30), rng.uniform(0, 5, 40)
        ready = layer.project_memory(memory, landed, prope=prope[1] if prope else None, time=times[1], **options)
        assert len(ready) == 40
        for _ in range(3):
            hidden, *_ = self.data(rng)
            whole = layer(
                hidden, memory, where, landed, prope=prope, query_time=times[0], memory_time=times[1], **options
            )
            step = layer.attend(hidden, ready, where, prope=prope[0] if prope else None, query_time=times[0])
            assert step.tobytes() == whole.tobytes()

    def test_prope_equals_its_steps(self, rng):
        layer = self.layer(gate=0.4)
        hidden, memory, where, landed = self.data(rng)
        view = random_pose(rng).camera_from_world[None]
        queries = PRoPE(24, view, patches_x=6, patches_y=5)
        keys = PRoPE(24, view, camera=np.zeros(40, int), positions=landed[:, 1:])
        w = layer.weights

        def heads(x, weight):
            return (x @ weight.T).reshape(2, -1, 3, 24).transpose(0, 2, 1, 3)

        q, k = layer.rope.apply(heads(hidden, w["query"]), where), layer.rope.apply(heads(memory, w["key"]), landed)
        out = queries.attend(q, k, heads(memory, w["value"]), memory=keys) * np.tanh(w["gate"])[:, None, None]
        expected = hidden + out.transpose(0, 2, 1, 3).reshape(2, 30, 72) @ w["output"].T
        got = layer(hidden, memory, where, landed, prope=(queries, keys))
        np.testing.assert_allclose(got, expected, atol=2e-5)

    def test_each_head_has_its_gate(self, rng):
        layer = self.layer()
        arguments = self.data(rng)
        parts = []
        for head in range(3):
            gate = np.zeros(3)
            gate[head] = 0.3 * (head + 1)
            layer.load_weights({**layer.weights, "gate": gate})
            parts.append(layer(*arguments) - arguments[0])
        layer.load_weights({**layer.weights, "gate": [0.3, 0.6, 0.9]})
        np.testing.assert_allclose(layer(*arguments) - arguments[0], sum(parts), atol=1e-5)
        assert np.abs(parts[1]).max() > 0.01

    def test_empty_memory_returns_the_input_unchanged(self, rng):
        hidden, memory, where, landed = self.data(rng, tokens=0)
        assert self.layer()(hidden, memory, where, landed).tobytes() == hidden.tobytes()

    def test_a_closed_gate_returns_the_input_unchanged(self, rng):
        arguments = self.data(rng)
        np.testing.assert_array_equal(self.layer(gate=0.0)(*arguments), arguments[0])

    def test_masked_memory_plays_no_part(self, rng):
        layer = self.layer()
        hidden, memory, where, landed = self.data(rng)
        mask = np.ones((2, 40), dtype=bool)
        mask[:, 25:] = False
        np.testing.assert_allclose(
            layer(hidden, memory, where, landed, mask=mask),
            layer(hidden, memory[:, :25], where, landed[:25]),
            atol=1e-6,
        )

    def test_memory_is_found_by_where_it_lands(self, rng):
        """With constant queries and keys, RoPE alone makes a query attend to the token that lands on it."""
        rope = WarpedRoPE(48, (0, 24, 24), theta=50.0)
        where = grid_positions(1, 6, 6)
        q = np.broadcast_to(np.ones(48, np.float32) * 6, (1, 1, 36, 48))
        tokens = np.arange(36, dtype=np.float32)[:, None].repeat(4, axis=1)
        order = rng.permutation(36)
        keys = rope.apply(q, where[order])
        out = attention(rope.apply(q, where), keys, tokens[order][None, None])
        np.testing.assert_allclose(out[0, 0, :, 0], np.arange(36), atol=0.05)

    def test_seeds_and_weights(self, rng):
        arguments = self.data(rng)
        a, b = self.layer(seed=1), self.layer(seed=2)
        assert np.abs(a(*arguments) - b(*arguments)).max() > 0.01
        b.load_weights(a.weights)
        assert a(*arguments).tobytes() == b(*arguments).tobytes()
        with pytest.raises(ValueError, match="weights: expected the names"):
            b.load_weights({"query": a.weights["query"]})
        with pytest.raises(ValueError, match=r"weights\['gate'\]: expected shape \(3,\), got \(4,\)"):
            b.load_weights({**a.weights, "gate": np.zeros(4)})
        assert a(*arguments).tobytes() == b(*arguments).tobytes()
        with pytest.raises(TypeError, match="does not support item assignment"):
            a.weights["query"] = np.zeros((1, 1), np.float32)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
    def test_weights_come_from_safetensors(self, rng, tmp_path, dtype):
        """From a larger checkpoint, under a prefix, in the checkpoint's precision."""
        source, target = self.layer(seed=1), self.layer(seed=2)
        halves = {f"blocks.3.{name}": w.astype(dtype) for name, w in source.weights.items()}
        save_file({**halves, "another": np.zeros(3)}, tmp_path / "model.safetensors")
        target.load_weights(tmp_path / "model.safetensors", prefix="blocks.3.")
        for name, weight in target.weights.items():
            np.testing.assert_array_equal(weight, halves[f"blocks.3.{name}"].astype(np.float32))
        target.save_weights(tmp_path / "own.safetensors")
        again = self.layer(seed=3)
        again.load_weights(str(tmp_path / "own.safetensors"))
        arguments = self.data(rng)
        assert again(*arguments).tobytes() == target(*arguments).tobytes()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"gate": None}, r"no tensor named 'gate'; are they of another model\? It has key, output, query, value"),
            ({"gate": np.zeros(4)}, r"gate: expected shape \(3,\), got \(4,\)"),
            ({"gate": np.zeros(3, int)}, "gate: expected F32, F64, F16 or BF16, got I64"),
            ({"gate": np.full(3, np.nan)}, "gate: expected finite values"),
        ],
    )
    def test_wrong_weights_files_are_named(self, tmp_path, change, message):
        layer = self.layer()
        before = layer.weights
        path = tmp_path / "model.safetensors"
        save_file({k: v for k, v in {**before, **change}.items() if v is not None}, path)
        with pytest.raises(FormatError, match=rf"model\.safetensors: {message}"):
            layer.load_weights(path)
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(FormatError, match=r"model\.safetensors: not a safetensors file"):
            layer.load_weights(path)
        with pytest.raises(FileNotFoundError, match="weights: expected a safetensors file"):
            layer.load_weights(tmp_path / "absent")
        assert layer.weights is before

    def test_bad_input_is_named(self, rng):
        hidden, memory, where, landed = self.data(rng)
        with pytest.raises(ValueError, match=r"hidden: expected shape \(B, N, 48\)"):
            self.layer()(hidden[..., :9], memory, where, landed)
        with pytest.raises(TypeError, match="prope: expected a pair"):
            self.layer()(hidden, memory, where, landed, prope=object())
        with pytest.raises(ValueError, match="memory: expected a batch of 2 as hidden has, got 1"):
            self.layer()(hidden, memory[:1], where, landed)
        with pytest.raises(ValueError, match=r"positions: expected shape \(40, 3\)"):
            self.layer()(hidden, memory, where, landed[:5])
        with pytest.raises(ValueError, match="memory_time: expected the time of each memory token"):
            self.layer(half_life=1.0)(hidden, memory, where, landed)
        with pytest.raises(ValueError, match="query_time: expected the time of each query"):
            self.layer(half_life=1.0)(hidden, memory, where, landed, memory_time=np.zeros(40))
        ready = self.layer().project_memory(memory, landed)
        with pytest.raises(
            ValueError, match="prope: expected cameras of both queries and memory tokens, or of neither"
        ):
            self.layer().attend(hidden, ready, where, prope=PRoPE(24, np.eye(4)[None], patches_x=6, patches_y=5))
        with pytest.raises(TypeError, match="memory: expected MemoryKeysValues"):
            self.layer().attend(hidden, memory, where)
