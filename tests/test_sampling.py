"""Bilinear sampling, and the adjoints of sampling and splatting."""

import numpy as np
import pytest

from conftest import assert_within_twice
from mosaicmem import WarpedLatent
from mosaicmem.attention import bilinear_sample
from mosaicmem.attention.warped_latent import _sample_adjoint, _splat, _splat_adjoint
from reference.splat import bilinear_sample as reference

pytestmark = pytest.mark.kernel


def places(rng, count, rows, columns):
    positions = rng.uniform([-1, -1], [rows, columns], (count, 2)).astype(np.float32)
    if count > 12:
        positions[:4] = [[np.nan, 0], [0, np.inf], [-np.inf, 0], [1e30, 0]]
        positions[4:8] = [[-0.5, -0.5], [rows - 0.5, columns - 0.5], [0, 0], [rows - 1, columns - 1]]
        positions[8:10] = [[-0.5000001, 0], [0, columns - 0.49]]
    return positions


@pytest.mark.parametrize(("count", "rows", "columns", "channels"), [(0, 1, 1, 1), (1, 1, 1, 3), (300, 5, 7, 16)])
def test_equals_the_formula(rng, count, rows, columns, channels):
    grid = rng.standard_normal((rows, columns, channels)).astype(np.float32)
    positions = places(rng, count, rows, columns)
    values, inside = bilinear_sample(grid, positions)
    exact, expected_inside = reference(grid, positions)
    np.testing.assert_array_equal(inside, expected_inside)
    assert_within_twice(values, reference(grid, positions, np.float32)[0], exact)
    np.testing.assert_allclose(bilinear_sample(grid.astype(np.float64), positions)[0], exact, atol=1e-6)


@pytest.mark.usefixtures("anywhere")
def test_centres_give_back_the_grid_and_threads_the_same_bytes(rng):
    grid = rng.standard_normal((40, 50, 8)).astype(np.float32)
    centres = np.stack(np.mgrid[:40, :50], axis=-1).reshape(-1, 2)
    values, inside = bilinear_sample(grid, centres, num_threads=1)
    assert inside.all()
    np.testing.assert_array_equal(values.reshape(grid.shape), grid)
    positions = rng.uniform(0, 39, (3000, 2))
    expected = bilinear_sample(grid, positions, num_threads=1)[0]
    assert bilinear_sample(grid, positions, num_threads=3)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampling_has_its_adjoint(rng, dtype):
    grid = rng.standard_normal((5, 7, 4)).astype(dtype)
    positions = places(rng, 60, 5, 7)
    out, _ = bilinear_sample(grid, positions)
    y = rng.standard_normal(out.shape).astype(dtype)
    back = _sample_adjoint(y, positions, 5, 7, 0)
    np.testing.assert_allclose((out * y).sum(), (grid * back).sum(), rtol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "block", "bilinear"])
def test_splatting_has_its_adjoint(rng, mode, dtype):
    """Tokens that share cells, hide each other, miss the grid, and have neither place nor depth."""
    tokens = rng.standard_normal((80, 3)).astype(dtype)
    depth = rng.uniform(1, 1.1, 80).astype(np.float32)
    depth[:3] = [0, np.nan, -1]
    weights = rng.uniform(0.5, 2, 80)
    given = places(rng, 80, 5, 7), depth, weights
    canvas, _, surface, source = _splat(tokens, *given, 5, 7, mode, 0.04)
    y = rng.standard_normal(canvas.shape).astype(dtype)
    back = _splat_adjoint(y, *given, surface, source, mode, 0.04)
    np.testing.assert_allclose((canvas * y).sum(), (tokens * back).sum(), rtol=1e-4 if dtype == np.float32 else 1e-12)
    assert (back[:3] == 0).all()


def test_double_precision_stays_double():
    canvas = WarpedLatent("bilinear").splat(np.full((2, 1), 1 / 3), [[0, 0], [0, 0.3]], [1.0, 1.0], 1, 2)
    np.testing.assert_allclose(canvas.latents, 1 / 3, rtol=1e-15)
    assert canvas.latents.dtype == np.float64


@pytest.mark.parametrize(
    ("grid", "positions", "message"),
    [
        (np.zeros((2, 3)), np.zeros((1, 2)), r"grid: expected shape \(h, w, C\), got \(2, 3\)"),
        (np.zeros((0, 3, 1)), np.zeros((1, 2)), r"grid: expected at least one cell, got shape \(0, 3, 1\)"),
        (np.zeros((2, 3, 1)), np.zeros((1, 3)), r"positions: expected shape \(N, 2\), got \(1, 3\)"),
    ],
)
def test_bad_input_is_named(grid, positions, message):
    with pytest.raises(ValueError, match=message):
        bilinear_sample(grid, positions)
