import json

import numpy as np
import pytest
from PIL import Image

from dataset_helpers import HEIGHT, REPLICA_CAMERA, WIDTH, assert_depth, cut, make_frames, save, write_replica
from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
from mosaicmem.datasets import Replica


@pytest.fixture
def frames(rng):
    return make_frames(rng)


@pytest.fixture
def folder(tmp_path, frames):
    return write_replica(tmp_path / "room0", frames)


def test_every_frame(folder, frames):
    sequence = Replica(folder)
    assert len(sequence) == 4
    assert sequence.intrinsics == CameraIntrinsics(30, 31, 16, 12, WIDTH, HEIGHT)
    for i, (seen, frame) in enumerate(zip(sequence, frames, strict=True)):
        np.testing.assert_array_equal(seen.image, np.array(Image.open(folder / "results" / f"frame{i:06d}.jpg")))
        assert_depth(seen.depth, frame.units, 6553.5)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=1e-12)
        assert seen.pose.timestamp == pytest.approx(i / 30)
        assert seen.number == i


def test_the_camera_in_the_folder_goes_first(folder, frames, monkeypatch):
    (folder / "cam_params.json").write_text(json.dumps({"camera": {**REPLICA_CAMERA, "fx": 99, "scale": 1000}}))
    sequence = Replica(folder)
    assert sequence.intrinsics.fx == 99
    assert_depth(sequence[0].depth, frames[0].units, 1000)
    (folder / "cam_params.json").unlink()
    monkeypatch.chdir(folder)
    assert Replica(".").intrinsics.fx == 30


class TestAssumedCamera:
    @pytest.fixture
    def bare(self, tmp_path, frames):
        return write_replica(tmp_path / "room0", frames, camera=None)

    def test_it_is_said(self, bare):
        save(bare / "results" / "frame000000.jpg", np.zeros((680, 1200, 3), np.uint8))
        save(bare / "results" / "depth000000.png", np.full((680, 1200), 13107, np.uint16))
        with pytest.warns(
            SuspiciousInput, match=r"focal length 600 .* write cam_params\.json there, or give"
        ) as caught:
            sequence = Replica(bare)
        assert len(caught) == 1
        assert sequence.intrinsics == CameraIntrinsics(600, 600, 600, 340, 1200, 680)
        assert (sequence[0].depth == 2).all()

    def test_images_of_another_shape_are_refused(self, bare):
        with pytest.raises(
            FormatError, match=r"frame000000\.jpg: expected an image of the shape of 1200x680, .* 32x24"
        ):
            Replica(bare)

    def test_units_of_depth_are_assumed_beside_other_intrinsics(self, bare, frames):
        camera = CameraIntrinsics(30, 31, 16, 12, WIDTH, HEIGHT)
        with pytest.warns(SuspiciousInput, match=r"no cam_params\.json says .* assumed are 6553\.5 a metre"):
            assert Replica(bare, intrinsics=camera).intrinsics == camera
        (bare / "intrinsics.txt").write_text("30 31 15.5 11.5")
        with pytest.warns(SuspiciousInput, match="6553"):
            sequence = Replica(bare)
        assert sequence.intrinsics == camera
        assert_depth(sequence[0].depth, frames[0].units, 6553.5)


def test_a_camera_of_other_images(folder):
    (folder / "cam_params.json").write_text(
        json.dumps({"camera": {**REPLICA_CAMERA, "w": 64, "h": 48, "cx": 31.5, "cy": 23.5}})
    )
    with pytest.raises(
        FormatError, match=r"frame000000\.jpg: expected 64x48 pixels, as .*cam_params\.json says, got 32x24"
    ):
        Replica(folder)
    given = CameraIntrinsics(30, 31, 16, 12, WIDTH, HEIGHT)
    assert Replica(folder, intrinsics=given)[0].image.shape == (HEIGHT, WIDTH, 3)


def test_poses_of_no_frame_are_said(folder):
    with open(folder / "traj.txt", "a") as file:
        file.write("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n" * 2)
    with pytest.warns(
        SuspiciousInput, match=r"traj\.txt: 2 of 6 poses are of no frame, the last being frame000003\.jpg"
    ):
        Replica(folder)


