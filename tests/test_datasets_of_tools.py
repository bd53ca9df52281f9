"""Folders of other tools, each written here by its tool's conventions and read back."""

import json

import numpy as np
import pytest
from PIL import Image

from dataset_helpers import HEIGHT, WIDTH, assert_depth, make_frames, save, tum_pose
from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
from mosaicmem.camera.pose import OPENGL_FROM_OPENCV
from mosaicmem.datasets import open_sequence
from mosaicmem.datasets.layouts import posed_frames

FX, FY, CX, CY = 30.0, 31.0, 15.0, 12.5


def check(sequence, frames, *, units=1000.0, center=(CX, CY), tolerance=1e-9):
    assert len(sequence) == len(frames)
    assert sequence.intrinsics == CameraIntrinsics(FX, FY, *center, WIDTH, HEIGHT)
    for seen, frame in zip(sequence, frames, strict=True):
        np.testing.assert_array_equal(seen.image, frame.image)
        assert_depth(seen.depth, frame.units, units)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=tolerance)


def opengl(frame):
    return frame.pose.world_from_camera @ OPENGL_FROM_OPENCV


def write_nerfstudio(folder, frames, **fields):
    entries = []
    for i, frame in enumerate(frames):
        save(folder / "images" / f"{i}.png", frame.image)
        save(folder / "depth" / f"{i}.png", frame.units)
        names = {"file_path": f"images/{i}.png", "depth_file_path": f"depth/{i}.png"}
        entries.append({**names, "transform_matrix": opengl(frame).tolist()})
    camera = {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": entries, **fields}))
    return folder


def test_nerfstudio(tmp_path, rng):
    frames = make_frames(rng)
    check(open_sequence(write_nerfstudio(tmp_path, frames)), frames)


def test_nerfstudio_with_another_unit_of_depth(tmp_path, rng):
    frames = make_frames(rng)
    check(open_sequence(write_nerfstudio(tmp_path, frames, depth_unit_scale_factor=0.0002)), frames, units=5000)


def test_black_pixels_of_nerfstudios_masks_are_left_out(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    path = tmp_path / "transforms.json"
    document = json.loads(path.read_text())
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[5:9, 3:20] = 0
    save(tmp_path / "masks" / "0.png", mask)
    document["frames"][0]["mask_path"] = "masks/0.png"
    path.write_text(json.dumps(document))
    first, second = open_sequence(tmp_path)[:2]
    assert (first.moving == (mask == 0)).all()
    assert (first.depth[5:9, 3:20] == 0).all()
    assert second.moving is None


def test_a_distorted_lens_is_undistorted(tmp_path, rng):
    pytest.importorskip("cv2")
    pytest.importorskip("pycolmap")
    frames = make_frames(rng)
    sequence = open_sequence(write_nerfstudio(tmp_path, frames, camera_model="OPENCV", k1=-0.1))
    assert sequence.intrinsics == CameraIntrinsics(FX, FY, CX, CY, WIDTH, HEIGHT)
    seen = sequence[0]
    assert not np.array_equal(seen.image, frames[0].image)
    np.testing.assert_array_equal(seen.image[12, 15], frames[0].image[12, 15])
    assert set(np.unique(seen.depth)) <= {0.0, *np.unique((frames[0].units / np.float32(1000)).astype(np.float32))}


def test_an_unknown_lens_is_refused(tmp_path, rng):
    write_nerfstudio(tmp_path, make_frames(rng), camera_model="SPHERICAL")
    with pytest.raises(FormatError, match=r"frames\[0\]: camera_model: expected one of .*, got SPHERICAL"):
        open_sequence(tmp_path)


def test_frames_without_an_image_are_left_out(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.warns(SuspiciousInput, match="1 of 4 frames have no image file"):
        sequence = open_sequence(tmp_path)
    check(sequence, [frames[0], *frames[2:]])
    assert [sequence.number(i) for i in range(3)] == [0, 2, 3]


def test_frames_without_depth_are_left_out(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    path = tmp_path / "transforms.json"
    document = json.loads(path.read_text())
    del document["frames"][3]["depth_file_path"]
    path.write_text(json.dumps(document))
    with pytest.warns(SuspiciousInput, match="1 of 4 frames have no depth file"):
        check(open_sequence(tmp_path), frames[:3])


def test_images_and_poses_without_depth_are_no_sequence_yet(tmp_path, rng):
    write_nerfstudio(tmp_path, make_frames(rng))
    path = tmp_path / "transforms.json"
    path.write_text(path.read_text().replace("depth_file_path", "depth_file"))
    with (
        pytest.warns(SuspiciousInput, match="depth_file"),
        pytest.raises(
            FormatError, match="4 posed images without it: mosaicmem import SOURCE --output FOLDER estimates it"
        ),
    ):
        open_sequence(tmp_path)
    with pytest.warns(SuspiciousInput, match="depth_file"):
        assert len(posed_frames(tmp_path).frames) == 4


def write_colmap(folder, frames, *, camera=None, depth="depth"):
    cameras = camera or f"1 PINHOLE {WIDTH} {HEIGHT} {FX} {FY} {CX} {CY}"
    lines = []
    for i, frame in enumerate(frames):
        save(folder / "images" / f"{i}.png", frame.image)
        camera_from_world = np.linalg.inv(frame.pose.world_from_camera)
        w, x, y, z = (
            frame.pose.inverse().quaternion if hasattr(frame.pose, "inverse") else _quaternion(camera_from_world)
        )
        t = camera_from_world[:3, 3]
        lines += [f"{i + 1} {w} {x} {y} {z} {t[0]} {t[1]} {t[2]} 1 {i}.png", ""]
        metres = np.where(frame.units == 0, 0, frame.units / np.float32(1000)).astype(np.float32)
        if depth == "stereo":
            path = folder / "stereo" / "depth_maps" / f"{i}.png.geometric.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{WIDTH}&{HEIGHT}&1&".encode() + metres.tobytes())
        else:
            save(folder / depth / f"{i}.png", frame.units)
    (folder / "sparse" / "0").mkdir(parents=True)
    (folder / "sparse" / "0" / "cameras.txt").write_text(cameras + "\n")
    (folder / "sparse" / "0" / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def _quaternion(matrix):
    from mosaicmem.camera.pose import quaternion_from_rotation

    return quaternion_from_rotation(matrix[:3, :3])


@pytest.mark.parametrize("depth", ["depth", "stereo"])
def test_colmap(tmp_path, rng, depth):
    frames = make_frames(rng)
    check(open_sequence(write_colmap(tmp_path, frames, depth=depth)), frames, tolerance=1e-6)


def test_a_fisheye_of_colmap(tmp_path, rng):
    pytest.importorskip("cv2")
    pytest.importorskip("pycolmap")
    frames = make_frames(rng)
    fisheye = f"1 OPENCV_FISHEYE {WIDTH} {HEIGHT} {FX} {FY} {CX} {CY} 0.1 0.01 0 0"
    sequence = open_sequence(write_colmap(tmp_path, frames, camera=fisheye))
    assert sequence.intrinsics.params[2:] == (CX, CY)
    assert sequence[0].image.shape == (HEIGHT, WIDTH, 3)


def test_arkitscenes(tmp_path, rng):
    frames = make_frames(rng)
    lines = []
    for i, frame in enumerate(frames):
        name = f"41000000_{100 + i / 10:.3f}"
        save(tmp_path / "lowres_wide" / f"{name}.png", frame.image)
        save(tmp_path / "lowres_depth" / f"{name}.png", frame.units)
        save(tmp_path / "confidence" / f"{name}.png", np.full((HEIGHT, WIDTH), i % 3, np.uint8))
        (tmp_path / "lowres_wide_intrinsics").mkdir(exist_ok=True)
        late = f"41000000_{100 + i / 10 + 0.001:.3f}"
        (tmp_path / "lowres_wide_intrinsics" / f"{late}.pincam").write_text(f"{WIDTH} {HEIGHT} {FX} {FY} {CX} {CY}\n")
        inverse = np.linalg.inv(frame.pose.world_from_camera)
        w, *xyz = _quaternion(inverse)
        angle = 2 * np.arctan2(np.linalg.norm(xyz), w)
        vector = np.array(xyz) / np.linalg.norm(xyz) * angle
        lines.append(" ".join(str(v) for v in (100 + i / 10, *vector, *inverse[:3, 3])))
    (tmp_path / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    sequence = open_sequence(tmp_path)
    check(sequence, frames, tolerance=1e-6)
    assert [float(seen.confidence[0, 0]) for seen in sequence] == [0.0, 0.5, 1.0, 0.0]
    assert sequence.pose(2).timestamp == pytest.approx(0.2)


def test_poses_of_arkitscenes_are_interpolated(tmp_path, rng):
    image = make_frames(rng)[0].image
    (tmp_path / "lowres_wide_intrinsics").mkdir()
    for time in ("0.000", "0.025", "0.500"):
        save(tmp_path / "lowres_wide" / f"4_{time}.png", image)
        save(tmp_path / "lowres_depth" / f"4_{time}.png", np.full((HEIGHT, WIDTH), 2000, np.uint16))
        (tmp_path / "lowres_wide_intrinsics" / f"4_{time}.pincam").write_text(f"{WIDTH} {HEIGHT} {FX} {FY} {CX} {CY}\n")
    (tmp_path / "lowres_wide.traj").write_text("0.0 0 0 0 0 0 0\n0.1 0 0.4 0 0 0 0\n")
    with pytest.warns(SuspiciousInput, match="1 of 3 images have no pose"):
        sequence = open_sequence(tmp_path)
    turned = sequence.pose(1).camera_from_world[:3, :3]
    assert np.arccos((np.trace(turned) - 1) / 2) == pytest.approx(0.1)


def test_floating_point_depth_of_nerfstudio_has_the_same_unit(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    path = tmp_path / "transforms.json"
    document = json.loads(path.read_text())
    np.save(tmp_path / "depth" / "0.npy", frames[0].units.astype(np.float32))
    document["frames"][0]["depth_file_path"] = "depth/0.npy"
    path.write_text(json.dumps(document))
    check(open_sequence(tmp_path), frames)
    assert open_sequence(tmp_path).unit == "scene units"


def test_scannetpp(tmp_path, rng):
    frames = make_frames(rng)
    entries = {}
    for i, frame in enumerate(frames):
        name = f"frame_{10 * i:06d}"
        save(tmp_path / "rgb" / f"{name}.png", frame.image)
        save(tmp_path / "depth" / f"{name}.png", frame.units)
        entries[name] = {
            "timestamp": 7.5 + i / 6,
            "pose": (np.eye(4) + 50).tolist(),
            "aligned_pose": frame.pose.world_from_camera.tolist(),
            "intrinsic": [[FX, 0, CX - 0.5], [0, FY, CY - 0.5], [0, 0, 1]],
            "imu": {},
        }
    (tmp_path / "pose_intrinsic_imu.json").write_text(json.dumps(entries))
    sequence = open_sequence(tmp_path)
    check(sequence, frames)
    assert sequence.number(3) == 30
    assert sequence.pose(3).timestamp == pytest.approx(0.5)


def test_record3d(tmp_path, rng):
    frames = make_frames(rng)
    poses = []
    for i, frame in enumerate(frames):
        Image.fromarray(frame.image).save(_made(tmp_path / "rgb" / f"{i}.png"))
        save(tmp_path / "depth" / f"{i}.png", frame.units)
        w, *xyz = _quaternion(opengl(frame))
        poses.append([*xyz, w, *opengl(frame)[:3, 3]])
    column_major = [FX, 0, 0, 0, FY, 0, CX, CY, 1]
    document = {"w": WIDTH, "h": HEIGHT, "fps": 60, "K": column_major, "poses": np.array(poses).tolist()}
    (tmp_path / "metadata.json").write_text(json.dumps(document))
    check(open_sequence(tmp_path), frames, tolerance=1e-6)


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_polycam(tmp_path, rng):
    frames = make_frames(rng)
    for i, frame in enumerate(frames):
        name = str(1_000_000 + 500_000 * i)
        save(tmp_path / "keyframes" / "corrected_images" / f"{name}.png", frame.image)
        save(tmp_path / "keyframes" / "images" / f"{name}.png", frame.image[::-1])
        save(tmp_path / "keyframes" / "depth" / f"{name}.png", frame.units)
        save(tmp_path / "keyframes" / "confidence" / f"{name}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        camera = {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "width": WIDTH, "height": HEIGHT, "blur_score": 9.0}
        camera |= {f"t_{row}{column}": opengl(frame)[row, column] for row in range(3) for column in range(4)}
        _made(tmp_path / "keyframes" / "corrected_cameras" / f"{name}.json").write_text(json.dumps(camera))
        _made(tmp_path / "keyframes" / "cameras" / f"{name}.json").write_text("{}")
    sequence = open_sequence(tmp_path)
    check(sequence, frames)
    assert sequence.pose(2).timestamp == pytest.approx(1.0)
    assert (sequence[0].confidence == 1).all()


def test_cut3r(tmp_path, rng):
    frames = make_frames(rng)
    k = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]], np.float32)
    for i, frame in enumerate(frames):
        save(tmp_path / "color" / f"{i:06d}.png", frame.image)
        for name in ("depth", "conf", "camera"):
            (tmp_path / name).mkdir(exist_ok=True)
        np.save(tmp_path / "depth" / f"{i:06d}.npy", (frame.units / np.float32(1000)).astype(np.float32))
        np.save(tmp_path / "conf" / f"{i:06d}.npy", np.full((HEIGHT, WIDTH), 5, np.float32))
        np.savez(tmp_path / "camera" / f"{i:06d}.npz", pose=frame.pose.world_from_camera, intrinsics=k)
    sequence = open_sequence(tmp_path)
    check(sequence, frames)
    assert sequence.unit == "scene units"
    assert (sequence[1].confidence == 0.5).all()


NED_FROM_OPENCV = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)


@pytest.mark.parametrize("version", [1, 2])
def test_tartanair(tmp_path, rng, version):
    size = (640, 480) if version == 1 else (640, 640)
    colors, depths, poses = (
        ("image_left", "depth_left", "pose_left.txt")
        if version == 1
        else ("image_lcam_front", "depth_lcam_front", "pose_lcam_front.txt")
    )
    frames = make_frames(rng, 3)
    lines, tail = [], colors.removeprefix("image_")
    metres = rng.uniform(1, 40, size[::-1]).astype(np.float32)
    metres[:5] = 15000
    for i, frame in enumerate(frames):
        save(tmp_path / colors / f"{i:06d}_{tail}.png", np.full((*size[::-1], 3), 10 * i, np.uint8))
        path = tmp_path / depths / f"{i:06d}_{tail}_depth.{'npy' if version == 1 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        if version == 1:
            np.save(path, metres)
        else:
            Image.fromarray(metres.view(np.uint8).reshape(*size[::-1], 4)[..., [2, 1, 0, 3]]).save(path)
        ned = NED_FROM_OPENCV @ frame.pose.world_from_camera @ NED_FROM_OPENCV.T
        w, *xyz = _quaternion(ned)
        lines.append(" ".join(repr(float(v)) for v in (*ned[:3, 3], *xyz, w)))
    (tmp_path / poses).write_text("\n".join(lines) + "\n")
    sequence = open_sequence(tmp_path)
    assert sequence.intrinsics == CameraIntrinsics(320, 320, 320, size[1] / 2, *size)
    first = sequence[0]
    assert (first.depth[:5] == 0).all()
    np.testing.assert_array_equal(first.depth[5:], metres[5:])
    relative = np.linalg.inv(sequence.pose(0).world_from_camera) @ sequence.pose(2).world_from_camera
    wanted = np.linalg.inv(frames[0].pose.world_from_camera) @ frames[2].pose.world_from_camera
    np.testing.assert_allclose(relative, wanted, atol=1e-6)


def test_icl_nuim(tmp_path):
    """A point that its left-handed camera (second focal length -480) sees lands where ours says."""
    frames = make_frames(np.random.default_rng(3), 3)
    names, poses = [], []
    for i, frame in enumerate(frames):
        save(tmp_path / "rgb" / f"{i}.png", np.full((480, 640, 3), 9 * i, np.uint8))
        save(tmp_path / "depth" / f"{i}.png", np.full((480, 640), 10000, np.uint16))
        names.append(f"{i} depth/{i}.png {i} rgb/{i}.png")
        poses.append(tum_pose(i, frame.pose))
    (tmp_path / "associations.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "livingRoom1.gt.freiburg").write_text("\n".join(poses) + "\n")
    sequence = open_sequence(tmp_path)
    assert (sequence[1].depth == 2).all()
    u, v, z = 400.0, 100.0, 2.0
    left_handed = np.array([(u - 320) / 481.2 * z, (v - 240) / -480 * z, z, 1])
    theirs = frames[1].pose.world_from_camera @ left_handed
    ours = sequence.pose(1).world_from_camera @ [*sequence.intrinsics.unproject([[u, v]], [z])[0], 1]
    np.testing.assert_allclose(ours[:3], theirs[:3] * [1, -1, 1], atol=1e-5)


def test_maps_of_another_resolution_are_brought_to_that_of_colour(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    small = frames[0].units[::4, ::4]
    for i in range(4):
        save(tmp_path / "depth" / f"{i}.png", small)
    np.testing.assert_array_equal(open_sequence(tmp_path)[0].depth[1::4, 1::4] > 0, small > 0)


def test_a_map_of_another_shape_is_refused(tmp_path, rng):
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    save(tmp_path / "depth" / "0.png", np.ascontiguousarray(frames[0].units.T))
    message = f"0.png: expected the shape of 0.png, {WIDTH}x{HEIGHT}, at any resolution, got 24x32; turned by 90"
    with pytest.raises(FormatError, match=message):
        open_sequence(tmp_path)[0]


def test_frames_of_another_size_are_resampled_with_a_warning(tmp_path, rng):
    pytest.importorskip("cv2")
    frames = make_frames(rng)
    write_nerfstudio(tmp_path, frames)
    path = tmp_path / "transforms.json"
    document = json.loads(path.read_text())
    save(tmp_path / "images" / "3.png", np.full((WIDTH, HEIGHT, 3), 99, np.uint8))
    save(tmp_path / "depth" / "3.png", np.full((WIDTH, HEIGHT), 2000, np.uint16))
    document["frames"][3] |= {"w": HEIGHT, "h": WIDTH, "cx": 12.0, "cy": 16.0}
    path.write_text(json.dumps(document))
    with pytest.warns(SuspiciousInput, match=r"1 of 4 frames are not of 32x24 pixels, 3\.png of 24x32 first"):
        sequence = open_sequence(tmp_path)
    check(sequence[:3] and open_first(sequence, 3), frames[:3])
    last = sequence[3]
    assert last.image.shape == (HEIGHT, WIDTH, 3)
    assert (last.image[12, 15] == 99).all()
    assert (last.image[:, 0] == 0).all()
    assert (last.depth[:, 0] == 0).all()


def open_first(sequence, count):
    """The first frames of a sequence, as a sequence."""

    class First:
        intrinsics = sequence.intrinsics

        def __len__(self):
            return count

        def __iter__(self):
            return iter(sequence[:count])

    return First()


def test_given_intrinsics_replace_those_of_the_folder(tmp_path, rng):
    write_nerfstudio(tmp_path, make_frames(rng))
    camera = CameraIntrinsics(40.0, 40.0, 16.0, 12.0, WIDTH, HEIGHT)
    assert open_sequence(tmp_path, intrinsics=camera).intrinsics == camera
    with pytest.raises(ValueError, match="expected those of images of 32x24 pixels"):
        open_sequence(tmp_path, intrinsics=camera.scaled(64, 48))
