"""Camera files of other tools: written here by each format's definition, and read as the cameras that wrote them.

Each test states the definition itself: where a point of the world appears in the image, or what the tool computes.
"""

import json

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraTrajectory
from mosaicmem.camera.formats import detect_format, format_names, load_trajectory, save_trajectory
from mosaicmem.errors import FormatError, SuspiciousInput

WIDTH, HEIGHT = 64, 48
FRAMES = 5


@pytest.fixture
def cameras(rng):
    """Cameras with a principal point in the middle, which most of these formats assume."""
    focal = [50.0, 50.0, 55.0, 60.0, 60.0]
    intrinsics = [CameraIntrinsics(f, f, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT) for f in focal]
    return CameraTrajectory([random_pose(rng, 0.7, i / 30) for i in range(FRAMES)], intrinsics)


@pytest.fixture
def off_centre(rng):
    intrinsics = [CameraIntrinsics(50.0 + i, 51.0 + i, 30.5, 25.25, WIDTH, HEIGHT) for i in range(FRAMES)]
    return CameraTrajectory([random_pose(rng, 0.7, i / 30) for i in range(FRAMES)], intrinsics)


def assert_reads(found, cameras, tolerance=1e-9):
    np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=tolerance)
    np.testing.assert_allclose([k.params for k in found.cameras], [k.params for k in cameras.cameras], rtol=tolerance)
    assert found.size == cameras.size


def assert_detected(file, name):
    assert detect_format(file) == name
    return load_trajectory(file)


class TestGaussianSplatting:
    def write(self, tmp_path, cameras, **changes):
        """As camera_to_JSON does: the inverse of [R^T | T] gives position and rotation."""
        entries = []
        for i, (pose, k) in enumerate(zip(cameras, cameras.cameras, strict=True)):
            inverse = np.linalg.inv(pose.camera_from_world)
            entry = {"id": i, "img_name": f"{i:05d}", "width": WIDTH, "height": HEIGHT}
            entry |= {"position": inverse[:3, 3].tolist(), "rotation": inverse[:3, :3].tolist(), "fy": k.fy, "fx": k.fx}
            entries.append({**entry, **changes})
        (tmp_path / "cameras.json").write_text(json.dumps(entries))
        return tmp_path / "cameras.json"

    def test_is_read(self, tmp_path, cameras):
        assert_reads(assert_detected(self.write(tmp_path, cameras), "3dgs"), cameras)

    def test_names_give_the_order(self, tmp_path, cameras):
        """The file begins with every eighth image, which was kept for tests."""
        file = self.write(tmp_path, cameras)
        entries = json.loads(file.read_text())
        file.write_text(json.dumps([entries[3], *entries[:3], entries[4]]))
        assert_reads(load_trajectory(file), cameras)
        entries[3]["rotation"] = (2 * np.eye(3)).tolist()
        file.write_text(json.dumps([entries[3], *entries[:3], entries[4]]))
        with pytest.raises(FormatError, match=r": \[0\]: .*scale"):  # where it is in the file
            load_trajectory(file)

    def test_other_intrinsics_may_be_of_another_size(self, tmp_path, cameras):
        own = CameraIntrinsics(10, 10, 8, 6, 16, 12)
        assert load_trajectory(self.write(tmp_path, cameras), intrinsics=own, size=(16, 12)).intrinsics == own

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rotation": [[1, 0], [0, 1]]}, r"\[0\]: rotation: expected shape \(3, 3\)"),
            ({"rotation": (2 * np.eye(3)).tolist()}, r"\[0\]: .*scale"),
            ({"fx": 0}, r"\[0\]: fx: expected more than 0"),
            ({"width": "64"}, r"\[0\]: width: expected an integer"),
            ({"k1": 0.1}, "expected no distortion"),
        ],
    )
    def test_wrong_ones_are_named(self, tmp_path, cameras, changes, message):
        with pytest.raises(FormatError, match=message):
            load_trajectory(self.write(tmp_path, cameras, **changes))

    def test_missing_fields_and_other_lists(self, tmp_path):
        (tmp_path / "a.json").write_text('[{"rotation": 1, "position": 2}]')
        with pytest.raises(FormatError, match=r"\[0\]: rotation: expected"):
            load_trajectory(tmp_path / "a.json")
        (tmp_path / "b.json").write_text('[{"name": 1}, 2]')
        with pytest.raises(FormatError, match=r'expected "rotation" and "position".*or "shots".* got name'):
            load_trajectory(tmp_path / "b.json")
        (tmp_path / "c.json").write_text('["rotation"]')
        with pytest.raises(FormatError, match="got none"):
            load_trajectory(tmp_path / "c.json")


