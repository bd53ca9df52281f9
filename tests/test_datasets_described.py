"""Folders with a description, and folders whose parts have the usual names."""

import json

import numpy as np
import pytest

from dataset_helpers import HEIGHT, WIDTH, assert_depth, make_frames, save, tum_pose
from mosaicmem import CameraIntrinsics, CameraTrajectory, FormatError, SuspiciousInput
from mosaicmem.datasets import open_sequence

CAMERA = CameraIntrinsics(30.0, 31.0, 15.0, 12.5, WIDTH, HEIGHT)
DESCRIPTION = {
    "images": "left/rgb",
    "trajectory": "path.json",
    "depth": {"files": "left/z", "units_per_metre": 5000, "invalid": 65535},
}


@pytest.fixture
def frames(rng):
    return make_frames(rng)


def write(folder, frames, description=DESCRIPTION, name="dataset.json"):
    for i, frame in enumerate(frames):
        save(folder / "left" / "rgb" / f"{i}.png", frame.image)
        save(folder / "left" / "z" / f"{i}.png", frame.units)
    CameraTrajectory([frame.pose.at(i / 10) for i, frame in enumerate(frames)], CAMERA).save(folder / "path.json")
    (folder / name).write_text(json.dumps(description))
    return folder


def check(sequence, frames, units=5000.0):
    assert len(sequence) == len(frames)
    assert sequence.intrinsics == CAMERA
    for seen, frame in zip(sequence, frames, strict=True):
        np.testing.assert_array_equal(seen.image, frame.image)
        assert_depth(seen.depth, frame.units, units)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=1e-6)


def test_a_description_in_json(tmp_path, frames):
    sequence = open_sequence(write(tmp_path, frames))
    check(sequence, frames)
    assert sequence.unit == "metres"
    assert [seen.pose.timestamp for seen in sequence] == [0.0, 0.1, 0.2, 0.3]


def test_a_description_in_yaml(tmp_path, frames):
    pytest.importorskip("yaml")
    write(tmp_path, frames, {}, "unused.json")
    (tmp_path / "dataset.yaml").write_text(
        "# what is where\nimages: left/rgb\ntrajectory: path.json\ndepth:\n  files: left/z\n  units_per_metre: 5000\n"
    )
    check(open_sequence(tmp_path), frames)


def test_patterns_and_masks_and_confidence(tmp_path, frames):
    for i in range(4):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[i, i] = 255
        save(tmp_path / "left" / "m" / f"mask_{i}.png", mask)
        np.save(tmp_path / "left" / f"sure_{i}.npy", np.full((HEIGHT, WIDTH), 50 * (i + 1), np.float32))
    more = {"masks": {"files": "left/m", "white": "moving"}, "confidence": {"files": "left/sure_*.npy", "most": 200}}
    description = {**DESCRIPTION, "images": "left/rgb/*.png", "unit": "scene units", **more}
    sequence = open_sequence(write(tmp_path, frames, description))
    assert sequence.unit == "scene units"
    for i, seen in enumerate(sequence):
        assert np.argwhere(seen.moving).tolist() == [[i, i]]
        assert seen.depth[i, i] == 0
        assert (seen.confidence == (i + 1) / 4).all()


