"""Memory attention in float32 and bfloat16 against torch's scaled_dot_product_attention, and the layer around it."""

import numpy as np
import pytest

from conftest import peer
from mosaicmem import MemoryCrossAttention, _core, grid_positions
from mosaicmem.attention import attention

SHAPES = [(8, 1560, 1024, 64), (12, 1560, 4096, 128)]  # heads, queries, keys, head_dim
IDS = ["8x1560x1024x64", "12x1560x4096x128"]


def inputs(heads, queries, keys, dim):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, heads, n, dim)).astype(np.float32) for n in (queries, keys, keys)]


def report_rate(benchmark, flops):
    if benchmark.stats:  # not with --benchmark-disable
        benchmark.extra_info["GFLOP/s"] = round(flops / benchmark.stats.stats.median / 1e9)


def attention_flops(heads, queries, keys, dim):
    return 4 * heads * queries * keys * dim


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
class TestAttention:
    def test_mosaicmem(self, benchmark, shape, threads):
        benchmark.group = f"attention {shape}, float32"
        arguments = inputs(*shape)
        out = benchmark.pedantic(attention, arguments, {"num_threads": threads}, rounds=15, warmup_rounds=2)
        report_rate(benchmark, attention_flops(*shape))
        q, k, v = arguments
        logits = np.einsum("bhqd,bhkd->bhqk", q[:, :, :8].astype(np.float64), k) / np.sqrt(shape[3])
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(axis=-1, keepdims=True), v)
        np.testing.assert_allclose(out[:, :, :8], expected, atol=1e-5)

    def test_torch(self, benchmark, shape, threads):
        torch = peer("torch")
        torch.set_num_threads(threads)
        benchmark.group = f"attention {shape}, float32"
        tensors = [torch.from_numpy(x) for x in inputs(*shape)]
        out = benchmark.pedantic(torch.nn.functional.scaled_dot_product_attention, tensors, rounds=15, warmup_rounds=2)
        report_rate(benchmark, attention_flops(*shape))
        np.testing.assert_allclose(attention(*inputs(*shape)), out.numpy(), atol=1e-5)

    def test_mosaicmem_with_decay_and_mask(self, benchmark, shape, threads):
        benchmark.group = f"attention {shape}, float32"
        _, queries, keys, _ = shape
        options = {
            "mask": np.arange(keys)[None] % 8 != 3,
            "query_time": np.linspace(0, 5, queries),
            "key_time": np.linspace(0, 5, keys),
            "half_life": 2.0,
            "num_threads": threads,
        }
        benchmark.pedantic(attention, inputs(*shape), options, rounds=15, warmup_rounds=2)

    def test_mosaicmem_as_avx2(self, benchmark, shape, threads):
        benchmark.group = f"attention {shape}, float32"
        best = _core.simd_level()
        if int(best) < int(_core.SimdLevel.avx2):
            pytest.skip("this machine has no AVX2")
        _core.limit_simd_level(_core.SimdLevel.avx2)
        try:
            benchmark.pedantic(attention, inputs(*shape), {"num_threads": threads}, rounds=9, warmup_rounds=1)
        finally:
            _core.limit_simd_level(best)
        report_rate(benchmark, attention_flops(*shape))


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
class TestBfloat16:
    def test_mosaicmem(self, benchmark, shape, threads):
        torch = peer("torch")
        benchmark.group = f"attention {shape}, bfloat16"
        tensors = [torch.from_numpy(x).bfloat16() for x in inputs(*shape)]
        out = benchmark.pedantic(attention, tensors, {"num_threads": threads}, rounds=15, warmup_rounds=2)
        report_rate(benchmark, attention_flops(*shape))
        expected = attention(*(x.float() for x in tensors))
        torch.testing.assert_close(out.float(), expected, atol=2**-8, rtol=2**-8)

    def test_torch(self, benchmark, shape, threads):
        torch = peer("torch")
        torch.set_num_threads(threads)
        benchmark.group = f"attention {shape}, bfloat16"
        tensors = [torch.from_numpy(x).bfloat16() for x in inputs(*shape)]
        benchmark.pedantic(torch.nn.functional.scaled_dot_product_attention, tensors, rounds=15, warmup_rounds=2)
        report_rate(benchmark, attention_flops(*shape))


@pytest.mark.benchmark(group="projection (4096, 256) to 1536, float32")
class TestProjection:
    FLOPS = 2 * 4096 * 256 * 1536

    @pytest.fixture
    def operands(self, rng):
        return [rng.standard_normal(shape).astype(np.float32) for shape in ((4096, 256), (1536, 256))]

    def test_mosaicmem(self, benchmark, operands, threads):
        out = benchmark(_core.linear, *operands, threads)
        report_rate(benchmark, self.FLOPS)
        np.testing.assert_allclose(out, operands[0] @ operands[1].T, atol=1e-3)

    def test_numpy(self, benchmark, operands):
        x, weight = operands
        benchmark(lambda: x @ weight.T)
        report_rate(benchmark, self.FLOPS)

    def test_torch(self, benchmark, operands, threads):
        torch = peer("torch")
        torch.set_num_threads(threads)
        benchmark(torch.nn.functional.linear, *(torch.from_numpy(x) for x in operands))
        report_rate(benchmark, self.FLOPS)


@pytest.mark.benchmark(group="memory cross-attention, 1560 tokens of 768 to 4096 of memory, 12 heads of 64")
class TestLayer:
    @pytest.fixture
    def case(self, rng, threads):
        layer = MemoryCrossAttention(768, 64, 12, 64, num_threads=threads)
        hidden = rng.standard_normal((1, 1560, 768)).astype(np.float32)
        memory = rng.standard_normal((1, 4096, 64)).astype(np.float32)
        return layer, hidden, memory, grid_positions(1, 30, 52), rng.uniform(0, 50, (4096, 3))

    def test_mosaicmem_step_with_ready_keys(self, benchmark, case):
        layer, hidden, memory, where, landed = case
        ready, table = layer.project_memory(memory, landed), layer.rope.table(where)
        out = benchmark(layer.attend, hidden, ready, table)
        np.testing.assert_array_equal(out, layer(*case[1:]))

    def test_step_beside_a_spinning_blas(self, benchmark, case):
        """What the step would cost if NumPy's BLAS made the products: its threads spin after each."""
        layer, hidden, memory, where, landed = case
        ready, table = layer.project_memory(memory, landed), layer.rope.table(where)
        weight = np.ones((768, 768), np.float32)

        def step():
            layer.attend(hidden, ready, table)
            return hidden @ weight

        benchmark(step)

    def test_whole_layer(self, benchmark, case):
        layer, *arguments = case
        benchmark(layer, *arguments)
