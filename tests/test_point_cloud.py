import contextlib
import os
import tracemalloc
import warnings

import numpy as np
import pytest

from mosaicmem import FormatError, PointCloud, SuspiciousInput


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


TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
TYPES |= {"double": "f8", "uint8": "u1", "float32": "f4", "int64": "i8"}
RGB = ("red", "green", "blue")


def ply(properties, rows, byte_order=None, others="", before="", count=None, data_before=b"", data_after=b""):
    """A file of vertices, as another tool might write it: ``properties`` are pairs of name and type."""
    kind = {None: "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[byte_order]
    lines = [f"property {kind} {name}\n" for name, kind in properties]
    header = f"ply\nformat {kind} 1.0\n{before}element vertex {len(rows) if count is None else count}\n"
    header += "".join(lines) + others + "end_header\n"
    if byte_order is None:
        data = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in rows).encode()
    else:
        dtype = [(name, byte_order + TYPES[kind]) for name, kind in properties]
        data = np.array([tuple(row) for row in rows], dtype).tobytes()
    return header.encode() + data_before + data + data_after


def load(tmp_path, content):
    (tmp_path / "a.ply").write_bytes(content)
    return PointCloud.load_ply(tmp_path / "a.ply")


XYZ = [("x", "float"), ("y", "float"), ("z", "float")]
FACES = "element face 2\nproperty list uchar int vertex_indices\n"


def with_colors(kind, colors, names=RGB, **more):
    rows = [(i, 0, 1, *color) for i, color in enumerate(colors)]
    return ply([*XYZ, *((name, kind) for name in names)], rows, **more)


class TestColors:
    @pytest.mark.parametrize("byte_order", [None, "<", ">"])
    @pytest.mark.parametrize(
        ("kind", "stored", "expected"),
        [
            ("uchar", [(0, 128, 255), (1, 2, 3)], [(0, 128, 255), (1, 2, 3)]),
            ("uint8", [(1, 1, 1)], [(1, 1, 1)]),
            ("ushort", [(256, 512, 65535), (4, 5, 32896)], [(1, 2, 255), (0, 0, 128)]),
            ("short", [(0, 128, 255)], [(0, 128, 255)]),
            ("int", [(0, 128, 255)], [(0, 128, 255)]),
            ("int64", [(0, 128, 255)], [(0, 128, 255)]),
            ("float", [(0, 0.5, 1), (0.25, 1.0005, 0)], [(0, 128, 255), (64, 255, 0)]),
            ("float", [(0, 1, 1)], [(0, 255, 255)]),
            ("double", [(10, 20.4, 250), (1, 0, 0)], [(10, 20, 250), (1, 0, 0)]),
            ("float", [(0, 3, 2)], [(0, 3, 2)]),  # whole numbers, so the range is not [0, 1]
        ],
    )
    def test_ranges(self, tmp_path, kind, stored, expected, byte_order):
        cloud = load(tmp_path, with_colors(kind, stored, byte_order=byte_order))
        np.testing.assert_array_equal(cloud.colors, expected)

    @pytest.mark.parametrize("byte_order", [None, ">"])
    @pytest.mark.parametrize(
        ("kind", "stored", "message"),
        [
            ("int", [(0, 0, 0), (0, -1, 0)], "green: expected integers of 0 to 255, got -1 at vertex 1"),
            ("uint", [(0, 0, 300)], "blue: expected integers of 0 to 255, got 300 at vertex 0"),
            ("char", [(-1, 0, 0)], "red: expected integers of 0 to 255, got -1"),
            ("short", [(0, 0, 32767)], "blue: .* got 32767"),
            (
                "float",
                [(0, np.nan, 0)],
                "green: expected floats of 0 to 1, or of 0 to 255, got nan at vertex 0; 1 of 1",
            ),
            ("float", [(-0.5, 0, 0)], "red: expected floats .* got -0.5"),
            ("double", [(0, 0, 65535)], "blue: expected floats .* got 65535"),
            ("float", [(0.5, 0, 1.75)], "blue: .* got at most 1.75 .* too bright for one and too dark for the other"),
        ],
    )
    def test_other_values_are_refused(self, tmp_path, kind, stored, message, byte_order):
        with pytest.raises(FormatError, match=rf"a\.ply.*{message}"):
            load(tmp_path, with_colors(kind, stored, byte_order=byte_order))

    @pytest.mark.parametrize("names", [("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")])
    def test_other_names(self, tmp_path, names):
        np.testing.assert_array_equal(load(tmp_path, with_colors("uchar", [(1, 2, 3)], names)).colors, [[1, 2, 3]])

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("rgb",), r"no colours are read: rgb is there \(packed\)"),
            (("red", "green"), "no colours are read: red, green is there"),
            (("f_dc_0", "f_dc_1", "f_dc_2"), "spherical harmonics"),
        ],
    )
    def test_what_is_not_read_is_said(self, tmp_path, names, message):
        with pytest.warns(SuspiciousInput, match=message) as caught:
            cloud = load(tmp_path, with_colors("float", [range(len(names))] * 9, names))
        assert cloud.colors is None
        assert len(caught) == 1

    def test_dark_ushort_is_said(self, tmp_path):
        with pytest.warns(SuspiciousInput, match="red, green, blue are ushort.* read as 0 to 255"):
            cloud = load(tmp_path, with_colors("ushort", [(1, 2, 255)]))
        np.testing.assert_array_equal(cloud.colors, [[1, 2, 255]])

    def test_mixed_types_are_refused(self, tmp_path):
        content = with_colors("uchar", [(1, 2, 3)]).replace(b"uchar green", b"float green")
        with pytest.raises(FormatError, match="colours of one type, got red uint8, green float32, blue uint8"):
            load(tmp_path, content)

    def test_alpha_and_intensity_are_passed_over(self, tmp_path):
        names = (*RGB, "alpha", "intensity")
        assert load(tmp_path, with_colors("uchar", [(1, 2, 3, 9, 9)], names)).colors.tolist() == [[1, 2, 3]]