class TestLlff:
    def write(self, tmp_path, cameras, **options):
        """A point p is at down . (p - c), right . (p - c) and backwards . (p - c) of the image's axes."""
        rows = []
        for pose, k in zip(cameras, cameras.cameras, strict=True):
            right, down, forward = pose.world_from_camera[:3, :3].T
            matrix = np.stack([down, right, -forward, pose.position, [HEIGHT, WIDTH, k.fx]], axis=1)
            rows.append([*matrix.ravel(), 0.5, 9.0])
        np.save(tmp_path / "poses_bounds.npy", np.array(rows), **options)
        return tmp_path / "poses_bounds.npy"

    def test_is_read(self, tmp_path, cameras):
        assert_reads(assert_detected(self.write(tmp_path, cameras), "llff"), cameras)

    def test_the_size_is_that_of_the_file(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras)
        with pytest.raises(FormatError, match="size: the file says 64x48, got 32x24"):
            load_trajectory(file, size=(32, 24))
        own = CameraIntrinsics(25, 25, 16, 12, 32, 24)
        assert load_trajectory(file, intrinsics=own, size=(32, 24)).intrinsics == own
        rows = np.load(file)
        rows[0, 4] = np.inf
        np.save(file, rows)
        with pytest.raises(FormatError, match=r"\[0\]: expected height and width in whole pixels, got inf"):
            load_trajectory(file)

    def test_other_arrays_are_refused(self, tmp_path, cameras):
        np.save(tmp_path / "poses.npy", np.tile(np.eye(4), (3, 1, 1)))
        with pytest.raises(FormatError, match="an array of NumPy, which does not say its convention"):
            load_trajectory(tmp_path / "poses.npy")
        with pytest.raises(FormatError, match=r"expected numbers of shape \(N, 17\)"):
            load_trajectory(tmp_path / "poses.npy", "llff")
        rows = np.load(self.write(tmp_path, cameras))
        rows[2, 4] = 47.5
        np.save(tmp_path / "poses_bounds.npy", rows)
        with pytest.raises(FormatError, match=r"\[2\]: expected height and width in whole pixels, got 47.5"):
            load_trajectory(tmp_path / "poses_bounds.npy")
        rows[2, 4] = 96
        np.save(tmp_path / "poses_bounds.npy", rows)
        with pytest.raises(FormatError, match=r"\[2\]: expected the image size of \[0\]"):
            load_trajectory(tmp_path / "poses_bounds.npy")


