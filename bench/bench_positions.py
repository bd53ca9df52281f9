"""Warped RoPE and PRoPE on (1, 12, 4096, 128), against a copy of the tensor and the usual formulas in torch."""

import numpy as np
import pytest

from conftest import peer
from mosaicmem import PRoPE, WarpedRoPE

HEADS, TOKENS, DIM = 12, 4096, 128
CAMERAS, SIDE = 4, 32


@pytest.fixture(params=["float32", "bfloat16"])
def x(request, benchmark, threads):
    torch = peer("torch")
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    benchmark.group = f"positions into (1, {HEADS}, {TOKENS}, {DIM}) {request.param}"
    return torch.randn(1, HEADS, TOKENS, DIM, generator=generator).to(getattr(torch, request.param))


@pytest.fixture
def table(rng):
    return WarpedRoPE(DIM).table(rng.uniform(0, 80, (TOKENS, 3)))


@pytest.fixture
def views(rng):
    """camera_from_world of cameras about a metre apart."""
    views = np.tile(np.eye(4), (CAMERAS, 1, 1))
    views[:, :3, 3] = rng.standard_normal((CAMERAS, 3))
    return views


def agree(x, ours, theirs):
    tolerance = 1e-5 if x.dtype.itemsize == 4 else 2**-7
    assert float((ours.float() - theirs.float()).abs().max()) <= tolerance * float(theirs.float().abs().max())


def measure(benchmark, function, *arguments, rounds=200, **options):
    return benchmark.pedantic(function, arguments, options, rounds=rounds, warmup_rounds=20)


def test_limit_copy(benchmark, x):
    """Into existing memory."""
    measure(benchmark, x.clone().copy_, x)


def test_limit_clone(benchmark, x):
    """Into new memory, as in all other benchmarks here."""
    measure(benchmark, x.clone)


def test_mosaicmem_warped_rope(benchmark, x, table, threads):
    measure(benchmark, WarpedRoPE(DIM).apply, x, table, num_threads=threads)


def test_mosaicmem_warped_rope_split_half(benchmark, x, table, threads):
    measure(benchmark, WarpedRoPE(DIM, pairing="split_half").apply, x, table, num_threads=threads)


def test_table_of_4096_tokens(benchmark, rng, x, threads):
    measure(benchmark, WarpedRoPE(DIM).table, rng.uniform(0, 80, (TOKENS, 3)), num_threads=threads)


@pytest.mark.parametrize("layout", ["half", "full", "contiguous"])
def test_mosaicmem_prope(benchmark, x, views, layout, threads):
    encoding = PRoPE(DIM, views, patches_x=SIDE, patches_y=SIDE, layout=layout)
    benchmark.extra_info["layout"] = layout
    measure(benchmark, encoding.apply_to_q, x, num_threads=threads)


def test_torch_rope_strided_halves(benchmark, x, table):
    """Even and odd features separately, two products each, written back interleaved."""
    torch = peer("torch")
    cos, sin = (torch.from_numpy(a).to(x.dtype) for a in (table.cos, table.sin))

    def run():
        even, odd = x[..., ::2], x[..., 1::2]
        out = torch.empty_like(x)
        out[..., ::2] = even * cos - odd * sin
        out[..., 1::2] = even * sin + odd * cos
        return out

    agree(x, WarpedRoPE(DIM).apply(x, table), measure(benchmark, run, rounds=20))


def test_torch_rope_float64_complex(benchmark, x, table):
    """Pairs as complex numbers in float64, as in Wan's own code."""
    torch = peer("torch")
    turn = torch.from_numpy(table.frequencies)

    def run():
        pairs = torch.view_as_complex(x.to(torch.float64).reshape(1, HEADS, TOKENS, DIM // 2, 2))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)

    agree(x, WarpedRoPE(DIM).apply(x, table), measure(benchmark, run, rounds=20))


def test_torch_rope_complex64(benchmark, x, table):
    """Pairs as complex numbers in float32: the fastest torch formula for float32."""
    torch = peer("torch")
    turn = torch.from_numpy(table.frequencies).to(torch.complex64)

    def run():
        pairs = torch.view_as_complex(x.float().reshape(1, HEADS, TOKENS, DIM // 2, 2))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)

    agree(x, WarpedRoPE(DIM).apply(x, table), measure(benchmark, run, rounds=20))


def test_torch_prope_formula(benchmark, x, views):
    """Layout "half" from its definition: an einsum with the camera matrices, and two split-half rotations."""
    torch = peer("torch")
    matrices = torch.from_numpy(views.transpose(0, 2, 1).astype(np.float32)).to(x.dtype)
    n = DIM // 8
    row, column = np.divmod(np.tile(np.arange(SIDE * SIDE), CAMERAS), SIDE)
    frequencies = 100.0 ** (-np.arange(n) / n)
    angles = [torch.from_numpy(place[:, None] * frequencies) for place in (column, row)]
    tables = [(a.cos().to(x.dtype), a.sin().to(x.dtype)) for a in angles]

    def rotate(features, cos, sin):
        a, b = features.chunk(2, dim=-1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)

    def run():
        blocks = x[..., : DIM // 2].reshape(1, HEADS, CAMERAS, -1, n, 4)
        projected = torch.einsum("cij,bhctpj->bhctpi", matrices, blocks).reshape(1, HEADS, TOKENS, DIM // 2)
        quarters = [rotate(q, *t) for q, t in zip(x[..., DIM // 2 :].chunk(2, dim=-1), tables, strict=True)]
        return torch.cat([projected, *quarters], dim=-1)

    out = measure(benchmark, run, rounds=20)
    agree(x, PRoPE(DIM, views, patches_x=SIDE, patches_y=SIDE).apply_to_q(x), out)