class TestNormalsAndPositions:
    def test_normals_are_unit_vectors_or_zero(self, tmp_path):
        properties = [*XYZ, ("nx", "float"), ("ny", "float"), ("nz", "float")]
        rows = [(0, 0, 0, 0, 0, 5), (1, 0, 0, np.nan, 0, 0), (2, 0, 0, 0, 0, 0), (3, 0, 0, np.inf, 0, 0)]
        with pytest.warns(SuspiciousInput, match="normals are not finite at 2 of 4 vertices, vertex 1 first"):
            cloud = load(tmp_path, ply(properties, rows, ">"))
        np.testing.assert_array_equal(cloud.normals, [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]])

    def test_two_components_are_no_normals(self, tmp_path):
        with pytest.warns(SuspiciousInput, match="normals need nx, ny and nz, there is only nx, ny"):
            assert load(tmp_path, ply([*XYZ, ("nx", "float"), ("ny", "float")], [(0, 0, 0, 1, 0)])).normals is None

    @pytest.mark.parametrize("kind", ["float", "double"])
    def test_positions_that_are_not_finite(self, tmp_path, kind):
        rows = [(0, 0, 0), (0, np.nan, 0), (0, 0, np.inf), (1, 1, 1)]
        message = r"a\.ply: vertex: expected finite positions, got y = nan at vertex 1, 2 of 4 vertices are so"
        with pytest.raises(FormatError, match=message):
            load(tmp_path, ply([("x", kind), ("y", kind), ("z", kind)], rows))

    def test_positions_beyond_float32(self, tmp_path):
        with pytest.raises(FormatError, match=r"got z = 1e\+300 at vertex 0"):
            load(tmp_path, ply([("x", "double"), ("y", "double"), ("z", "double")], [(0, 0, 1e300)]))

    def test_what_float32_rounds_away_is_said(self, tmp_path):
        properties = [("x", "double"), ("y", "double"), ("z", "double")]
        near = np.random.default_rng(0).uniform(0, 10, (20, 3))
        load(tmp_path, ply(properties, near, "<"))
        with pytest.warns(SuspiciousInput, match=r"float32 moves points by up to 0\.\d+, .* subtract an offset"):
            load(tmp_path, ply(properties, near + np.array([500_000, 5_000_000, 0]), "<"))

    def test_integers(self, tmp_path):
        properties = [("x", "int"), ("y", "int"), ("z", "int")]
        for byte_order in (None, "<", ">"):
            assert load(tmp_path, ply(properties, [(-7, 0, 100_000)], byte_order)).points.tolist() == [[-7, 0, 100_000]]


