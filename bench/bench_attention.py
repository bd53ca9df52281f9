"""Memory attention, float32, beside torch's scaled_dot_product_attention; and Warped RoPE beside copy and formula."""

import numpy as np
import pytest

from conftest import peer
from mosaicmem import PRoPE, WarpedRoPE
from mosaicmem.attention import attention

SHAPES = [(8, 1560, 1024, 64), (12, 1560, 4096, 128)]


def inputs(heads, queries, keys, dim):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, heads, n, dim)).astype(np.float32) for n in (queries, keys, keys)]


@pytest.mark.parametrize("shape", SHAPES, ids=["8x1560x1024x64", "12x1560x4096x128"])
@pytest.mark.benchmark(group="attention")
class TestAttention:
    def test_mosaicmem(self, benchmark, shape, threads):
        benchmark.group = f"attention {shape}"
        out = benchmark.pedantic(
            attention, args=inputs(*shape), kwargs={"num_threads": threads}, rounds=9, warmup_rounds=1
        )
        heads, queries, keys, dim = shape
        if benchmark.stats:  # not with --benchmark-disable
            flops = 4 * heads * queries * keys * dim
            benchmark.extra_info["GFLOP/s"] = round(flops / benchmark.stats.stats.median / 1e9)
        q, k, v = inputs(*shape)
        logits = np.einsum("bhqd,bhkd->bhqk", q[:, :, :8].astype(np.float64), k) / np.sqrt(dim)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(axis=-1, keepdims=True), v)
        np.testing.assert_allclose(out[:, :, :8], expected, atol=1e-5)

    def test_torch(self, benchmark, shape, threads):
        torch = peer("torch")
        torch.set_num_threads(threads)
        benchmark.group = f"attention {shape}"
        tensors = [torch.from_numpy(x) for x in inputs(*shape)]
        out = benchmark.pedantic(
            torch.nn.functional.scaled_dot_product_attention, args=tensors, rounds=9, warmup_rounds=1
        )
        np.testing.assert_allclose(attention(*inputs(*shape)), out.numpy(), atol=1e-5)


@pytest.mark.benchmark(group="positions on (1, 12, 4096, 128)")
class TestPositions:
    @pytest.fixture
    def x(self):
        return np.random.default_rng(0).standard_normal((1, 12, 4096, 128)).astype(np.float32)

    @pytest.fixture
    def positions(self):
        return np.random.default_rng(1).uniform(0, 80, (4096, 3))

    def test_mosaicmem_warped_rope(self, benchmark, x, positions, threads):
        rope = WarpedRoPE(128)
        benchmark(rope.apply, x, rope.table(positions), num_threads=threads)

    def test_mosaicmem_warped_rope_and_its_table(self, benchmark, x, positions, threads):
        benchmark(WarpedRoPE(128).apply, x, positions, num_threads=threads)

    def test_mosaicmem_prope(self, benchmark, x, threads):
        prope = PRoPE(128, np.tile(np.eye(4), (4, 1, 1)), patches_x=32, patches_y=32)
        benchmark(prope.apply_to_q, x, num_threads=threads)

    def test_torch_rope_formula(self, benchmark, x, positions, threads):
        """The usual complex product, with the frequencies ready."""
        torch = peer("torch")
        torch.set_num_threads(threads)
        table = WarpedRoPE(128).table(positions)
        turn = torch.complex(torch.from_numpy(table.cos), torch.from_numpy(table.sin)).to(torch.complex64)
        tensor = torch.from_numpy(x)

        def run():
            pairs = torch.view_as_complex(tensor.reshape(1, 12, 4096, 64, 2))
            return torch.view_as_real(pairs * turn).flatten(-2)

        out = benchmark(run)
        np.testing.assert_allclose(WarpedRoPE(128).apply(x, positions), out.numpy(), atol=1e-5)

    def test_limit_copy(self, benchmark, x):
        target = np.empty_like(x)
        benchmark(np.copyto, target, x)
