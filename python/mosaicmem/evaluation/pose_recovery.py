"""Camera poses of a video, recovered from its pixels. Needs pycolmap."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, F64, U8, ArrayLike, as_depth, as_pixels, check_instance, check_integer
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory

_LEAST = 640  # pixels along the longer side: features need some; smaller images are enlarged
_RATIO = 0.85  # of the distances of the best and the second-best match, at most
_LEAST_INLIERS = 12
_MOST_ERROR = 4.0  # pixels of the enlarged image


def require_pycolmap() -> None:
    """Raise an error that says what to install if pycolmap is missing or too old."""
    needs = "recovering camera poses needs pycolmap 4: pip install -U pycolmap"
    if importlib.util.find_spec("pycolmap") is None:
        raise ModuleNotFoundError(needs)
    import pycolmap

    if not hasattr(pycolmap, "FeatureExtractor"):
        raise ModuleNotFoundError(f"{needs} (got {pycolmap.__version__})")


def locate_frames(
    video: ArrayLike,
    images: Mapping[int, ArrayLike],
    depth: Mapping[int, ArrayLike],
    path: CameraTrajectory,
    *,
    neighbours: int = 2,
) -> dict[int, CameraPose]:
    """Where in a known scene each frame of a video was seen from; frames that show another scene are left out.

    Features of a frame are matched with those of the scene's images around the same place on the path, whose depth
    makes them points of the world; the pose is that of most points (P3P, LO-RANSAC, refined).

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
        One frame per pose of the path.
    images, depth : mappings of frames to (H, W, 3) and (H, W) arrays
        What the scene looks like from some frames of the path, and its depth, metres.
    path : CameraTrajectory
    neighbours : int
        How many of the scene's images to each side of a frame are matched with it.

    Returns
    -------
    dict of int to CameraPose
        For the frames with an image of the scene, in the world of ``path``.
    """
    require_pycolmap()
    width, height = check_instance("path", path, CameraTrajectory).size
    frames = as_pixels("video", video, (len(path), height, width, 3))
    around, found = check_integer("neighbours", neighbours, minimum=0), {}
    known = sorted(check_integer("images: frame", i, minimum=0, maximum=len(path) - 1) for i in images)
    if set(depth) != set(known):
        raise ValueError(f"depth: expected that of the frames of images, {known}, got that of {sorted(depth)}")
    scene = {i: _SceneView(images[i], depth[i], path, i) for i in known}
    for place, i in enumerate(known):
        near = [scene[j] for j in known[max(0, place - around) : place + around + 1]]
        pose = _locate(frames[i], near, path.cameras[i], path[i].timestamp)
        if pose is not None:
            found[i] = pose
    return found


def recover_path(video: ArrayLike, intrinsics: CameraIntrinsics) -> dict[int, CameraPose]:
    """The camera poses of a video by structure from motion, in a world and a scale of its own.

    Frames that cannot be registered are left out; of several parts that do not connect, the largest counts.

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
    intrinsics : CameraIntrinsics
        Of all frames, known and not refined.
    """
    require_pycolmap()
    import pycolmap

    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    frames = as_pixels("video", video, ("F", intrinsics.height, intrinsics.width, 3))
    with tempfile.TemporaryDirectory() as folder:
        images, database, models = (Path(folder) / name for name in ("images", "database.db", "models"))
        images.mkdir()
        models.mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(_enlarged(frame)).save(images / f"{i:06d}.png")
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        reader.camera_params = ",".join(repr(float(x)) for x in _enlarged_camera(intrinsics).params)
        pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader)
        pycolmap.match_exhaustive(database)
        options = pycolmap.IncrementalPipelineOptions()
        options.ba_refine_focal_length = options.ba_refine_principal_point = options.ba_refine_extra_params = False
        parts = pycolmap.incremental_mapping(database, images, models, options).values()
        largest = max(parts, key=lambda part: part.num_reg_images(), default=None)
        if largest is None:
            return {}
        return {
            int(Path(image.name).stem): _as_pose(image.cam_from_world(), 0.0)
            for image in largest.images.values()
            if image.has_pose
        }


class _SceneView:
    """Features of a view of the scene, as points of the world."""

    def __init__(self, image: ArrayLike, depth: ArrayLike, path: CameraTrajectory, frame: int) -> None:
        camera, pose = path.cameras[frame], path[frame]
        shape = (camera.height, camera.width)
        pixels, descriptors = _features(as_pixels(f"images[{frame}]", image, (*shape, 3)))
        z = as_depth(f"depth[{frame}]", depth, shape)
        row, column = np.minimum(np.floor(pixels[:, ::-1]).astype(int), np.array(shape) - 1).T
        there = np.isfinite(z[row, column]) & (z[row, column] > 0)
        self.descriptors = descriptors[there]
        self.points = pose.position + (
            camera.unproject(pixels[there], z[row, column][there]) @ pose.world_from_camera[:3, :3].T
        )


def _locate(frame: F32, near: Sequence[_SceneView], camera: CameraIntrinsics, timestamp: float) -> CameraPose | None:
    import pycolmap

    pixels, descriptors = _features(frame)
    matches = [
        (ours, view.points[theirs]) for view in near for ours, theirs in [_matched(descriptors, view.descriptors)]
    ]
    places = np.concatenate([pixels[ours] for ours, _ in matches])
    points = np.concatenate([where for _, where in matches])
    if len(points) < _LEAST_INLIERS:
        return None
    large = _enlarged_camera(camera)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = _MOST_ERROR
    options.ransac.random_seed = 0
    found = pycolmap.estimate_and_refine_absolute_pose(
        places * (large.width / camera.width),
        points,
        pycolmap.Camera(model="PINHOLE", width=large.width, height=large.height, params=list(large.params)),
        options,
    )
    if found is None or found["num_inliers"] < _LEAST_INLIERS:
        return None
    return _as_pose(found["cam_from_world"], timestamp)


def _as_pose(camera_from_world: Any, timestamp: float) -> CameraPose:
    matrix = np.eye(4)
    matrix[:3] = camera_from_world.matrix()
    return CameraPose.from_camera_from_world(matrix, timestamp)


def _features(image: F32) -> tuple[F64, F32]:
    """Places (N, 2), pixels (u, v) of the image, and RootSIFT descriptors (N, 128) of unit length."""
    import pycolmap

    large = Image.fromarray(_enlarged(image)).convert("L")
    extractor = pycolmap.FeatureExtractor.create()
    keypoints, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(large, np.uint8))
    corners = np.array([(one.x, one.y) for one in keypoints], np.float64).reshape(-1, 2)
    places = corners * (image.shape[1] / large.width)
    unit = np.asarray(descriptors.data, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    return places, unit


def _matched(ours: F32, theirs: F32) -> tuple[Any, Any]:
    """Indices of features that are each other's nearest, and clearly nearer than the second."""
    if len(ours) < 2 or len(theirs) < 2:
        return np.empty(0, int), np.empty(0, int)
    distance = np.sqrt(np.maximum(2 - 2 * ours @ theirs.T, 0))
    best = distance.argmin(axis=1)
    nearest = np.partition(distance, 1, axis=1)
    mutual = distance.argmin(axis=0)[best] == np.arange(len(ours))
    chosen = np.flatnonzero(mutual & (nearest[:, 0] < _RATIO * nearest[:, 1]))
    return chosen, best[chosen]


def _enlarged_camera(camera: CameraIntrinsics) -> CameraIntrinsics:
    factor = max(1, -(-_LEAST // max(camera.width, camera.height)))
    return camera.scaled(camera.width * factor, camera.height * factor)


def _enlarged(image: F32) -> U8:
    height, width, _ = image.shape
    factor = max(1, -(-_LEAST // max(width, height)))
    picture = Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    return np.asarray(picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC))
