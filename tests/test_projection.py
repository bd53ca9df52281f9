"""The matrix product of memory cross-attention, at each SIMD level."""

import numpy as np
import pytest

from conftest import assert_within_twice
from mosaicmem import _core
from reference.attention import plain_sum

pytestmark = pytest.mark.kernel


class TestProjection:
    @staticmethod
    def compare(x, weight):
        out = _core.linear(x, weight, 2)
        products = x[:, None, :] * weight
        assert_within_twice(out, plain_sum(products, -1), x.astype(np.float64) @ weight.T.astype(np.float64))

    @pytest.mark.parametrize(("n", "inside", "out"), [(1, 1, 1), (50, 33, 40), (97, 64, 200), (7, 257, 193)])
    def test_equals_the_formula(self, rng, simd, n, inside, out):
        self.compare(*(rng.standard_normal((rows, inside)).astype(np.float32) for rows in (n, out)))

    @pytest.mark.parametrize("size", [1e-36, 1e-10, 1e18])
    def test_numbers_of_any_size(self, rng, simd, size):
        x, weight = (rng.standard_normal((rows, 40)).astype(np.float32) for rows in (60, 50))
        self.compare((x * size).astype(np.float32), weight)
        self.compare(x, (weight * size).astype(np.float32))

    def test_infinity_and_nan_stay_where_they_are(self, rng, simd):
        x, weight = (rng.standard_normal((rows, 40)).astype(np.float32) for rows in (60, 50))
        clean = _core.linear(x, weight, 1)
        x[3, 5], x[4, 6] = np.inf, np.nan
        out = _core.linear(x, weight, 1)
        assert np.isinf(out[3]).all()
        assert np.isnan(out[4]).all()
        np.testing.assert_allclose(np.delete(out, [3, 4], axis=0), np.delete(clean, [3, 4], axis=0), atol=1e-4)