class TestOpenSfm:
    def write(self, tmp_path, cameras, kind="perspective", **fields):
        """Rotations as vectors, so that exp([v]) is the matrix; focal lengths in units of the longer side."""
        shots, known = {}, {}
        for i, (pose, k) in enumerate(zip(cameras, cameras.cameras, strict=True)):
            turn = np.linalg.eig(pose.camera_from_world[:3, :3])
            axis = np.real(turn.eigenvectors[:, np.argmin(np.abs(turn.eigenvalues - 1))])
            angle = np.arccos(np.clip((np.trace(pose.camera_from_world[:3, :3]) - 1) / 2, -1, 1))
            vector = axis * angle
            if not np.allclose(expm(vector), pose.camera_from_world[:3, :3], atol=1e-6):
                vector = -vector
            shots[f"frame_{i}.jpg"] = {
                "rotation": vector.tolist(),
                "translation": pose.camera_from_world[:3, 3].tolist(),
                "camera": f"camera {i}",
            }
            own = {"projection_type": kind, "width": WIDTH, "height": HEIGHT, "k1": 0.0, "k2": 0.0}
            if kind == "brown":
                own |= {"focal_x": k.fx / WIDTH, "focal_y": k.fy / WIDTH}
                own |= {
                    "c_x": (k.cx - WIDTH / 2) / WIDTH,
                    "c_y": (k.cy - HEIGHT / 2) / WIDTH,
                    "p1": 0,
                    "p2": 0,
                    "k3": 0,
                }
            else:
                own["focal"] = k.fx / WIDTH
            known[f"camera {i}"] = {**own, **fields}
        document = [{"cameras": known, "shots": dict(reversed(shots.items())), "points": {}}]
        (tmp_path / "reconstruction.json").write_text(json.dumps(document))
        return tmp_path / "reconstruction.json"

    def test_is_read(self, tmp_path, cameras):
        assert_reads(assert_detected(self.write(tmp_path, cameras), "opensfm"), cameras, 1e-6)

    def test_brown_cameras_have_a_principal_point(self, tmp_path, off_centre):
        assert_reads(load_trajectory(self.write(tmp_path, off_centre, "brown")), off_centre, 1e-6)

    def test_wrong_ones_are_named(self, tmp_path, cameras):
        with pytest.raises(FormatError, match=r"frame_0\.jpg: expected no distortion, got {'k1': 0.1}"):
            load_trajectory(self.write(tmp_path, cameras, k1=0.1))
        with pytest.raises(FormatError, match="projection_type: expected perspective or brown, got 'fisheye'"):
            load_trajectory(self.write(tmp_path, cameras, "fisheye"))
        file = self.write(tmp_path, cameras)
        both = json.loads(file.read_text()) * 2
        file.write_text(json.dumps(both))
        with pytest.raises(FormatError, match="expected one reconstruction, got 2 with 5, 5 shots"):
            load_trajectory(file)
        for broken, message in (
            ([{"shots": 1}, {"shots": 2}], "expected a list of reconstructions"),
            (
                [{**both[0], "cameras": {name: [1] for name in both[0]["cameras"]}}],
                "camera: expected an object, got list",
            ),
        ):
            file.write_text(json.dumps(broken))
            with pytest.raises(FormatError, match=message):
                load_trajectory(file)
        del both[0]["shots"]["frame_3.jpg"]["rotation"]
        file.write_text(json.dumps(both[:1]))
        with pytest.raises(FormatError, match=r"frame_3\.jpg: rotation is missing"):
            load_trajectory(file)


def expm(vector):
    """The rotation by a vector, as a power series."""
    x, y, z = vector
    cross, term, total = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.eye(3), np.eye(3)
    for i in range(1, 40):
        term = term @ cross / i
        total = total + term
    return total


