import math

import ml_dtypes
import numpy as np
import pytest

from conftest import assert_within_twice
from mosaicmem import CameraIntrinsics, CameraPose, RotaryTable, WarpedRoPE, grid_positions, reproject_depth_grid
from mosaicmem.attention import warped_positions
from reference.attention import rope as reference

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
@pytest.mark.parametrize(
    ("head_dim", "axes_dims"), [(128, None), (64, None), (10, (6, 4, 0)), (2, (2, 0, 0)), (30, (10, 8, 12))]
)
@pytest.mark.usefixtures("anywhere")
def test_equals_the_formula(rng, simd, pairing, head_dim, axes_dims):
    rope = WarpedRoPE(head_dim, axes_dims, pairing=pairing)
    x = rng.standard_normal((2, 3, 77, head_dim)).astype(np.float32)
    positions = rng.uniform(-50, 100, (77, 3))
    exact = reference(x, positions, rope.axes_dims, 10000.0, pairing)
    single = reference(x, positions, rope.axes_dims, 10000.0, pairing, np.float32)
    assert_within_twice(rope.apply(x, positions), single, exact)
    np.testing.assert_allclose(rope.apply(x.astype(np.float64), positions), exact, rtol=0, atol=1e-12)
    half = x.astype(ml_dtypes.bfloat16)
    exact = reference(half, positions, rope.axes_dims, 10000.0, pairing)
    rounded = reference(half, positions, rope.axes_dims, 10000.0, pairing, np.float32).astype(ml_dtypes.bfloat16)
    got = rope.apply(half, positions)
    assert got.dtype == ml_dtypes.bfloat16
    assert_within_twice(got.astype(np.float64), rounded.astype(np.float64), exact)


@pytest.mark.usefixtures("anywhere")
def test_wan_split_is_the_default():
    assert WarpedRoPE(128).axes_dims == (44, 42, 42)
    assert WarpedRoPE(64).axes_dims == (24, 20, 20)


@pytest.mark.usefixtures("anywhere")
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


@pytest.mark.usefixtures("anywhere")
def test_a_table_serves_every_layer(rng):
    rope = WarpedRoPE(64)
    positions = rng.uniform(0, 90, (50, 3))
    table = rope.table(positions)
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal((4, 50, 64)).astype(dtype)
        np.testing.assert_array_equal(rope.apply(x, table), rope.apply(x, positions))
    with pytest.raises(ValueError, match=r"positions: expected shape \(49, 32\), got \(50, 32\)"):
        rope.apply(x[:, :49], table)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
def test_tables_for_models_that_apply_rope_themselves(rng, pairing):
    rope = WarpedRoPE(48, pairing=pairing)
    x = rng.standard_normal((2, 9, 48))
    table = rope.table(rng.uniform(0, 40, (9, 3)))
    expected = rope.apply(x, table)
    cos, sin = table.per_feature(pairing)
    if pairing == "interleaved":
        turned = np.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        pairs = (x[..., ::2] + 1j * x[..., 1::2]) * table.frequencies
        np.testing.assert_allclose(np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape), expected, atol=1e-13)
    else:
        turned = np.concatenate([-x[..., 24:], x[..., :24]], axis=-1)
    np.testing.assert_allclose(x * cos + turned * sin, expected, atol=1e-13)


