"""Small frames of an RGB-D sequence, and writers for each data set layout."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image

from conftest import random_pose

WIDTH, HEIGHT = 32, 24
START = 1305031102.175304  # a timestamp of the TUM benchmark: seconds since 1970


def make_frames(rng, count=4):
    """Images, depth in units (some 0), and poses."""
    frames = []
    for _ in range(count):
        units = rng.integers(500, 60000, (HEIGHT, WIDTH)).astype(np.uint16)
        units[rng.random(units.shape) < 0.1] = 0
        frames.append(
            SimpleNamespace(
                image=rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), units=units, pose=random_pose(rng)
            )
        )
    return frames


def assert_depth(depth, units, units_per_metre):
    assert depth.dtype == np.float32
    assert (depth == 0).sum() == (units == 0).sum() > 0
    np.testing.assert_allclose(depth, units / units_per_metre, rtol=2e-7)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_seven_scenes(folder, frames, intrinsics=((30, 0, 16), (0, 31, 12), (0, 0, 1))):
    for i, frame in enumerate(frames):
        save(folder / f"frame-{i:06d}.color.png", frame.image)
        save(folder / f"frame-{i:06d}.depth.png", frame.units)
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", frame.pose.world_from_camera)
    if intrinsics is not None:
        np.savetxt(folder / "camera-intrinsics.txt", intrinsics)
    return folder


def write_tum(folder, frames):
    """Colour each tenth of a second; depth 5 ms and poses 3 ms after it."""
    rgb, depth, poses = ["# color images"], ["# depth maps"], ["# ground truth", "# timestamp tx ty tz qx qy qz qw"]
    for i, frame in enumerate(frames):
        time = START + i / 10
        save(folder / "rgb" / f"{time:.6f}.png", frame.image)
        save(folder / "depth" / f"{time + 0.005:.6f}.png", frame.units)
        rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
        depth.append(f"{time + 0.005:.6f} depth/{time + 0.005:.6f}.png")
        poses.append(tum_pose(time + 0.003, frame.pose))
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", poses)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def tum_pose(time, pose):
    w, x, y, z = pose.quaternion
    return " ".join(f"{value:.6f}" for value in (time, *pose.position, x, y, z, w))


REPLICA_CAMERA = {"w": WIDTH, "h": HEIGHT, "fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "scale": 6553.5}


def write_replica(folder, frames, camera=REPLICA_CAMERA, shared=True):
    """The camera is beside the folder if ``shared``, else in it."""
    for i, frame in enumerate(frames):
        save(folder / "results" / f"frame{i:06d}.jpg", frame.image)
        save(folder / "results" / f"depth{i:06d}.png", frame.units)
    np.savetxt(folder / "traj.txt", [frame.pose.world_from_camera.ravel() for frame in frames])
    if camera is not None:
        where = folder.parent if shared else folder
        (where / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder


def write_scannet(folder, frames, color_size=(65, 48)):
    """Frames 9, 10, 11, ...; each colour image has a single colour, and another size than the depth."""
    for i, frame in enumerate(frames, start=9):
        color = np.full((color_size[1], color_size[0], 3), frame.image[0, 0])
        save(folder / "color" / f"{i}.jpg", color, quality=100, subsampling=0)
        save(folder / "depth" / f"{i}.png", frame.units)
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / "pose" / f"{i}.txt", frame.pose.world_from_camera)
    (folder / "intrinsic").mkdir()
    (folder / "intrinsic" / "intrinsic_depth.txt").write_text("29 0 15.5 0\n0 30 11.5 0\n0 0 1 0\n0 0 0 1\n")
    return folder