class TestCameraPath:
    def write(self, tmp_path, cameras, **changes):
        """OpenGL axes: right, up, backwards; the field of view is that of the height."""
        frames = []
        for pose, k in zip(cameras, cameras.cameras, strict=True):
            matrix = pose.world_from_camera.copy()
            matrix[:3, 1:3] *= -1
            angle = np.degrees(2 * np.arctan(HEIGHT / 2 / k.fy))
            frames.append({"camera_to_world": matrix.ravel().tolist(), "fov": angle, "aspect": 1.0})
        document = {"camera_type": "perspective", "render_width": WIDTH, "render_height": HEIGHT, "fps": 24}
        document |= {"camera_path": frames, "keyframes": [], "seconds": 2.0, **changes}
        (tmp_path / "camera_path.json").write_text(json.dumps(document))
        return tmp_path / "camera_path.json"

    def test_is_read(self, tmp_path, cameras):
        found = assert_detected(self.write(tmp_path, cameras), "camera-path")
        assert_reads(found, cameras)
        np.testing.assert_allclose([pose.timestamp for pose in found], np.arange(FRAMES) / 24)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"camera_type": "equirectangular"}, "camera_type: expected perspective, got 'equirectangular'"),
            ({"camera_path": []}, "camera_path: expected a list of 1 to"),
            ({"camera_path": [{"camera_to_world": [1] * 16}]}, r"camera_path\[0\]: fov is missing"),
            ({"camera_path": [{"camera_to_world": [1] * 12, "fov": 50}]}, r"camera_to_world: expected shape \(16"),
            (
                {"camera_path": [{"camera_to_world": [1] * 16, "fov": 200}]},
                "expected degrees between 0 and 180, got 200",
            ),
            ({"camera_path": [{"camera_to_world": [1] * 16, "fov": 1e-9}]}, "degrees between 0 and 180, got 1e-09"),
            ({"render_width": 0}, "render_width: expected at least 1"),
            ({"fps": 0}, "fps: expected more than 0"),
        ],
    )
    def test_wrong_ones_are_named(self, tmp_path, cameras, changes, message):
        with pytest.raises(FormatError, match=message):
            load_trajectory(self.write(tmp_path, cameras, **changes))


class TestOpen3d:
    def write_json(self, tmp_path, cameras):
        """Column by column, and the middle of the first pixel is (0, 0)."""
        frames = []
        for pose, k in zip(cameras, cameras.cameras, strict=True):
            matrix = k.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
            inner = {"width": WIDTH, "height": HEIGHT, "intrinsic_matrix": matrix.T.ravel().tolist()}
            frames.append({"extrinsic": pose.camera_from_world.T.ravel().tolist(), "intrinsic": inner})
        document = {"class_name": "PinholeCameraTrajectory", "parameters": frames, "version_major": 1}
        (tmp_path / "trajectory.json").write_text(json.dumps(document))
        return tmp_path / "trajectory.json"

    def write_log(self, tmp_path, cameras):
        lines = []
        for i, pose in enumerate(cameras):
            lines += [f"{i} {i} {i + 1}", *(" ".join(map(repr, row)) for row in pose.world_from_camera.tolist())]
        (tmp_path / "trajectory.log").write_text("\n".join([*lines, ""]))
        return tmp_path / "trajectory.log"

    def test_json_is_read(self, tmp_path, off_centre):
        file = self.write_json(tmp_path, off_centre)
        assert_reads(assert_detected(file, "open3d"), off_centre)
        assert_reads(load_trajectory(file.rename(tmp_path / "trajectory.txt")), off_centre)

    def test_log_is_read(self, tmp_path, cameras):
        file = self.write_log(tmp_path, cameras)
        assert detect_format(file) == "open3d"
        found = load_trajectory(file, intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-9)
        with pytest.raises(FormatError, match="the file has no intrinsics"):
            load_trajectory(file)

    def test_wrong_ones_are_named(self, tmp_path, cameras):
        file = self.write_log(tmp_path, cameras)
        file.write_text(file.read_text().rsplit("\n", 2)[0])
        with pytest.raises(FormatError, match=r"expected five lines for each frame.*got 24"):
            load_trajectory(file, intrinsics=cameras.cameras[0])
        file = self.write_json(tmp_path, cameras)
        document = json.loads(file.read_text())
        document["parameters"][1]["intrinsic"]["intrinsic_matrix"][3] = 0.5
        file.write_text(json.dumps(document))
        with pytest.raises(FormatError, match=r"parameters\[1\]: intrinsic_matrix: .*skew"):
            load_trajectory(file)


