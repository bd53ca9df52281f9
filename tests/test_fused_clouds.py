"""Point clouds: neighbours, centroid, downsampling, JSON, and fusing them into a voxel map."""

import json

import numpy as np
import pytest

from memory_helpers import K
from mosaicmem import CameraPose, FormatError, PointCloud, StreamingFusion, unproject_depth
from mosaicmem.geometry.fusion import FusionCounts

pytestmark = pytest.mark.kernel


@pytest.fixture
def cloud(rng):
    normals = rng.standard_normal((500, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colors = rng.integers(0, 256, (500, 3), dtype=np.uint8)
    return PointCloud(rng.uniform(-2, 2, (500, 3)).astype(np.float32), colors, normals)


def voxels(cloud, size):
    """The indices of the points in each voxel, in the order of keys."""
    keys = np.floor(cloud.points * np.float32(1 / size)).astype(int)
    _, which = np.unique(keys, axis=0, return_inverse=True)
    return [np.flatnonzero(which.ravel() == i) for i in range(which.max() + 1)]


class TestNeighbours:
    def test_within_is_brute_force(self, cloud, rng):
        queries = rng.uniform(-3, 3, (20, 3)).astype(np.float32)
        offsets, distances, indices = cloud.within(queries, 0.7)
        for i, query in enumerate(queries):
            expected = np.linalg.norm(cloud.points - query, axis=1)
            mine = slice(offsets[i], offsets[i + 1])
            assert set(indices[mine]) == set(np.flatnonzero(expected <= 0.7))
            np.testing.assert_allclose(distances[mine], expected[indices[mine]], rtol=1e-5)
            assert (np.diff(distances[mine]) >= 0).all()

    def test_one_tree_serves_both(self, cloud):
        cloud.nearest(cloud.points[:1])
        index = cloud.__dict__["_index"]
        assert cloud.within(cloud.points[:1], 0.0)[2].tolist() == [0]
        assert cloud.__dict__["_index"] is index

    @pytest.mark.parametrize("radius", [-1.0, np.nan, np.inf])
    def test_radii_are_checked(self, cloud, radius):
        with pytest.raises(ValueError, match="radius: expected"):
            cloud.within(cloud.points[:1], radius)

    def test_of_an_empty_cloud(self):
        offsets, distances, _ = PointCloud(np.zeros((0, 3))).within(np.zeros((2, 3)), 1.0)
        assert (offsets.tolist(), len(distances)) == ([0, 0, 0], 0)


def test_centroid(cloud):
    np.testing.assert_allclose(cloud.centroid, cloud.points.astype(np.float64).mean(axis=0))
    with pytest.raises(ValueError, match="centroid: expected at least one point"):
        _ = PointCloud(np.zeros((0, 3))).centroid


class TestDownsampling:
    def test_means_of_voxels(self, cloud):
        small = cloud.voxel_downsample(0.5)
        groups = voxels(cloud, 0.5)
        assert len(small) == len(groups)
        means = np.array([cloud.points[g].astype(np.float64).mean(axis=0) for g in groups])
        colors = np.array([cloud.colors[g].mean(axis=0) for g in groups])
        order, expected = np.lexsort(small.points.T), np.lexsort(means.T)
        np.testing.assert_allclose(small.points[order], means[expected], atol=1e-5)
        assert np.abs(small.colors[order] - colors[expected]).max() <= 0.51
        lengths = np.linalg.norm(small.normals, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_threads_do_not_matter(self, rng):
        large = PointCloud(rng.uniform(-5, 5, (70_000, 3)).astype(np.float32))
        one, many = (large.voxel_downsample(0.3, num_threads=n) for n in (1, 4))
        np.testing.assert_array_equal(one.points, many.points)
        assert one.colors is None
        assert one.normals is None

    def test_points_out_of_reach(self):
        with pytest.raises(ValueError, match=r"voxel_size: .* 1 of 2 are further; use a larger one"):
            PointCloud(np.array([[0, 0, 0], [1e6, 0, 0]])).voxel_downsample(0.1)
        assert len(PointCloud(np.zeros((0, 3))).voxel_downsample(0.1)) == 0


class TestFusion:
    def test_a_frame_as_a_cloud_is_that_frame(self, rng):
        depth = rng.uniform(1, 3, (K.height, K.width)).astype(np.float32)
        pose = CameraPose(np.eye(4), 4.0)
        points, _ = unproject_depth(depth, K, pose)
        frames, clouds = StreamingFusion(0.1), StreamingFusion(0.1)
        expected = frames.add_frame(depth, K, pose)
        assert clouds.add_cloud(PointCloud(points), timestamp=4.0) == expected
        np.testing.assert_allclose(clouds.point_cloud().points, frames.point_cloud().points, atol=1e-6)
        for mine, theirs in zip(clouds.voxel_history(), frames.voxel_history(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_clouds_and_frames_in_one_map(self, cloud):
        fusion = StreamingFusion(0.5)
        counts = fusion.add_cloud(cloud)
        again = fusion.add_cloud(cloud, timestamp=7.0)
        assert counts == FusionCounts(500, 0, len(fusion))
        assert again == FusionCounts(500, 0, 0)
        number, times = fusion.voxel_history()
        assert number.sum() == 1000
        assert (times == (0.0, 7.0)).all()

    def test_what_is_out_of_reach_is_counted(self):
        far = PointCloud(np.array([[0, 0, 0], [1e9, 0, 0]]))
        assert StreamingFusion(0.1).add_cloud(far) == FusionCounts(1, 1, 1)

    def test_only_clouds(self):
        with pytest.raises(TypeError, match="cloud: expected PointCloud"):
            StreamingFusion().add_cloud(np.zeros((3, 3)))


class TestJson:
    @pytest.mark.parametrize("parts", [(), ("colors",), ("colors", "normals")])
    def test_round_trip(self, cloud, tmp_path, parts):
        some = PointCloud(cloud.points, *(getattr(cloud, n) if n in parts else None for n in ("colors", "normals")))
        some.save_json(tmp_path / "cloud.json")
        back = PointCloud.load_json(tmp_path / "cloud.json")
        for name in ("points", "colors", "normals"):
            mine, theirs = getattr(some, name), getattr(back, name)
            assert (mine is None) is (theirs is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, theirs)

    def test_an_empty_cloud(self, tmp_path):
        PointCloud(np.zeros((0, 3))).save_json(tmp_path / "cloud.json")
        assert len(PointCloud.load_json(tmp_path / "cloud.json")) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema": "else"}, "schema: expected 'mosaicmem.point_cloud' of version 1, got 'else'"),
            ({"points": None}, "points: expected a list of rows of three numbers"),
            ({"points": [[1, 2]]}, "points: expected a list of rows of three numbers"),
            ({"points": [[1, 2, "3"]]}, "points: expected numbers"),
            ({"points": [[1, 2, 1e300]]}, "points: expected finite"),
            ({"colors": [[1, 2, 256]]}, "colors: expected integers of 0 to 255"),
            ({"colors": []}, "colors: expected shape"),
            ({"normals": [[1, 2, True]]}, "normals: expected numbers"),
            ({"extra": 1}, "'extra': no such field"),
        ],
    )
    def test_others_are_refused(self, tmp_path, change, message):
        right = {"schema": "mosaicmem.point_cloud", "schema_version": 1, "points": [[0.5, 1, 2]]}
        (tmp_path / "cloud.json").write_text(json.dumps({**right, **change}))
        with pytest.raises(FormatError, match=message):
            PointCloud.load_json(tmp_path / "cloud.json")