@pytest.mark.usefixtures("anywhere")
def test_positions_come_from_the_reprojection():
    """A token seen by a camera that has not moved lands on its own grid position, at the given time."""
    camera = CameraIntrinsics.from_fov(80, 48, fov_x=np.radians(70))
    projected, valid = reproject_depth_grid(np.full((6, 10), 2.0), 8, camera, CameraPose(), camera, CameraPose())
    assert valid.all()
    positions = warped_positions(projected.reshape(-1, 3), 8, 2)
    np.testing.assert_allclose(positions, grid_positions(3, 6, 10)[-60:], atol=1e-5)
    shifted = CameraPose(np.array([[1, 0, 0, 0.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    projected, _ = reproject_depth_grid(np.full((6, 10), 2.0), 8, camera, CameraPose(), camera, shifted)
    offsets = np.linspace(-3, 0, 60)
    moved = warped_positions(projected.reshape(-1, 3), 8, offsets)
    np.testing.assert_array_equal(moved[:, 0], offsets)  # temporal="offset"
    np.testing.assert_allclose(moved[:, 2] - positions[:, 2], -camera.fx * 0.25 / 2 / 8, atol=1e-5)


@pytest.mark.usefixtures("anywhere")
def test_offset_queries_stand_at_time_zero():
    assert (grid_positions(3, 2, 2, temporal="offset")[:, 0] == 0).all()
    with pytest.raises(ValueError, match="temporal: expected one of target, offset"):
        grid_positions(1, 1, 1, temporal="source")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("projected", "t", "message"),
    [
        (np.zeros((4, 4)), 0, r"projected: expected shape \(N, 2\) or \(N, 3\), got \(4, 4\)"),
        (np.full((4, 2), np.nan), 0, "projected: expected finite values"),
        (np.zeros((4, 2)), np.zeros(3), r"t: expected shape \(4,\), got \(3,\)"),
    ],
)
def test_bad_landings_are_named(projected, t, message):
    with pytest.raises(ValueError, match=message):
        warped_positions(projected, 8, t)


@pytest.mark.usefixtures("anywhere")
def test_a_table_must_be_whole():
    with pytest.raises(ValueError, match=r"sin: expected shape \(9, 32\), got \(1, 32\)"):
        RotaryTable(np.zeros((9, 32)), np.zeros((1, 32)))


@pytest.mark.usefixtures("anywhere")
def test_inverse_undoes_it(rng):
    rope = WarpedRoPE(64)
    x = rng.standard_normal((4, 50, 64)).astype(np.float32)
    positions = rng.uniform(0, 90, (50, 3))
    np.testing.assert_allclose(rope.apply(rope.apply(x, positions), positions, inverse=True), x, atol=1e-6)


@pytest.mark.usefixtures("anywhere")
def test_logits_depend_on_relative_positions_only(rng):
    rope = WarpedRoPE(64)
    q, k = rng.standard_normal((2, 20, 64))
    a, b = rng.uniform(0, 40, (2, 20, 3))
    shift = np.array([3.0, -7.5, 11.25])
    before = rope.apply(q, a) @ rope.apply(k, b).T
    after = rope.apply(q, a + shift) @ rope.apply(k, b + shift).T
    np.testing.assert_allclose(after, before, atol=1e-10)


@pytest.mark.usefixtures("anywhere")
def test_grid_positions_run_x_fastest():
    np.testing.assert_array_equal(
        grid_positions(2, 1, 3), [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 2]]
    )


@pytest.mark.usefixtures("anywhere")
def test_layouts_threads_and_empty_input(rng):
    rope = WarpedRoPE(64)
    x = rng.standard_normal((3, 700, 2, 64)).astype(np.float32).transpose(0, 2, 1, 3)  # (B, heads, N, d) of a model
    by_column = np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    positions = rng.uniform(0, 90, (700, 3))
    expected = rope.apply(np.ascontiguousarray(x), positions, num_threads=1)
    for threads in (1, 2, 5):
        for view in (x, by_column):
            assert rope.apply(view, positions, num_threads=threads).tobytes() == expected.tobytes()
    many = np.broadcast_to(x[:, None], (3, 5, 2, 700, 64))
    np.testing.assert_array_equal(rope.apply(many, positions)[:, 4], expected)
    assert rope.apply(np.zeros((2, 0, 64), np.float32), np.zeros((0, 3))).shape == (2, 0, 64)
    assert rope.apply(np.zeros((0, 5, 64), np.float32), np.zeros((5, 3))).shape == (0, 5, 64)


@pytest.fixture(scope="module")
def large():
    """More values than any cache holds, and positions for their tokens at the smallest head dimension."""
    rng = np.random.default_rng(20261122)
    values = rng.standard_normal(3 * 2**20, dtype=np.float32)
    return [values, values.astype(ml_dtypes.bfloat16)], rng.uniform(0, 90, (len(values) // 16, 3))


@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
@pytest.mark.parametrize("dim", [16, 48, 64, 80, 96])
def test_results_beyond_the_caches_are_the_same(large, simd, pairing, dim):
    """Large results are written with non-temporal stores, in whole vectors at any offset."""
    rope = WarpedRoPE(dim, pairing=pairing)
    tokens = 3 * 2**20 // dim
    positions = large[1][:tokens]
    for values in large[0]:
        x = values[: tokens * dim].reshape(1, tokens, dim)
        step = tokens // 16
        pieces = [rope.apply(x[:, s : s + step], positions[s : s + step]) for s in range(0, tokens, step)]
        np.testing.assert_array_equal(rope.apply(x, positions), np.concatenate(pieces, axis=1))


def test_bad_input_is_named(rng):
    with pytest.raises(ValueError, match="axes_dims: expected three even numbers that sum to head_dim = 64"):
        WarpedRoPE(64, (22, 21, 21))
    with pytest.raises(ValueError, match=r"x: expected shape \(any, N, 64\), got \(2, 5, 32\)"):
        WarpedRoPE(64).apply(np.zeros((2, 5, 32)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"positions: expected shape \(5, 3\), got \(4, 3\)"):
        WarpedRoPE(64).apply(np.zeros((2, 5, 64)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="positions: expected finite values"):
        WarpedRoPE(64).apply(np.zeros((1, 64)), [[0, np.nan, 0]])