def test_masks_may_show_what_stands_still(tmp_path, frames):
    for i in range(4):
        save(tmp_path / "still" / f"{i}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    description = {**DESCRIPTION, "masks": {"files": "still", "white": "static"}}
    assert not any(seen.moving.any() for seen in open_sequence(write(tmp_path, frames, description)))


def test_intrinsics_for_a_trajectory_without(tmp_path, frames):
    description = {**DESCRIPTION, "trajectory": "gt.txt", "intrinsics": [30, 31, 15, 12.5]}
    write(tmp_path, frames, description)
    (tmp_path / "gt.txt").write_text("".join(tum_pose(i / 10, frame.pose) + "\n" for i, frame in enumerate(frames)))
    check(open_sequence(tmp_path), frames)


def test_intrinsics_that_the_trajectory_lacks_are_asked_for(tmp_path, frames):
    write(tmp_path, frames, {**DESCRIPTION, "trajectory": "gt.txt"})
    (tmp_path / "gt.txt").write_text("".join(tum_pose(i / 10, frame.pose) + "\n" for i, frame in enumerate(frames)))
    with pytest.raises(FormatError, match=r'intrinsics is missing: gt\.txt has none; add "intrinsics"'):
        open_sequence(tmp_path)
    named = {"fx": 30, "fy": 31, "cx": 15, "cy": 12.5}
    (tmp_path / "dataset.json").write_text(json.dumps({**DESCRIPTION, "trajectory": "gt.txt", "intrinsics": named}))
    check(open_sequence(tmp_path), frames)


def test_arrays_whose_format_is_named(tmp_path, frames):
    """Nothing in poses.npy says what its matrices are, so the description must."""
    write(tmp_path, frames, {**DESCRIPTION, "trajectory": "poses.npy", "format": "numpy"})
    np.save(tmp_path / "poses.npy", np.stack([frame.pose.world_from_camera for frame in frames]))
    np.save(tmp_path / "intrinsics.npy", CAMERA.matrix)
    check(open_sequence(tmp_path), frames)
    (tmp_path / "dataset.json").write_text(json.dumps({**DESCRIPTION, "trajectory": "poses.npy", "format": "numbers"}))
    with pytest.raises(FormatError, match="format: expected one of"):
        open_sequence(tmp_path)


def test_a_lens_for_all_images(tmp_path, frames):
    pytest.importorskip("cv2")
    pytest.importorskip("pycolmap")
    lens = {"model": "SIMPLE_RADIAL", "params": [30, 15, 12.5, -0.1]}
    sequence = open_sequence(write(tmp_path, frames, {**DESCRIPTION, "intrinsics": lens}))
    assert sequence.intrinsics.params == (30, 30, 15, 12.5)
    assert not np.array_equal(sequence[0].image, frames[0].image)


def write_rig(folder, frames, **changes):
    """Two cameras on a body; the right one is turned, and has another lens."""
    right = np.array([[0, 0, 1, 0.2], [0, 1, 0, 0], [-1, 0, 0, 0.1], [0, 0, 0, 1.0]])
    for i, frame in enumerate(frames):
        for side, pixels in (("left", frame.image), ("right", frame.image[::-1])):
            save(folder / side / f"{i}.png", np.ascontiguousarray(pixels))
            save(folder / f"{side}_depth" / f"{i}.png", frame.units)
    CameraTrajectory([frame.pose.at(i / 10) for i, frame in enumerate(frames)], CAMERA).save(folder / "path.json")
    left = {
        "images": "left",
        "depth": "left_depth",
        "intrinsics": [30, 31, 15, 12.5],
        "body_from_camera": np.eye(4).tolist(),
    }
    other = {**left, "images": "right", "depth": "right_depth", "body_from_camera": right.tolist()}
    description = {"rig": [left, other], "trajectory": "path.json", "depth": {"units_per_metre": 5000}, **changes}
    (folder / "dataset.json").write_text(json.dumps(description))
    return right


def test_a_rig(tmp_path, frames):
    right = write_rig(tmp_path, frames)
    sequence = open_sequence(tmp_path)
    assert len(sequence) == 8
    check(sequence[::2] and Every(sequence, 2), frames)
    for i, frame in enumerate(frames):
        seen = sequence[2 * i + 1]
        np.testing.assert_array_equal(seen.image, frame.image[::-1])
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera @ right, atol=1e-6)
        assert seen.pose.timestamp == sequence[2 * i].pose.timestamp == i / 10
        assert seen.number == 2 * i + 1


class Every:
    """Each n-th frame of a sequence."""

    def __init__(self, sequence, n):
        self.intrinsics, self._frames = sequence.intrinsics, sequence[::n]

    def __len__(self):
        return len(self._frames)

    def __iter__(self):
        return iter(self._frames)


RIGS = [
    ({"rig": []}, "rig: expected a list with an object for each camera"),
    ({"rig": [{"images": "left"}]}, r"rig\[0\]: expected images, body_from_camera, and .*; one is missing"),
    ({"rig": [{"images": "left", "body_from_camera": 1, "lens": 2}]}, r"rig\[0\]: .*; got lens"),
    ({"rig": [{"images": "left", "body_from_camera": [[1]]}]}, "expected shape"),
    (
        {"rig": [{"images": "left", "body_from_camera": np.eye(4).tolist(), "depth": {"files": "left_depth"}}]},
        r"rig\[0\]: expected folders or patterns as depth; options go beside rig",
    ),
    ({"depth": {"files": "left_depth"}}, "depth: expected files"),
]


@pytest.mark.parametrize(("changes", "message"), RIGS)
def test_wrong_rigs(tmp_path, frames, changes, message):
    write_rig(tmp_path, frames, **changes)
    with pytest.raises(FormatError, match=message):
        open_sequence(tmp_path)


def test_zooms_of_a_trajectory_are_resampled_to_one_camera(tmp_path, frames):
    pytest.importorskip("cv2")
    write(tmp_path, frames)
    zoomed = CameraIntrinsics(60.0, 62.0, 15.0, 12.5, WIDTH, HEIGHT)
    poses = [frame.pose.at(i / 10) for i, frame in enumerate(frames)]
    CameraTrajectory(poses, [CAMERA, CAMERA, CAMERA, zoomed]).save(tmp_path / "path.json")
    sequence = open_sequence(tmp_path)
    assert sequence.intrinsics == CAMERA
    last = sequence[3]
    assert (last.image[0] == 0).all(), "the zoomed frame does not show it"
    assert (last.depth[:5] == 0).all()
    assert (last.depth[8:16, 10:20] > 0).mean() > 0.5


