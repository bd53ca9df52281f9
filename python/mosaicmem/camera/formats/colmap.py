"""COLMAP's sparse models, text and binary: camera_from_world as a quaternion (w, x, y, z) and a translation.

The path is a folder with cameras and images (.txt or .bin), the folder above it, or one of its files. The pixel frame
is this library's. Images are in natural order of their names and have no times. Points, rigs and frames are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from mosaicmem._files import atomic_write
from mosaicmem._opening import errors_in
from mosaicmem.camera.formats.colmap_model import find_model, read_cameras, read_images
from mosaicmem.camera.formats.colmap_records import Camera, Images
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, cameras_of, trajectory
from mosaicmem.camera.pose import (
    CameraPose,
    quaternion_from_rotation,
    unit_quaternion,
)
from mosaicmem.camera.pose_stacks import make_poses, matrices_of_quaternions
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for undistorted pinhole cameras of images of one size, and for unit quaternions."""
    folder = find_model(path)
    if folder is None:
        if not path.exists():
            raise FormatError(path, "missing")
        if not path.is_dir():
            raise FormatError(path, "expected the folder of a model, got a file")
        raise FormatError(path, "expected images.bin or images.txt, here or in sparse/0, found neither")
    cameras_file, cameras = read_cameras(folder)
    if options.intrinsics is None:
        _check_any(cameras_file, cameras)
    images_file, images = read_images(folder, cameras)
    if not 0 < len(images) <= MAX_FRAMES:
        raise FormatError(images_file, f"expected 1 to {MAX_FRAMES} images, got {len(images)}")
    judged = ((image.name, *cameras[image.camera].judged(cameras_file)) for image in images)
    intrinsics = options.intrinsics or cameras_of(cameras_file, options.intrinsics_mode, judged)
    with errors_in(cameras_file):
        if options.intrinsics is None:
            first = intrinsics[0] if isinstance(intrinsics, list) else intrinsics
            options.check_size((first.width, first.height))
    poses = poses_of_model(images_file, images, options.times(path, len(images)))
    return trajectory(path, poses, intrinsics)


def poses_of_model(images_file: Path, images: Images, times: Sequence[float]) -> list[CameraPose]:
    """The poses of a model's images in their order, taken at ``times`` in seconds."""
    rows = images.poses()
    matrices = matrices_of_quaternions(rows[:, :4], rows[:, 4:], lambda i: images[i].name, images_file)

    def one(i: int) -> CameraPose:
        with errors_in(images_file, images[i].line):
            unit_quaternion(images[i].name, rows[i, :4])
            return CameraPose.from_camera_from_world(matrices[i], times[i])

    return make_poses(matrices, times, one, are_inverse=True)


def write(path: Path, path_of_camera: CameraTrajectory, *, binary: bool = False) -> None:
    """Writes a folder with a PINHOLE camera (one for each zoom), images frame_000000.png and so on, and no points or
    times."""
    path.mkdir(parents=True, exist_ok=True)
    numbers = {camera: i + 1 for i, camera in enumerate(dict.fromkeys(path_of_camera.cameras))}
    camera_of = [numbers[camera] for camera in path_of_camera.cameras]
    names = [f"frame_{i:06d}.png" for i in range(len(path_of_camera))]
    poses = [
        (*quaternion_from_rotation(m[:3, :3]), *m[:3, 3]) for m in (pose.camera_from_world for pose in path_of_camera)
    ]
    if binary:
        files = {
            "cameras.bin": struct.pack("<Q", len(numbers))
            + b"".join(struct.pack("<iiQQ4d", n, 1, k.width, k.height, *k.params) for k, n in numbers.items()),
            "images.bin": struct.pack("<Q", len(poses))
            + b"".join(
                struct.pack("<i7di", i + 1, *pose, camera_of[i]) + name.encode() + b"\0" + struct.pack("<Q", 0)
                for i, (name, pose) in enumerate(zip(names, poses, strict=True))
            ),
            "points3D.bin": struct.pack("<Q", 0),
        }
    else:
        cameras = [f"{n} PINHOLE {k.width} {k.height} {_numbers(k.params)}\n" for k, n in numbers.items()]
        lines = [
            f"{i + 1} {_numbers(pose)} {camera_of[i]} {name}\n\n"
            for i, (name, pose) in enumerate(zip(names, poses, strict=True))
        ]
        files = {
            "cameras.txt": "".join(["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS\n", *cameras]).encode(),
            "images.txt": ("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME\n" + "".join(lines)).encode(),
            "points3D.txt": b"# POINT3D_ID X Y Z R G B ERROR TRACK\n",
        }
    for name, content in files.items():
        with atomic_write(path / name) as file:
            file.write(content)


def write_binary(path: Path, path_of_camera: CameraTrajectory) -> None:
    """`write` with ``binary``."""
    write(path, path_of_camera, binary=True)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _check_any(path: Path, cameras: dict[int, Camera]) -> None:
    """Before images are read: if no camera is a pinhole, raises the error of the first one."""
    errors = []
    for camera in cameras.values():
        try:
            camera.judged(path)
        except FormatError as error:
            errors.append(error)
        else:
            return
    raise errors[0]
