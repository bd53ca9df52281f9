"""Readers and writers of other tools' trajectory files, against those tools where PyPI has them."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, FormatError, SuspiciousInput
from mosaicmem.camera.formats import detect_format, format_names, load_trajectory, save_trajectory

CAMERA = CameraIntrinsics(501.25, 498.5, 320.0, 240.0, 640, 480)
SUFFIX = {
    "mosaicmem": ".json",
    "tum": ".txt",
    "kitti": ".txt",
    "re10k": ".txt",
    "nerfstudio": ".json",
    "matrixgame": ".npz",
    "worldplay": ".json",
    "colmap": "",
    "colmap-binary": "",
}
# What a reader needs besides the file.
OPTIONS = {
    "tum": {"intrinsics": CAMERA},
    "kitti": {"intrinsics": CAMERA},
    "re10k": {"size": (640, 480)},
    "matrixgame": {"size": (640, 480)},
}


def random_path(rng):
    return CameraTrajectory([random_pose(rng, 30.0, i / 30.0) for i in range(11)], CAMERA)


@pytest.fixture
def path(rng):
    return random_path(rng)


def assert_same(a, b, atol=1e-9):
    assert len(a) == len(b)
    np.testing.assert_allclose(a.world_from_camera, b.world_from_camera, rtol=0, atol=atol)
    np.testing.assert_allclose(a.intrinsics.params, b.intrinsics.params, rtol=0, atol=atol)
    assert (a.intrinsics.width, a.intrinsics.height) == (b.intrinsics.width, b.intrinsics.height)


@pytest.mark.parametrize("name", format_names(written=True))
class TestEvery:
    def test_round_trip(self, tmp_path, path, name):
        file = tmp_path / f"a{SUFFIX[name]}"
        save_trajectory(file, path, name)
        assert detect_format(file) == name.removesuffix("-binary")
        again = load_trajectory(file, **OPTIONS.get(name, {}))
        assert_same(again, path)
        times = [pose.timestamp for pose in again]
        np.testing.assert_allclose(times, [pose.timestamp for pose in path], atol=5e-7 if name == "re10k" else 1e-9)
        assert [p.name for p in tmp_path.iterdir()] == [file.name]  # nothing half-written

    def test_one_frame_and_turned_cameras(self, tmp_path, name):
        """Half turns are where quaternions go wrong."""
        for k, axis in enumerate(np.eye(3)):
            matrix = np.eye(4)
            matrix[:3, :3] = 2 * np.outer(axis, axis) - np.eye(3)
            matrix[:3, 3] = [1e-7, 12345.678, -3]
            one = CameraTrajectory([CameraPose(matrix)], CAMERA)
            file = tmp_path / f"{k}{SUFFIX[name]}"
            save_trajectory(file, one, name)
            assert_same(load_trajectory(file, **OPTIONS.get(name, {})), one)

    def test_intrinsics_that_are_given_are_taken(self, tmp_path, path, name):
        file = tmp_path / f"a{SUFFIX[name]}"
        save_trajectory(file, path, name)
        other = CAMERA.scaled(320, 240)
        assert load_trajectory(file, intrinsics=other).intrinsics == other

    def test_what_is_no_such_file_is_named(self, tmp_path, name):
        missing = tmp_path / f"none{SUFFIX[name]}"
        with pytest.raises((FormatError, FileNotFoundError), match="none"):
            load_trajectory(missing, name, **OPTIONS.get(name, {}))
        garbage = tmp_path / f"bad{SUFFIX[name]}"
        if SUFFIX[name]:
            garbage.write_bytes(b"\x00\xff no such thing \x80" * 10)
        else:
            garbage.mkdir()
            (garbage / "images.txt").write_bytes(b"\x00\xff\n")
            (garbage / "cameras.txt").write_bytes(b"")
        with pytest.raises(FormatError, match="bad"):
            load_trajectory(garbage, name, **OPTIONS.get(name, {}))


class TestWhatIsMissing:
    @pytest.mark.parametrize("name", ["tum", "kitti"])
    def test_intrinsics(self, tmp_path, path, name):
        save_trajectory(tmp_path / "a.txt", path, name)
        with pytest.raises(FormatError, match="the file has no intrinsics: give them"):
            load_trajectory(tmp_path / "a.txt")

    def test_sizes(self, tmp_path, path):
        save_trajectory(tmp_path / "a.txt", path, "re10k")
        with pytest.raises(FormatError, match="intrinsics are parts of the image: give the image size"):
            load_trajectory(tmp_path / "a.txt")
        save_trajectory(tmp_path / "a.npz", path, "matrixgame")
        with pytest.raises(FormatError, match="no image size: give that of the anchor image"):
            load_trajectory(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["mosaicmem", "nerfstudio", "worldplay"])
    def test_a_size_that_is_not_that_of_the_file(self, tmp_path, path, name):
        save_trajectory(tmp_path / "a.json", path, name)
        assert load_trajectory(tmp_path / "a.json", size=(640, 480)).intrinsics.params == pytest.approx(CAMERA.params)
        with pytest.raises(FormatError, match="size: the file says 640x480, got 320x240"):
            load_trajectory(tmp_path / "a.json", size=(320, 240))

    def test_bad_options(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "mosaicmem")
        with pytest.raises(TypeError, match=r"size: expected \(width, height\), got 3"):
            load_trajectory(tmp_path / "a.json", size=3)
        with pytest.raises(ValueError, match=r"fps: expected more than 0\.0"):
            load_trajectory(tmp_path / "a.json", fps=0)
        with pytest.raises(ValueError, match="format: expected one of mosaicmem, tum"):
            load_trajectory(tmp_path / "a.json", "blender")
        with pytest.raises(
            ValueError, match=r"size: expected that of the intrinsics, \(640, 480\), or none, got \(32, 24\)"
        ):
            load_trajectory(tmp_path / "a.json", intrinsics=CAMERA, size=(32, 24))
        with pytest.raises(ValueError, match="time_unit: expected one of s, ms, us, ns, frames"):
            load_trajectory(tmp_path / "a.json", time_unit="minutes")
        with pytest.raises(TypeError, match="trajectory: expected CameraTrajectory, got list"):
            save_trajectory(tmp_path / "b.json", list(path), "tum")


class TestTum:
    def test_lines(self, tmp_path):
        """world_from_camera, x y z w: a quarter turn about y looks along +x."""
        h = 0.5**0.5
        (tmp_path / "a.txt").write_text(f"# a comment\n1.5 1 2 3 0 {h!r} 0 {h!r}\n")
        pose = load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)[0]
        np.testing.assert_allclose(pose.position, [1, 2, 3])
        np.testing.assert_allclose(pose.world_from_camera[:3, 2], [1, 0, 0], atol=1e-12)
        assert pose.timestamp == 1.5

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0 0 0 0 0 0 2\n", r"a\.txt:1: wxyz: expected a unit quaternion, got norm 2"),
            ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", r"a\.txt:2: expected 8 numbers, got 7"),
            ("1 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 1\n", "timestamps that do not decrease"),
            ("0 0 0 nan 0 0 0 1\n", r"a\.txt:1: .*finite"),
            ("# only\n", "expected at least one frame, got none"),
        ],
    )
    def test_bad_files(self, tmp_path, text, message):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(FormatError, match=message):
            load_trajectory(tmp_path / "a.txt", "tum", intrinsics=CAMERA)

    def test_a_mark_of_byte_order(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf# comment\r\n0 1 2 3 0 0 0 1\r\n")
        assert len(load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)) == 1

    def test_evo_reads_what_we_write_and_the_other_way_round(self, tmp_path, path):
        interface = pytest.importorskip("evo.tools.file_interface")
        save_trajectory(tmp_path / "ours.txt", path, "tum")
        theirs = interface.read_tum_trajectory_file(tmp_path / "ours.txt")
        np.testing.assert_allclose(np.array(theirs.poses_se3), path.world_from_camera, atol=1e-9)
        interface.write_tum_trajectory_file(tmp_path / "theirs.txt", theirs)
        assert_same(load_trajectory(tmp_path / "theirs.txt", intrinsics=CAMERA), path)


class TestKitti:
    def test_lines(self, tmp_path):
        (tmp_path / "a.txt").write_text("0 0 1 7 0 1 0 8 -1 0 0 9\n")
        pose = load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)[0]
        np.testing.assert_array_equal(pose.position, [7, 8, 9])
        np.testing.assert_array_equal(pose.world_from_camera[:3, 2], [1, 0, 0])

    def test_bad_files(self, tmp_path):
        (tmp_path / "a.txt").write_text("1 0 0 0 0 1 0 0 0 0 -1 0\n")
        with pytest.raises(FormatError, match=r"a\.txt:1: world_from_camera: .*determinant"):
            load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA)

    def test_evo_reads_what_we_write_and_the_other_way_round(self, tmp_path, path):
        interface = pytest.importorskip("evo.tools.file_interface")
        save_trajectory(tmp_path / "ours.txt", path, "kitti")
        theirs = interface.read_kitti_poses_file(tmp_path / "ours.txt")
        np.testing.assert_allclose(np.array(theirs.poses_se3), path.world_from_camera, atol=1e-9)
        interface.write_kitti_poses_file(tmp_path / "theirs.txt", theirs)
        assert_same(
            load_trajectory(tmp_path / "theirs.txt", intrinsics=CAMERA), path, atol=1e-6
        )  # evo writes few digits


class TestRealEstate10K:
    def test_lines(self, tmp_path):
        """camera_from_world: a camera 5 m behind the origin has z translation +5."""
        text = "https://example.org/v\n2000000 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 5\n"
        (tmp_path / "a.txt").write_text(text)
        found = load_trajectory(tmp_path / "a.txt", size=(1280, 720))
        assert found.intrinsics.params == (640.0, 648.0, 640.0, 360.0)
        np.testing.assert_allclose(found[0].position, [0, 0, -5])
        assert found[0].timestamp == 2.0

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                "0 640 648 640 360 0 0 1 0 0 0 0 1 0 0 0 0 1 5",
                ":2: expected focal lengths as parts .* 640, 648; pixels",
            ),
            ("0 .5 .9 .5 .5 .1 0 1 0 0 0 0 1 0 0 0 0 1 5", ":2: expected no distortion"),
            ("0 .5 .9 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 5", ":2: expected 19 numbers, got 18"),
            ("0 .5 .9 .5 .5 0 0 2 0 0 0 0 2 0 0 0 0 2 5", ":2: camera_from_world: .* scaled by 2"),
        ],
    )
    def test_bad_lines(self, tmp_path, line, message):
        (tmp_path / "a.txt").write_text(f"url\n{line}\n")
        with pytest.raises(FormatError, match=message):
            load_trajectory(tmp_path / "a.txt", "re10k", size=(1280, 720))

    def test_a_size_whose_sides_are_swapped_is_suspected_once(self, tmp_path):
        lines = [f"{i * 50_000} 0.5 0.889 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 {i}\n" for i in range(3)]
        (tmp_path / "a.txt").write_text("".join(lines))
        with pytest.warns(SuspiciousInput, match="in one of 1280x720 they are; width and height swapped") as caught:
            load_trajectory(tmp_path / "a.txt", size=(720, 1280))
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for size in ((1280, 720), (500, 500), (640, 480)):
                load_trajectory(tmp_path / "a.txt", size=size)


class TestMatrixGame:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "camera.npz", **arrays)
        return tmp_path / "camera.npz"

    @pytest.mark.parametrize("shape", ["(N, 4)", "(4,)", "(3, 3)", "(N, 3, 3)"])
    def test_all_that_it_takes(self, tmp_path, path, shape):
        flat = np.array(CAMERA.params, np.float32)
        intrinsics = {
            "(N, 4)": np.tile(flat, (11, 1)),
            "(4,)": flat,
            "(3, 3)": CAMERA.matrix,
            "(N, 3, 3)": np.tile(CAMERA.matrix, (11, 1, 1)),
        }[shape]
        for name in ("extrinsics_c2w", "extrinsics"):
            file = self.save(tmp_path, **{name: path.world_from_camera.astype(np.float32), "intrinsics": intrinsics})
            assert_same(load_trajectory(file, size=(640, 480)), path, atol=1e-4)

    def test_bad_files(self, tmp_path, path):
        size = {"size": (640, 480)}
        for arrays, message in (
            (
                {"poses": np.eye(4), "b": [1]},
                r"expected an array extrinsics_c2w .* got the arrays b, poses; rename them",
            ),
            ({"extrinsics_c2w": np.eye(4)}, r"extrinsics_c2w: expected shape \(N, 4, 4\), got \(4, 4\)"),
            ({"extrinsics_c2w": 2 * path.world_from_camera, "intrinsics": CAMERA.matrix}, r"_c2w\[0\]: .*last row"),
            ({"extrinsics_c2w": path.world_from_camera}, "expected an array intrinsics"),
            (
                {"extrinsics_c2w": path.world_from_camera, "intrinsics": np.ones((3, 4))},
                r"intrinsics: expected shape \(11, 4\)",
            ),
            ({"extrinsics_c2w": np.array([object()])}, "not a readable npz file"),
            ({"extrinsics_c2w": np.array(["a"])}, "expected numbers"),
        ):
            with pytest.raises(FormatError, match=message):
                load_trajectory(self.save(tmp_path, **arrays), **size)

    def test_a_bomb_is_not_unpacked(self, tmp_path, monkeypatch):
        from mosaicmem.camera.formats import matrixgame

        monkeypatch.setattr(matrixgame, "_MAX_BYTES", 10_000)
        np.savez_compressed(tmp_path / "a.npz", extrinsics_c2w=np.zeros((1000, 4, 4)))
        assert (tmp_path / "a.npz").stat().st_size < 10_000
        with pytest.raises(FormatError, match="expected at most 10000 bytes, got 128"):
            load_trajectory(tmp_path / "a.npz", size=(640, 480))

    def test_arrays_that_lie(self, tmp_path):
        """Headers with impossible sizes, and broken streams."""
        np.savez(tmp_path / "a.npz", extrinsics_c2w=np.zeros((3, 4, 4)))
        content = (tmp_path / "a.npz").read_bytes()
        for old, new in ((b"(3, 4, 4)", b"(10**12,)"), (b"(3, 4, 4), }   ", b"(999999999999,)")):
            (tmp_path / "b.npz").write_bytes(content.replace(old, new))
            with pytest.raises(FormatError, match="not a readable npz file"):
                load_trajectory(tmp_path / "b.npz", size=(640, 480))
        np.savez_compressed(tmp_path / "c.npz", extrinsics_c2w=np.arange(48.0).reshape(3, 4, 4))
        broken = bytearray((tmp_path / "c.npz").read_bytes())
        broken[70:90] = bytes(20)
        (tmp_path / "c.npz").write_bytes(broken)
        with pytest.raises(FormatError, match="not a readable npz file"):
            load_trajectory(tmp_path / "c.npz", size=(640, 480))

    def test_every_k_is_checked(self, tmp_path, path):
        k = CAMERA.matrix
        for wrong, message in (
            (k.T, "transposed"),
            (k @ np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]), "skew"),
            (2 * k, "scaled by 2"),
            (k * [[1], [-1], [1]], "fy: expected more than 0"),
        ):
            stack = np.stack([k, wrong, k])
            for intrinsics in (wrong, stack):
                file = self.save(tmp_path, extrinsics_c2w=path.world_from_camera[:3], intrinsics=intrinsics)
                with pytest.raises(FormatError, match=message):
                    load_trajectory(file, size=(640, 480))

    def test_numbers_that_are_none_are_named(self, tmp_path, path):
        params = np.tile(np.array(CAMERA.params), (11, 1))
        params[:, 1] = np.nan
        file = self.save(tmp_path, extrinsics_c2w=path.world_from_camera, intrinsics=params)
        with pytest.raises(FormatError, match=r"intrinsics\[0\]: fy: expected a finite number, got nan"):
            load_trajectory(file, size=(640, 480))

    def test_other_arrays(self, tmp_path, path):
        arrays = {"extrinsics_c2w": path.world_from_camera, "intrinsics": CAMERA.matrix}
        size = {"size": (640, 480)}
        file = self.save(tmp_path, **arrays, dist_coeffs=np.zeros(5), camera_model=np.array("PINHOLE"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_same(load_trajectory(file, **size), path)
        with pytest.raises(FormatError, match="expected no distortion"):
            load_trajectory(self.save(tmp_path, **arrays, dist_coeffs=np.array([0, 0.1])), **size)
        with pytest.raises(FormatError, match="camera_model: expected one of"):
            load_trajectory(self.save(tmp_path, **arrays, camera_model=np.array("FISHEYE")), **size)
        with pytest.warns(SuspiciousInput, match="skipped: pose_scale; if"):
            load_trajectory(self.save(tmp_path, **arrays, pose_scale=np.array([2.0])), **size)
        with pytest.raises(FormatError, match="or both alike, got two that differ"):
            load_trajectory(self.save(tmp_path, **arrays, extrinsics=path.camera_from_world), **size)


class TestWorldPlay:
    def test_its_own_example(self, tmp_path):
        """Its default K is that of 1920 x 1080."""
        k = [[969.6969696969696, 0.0, 960.0], [0.0, 969.6969696969696, 540.0], [0.0, 0.0, 1.0]]
        forward = np.eye(4)
        forward[2, 3] = 0.08
        entries = {str(i): {"extrinsic": m.tolist(), "K": k} for i, m in enumerate((np.eye(4), forward))}
        (tmp_path / "pose.json").write_text(json.dumps(entries))
        found = load_trajectory(tmp_path / "pose.json")
        assert (found.intrinsics.width, found.intrinsics.height) == (1920, 1080)
        np.testing.assert_allclose(found[1].position, [0, 0, 0.08])

    def test_ten_frames_are_in_the_order_of_numbers(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())
        (tmp_path / "a.json").write_text(json.dumps(dict(sorted(document.items()))))  # "10" before "2"
        assert_same(load_trajectory(tmp_path / "a.json"), path)

    def test_bad_files(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())

        def load(changed):
            (tmp_path / "b.json").write_text(json.dumps(changed))
            return load_trajectory(tmp_path / "b.json", "worldplay")

        for changed, message in (
            ({k: v for k, v in document.items() if k != "3"}, 'expected the keys "0", "1", ... without a gap'),
            ({**document, "2": {"K": document["2"]["K"]}}, '"2": extrinsic is missing'),
            ({**document, "2": 5}, '"2": expected an object, got int'),
            ({"0": {**document["0"], "K": [[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]]}}, "got 1x1; normalised?"),
        ):
            with pytest.raises(FormatError, match=message):
                load(changed)

    def test_fields_and_keys_that_are_not_known(self, tmp_path, path):
        save_trajectory(tmp_path / "a.json", path, "worldplay")
        document = json.loads((tmp_path / "a.json").read_text())

        def load(changed):
            (tmp_path / "b.json").write_text(json.dumps(changed))
            return load_trajectory(tmp_path / "b.json", "worldplay")

        with pytest.warns(SuspiciousInput, match=r'skipped: focus \("1"\)') as caught:
            load({**document, "1": {**document["1"], "focus": 3}})
        assert len(caught) == 1
        with pytest.raises(FormatError, match='"1": expected no distortion'):
            load({**document, "1": {**document["1"], "k1": 3}})
        with pytest.raises(FormatError, match='and no other, got "fps"'):
            load({**document, "fps": 3})
        k = (np.array(document["0"]["K"]) - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).tolist()
        with pytest.warns(
            SuspiciousInput, match="639x479 pixels; a K whose integer coordinates are pixel centres"
        ) as caught:
            load({key: {**entry, "K": k} for key, entry in document.items()})
        assert len(caught) == 1
        k = (np.array(document["0"]["K"]) * [[1], [1], [2]]).tolist()
        with pytest.raises(FormatError, match=r'"0": K: expected .*scaled by 2'):
            load({key: {**entry, "K": k} for key, entry in document.items()})

    def test_principal_points_off_the_middle_cannot_be_written(self, tmp_path, path):
        other = CameraTrajectory(path.poses, replace(CAMERA, cx=300.0))
        with pytest.raises(ValueError, match="expected a principal point in the middle of the image"):
            save_trajectory(tmp_path / "a.json", other, "worldplay")
        assert not list(tmp_path.iterdir())


def test_unknown_files(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.txt").write_text("1 2 3\n")
    for name in ("a.json", "a.txt"):
        with pytest.raises(FormatError, match="no trajectory that is known"):
            detect_format(tmp_path / name)