def test_zooms_of_images_that_were_resized(tmp_path, frames):
    pytest.importorskip("cv2")
    write(tmp_path, frames)
    cameras = [CAMERA.scaled(2 * WIDTH, 2 * HEIGHT)] * 3 + [CameraIntrinsics(120.0, 124.0, 30.0, 25.0, 64, 48)]
    poses = [frame.pose.at(i / 10) for i, frame in enumerate(frames)]
    CameraTrajectory(poses, cameras).save(tmp_path / "path.json")
    with pytest.warns(SuspiciousInput, match="32x24 pixels, and a camera of 64x48; the camera is scaled"):
        sequence = open_sequence(tmp_path)
    assert sequence.intrinsics == CAMERA
    assert (sequence[3].image[0] == 0).all(), "the zoomed frame does not show it"


WRONG = [
    ({"images": "left/rgb"}, "trajectory is missing"),
    ({**DESCRIPTION, "poses": "x"}, "poses: no such field of a data set; there are images, trajectory"),
    ({**DESCRIPTION, "images": "right"}, r"images: expected files \(.jpg, .jpeg, .png\) in right, found none"),
    ({**DESCRIPTION, "images": "../x"}, "images: expected a path inside the folder, got ../x"),
    ({**DESCRIPTION, "depth": {"files": "left/z", "unit": 3}}, "depth: expected files, units_per_metre.*got unit"),
    (
        {**DESCRIPTION, "depth": {"files": "left/z", "units_per_metre": 0}},
        "depth: units_per_metre: expected",
    ),
    ({**DESCRIPTION, "unit": "feet"}, "unit: expected one of"),
    ({**DESCRIPTION, "schema_version": 9}, "of version 1, got .*of a newer mosaicmem"),
    ({**DESCRIPTION, "masks": {"files": "left/z", "white": "people"}}, "masks: white: expected one of"),
    ({**DESCRIPTION, "intrinsics": [1, 2]}, r"intrinsics: expected \[fx, fy, cx, cy\]"),
    ({**DESCRIPTION, "frames": [{}]}, "frames: expected a list of 4"),
    ({**DESCRIPTION, "trajectory": "/etc/path.json"}, "trajectory: expected text, of a path inside the folder"),
]


@pytest.mark.parametrize(("description", "message"), WRONG)
def test_wrong_descriptions(tmp_path, frames, description, message):
    with pytest.raises(FormatError, match=message):
        open_sequence(write(tmp_path, frames, description))


def test_as_many_poses_as_images(tmp_path, frames):
    write(tmp_path, frames)
    save(tmp_path / "left" / "rgb" / "9.png", frames[0].image)
    with pytest.raises(FormatError, match=r"expected a pose in path\.json for each of 5 images, got 4"):
        open_sequence(tmp_path)


def test_depth_files_of_other_names_must_be_as_many(tmp_path, frames):
    write(tmp_path, frames)
    for i in range(4):
        (tmp_path / "left" / "z" / f"{i}.png").rename(tmp_path / "left" / "z" / f"d{i}.png")
    check(open_sequence(tmp_path), frames)
    (tmp_path / "left" / "z" / "d3.png").unlink()
    with pytest.raises(FormatError, match=r"depth: expected a file for each of 4 images.*got 3 such as d0\.png"):
        open_sequence(tmp_path)


def test_usual_names_need_no_description_but_are_said(tmp_path, frames):
    for i, frame in enumerate(frames):
        save(tmp_path / "rgb" / f"{i}.png", frame.image)
        save(tmp_path / "depths" / f"{i}.png", frame.units)
    lines = [" ".join(map(str, frame.pose.world_from_camera[:3].ravel())) for frame in frames]
    (tmp_path / "poses.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(FormatError, match="the camera path has no intrinsics"):
        open_sequence(tmp_path)
    (tmp_path / "intrinsics.txt").write_text("30 31 15 12.5\n")
    with pytest.warns(SuspiciousInput, match="taken are images in rgb, depth in depths, trajectory in poses.txt"):
        sequence = open_sequence(tmp_path)
    check(sequence, frames, 1000.0)


def test_two_camera_paths_are_one_too_many(tmp_path, frames):
    for i, frame in enumerate(frames):
        save(tmp_path / "rgb" / f"{i}.png", frame.image)
        save(tmp_path / "depth" / f"{i}.png", frame.units)
    for name in ("poses.txt", "traj.txt"):
        (tmp_path / name).write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(FormatError, match=r"expected one camera path, got traj\.txt, poses\.txt; say which"):
        open_sequence(tmp_path)
