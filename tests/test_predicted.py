"""What networks predict, in one .npz file."""

import numpy as np
import pytest

from cli_helpers import succeed
from dataset_helpers import HEIGHT, WIDTH, make_frames
from mosaicmem import CameraIntrinsics, CameraTrajectory, FormatError, SuspiciousInput
from mosaicmem.camera.formats import load_trajectory
from mosaicmem.datasets import open_sequence

K = np.array([[30.0, 0, 15.0], [0, 31.0, 12.5], [0, 0, 1]], np.float32)


@pytest.fixture
def frames(rng):
    return make_frames(rng)


def arrays(frames):
    return {
        "images": np.stack([frame.image for frame in frames]),
        "depths": np.stack([frame.units / np.float32(1000) for frame in frames]).astype(np.float32),
        "poses": np.stack([frame.pose.world_from_camera for frame in frames]),
    }


def megasam(frames):
    a = arrays(frames)
    return {"images": a["images"], "depths": a["depths"].astype(np.float16), "intrinsic": K, "cam_c2w": a["poses"]}


def vggt(frames):
    a = arrays(frames)
    return {
        "images": (a["images"].transpose(0, 3, 1, 2) / 255).astype(np.float32),
        "depth": a["depths"][..., None],
        "depth_conf": np.full(a["depths"].shape, 4, np.float32),
        "extrinsic": np.linalg.inv(a["poses"])[:, :3].astype(np.float32),
        "intrinsic": np.stack([K] * len(frames)),
        "world_points": np.zeros((len(frames), HEIGHT, WIDTH, 3), np.float32),
    }


def depth_anything(frames):
    a = arrays(frames)
    return {
        "image": a["images"],
        "depth": a["depths"],
        "conf": np.full(a["depths"].shape, 0.25, np.float32),
        "extrinsics": np.linalg.inv(a["poses"])[:, :3],
        "intrinsics": np.stack([K] * len(frames)),
    }


TOOLS = {"MegaSaM": (megasam, None, 1e-3), "VGGT": (vggt, 0.75, 1e-6), "Depth Anything 3": (depth_anything, 0.25, 1e-6)}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_each_network_writes(tmp_path, frames, tool):
    make, confidence, tolerance = TOOLS[tool]
    np.savez(tmp_path / "a.npz", **make(frames))
    sequence = open_sequence(tmp_path / "a.npz")
    assert len(sequence) == 4
    assert sequence.intrinsics == CameraIntrinsics(30, 31, 15, 12.5, WIDTH, HEIGHT)
    assert sequence.unit == "scene units"
    for i, (seen, frame) in enumerate(zip(sequence, frames, strict=True)):
        np.testing.assert_array_equal(seen.image, frame.image)
        np.testing.assert_allclose(seen.depth, frame.units / 1000, rtol=tolerance)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=1e-4)
        assert seen.number == i
        assert seen.confidence is None if confidence is None else (seen.confidence == confidence).all()


def test_what_moves_has_no_depth(tmp_path, frames):
    moving = np.zeros((4, HEIGHT, WIDTH), bool)
    moving[:, 3] = True
    np.savez(tmp_path / "a.npz", **megasam(frames), dynamic_masks=moving)
    seen = open_sequence(tmp_path / "a.npz")[1]
    assert (seen.moving == moving[1]).all()
    assert (seen.depth[3] == 0).all()


def test_convert_takes_its_cameras(tmp_path, frames):
    np.savez(tmp_path / "a.npz", **depth_anything(frames))
    done = succeed("convert", tmp_path / "a.npz", tmp_path / "path.json")
    assert "scene units" in done.stdout
    for pose, frame in zip(CameraTrajectory.load(tmp_path / "path.json"), frames, strict=True):
        np.testing.assert_allclose(pose.world_from_camera, frame.pose.world_from_camera, atol=1e-6)
    with pytest.raises(FormatError, match="expected a camera path, got what a network predicted"):
        load_trajectory(tmp_path / "a.npz", "matrixgame", size=(WIDTH, HEIGHT))


def without(name):
    return lambda a: {key: value for key, value in a.items() if key != name}


WRONG = [
    (without("images"), "expected images in an array images or image"),
    (without("depths"), "expected depth in an array"),
    (without("intrinsic"), "expected K in an array"),
    (without("cam_c2w"), "expected one array of poses"),
    (lambda a: {**a, "w2c": a["cam_c2w"]}, "expected one array of poses.*got cam_c2w, w2c"),
    (lambda a: {**a, "depths": a["depths"][:3]}, r"depth: expected \(4, 24, 32\), as images are, got float16 \(3"),
    (lambda a: {**a, "images": a["images"].astype(np.float32)}, r"expected values in \[0, 1\]"),
    (lambda a: {**a, "images": a["images"].astype(np.uint16)}, "expected uint8, or floating point"),
    (lambda a: {**a, "cam_c2w": a["cam_c2w"] * 2}, r"cam_c2w\[0\]"),
    (lambda a: {**a, "cam_c2w": a["cam_c2w"] * np.nan}, "cam_c2w: expected finite numbers"),
    (lambda a: {**a, "intrinsic": K[:2]}, r"K: expected \(3, 3\)"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arrays(tmp_path, frames, change, message):
    np.savez(tmp_path / "a.npz", **change(megasam(frames)))
    with pytest.raises(FormatError, match=message):
        open_sequence(tmp_path / "a.npz")


def test_unknown_arrays_and_other_focal_lengths_are_named(tmp_path, frames):
    np.savez(tmp_path / "a.npz", **megasam(frames), scales=np.ones(4))
    with pytest.warns(SuspiciousInput, match="skipped: scales"):
        open_sequence(tmp_path / "a.npz")
    changing = np.stack([K * [[1 + 0.05 * i], [1 + 0.05 * i], [1]] for i in range(4)])
    np.savez(tmp_path / "a.npz", **{**megasam(frames), "intrinsic": changing})
    with pytest.warns(SuspiciousInput, match="focal lengths differ by 14 %"):
        open_sequence(tmp_path / "a.npz")
