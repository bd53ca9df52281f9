"""COLMAP's sparse models, text and binary: camera_from_world as a quaternion (w, x, y, z) and a translation.

A folder with cameras and images, .txt or .bin. Pixels are this library's. Images are ordered by their names and have no
times. Points, rigs and frames are passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64, as_array
from mosaicmem._files import atomic_write
from mosaicmem._reading import errors_in, in_name_order, open_file
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, one_camera, trajectory
from mosaicmem.camera.pose import CameraPose, quaternion_from_rotation, rotation_from_quaternion
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

_MAX_BYTES = 2**30
_MAX_NAME = 4096
# By COLMAP's number: name, parameters, and how many of them are focal lengths. The others distort beyond zeros.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3, 1),
    1: ("PINHOLE", 4, 2),
    2: ("SIMPLE_RADIAL", 4, 1),
    3: ("RADIAL", 5, 1),
    4: ("OPENCV", 8, 2),
}
_PARAMETERS = {0: 3, 1: 4, 2: 4, 3: 5, 4: 8, 5: 8, 6: 12, 7: 5, 8: 4, 9: 5, 10: 12}  # of all models, to read past them
_NAMES = {name: number for number, (name, _, _) in _MODELS.items()}


@dataclass(frozen=True, eq=False)
class _Image:
    name: str
    quaternion: F64
    translation: F64
    camera: int
    line: int | None


@dataclass(frozen=True, eq=False)
class _Camera:
    model: str
    params: F64
    size: tuple[int, int]
    line: int | None

    def judged(self, path: Path) -> tuple[F64, tuple[int, int]]:
        """(fx, fy, cx, cy) and size; an error if it is no pinhole."""
        if self.model not in _NAMES:
            known = ", ".join(_NAMES)
            raise FormatError(path, f"expected a camera of model {known}, got {self.model}", self.line)
        _, count, focals = _MODELS[_NAMES[self.model]]
        if len(self.params) != count:
            raise FormatError(path, f"{self.model}: expected {count} parameters, got {len(self.params)}", self.line)
        rest = self.params[focals + 2 :]
        if rest.any():
            raise FormatError(
                path,
                f"expected no distortion, got {self.model} with {rest.tolist()}; use colmap image_undistorter",
                self.line,
            )
        p = self.params
        return np.array([p[0], p[focals - 1], p[focals], p[focals + 1]]), self.size


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the camera model, that nothing is distorted, unit quaternions, and that all images share one camera."""
    if not path.is_dir():
        raise FormatError(path, "expected the folder of a model" if path.exists() else "missing")
    kind = next((kind for kind in (".bin", ".txt") if (path / f"images{kind}").is_file()), None)
    if kind is None:
        raise FormatError(path, "expected images.bin or images.txt, found neither")
    images_file, cameras_file = path / f"images{kind}", path / f"cameras{kind}"
    images = _read_binary_images(images_file) if kind == ".bin" else _read_text_images(images_file)
    cameras = _read_binary_cameras(cameras_file) if kind == ".bin" else _read_text_cameras(cameras_file)
    if not 0 < len(images) <= MAX_FRAMES:
        raise FormatError(images_file, f"expected 1 to {MAX_FRAMES} images, got {len(images)}")
    images = in_name_order(images, lambda image: image.name, images_file)
    poses, used = [], []
    for image, time in zip(images, options.times(len(images)), strict=True):
        if image.camera not in cameras:
            raise FormatError(images_file, f"{image.name}: no camera {image.camera} in {cameras_file.name}", image.line)
        with errors_in(images_file, image.line):
            poses.append(_pose(image, time))
        used.append((image.name, image.camera))
    if options.intrinsics is not None:
        return trajectory(path, poses, options.intrinsics)
    return trajectory(
        path, poses, one_camera(cameras_file, [(name, *cameras[key].judged(cameras_file)) for name, key in used])
    )