def test_tartanair_looks_north(tmp_path):
    """A camera that looks along +x of a world whose z is down, and one that has turned right, to the east."""
    half = np.sqrt(0.5)
    (tmp_path / "pose_left.txt").write_text(f"1 2 3 0 0 0 1\n1 2 3 0 0 {half} {half}\n")
    found = load_trajectory(tmp_path / "pose_left.txt", "tartanair")
    np.testing.assert_allclose(found[0].world_from_camera[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found[0].position, [2, 3, 1])  # right, down, forward
    np.testing.assert_allclose(found[1].world_from_camera[:3, 2], [1, 0, 0], atol=1e-12)  # looks to the right
    assert found.intrinsics == CameraIntrinsics(320, 320, 320, 240, 640, 480)
    with pytest.raises(FormatError, match="if they are TartanAir's, name the format"):
        load_trajectory(tmp_path / "pose_left.txt")
    (tmp_path / "pose_left.txt").write_text("1 2 3 0 0 0 2\n")
    with pytest.raises(FormatError, match="expected a unit quaternion"):
        load_trajectory(tmp_path / "pose_left.txt", "tartanair")


class TestMatrices:
    def write(self, tmp_path, cameras, numbers=None):
        rows = [" ".join(map(repr, pose.world_from_camera.ravel().tolist())) for pose in cameras]
        if numbers is not None:
            rows = [f"{n} {row}" for n, row in zip(numbers, rows, strict=True)]
        (tmp_path / "traj.txt").write_text("\n".join([*rows, ""]))
        return tmp_path / "traj.txt"

    def test_are_read(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "matrices"
        found = load_trajectory(file, intrinsics=cameras.cameras[0])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-9)

    def test_numbers_of_frames_are_times(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras, [1, 2, 5, 10, 11])
        found = load_trajectory(file, intrinsics=cameras.cameras[0], fps=10)
        np.testing.assert_allclose([pose.timestamp for pose in found], [0.1, 0.2, 0.5, 1.0, 1.1])
        np.testing.assert_allclose(found.camera_from_world, cameras.camera_from_world, atol=1e-9)
        with pytest.raises(FormatError, match=r"expected whole numbers of frames .*, got 0\.1"):
            load_trajectory(self.write(tmp_path, cameras, [0, 0.1, 0.2, 0.3, 0.4]), intrinsics=cameras.cameras[0])
        with pytest.raises(FormatError, match="expected numbers of frames that increase"):
            load_trajectory(self.write(tmp_path, cameras, [1, 2, 2, 3, 4]), intrinsics=cameras.cameras[0])

    def test_wrong_ones_are_named(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras)
        file.write_text(file.read_text() + "1 0 0 0\n")
        with pytest.raises(FormatError, match=r"traj\.txt:6: expected 16 numbers, got 4"):
            load_trajectory(file, intrinsics=cameras.cameras[0])


class TestBundler:
    def write(self, tmp_path, cameras, missing=(), distortion=0):
        """P = R X + t looks along -z with y up; p = -P / P.z, from the middle of the image, upwards."""
        lines = ["# Bundle file v0.3", f"{FRAMES} 0"]
        for i, (pose, k) in enumerate(zip(cameras, cameras.cameras, strict=True)):
            matrix = np.diag([1, -1, -1]) @ pose.camera_from_world[:3]
            lines.append(f"{0 if i in missing else k.fx} {distortion} 0")
            lines += [" ".join(map(repr, row)) for row in [*matrix[:, :3].tolist(), matrix[:, 3].tolist()]]
        (tmp_path / "bundle.out").write_text("\n".join([*lines, ""]))
        return tmp_path / "bundle.out"

    def test_is_read(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras)
        assert detect_format(file) == "bundler"
        assert_reads(load_trajectory(file, size=(WIDTH, HEIGHT)), cameras)
        with pytest.raises(FormatError, match="the file has no image size"):
            load_trajectory(file)

    def test_images_that_are_not_registered_are_left_out(self, tmp_path, cameras):
        with pytest.warns(SuspiciousInput, match="2 of 5 images are not registered and left out, such as 1"):
            found = load_trajectory(self.write(tmp_path, cameras, missing=(1, 3)), size=(WIDTH, HEIGHT))
        assert_reads(found, cameras.taken([0, 2, 4]))
        with pytest.raises(FormatError, match="expected images that are registered, got none of 5"):
            load_trajectory(self.write(tmp_path, cameras, missing=range(5)), size=(WIDTH, HEIGHT))

    def test_wrong_ones_are_named(self, tmp_path, cameras):
        with pytest.raises(FormatError, match=r"image 0: expected no distortion, got \[0.1, 0.0\]"):
            load_trajectory(self.write(tmp_path, cameras, distortion=0.1), size=(WIDTH, HEIGHT))
        file = self.write(tmp_path, cameras)
        file.write_text("\n".join(file.read_text().splitlines()[:-3]))
        with pytest.raises(FormatError, match="expected 3 numbers, got"):
            load_trajectory(file, size=(WIDTH, HEIGHT))


class TestNeus:
    def write(self, tmp_path, cameras, scale=1.0):
        """K times camera_from_world; the middle of the first pixel is (0, 0)."""
        arrays = {}
        for i, (pose, k) in enumerate(zip(cameras, cameras.cameras, strict=True)):
            matrix = np.eye(4)
            matrix[:3, :3] = k.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
            projection = matrix @ pose.camera_from_world
            arrays[f"world_mat_{i}"] = (scale * projection).astype(np.float32)
            arrays[f"world_mat_inv_{i}"] = np.linalg.inv(projection)
            arrays[f"scale_mat_{i}"] = np.diag([2.0, 2, 2, 1])
        np.savez(tmp_path / "cameras_sphere.npz", **arrays)
        return tmp_path / "cameras_sphere.npz"

    @pytest.mark.parametrize("scale", [1.0, -3.0])
    def test_is_read(self, tmp_path, off_centre, scale):
        file = self.write(tmp_path, off_centre, scale)
        assert detect_format(file) == "neus"
        assert_reads(load_trajectory(file, size=(WIDTH, HEIGHT)), off_centre, 1e-4)

    def test_wrong_ones_are_named(self, tmp_path, cameras):
        file = self.write(tmp_path, cameras)
        arrays = dict(np.load(file))
        for changed, message in (
            ({"world_mat_2": None}, "expected world_mat_0, world_mat_1 and so on without a gap"),
            ({"world_mat_2": np.zeros((4, 4))}, "world_mat_2: expected a projection of rank 3"),
            ({"world_mat_2": np.eye(3)}, r"world_mat_2: expected finite numbers \(4, 4\)"),
            ({"world_mat_2": np.array([[50, 9, 32, 0], [0, 50, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])}, "without skew"),
        ):
            kept = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
            np.savez(file, **kept)
            with pytest.raises(FormatError, match=message):
                load_trajectory(file, size=(WIDTH, HEIGHT))


def test_formats_that_are_only_read(tmp_path, cameras):
    with pytest.raises(ValueError, match=r"format: expected one of mosaicmem, tum, .* got '3dgs'"):
        save_trajectory(tmp_path / "cameras.json", cameras, "3dgs")
    assert "3dgs" in format_names()
    assert "3dgs" not in format_names(written=True)


def test_a_scene_is_a_source_of_cameras(tmp_path, rng):
    from typer.testing import CliRunner

    from dataset_helpers import make_frames, write_replica
    from mosaicmem.cli import app
    from mosaicmem.datasets import open_sequence

    sequence = write_replica(tmp_path / "scene", make_frames(rng))
    folder = tmp_path / "scene"
    arguments = ["convert", str(folder), str(tmp_path / "cams.json")]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "scene to mosaicmem" in run.output
    known = open_sequence(folder)
    assert CameraTrajectory.load(tmp_path / "cams.json") == known.trajectory(range(len(known)))
    for option in (("--fps", "10"), ("--size", "64x48"), ("--intrinsics-mode", "mean")):
        again = CliRunner().invoke(app, [*arguments, "--force", *option])
        assert again.exit_code != 0
        assert option[0] in again.output
    del sequence
