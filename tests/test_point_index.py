"""The kd-tree of a point cloud, on point sets that are hard for trees."""

import copy
import pickle

import numpy as np
import pytest

from mosaicmem import PointCloud

pytestmark = pytest.mark.kernel


def brute_force(points, queries, k):
    """Squared distances in float32, as the tree computes them; ties to the smaller id."""
    d = queries[:, None] - points
    squared = d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1] + d[..., 2] * d[..., 2]
    ids = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squared, ids, axis=1)), ids


CLOUDS = {
    "uniform": lambda rng, n: rng.uniform(-5, 5, (n, 3)),
    "a plane": lambda rng, n: rng.uniform(-5, 5, (n, 3)) * [1, 0, 1],
    "a line": lambda rng, n: rng.uniform(-5, 5, (n, 1)) * [1, 2, 3],
    "one place": lambda rng, n: np.full((n, 3), 0.1),
    "few places": lambda rng, n: rng.integers(0, 3, (n, 3)) * 1.0,
    "all scales": lambda rng, n: rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-30, 12, (n, 1)),
    "next to each other": lambda rng, n: np.nextafter(np.float32(1), np.float32(2), dtype=np.float32)
    * rng.choice(np.float32([1, 1 + 2**-23]), (n, 3)),
    "far away": lambda rng, n: 1e12 + rng.uniform(-1e6, 1e6, (n, 3)),
}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("n", [1, 2, 16, 17, 500, 3000])
def test_equals_brute_force(rng, name, n):
    points = CLOUDS[name](rng, n).astype(np.float32)
    index = PointCloud(points)
    queries = np.concatenate([points[rng.integers(0, n, 20)], CLOUDS[name](rng, 20)]).astype(np.float32)
    queries[20:30] += rng.standard_normal((10, 3)).astype(np.float32)
    for k in (1, 5, 4000):
        distances, ids = index.nearest(queries, k)
        expected, expected_ids = brute_force(points, queries, k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(distances, expected)


def test_no_points():
    distances, ids = PointCloud(np.zeros((0, 3), np.float32)).nearest(np.zeros((2, 3), np.float32), 3)
    assert distances.shape == ids.shape == (2, 0)


def test_what_is_refused():
    cloud = PointCloud(np.eye(3))
    with pytest.raises(ValueError, match=r"queries: expected shape \(M, 3\), got \(3,\)"):
        cloud.nearest(np.zeros(3))
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        cloud.nearest(np.zeros((1, 3)), 0)


def test_copies_search_too(rng):
    cloud = PointCloud(rng.standard_normal((50, 3)))
    expected = cloud.nearest(cloud.points[:5], 3)[1]
    for twin in (copy.copy(cloud), copy.deepcopy(cloud), pickle.loads(pickle.dumps(cloud))):
        np.testing.assert_array_equal(twin.nearest(cloud.points[:5], 3)[1], expected)
