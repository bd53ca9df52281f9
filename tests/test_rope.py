import math

import numpy as np
import pytest

from conftest import assert_within_twice
from mosaicmem import RotaryTable, WarpedRoPE, grid_positions
from reference.attention import rope as reference

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
@pytest.mark.parametrize(
    ("head_dim", "axes_dims"), [(128, None), (64, None), (10, (6, 4, 0)), (2, (2, 0, 0)), (30, (10, 8, 12))]
)
def test_equals_the_formula(rng, pairing, head_dim, axes_dims):
    rope = WarpedRoPE(head_dim, axes_dims, pairing=pairing)
    x = rng.standard_normal((2, 3, 77, head_dim)).astype(np.float32)
    positions = rng.uniform(-50, 100, (77, 3))
    exact = reference(x, positions, rope.axes_dims, 10000.0, pairing)
    single = reference(x, positions, rope.axes_dims, 10000.0, pairing, np.float32)
    assert_within_twice(rope.apply(x, positions), single, exact)
    np.testing.assert_allclose(rope.apply(x.astype(np.float64), positions), exact, rtol=0, atol=1e-12)


def test_wan_split_is_the_default():
    assert WarpedRoPE(128).axes_dims == (44, 42, 42)
    assert WarpedRoPE(64).axes_dims == (24, 20, 20)


def test_integer_positions_equal_the_standard_table_bit_for_bit():
    """The table as video transformers build it: outer product of integer positions and frequencies, axis by axis."""
    rope = WarpedRoPE(128)
    positions = grid_positions(5, 7, 9)
    table = rope.table(positions)
    columns = []
    for axis, dim in enumerate(rope.axes_dims):
        frequencies = 1.0 / 10000.0 ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
        columns.append(np.outer(positions[:, axis], frequencies))
    angles = np.concatenate(columns, axis=1)
    np.testing.assert_array_equal(table.cos, np.vectorize(math.cos)(angles))
    np.testing.assert_array_equal(table.sin, np.vectorize(math.sin)(angles))


def test_a_table_serves_every_layer(rng):
    rope = WarpedRoPE(64)
    positions = rng.uniform(0, 90, (50, 3))
    table = rope.table(positions)
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal((4, 50, 64)).astype(dtype)
        np.testing.assert_array_equal(rope.apply(x, table), rope.apply(x, positions))
    with pytest.raises(ValueError, match=r"positions: expected shape \(49, 32\), got \(50, 32\)"):
        rope.apply(x[:, :49], table)


def test_a_table_must_be_whole():
    with pytest.raises(ValueError, match=r"sin: expected shape \(9, 32\), got \(1, 32\)"):
        RotaryTable(np.zeros((9, 32)), np.zeros((1, 32)))


def test_inverse_undoes_it(rng):
    rope = WarpedRoPE(64)
    x = rng.standard_normal((4, 50, 64)).astype(np.float32)
    positions = rng.uniform(0, 90, (50, 3))
    np.testing.assert_allclose(rope.apply(rope.apply(x, positions), positions, inverse=True), x, atol=1e-6)


def test_logits_depend_on_relative_positions_only(rng):
    rope = WarpedRoPE(64)
    q, k = rng.standard_normal((2, 20, 64))
    a, b = rng.uniform(0, 40, (2, 20, 3))
    shift = np.array([3.0, -7.5, 11.25])
    before = rope.apply(q, a) @ rope.apply(k, b).T
    after = rope.apply(q, a + shift) @ rope.apply(k, b + shift).T
    np.testing.assert_allclose(after, before, atol=1e-10)


def test_grid_positions_run_x_fastest():
    np.testing.assert_array_equal(
        grid_positions(2, 1, 3), [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 2]]
    )


def test_layouts_threads_and_empty_input(rng):
    rope = WarpedRoPE(64)
    x = rng.standard_normal((3, 64, 700)).astype(np.float32).transpose(0, 2, 1)  # not contiguous
    positions = rng.uniform(0, 90, (700, 3))
    expected = rope.apply(np.ascontiguousarray(x), positions, num_threads=1)
    for threads in (1, 2, 5):
        assert rope.apply(x, positions, num_threads=threads).tobytes() == expected.tobytes()
    assert rope.apply(np.zeros((2, 0, 64), np.float32), np.zeros((0, 3))).shape == (2, 0, 64)
    assert rope.apply(np.zeros((0, 5, 64), np.float32), np.zeros((5, 3))).shape == (0, 5, 64)


def test_bad_input_is_named(rng):
    with pytest.raises(ValueError, match="axes_dims: expected three even numbers that sum to head_dim = 64"):
        WarpedRoPE(64, (22, 21, 21))
    with pytest.raises(ValueError, match=r"x: expected shape \(any, N, 64\), got \(2, 5, 32\)"):
        WarpedRoPE(64).apply(np.zeros((2, 5, 32)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"positions: expected shape \(5, 3\), got \(4, 3\)"):
        WarpedRoPE(64).apply(np.zeros((2, 5, 64)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="positions: expected finite values"):
        WarpedRoPE(64).apply(np.zeros((1, 64)), [[0, np.nan, 0]])
