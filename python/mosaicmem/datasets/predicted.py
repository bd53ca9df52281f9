"""What networks predict for a video or photos: one .npz file of images, depth, K, poses and confidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F32, F64, U8
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import errors_in, open_file
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.camera.formats.foreign import has_entry
from mosaicmem.camera.formats.options import poses_of
from mosaicmem.camera.intrinsics import params_of_matrix
from mosaicmem.datasets.sequence import RgbdImage, RgbdSequence
from mosaicmem.errors import FormatError, suspect

_MAX_BYTES = 16 << 30
_IMAGES = ("images", "image", "imgs", "rgb", "colors")
_DEPTHS = ("depths", "depth", "depth_map", "depthmaps")
_INTRINSICS = ("intrinsics", "intrinsic", "K", "Ks")
_WORLD_FROM_CAMERA = ("cam_c2w", "c2w", "cam2world", "camera_poses", "im_poses", "world_from_camera")
_CAMERA_FROM_WORLD = ("extrinsics", "extrinsic", "w2c", "camera_from_world", "world2cam")
_CONFIDENCES = ("depth_conf", "conf", "confidence", "confs")
_MASKS = ("dynamic_masks", "dynamic_mask", "moving")
_KNOWN = (*_IMAGES, *_DEPTHS, *_INTRINSICS, *_WORLD_FROM_CAMERA, *_CAMERA_FROM_WORLD, *_CONFIDENCES, *_MASKS)
_HARMLESS = (
    "world_points",
    "world_points_conf",
    "pose_enc",
    "world_points_from_depth",
    "images_names",
    "names",
    "timestamps",
)
_SAME_FOCAL = 0.02
_FPS = 30.0


class PredictedSequence(RgbdSequence):
    """Frames with predicted depth and poses, from one .npz file, which is read into memory.

    ================  ============================================================  ==================================
    array             names                                                         shape
    ================  ============================================================  ==================================
    images            images, image, imgs, rgb, colors                              (N, H, W, 3) or (N, 3, H, W);
                                                                                    uint8, or float in [0, 1]
    depth             depths, depth, depth_map, depthmaps                           (N, H, W), or (N, H, W, 1)
    K, in pixels      intrinsics, intrinsic, K, Ks                                  (N, 3, 3) or (3, 3)
    poses             cam_c2w, c2w, cam2world, camera_poses, im_poses               (N, 4, 4) world_from_camera
                      extrinsics, extrinsic, w2c, world2cam                         (N, 3, 4) or (N, 4, 4)
                                                                                    camera_from_world
    confidence        depth_conf, conf, confidence, confs                           (N, H, W)
    what moves        dynamic_masks, dynamic_mask, moving                           (N, H, W), true where it moves
    ================  ============================================================  ==================================

    These are the names that VGGT, MegaSaM, Depth Anything 3 and scripts around DUSt3R and MASt3R write. Axes are
    OpenCV's. Confidence c from 1 up, as these networks predict it, becomes 1 - 1/c; confidence in [0, 1] stays. All
    frames share the mean of their K, with a warning if focal lengths differ by more than 2 %. Time is the position at
    30 frames per second. The unit is the network's: metres for metric networks, else "scene units".

    Parameters
    ----------
    file : path
    intrinsics : CameraIntrinsics, optional
        Used instead of the file's.

    Raises
    ------
    FormatError
        The file has not these arrays, or they have other shapes.

    Warns
    -----
    SuspiciousInput
        Arrays of other names were skipped.
    """

    unit = "scene units"

    def __init__(self, file: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> None:
        self.file = Path(file)
        arrays, others = _read(self.file)
        self._images = _images(self.file, _need(self.file, arrays, _IMAGES, "images"))
        count, height, width, _ = self._images.shape
        self._depth = _maps(self.file, "depth", _need(self.file, arrays, _DEPTHS, "depth"), (count, height, width))
        confidence, moving = (_first(arrays, names) for names in (_CONFIDENCES, _MASKS))
        shape = (count, height, width)
        self._confidence = None if confidence is None else _maps(self.file, "confidence", confidence, shape)
        self._moving = None if moving is None else _maps(self.file, "dynamic_masks", moving, shape)
        self._poses = _poses(self.file, arrays, count)
        self._camera = intrinsics or _camera(self.file, arrays, (width, height), count)
        if (self._camera.width, self._camera.height) != (width, height):
            raise ValueError(f"intrinsics: expected those of images of {width}x{height}")
        skipped = sorted(name for name in others if name not in _HARMLESS)
        if skipped:
            suspect(f"{self.file}: arrays that are not known were skipped: {', '.join(skipped[:8])}")

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames, colour and depth."""
        return self._camera

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; scene units, seconds."""
        return self._poses[index]

    def __len__(self) -> int:
        return len(self._images)

    def _frame(self, index: int) -> RgbdImage:
        number = range(len(self))[index]
        depth = _positive(self._depth[number])
        moving = None if self._moving is None else self._moving[number] > 0.5
        if moving is not None:
            depth[moving] = 0
        confidence = None if self._confidence is None else _unit_confidence(self._confidence[number])
        return RgbdImage(_pixels(self._images[number]), depth, self._poses[number], number, moving, confidence)


def is_predicted(path: Path) -> bool:
    """Whether an .npz file holds depth, and so more than a camera path."""
    return any(has_entry(path, name) for name in _DEPTHS)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    with open_file(path) as file:
        return read_npz(path, file, lambda name: name in _KNOWN, _MAX_BYTES, converted=False)


def _first(arrays: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _need(path: Path, arrays: dict[str, NDArray[Any]], names: tuple[str, ...], what: str) -> NDArray[Any]:
    found = _first(arrays, names)
    if found is None:
        raise FormatError(path, f"expected {what} in an array {' or '.join(names)}, got {', '.join(arrays) or 'none'}")
    return found


def _images(path: Path, images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise FormatError(path, f"images: expected (N, H, W, 3) or (N, 3, H, W), got {images.dtype} {images.shape}")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise FormatError(path, f"images: expected uint8, or floating point in [0, 1], got {images.dtype}")
    if images.dtype.kind == "f" and not (images.min() >= -0.01 and images.max() <= 1.01):
        raise FormatError(
            path, f"images: expected values in [0, 1], got {images.min():g} to {images.max():g}; normalised?"
        )
    return images


def _pixels(image: NDArray[Any]) -> U8:
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _maps(path: Path, name: str, maps: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if maps.ndim == 4 and 1 in (maps.shape[1], maps.shape[3]):
        maps = maps[..., 0] if maps.shape[3] == 1 else maps[:, 0]
    if maps.shape != shape or maps.dtype.kind not in "fub":
        raise FormatError(path, f"{name}: expected {shape}, as images are, got {maps.dtype} {maps.shape}")
    return maps


def _positive(depth: NDArray[Any]) -> F32:
    with np.errstate(over="ignore", invalid="ignore"):
        z = depth.astype(np.float32)
        return np.asarray(np.where(np.isfinite(z) & (z > 0), z, 0), np.float32)


def _unit_confidence(confidence: NDArray[Any]) -> F32:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        known = np.nan_to_num(confidence.astype(np.float64), nan=0.0)
        if known.max(initial=0) > 1:
            known = 1 - 1 / np.maximum(known, 1)
        return np.clip(known, 0, 1).astype(np.float32)


def _poses(path: Path, arrays: dict[str, NDArray[Any]], count: int) -> list[CameraPose]:
    found = [name for name in (*_WORLD_FROM_CAMERA, *_CAMERA_FROM_WORLD) if name in arrays]
    if len(found) != 1:
        expected = (
            "one array of poses: c2w, cam_c2w, ... (world_from_camera) or extrinsics, w2c, ... (camera_from_world)"
        )
        raise FormatError(path, f"expected {expected}, got {', '.join(found) or 'none'}")
    matrices = arrays[found[0]].astype(np.float64)
    if matrices.shape not in ((count, 4, 4), (count, 3, 4)):
        raise FormatError(path, f"{found[0]}: expected ({count}, 4, 4) or ({count}, 3, 4), got {matrices.shape}")
    full: F64 = np.tile(np.eye(4), (count, 1, 1))
    full[:, : matrices.shape[1]] = matrices
    full[:, :3, :3] = _orthonormal(path, found[0], full[:, :3, :3])
    kind = "world_from_camera" if found[0] in _WORLD_FROM_CAMERA else "camera_from_world"
    return poses_of(path, full, [i / _FPS for i in range(count)], lambda i: f"{found[0]}[{i}]", kind)


def _orthonormal(path: Path, name: str, rotations: F64) -> F64:
    """The nearest rotations, as networks compute in half precision; matrices that are far from any stay as they are."""
    if not np.isfinite(rotations).all():
        raise FormatError(path, f"{name}: expected finite numbers, got NaN or infinity")
    u, values, v = np.linalg.svd(rotations)
    is_near = np.abs(values - 1).max(axis=1) < 0.02
    return np.where(is_near[:, None, None], u @ v, rotations)


def _camera(path: Path, arrays: dict[str, NDArray[Any]], size: tuple[int, int], count: int) -> CameraIntrinsics:
    matrices = _need(path, arrays, _INTRINSICS, "K").astype(np.float64)
    if matrices.shape not in ((3, 3), (count, 3, 3)):
        raise FormatError(path, f"K: expected (3, 3) or ({count}, 3, 3), got {matrices.shape}")
    with errors_in(path):
        rows = np.array([params_of_matrix("K", matrix) for matrix in _each(matrices)])
        spread = float((np.ptp(rows[:, :2], axis=0) / rows[:, :2].mean(axis=0)).max())
        if spread > _SAME_FOCAL:
            suspect(f"{path}: focal lengths differ by {100 * spread:.0f} % between frames; their mean is taken")
        fx, fy, cx, cy = (float(value) for value in rows.mean(axis=0))
        return CameraIntrinsics(fx, fy, cx, cy, *size)


def _each(matrices: F64) -> Iterator[F64]:
    yield from matrices[None] if matrices.ndim == 2 else matrices
