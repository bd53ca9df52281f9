import numpy as np
import pytest

from conftest import assert_within_twice
from mosaicmem import WarpedLatent
from reference.splat import splat as reference

pytestmark = pytest.mark.kernel


def random_tokens(rng, count, rows, columns, channels=5):
    tokens = rng.standard_normal((count, channels)).astype(np.float32)
    positions = rng.uniform([-2, -2], [rows + 1, columns + 1], (count, 2)).astype(np.float32)
    depth = rng.uniform(1, 1.3, count).astype(np.float32)
    if count > 10:
        positions[:4] = [[np.nan, 1], [1, np.inf], [-np.inf, 0], [1e30, -1e30]]
        depth[4:8] = [0, -1, np.nan, np.inf]
        depth[8:11] = depth[11]  # ties
        positions[8:11] = positions[11]
    return tokens, positions, depth


@pytest.mark.parametrize("mode", ["nearest", "block", "bilinear"])
@pytest.mark.parametrize(("count", "rows", "columns"), [(0, 3, 4), (1, 1, 1), (12, 2, 3), (700, 13, 21)])
def test_equals_the_formula(rng, mode, count, rows, columns):
    tokens, positions, depth = random_tokens(rng, count, rows, columns)
    weights = rng.uniform(0.1, 3, count).astype(np.float32)
    canvas = WarpedLatent(mode).splat(tokens, positions, depth, rows, columns, weights=weights)
    expected = reference(tokens, positions, depth, rows, columns, mode, weights)
    np.testing.assert_array_equal(canvas.coverage, expected[1])
    np.testing.assert_array_equal(canvas.depth, expected[2])
    np.testing.assert_array_equal(canvas.source, expected[3])
    if mode == "bilinear":
        single = expected[0].astype(np.float32)
        np.testing.assert_allclose(canvas.latents, single, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(canvas.latents, expected[0].astype(np.float32))


@pytest.mark.usefixtures("anywhere")
def test_a_nearer_token_hides_one_behind(rng):
    tokens = np.array([[1.0], [2.0], [3.0]])
    for mode in ("nearest", "block", "bilinear"):
        canvas = WarpedLatent(mode).splat(tokens, [[2, 2]] * 3, [3.0, 1.0, 2.0], 5, 5)
        assert canvas.latents[2, 2, 0] == 2.0
        assert canvas.source[2, 2] == 1


@pytest.mark.usefixtures("anywhere")
def test_equal_depths_go_to_the_smaller_index():
    for order in ([0, 1], [1, 0]):
        canvas = WarpedLatent("nearest").splat(np.array([[5.0], [7.0]])[order], [[0, 0]] * 2, [1.0, 1.0], 1, 1)
        assert canvas.source[0, 0] == 0


@pytest.mark.usefixtures("anywhere")
def test_the_front_surface_is_averaged_by_weight():
    canvas = WarpedLatent("bilinear", depth_tolerance=0.1).splat(
        [[1.0], [4.0], [100.0]], [[0, 0]] * 3, [1.0, 1.05, 1.2], 1, 1, weights=[1.0, 2.0, 9.0]
    )
    assert canvas.latents[0, 0, 0] == pytest.approx(3.0)


@pytest.mark.usefixtures("anywhere")
def test_what_no_token_reaches_stays_uncovered(rng):
    canvas = WarpedLatent().splat([[1.0, 2.0]], [[1.0, 1.0]], [2.0], 4, 4)
    assert canvas.coverage.sum() == 1
    assert (canvas.latents[~canvas.coverage] == 0).all()
    assert (canvas.depth[~canvas.coverage] == 0).all()
    assert (canvas.source[~canvas.coverage] == -1).all()


@pytest.mark.usefixtures("anywhere")
def test_a_constant_stays_constant(rng):
    """Weights are normalised: whatever lands where, a constant picture is constant where it is covered."""
    _, positions, depth = random_tokens(rng, 500, 10, 10)
    canvas = WarpedLatent().splat(np.full((500, 3), 2.5, np.float32), positions, depth, 10, 10)
    assert_within_twice(canvas.latents[canvas.coverage], np.float32(2.5), np.array(2.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((3, 3))}, r"positions: expected shape \(2, 2\), got \(3, 3\)"),
        ({"depth": np.ones(3)}, r"depth: expected shape \(2,\), got \(3,\)"),
        ({"weights": np.array([1.0, 0.0])}, r"weights: expected values in \[1e-6, 1e6\], got 0.0 to 1.0"),
        ({"weights": np.array([1.0, 1e-45])}, r"weights: expected values in \[1e-6, 1e6\]"),
        ({"rows": 0}, "rows: expected at least 1, got 0"),
        ({"columns": 2.0}, "columns: expected an integer"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"tokens": np.ones((2, 4)), "positions": np.zeros((2, 2)), "depth": np.ones(2), "rows": 2, "columns": 2}
    with pytest.raises((TypeError, ValueError), match=message):
        WarpedLatent().splat(**{**good, **change})
    with pytest.raises(ValueError, match="mode: expected one of nearest, block, bilinear, got 'cubic'"):
        WarpedLatent("cubic")