class TestFilesOfOthers:
    FACES = np.array([3], "u1").tobytes() + np.arange(3, dtype=">i4").tobytes()
    FACES += np.array([4], "u1").tobytes() + np.arange(4, dtype=">i4").tobytes()

    def test_faces_before_and_after(self, tmp_path):
        rows = [(1, 2, 3), (4, 5, 6)]
        after = load(tmp_path, ply(XYZ, rows, ">", others=FACES, data_after=self.FACES))
        before = load(tmp_path, ply(XYZ, rows, ">", before=FACES, data_before=self.FACES))
        text = load(tmp_path, ply(XYZ, rows, before=FACES, data_before=b"3 0 1 2\n4 0 1 2 3\n"))
        for cloud in (after, before, text):
            np.testing.assert_array_equal(cloud.points, rows)

    def test_lists_and_doubles_among_the_properties_of_vertices(self, tmp_path):
        header = "ply\nformat {} 1.0\nelement vertex 2\nproperty float x\nproperty list uchar short seen_by\n"
        header += "property float y\nproperty double quality\nproperty float z\nend_header\n"
        text = header.format("ascii") + "1 2 7 8 2 0.5 3\n4 0 5 0.5 6\n"
        binary = header.format("binary_big_endian").encode()
        for x, seen, y, z in ((1, [7, 8], 2, 3), (4, [], 5, 6)):
            binary += np.array(x, ">f4").tobytes() + bytes([len(seen)]) + np.array(seen, ">i2").tobytes()
            binary += np.array(y, ">f4").tobytes() + np.array(0.5, ">f8").tobytes() + np.array(z, ">f4").tobytes()
        for content in (text.encode(), binary):
            np.testing.assert_array_equal(load(tmp_path, content).points, [[1, 2, 3], [4, 5, 6]])
            for end in range(len(content) - 1):
                with pytest.raises(FormatError):
                    load(tmp_path, content[:end])

    @pytest.mark.parametrize("end", [b"\r\n", b"\r"])
    def test_ends_of_lines_and_blank_lines(self, tmp_path, end):
        text = ply(XYZ, [(1, 2, 3), (4, 5, 6)]) + b"\n \n"
        binary = ply(XYZ, [(1, 2, 3), (4, 5, 6)], "<")
        size = binary.index(b"end_header\n") + 11
        for content in (text.replace(b"\n", end), binary[:size].replace(b"\n", end) + binary[size:]):
            np.testing.assert_array_equal(load(tmp_path, content).points, [[1, 2, 3], [4, 5, 6]])

    @pytest.mark.parametrize("byte_order", [None, "<"])
    def test_data_after_the_last_vertex_is_said(self, tmp_path, byte_order):
        with pytest.warns(SuspiciousInput, match="data follows after the last of 2 vertices"):
            cloud = load(tmp_path, ply(XYZ, [(1, 2, 3)] * 5, byte_order, count=2))
        assert len(cloud) == 2

    @pytest.mark.parametrize("byte_order", [None, "<", ">"])
    @pytest.mark.parametrize("count", [3, 10**6, 10**12, 10**17])
    def test_counts_are_checked_before_memory_is_taken(self, tmp_path, byte_order, count):
        tracemalloc.start()
        try:
            for before in ("", f"element junk {count}\nproperty uchar a\n", f"element junk {count}\n" + FACES[15:]):
                with pytest.raises(FormatError, match="cut short"):
                    load(tmp_path, ply(XYZ, [(1, 2, 3)] * 2, byte_order, before=before, count=count))
            assert tracemalloc.get_traced_memory()[1] < 3 * 2**20  # 2**20 bytes are read in search of the header
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"])
    def test_lengths_of_lists_are_checked(self, tmp_path, length):
        before = "element face 1\nproperty list int double vertex_indices\n"
        with pytest.raises(FormatError, match=r"cut short|expected the length of a list, got -1"):
            load(tmp_path, ply(XYZ, [(1, 2, 3)] * 4, "<", before=before, data_before=length))

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("1 2 3", "1 2", "a.ply:9: expected 3 numbers .x, y, z., got 2"),
            ("1 2 3", "1 2 3 4", "a.ply:9: expected 3 numbers .x, y, z., got 4"),
            ("1 2 3", "1 two 3", "a.ply:9: y: expected a number, got 'two'"),
            ("1 2 3", "1 2,5 3", "a.ply:9: y: expected a number, got '2,5'"),
            ("1 2 3", "", "expected 2 vertices, got 1; is the file cut short"),
            ("float y", "float x", "a.ply:5: the element 'vertex' has two properties 'x'"),
            ("float y", "half y", "a.ply:5: expected 'property', a type .*, got 'property half y'"),
            ("vertex 2", "vertex -2", "a.ply:3: expected 'element', a name and a count"),
            ("vertex 2", "vertex 2e9", "a.ply:3: expected 'element', a name and a count"),
            ("ascii 1.0", "ascii 2.0", "a.ply:2: expected 'format'"),
            ("format ascii 1.0\n", "", "no line 'format'"),
            ("end_header", "end_heade", "expected 'end_header'"),
            ("element vertex 2\n", "", "a.ply:3: a property comes before the first element"),
            ("element vertex 2", "element face 2", "expected one element 'vertex', the header has face"),
            ("float z", "float Z", "z missing, there are: x, y, Z"),
            ("property float z", "property list uchar float z", "expected 9 numbers|z missing|got"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, before, after, message):
        content = ply(XYZ, [(7, 8, 9), (1, 2, 3)]).decode()
        assert before in content
        with pytest.raises(FormatError, match=message):
            load(tmp_path, content.replace(before, after).encode())

    def test_integers_of_text_fit_their_type(self, tmp_path):
        for value in ("256", "-1", "1.5", "nan"):
            content = with_colors("uchar", [(77, 0, 0)]).replace(b"77", value.encode())
            with pytest.raises(FormatError, match=r"a\.ply:11: red: expected an integer from 0 to 255"):
                load(tmp_path, content)

    def test_other_kinds_of_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.ply")
        for path in (tmp_path, tmp_path / "pipe.ply"):
            with pytest.raises(FormatError, match="expected a regular file"):
                PointCloud.load_ply(path)

    def test_any_damage_is_a_format_error_or_a_cloud(self, tmp_path, rng):
        whole = with_colors("uchar", rng.integers(0, 256, (6, 3)), byte_order="<")
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            with warnings.catch_warnings(), contextlib.suppress(FormatError):
                warnings.simplefilter("ignore", SuspiciousInput)
                load(tmp_path, bytes(damaged))