def write(path: Path, path_of_camera: CameraTrajectory, *, binary: bool = False) -> None:
    """A folder with one PINHOLE camera, images frame_000000.png and so on, and no points. Times are not kept."""
    path.mkdir(parents=True, exist_ok=True)
    k = path_of_camera.intrinsics
    names = [f"frame_{i:06d}.png" for i in range(len(path_of_camera))]
    poses = [
        (*quaternion_from_rotation(m[:3, :3]), *m[:3, 3]) for m in (pose.camera_from_world for pose in path_of_camera)
    ]
    if binary:
        files = {
            "cameras.bin": struct.pack("<QiiQQ4d", 1, 1, 1, k.width, k.height, *k.params),
            "images.bin": struct.pack("<Q", len(poses))
            + b"".join(
                struct.pack("<i7di", i + 1, *pose, 1) + name.encode() + b"\0" + struct.pack("<Q", 0)
                for i, (name, pose) in enumerate(zip(names, poses, strict=True))
            ),
            "points3D.bin": struct.pack("<Q", 0),
        }
    else:
        size = f"{k.width} {k.height}"
        lines = [
            f"{i + 1} {_numbers(pose)} 1 {name}\n\n" for i, (name, pose) in enumerate(zip(names, poses, strict=True))
        ]
        files = {
            "cameras.txt": f"# CAMERA_ID MODEL WIDTH HEIGHT PARAMS\n1 PINHOLE {size} {_numbers(k.params)}\n".encode(),
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


def _pose(image: _Image, time: float) -> CameraPose:
    norm = float(np.linalg.norm(as_array("quaternion", image.quaternion, np.float64, (4,), finite=True)))
    if abs(norm - 1) > 1e-3:
        raise ValueError(f"{image.name}: expected a unit quaternion, got norm {norm:.6g}")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_quaternion(image.quaternion / norm)
    matrix[:3, 3] = image.translation
    return CameraPose.from_camera_from_world(matrix, time)


# Text


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise FormatError(path, f"expected at most {_MAX_BYTES} bytes, got more")
    return content


def _text_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, empty ones included, comments left out."""
    lines = _content(path).decode("utf-8-sig", errors="replace").splitlines()
    return [(i + 1, line.strip()) for i, line in enumerate(lines) if not line.lstrip().startswith("#")]


def _read_text_cameras(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, line in _text_lines(path):
        if not line:
            continue
        words = line.split()
        try:
            size = (int(words[2]), int(words[3]))
            params = np.array([float(word) for word in words[4:]])
            cameras[int(words[0])] = _Camera(words[1], params, size, number)
        except (ValueError, IndexError):
            raise FormatError(path, f"expected ID MODEL WIDTH HEIGHT PARAMS, got {line[:80]!r}", number) from None
    return cameras


def _read_text_images(path: Path) -> list[_Image]:
    """An image a line, and after each a line with its points: x, y, id of each, or nothing."""
    lines = _text_lines(path)
    while lines and not lines[0][1]:
        lines.pop(0)
    images = []
    for number, line in lines[::2]:
        words = line.split(maxsplit=9)
        try:
            values = np.array([float(word) for word in words[1:8]])
            images.append(_Image(words[9], values[:4], values[4:], int(words[8]), number))
        except (ValueError, IndexError):
            if not line and number == lines[-1][0]:
                break
            raise FormatError(
                path, f"expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {line[:80]!r}", number
            ) from None
    for number, line in lines[1::2]:
        if len(line.split()) % 3:
            raise FormatError(
                path,
                f"expected the points of the image before, x y id of each or an empty line, got {line[:80]!r}",
                number,
            )
    return images


# Binary, little-endian


class _Reader:
    """Takes numbers from bytes; a file that ends too early is a FormatError."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._at = path, _content(path), 0

    def take(self, layout: str) -> tuple[float, ...]:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self._content, self._at - size)

    def skip(self, size: int) -> None:
        if size > len(self._content) - self._at:
            raise FormatError(self._path, "damaged: it ends too early")
        self._at += size

    def name(self) -> str:
        """Text up to a zero byte."""
        end = self._content.find(b"\0", self._at, self._at + _MAX_NAME)
        if end < 0:
            raise FormatError(self._path, "damaged: a name without an end")
        name = self._content[self._at : end].decode(errors="replace")
        self._at = end + 1
        return name


def _read_binary_cameras(path: Path) -> dict[int, _Camera]:
    reader = _Reader(path)
    cameras = {}
    for _ in range(int(reader.take("<Q")[0])):
        key, model, width, height = (int(x) for x in reader.take("<iiQQ"))
        if model not in _PARAMETERS:
            raise FormatError(path, f"expected a camera of model 0 to {max(_PARAMETERS)}, got number {model}")
        params = np.array(reader.take(f"<{_PARAMETERS[model]}d"))
        name = _MODELS[model][0] if model in _MODELS else f"number {model}"
        cameras[key] = _Camera(name, params, (width, height), None)
    return cameras


def _read_binary_images(path: Path) -> list[_Image]:
    reader = _Reader(path)
    images = []
    for _ in range(int(reader.take("<Q")[0])):
        values = np.array(reader.take("<i7d")[1:])
        camera = int(reader.take("<i")[0])
        name = reader.name()
        reader.skip(24 * int(reader.take("<Q")[0]))  # points: x, y, id
        images.append(_Image(name, values[:4], values[4:], camera, None))
    return images
