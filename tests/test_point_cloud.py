import numpy as np
import pytest

from mosaicmem import FormatError, PointCloud


@pytest.fixture
def cloud(rng):
    normals = rng.standard_normal((50, 3)).astype(np.float32)
    return PointCloud(
        rng.standard_normal((50, 3)).astype(np.float32),
        rng.integers(0, 256, (50, 3), dtype=np.uint8),
        normals / np.linalg.norm(normals, axis=1, keepdims=True),
    )


def assert_same(a, b):
    for name in ("points", "colors", "normals"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("binary", [True, False])
def test_ply_round_trip(cloud, tmp_path, binary):
    cloud.save_ply(tmp_path / "cloud.ply", binary=binary)
    assert_same(PointCloud.load_ply(tmp_path / "cloud.ply"), cloud)


@pytest.mark.parametrize("binary", [True, False])
def test_ply_of_bare_points_and_of_nothing(cloud, tmp_path, binary):
    for points in (cloud.points, cloud.points[:0]):
        PointCloud(points).save_ply(tmp_path / "bare.ply", binary=binary)
        again = PointCloud.load_ply(tmp_path / "bare.ply")
        np.testing.assert_array_equal(again.points, points)
        assert again.colors is None
        assert again.normals is None


def test_ply_of_other_tools(tmp_path):
    (tmp_path / "other.ply").write_text(
        "ply\nformat ascii 1.0\ncomment made elsewhere\nelement vertex 2\nproperty double x\nproperty double y\n"
        "property double z\nproperty float quality\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        "0 1 2 0.5 255 0 7\n3 4 5 0.5 1 2 3\n3 0 1 0\n"
    )
    cloud = PointCloud.load_ply(tmp_path / "other.ply")
    np.testing.assert_array_equal(cloud.points, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(cloud.colors, [[255, 0, 7], [1, 2, 3]])


def test_broken_ply_is_a_format_error(cloud, tmp_path):
    cloud.save_ply(tmp_path / "cloud.ply")
    whole = (tmp_path / "cloud.ply").read_bytes()
    header = whole[: whole.index(b"end_header") + 11]
    broken = {
        "empty": b"",
        "not ply": b"hello\n",
        "cut": whole[:-5],
        "too many": whole.replace(b"vertex 50", b"vertex 99999999"),
        "no vertices": header.replace(b"vertex", b"vortex"),
        "no z": whole.replace(b"float z", b"float q"),
        "not finite": whole[: len(header)] + b"\xff" * (len(whole) - len(header)),
    }
    for content in broken.values():
        (tmp_path / "broken.ply").write_bytes(content)
        with pytest.raises(FormatError, match=r"broken\.ply"):
            PointCloud.load_ply(tmp_path / "broken.ply")


def test_a_failed_write_leaves_the_old_file(cloud, tmp_path, monkeypatch):
    cloud.save_ply(tmp_path / "cloud.ply")
    before = (tmp_path / "cloud.ply").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        cloud.filter_sphere([0, 0, 0], 1).save_ply(tmp_path / "cloud.ply")
    assert (tmp_path / "cloud.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cloud.ply"]


def test_bounds_merge_and_sphere(cloud):
    low, high = cloud.bounds
    assert (cloud.points >= low).all()
    assert (cloud.points <= high).all()
    both = cloud.merge(cloud)
    assert len(both) == 100
    assert both.colors.shape == (100, 3)
    assert cloud.merge(PointCloud(cloud.points)).colors is None
    inside = cloud.filter_sphere([0, 0, 0], 1.0)
    assert len(inside) == (np.linalg.norm(cloud.points, axis=1) <= 1).sum()
    with pytest.raises(ValueError, match="empty"):
        _ = PointCloud(cloud.points[:0]).bounds


def test_bad_arrays_are_named(cloud):
    with pytest.raises(ValueError, match=r"points: expected shape \(N, 3\), got \(50, 2\)"):
        PointCloud(cloud.points[:, :2])
    with pytest.raises(ValueError, match=r"colors: expected shape \(50, 3\), got \(49, 3\)"):
        PointCloud(cloud.points, cloud.colors[1:])
    with pytest.raises(ValueError, match="points: expected finite values, got nan at"):
        PointCloud([[0, 0, np.nan]])