def test_poses_go_by_the_number_of_the_frame(folder, frames):
    for kind in ("frame000001.jpg", "depth000001.png"):
        (folder / "results" / kind).unlink()
    sequence = Replica(folder)
    assert [seen.number for seen in sequence] == [0, 2, 3]
    for i, number in enumerate([0, 2, 3]):
        assert sequence.pose(i).distance_to(frames[number].pose) < 1e-9
        assert sequence.pose(i).timestamp == pytest.approx(number / 30)


def test_rotations_a_little_off_are_made_exact_and_others_refused(folder, frames):
    def write(error):
        matrices = [frame.pose.world_from_camera for frame in frames]
        matrices[2] = matrices[2] * np.array([1 + error, 1, 1, 1])
        np.savetxt(folder / "traj.txt", [matrix.ravel() for matrix in matrices])

    write(4e-4)
    rotation = Replica(folder).pose(2).world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    write(4e-3)
    with pytest.raises(FormatError, match=r"traj\.txt:3: world_from_camera: expected an orthonormal rotation"):
        Replica(folder).pose(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", r"traj\.txt:1: expected 16 numbers, got 3"),
        ("1 " * 15 + "one\n", r"traj\.txt:1: expected numbers, got"),
        (
            "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n" * 3,
            r"traj\.txt: expected a pose for each frame up to frame000003\.jpg, got 3",
        ),
        ("\n" + "1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1\n" * 4, r"traj\.txt:2: world_from_camera: expected finite"),
        ("1 0 0 0 0 1 0 0 0 0 1 0 5 5 5 1\n" * 4, r"traj\.txt:1: world_from_camera: .*last row"),
        (None, r"traj\.txt: missing"),
    ],
)
def test_bad_poses_are_named(folder, text, message):
    path = folder / "traj.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(FormatError, match=message):
        Replica(folder)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ("{", "not JSON"),
        ("{}", 'expected "camera" with w, h, fx, fy, cx, cy, scale, got None'),
        ({"camera": [1, 2]}, 'expected "camera" with'),
        ({"camera": {"w": 32, "h": 24}}, 'expected "camera" with'),
        ({"fx": "wide"}, "fx: expected a number, got str"),
        ({"fx": -30.0}, "fx: expected more than 0"),
        ({"cx": float("nan")}, "cx: expected a finite number"),
        ({"w": 32.5}, "width: expected an integer"),
        ({"h": 0}, "height: expected at least 1"),
        ({"scale": 0}, "scale: expected at least 1"),
        ({"scale": None}, "scale: expected a number, got NoneType"),
        (" " * 70_000, "expected at most 65536 bytes"),
    ],
)
def test_bad_cameras_are_named(folder, content, message):
    if isinstance(content, dict):
        content = json.dumps(content if "camera" in content else {"camera": {**REPLICA_CAMERA, **content}})
    (folder / "cam_params.json").write_text(content)
    with pytest.raises(FormatError, match=rf"room0/cam_params\.json.*: {message}"):
        Replica(folder)


def test_bad_images_are_named(folder):
    sequence = Replica(folder)
    color, depth = (folder / "results" / name for name in ("frame000002.jpg", "depth000002.png"))
    cut(depth)
    with pytest.raises(FormatError, match=r"depth000002\.png: not a readable image"):
        sequence[2]
    save(depth, np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(FormatError, match=r"depth000002\.png: expected a 16-bit grey image, got uint8"):
        sequence[2]
    save(depth, np.ones((HEIGHT, WIDTH - 1), np.uint16))
    with pytest.raises(FormatError, match=r"depth000002\.png: expected 32x24 pixels, got 31x24"):
        sequence[2]
    depth.unlink()
    with pytest.raises(FormatError, match=r"depth000002\.png: missing, though frame000002\.jpg is there"):
        sequence[2]
    cut(color)
    with pytest.raises(FormatError, match=r"frame000002\.jpg: not a readable image"):
        sequence[2]


def test_no_frames(tmp_path):
    with pytest.raises(FormatError, match="results: missing"):
        Replica(tmp_path)
    (tmp_path / "results").mkdir()
    with pytest.raises(FormatError, match=r"results: expected frames named frameNNNNNN\.jpg or \.png, found none"):
        Replica(tmp_path)
