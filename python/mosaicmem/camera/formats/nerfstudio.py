"""transforms.json of nerfstudio, instant-ngp and Blender: world_from_camera, OpenGL axes (+y up, looking along -z).

The pixel frame is COLMAP's. Intrinsics are given once or per frame: fl_x, fl_y or fields of view, cx, cy, w, h. Either
all frames have a "time" in seconds, or none. Positions are taken as stored: ``applied_transform`` was applied to them
already, and ``scale`` and ``offset`` are for instant-ngp to apply later.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, as_array, check_number
from mosaicmem._files import read_json_object, write_json
from mosaicmem.camera.fields import Unread, is_nothing, refuse_bent, whole_pixels, worth_judging
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.pose import OPENGL_FROM_OPENCV, determinant
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

_CAMERA = (
    *("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov"),
    *("from_na", "from_mitsuba"),
)
_READ = (
    *("frames", "transform_matrix", "time", *_CAMERA),
    *("applied_transform", "applied_scale", "scale", "offset", "centered", "scaled"),
)
_HARMLESS = (
    # files of frames, and their metadata
    *("file_path", "mask_path", "mask_file_path", "fg_mask_path", "depth_file_path", "depth_path", "normal_file_path"),
    *("normal_path", "semantic_path", "segmentation_path", "instance_path", "ply_file_path", "light_file_path"),
    *(
        "colmap_im_id",
        "colmap_image_id",
        "image_id",
        "camera_id",
        "sharpness",
        "sharpness_discard_threshold",
        "sharpen",
    ),
    *("train_filenames", "val_filenames", "test_filenames", "n_frames", "split"),
    # depth files, which are not read
    *("integer_depth_scale", "enable_depth_loading", "depth_unit_scale_factor", "enable_ray_loading"),
    # scene settings of viewers and training
    *("aabb", "aabb_scale", "aabb_range", "render_aabb", "render_aabb_to_local", "sphere_center", "sphere_radius"),
    *("scene_box", "crop", "near", "far", "up", "orientation_override", "auto_scale_poses_override"),
    *("fisheye_crop_radius", "n_extra_learnable_dims", "importance_sampling", "wants_importance_sampling"),
    *("env_map", "background", "is_hdr", "white_transparent", "black_transparent", "mask_color", "fix_premult"),
    "rotation",  # Blender: the turntable's step to the next frame
)
_SAME_FOCAL = 0.01


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for an undistorted pinhole camera, contradictory fields, and valid rotations.

    Frames stay in file order.
    """
    document = read_json_object(path)
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames or len(frames) > MAX_FRAMES:
        raise FormatError(path, f"frames: expected a list of 1 to {MAX_FRAMES} frames")
    unread = Unread((*_READ, *_HARMLESS))
    unread.check("", document)
    times = _times(path, frames, options)
    # Only the shared fields that frames need: a copy of every field for every frame would be quadratic.
    shared = {name: document[name] for name in _CAMERA if name in document} | worth_judging(document)
    matrices, camera = np.empty((len(frames), 4, 4)), FrameCameras(path, options.intrinsics_mode)
    for i, frame in enumerate(frames):
        where = f"frames[{i}]"
        try:
            unread.check(where, frame)
            matrices[i] = as_array("transform_matrix", _matrix(frame), np.float64, (4, 4), finite=True)
            fields = {**shared, **frame}
            _check_axes(fields)
            if options.intrinsics is None:
                camera.add(where, *_camera(fields, options))
        except KeyError as error:
            raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{where}: {error}") from None

    poses = poses_of(path, matrices, times, lambda i: f"frames[{i}]", "opengl")
    found = trajectory(path, poses, options.intrinsics or camera.intrinsics())
    unread.say(path)
    _suspect_units(path, document)
    return found


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Writes a "time" in seconds per frame, which nerfstudio reads for methods that use it."""
    k, zooms = path_of_camera.cameras[0], path_of_camera.zooms
    document = {
        "camera_model": "OPENCV",
        "w": k.width,
        "h": k.height,
        "fl_x": k.fx,
        "fl_y": k.fy,
        "cx": k.cx,
        "cy": k.cy,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "frames": [
            {
                "file_path": f"images/frame_{i:06d}.png",
                "transform_matrix": (pose.world_from_camera @ OPENGL_FROM_OPENCV).tolist(),
                "time": pose.timestamp,
                **({"fl_x": own.fx, "fl_y": own.fy, "cx": own.cx, "cy": own.cy} if zooms else {}),
            }
            for i, (pose, own) in enumerate(zip(path_of_camera, path_of_camera.cameras, strict=True))
        ],
    }
    write_json(path, document)


def _times(path: Path, frames: list[Any], options: ReadOptions) -> list[float]:
    """The time of each frame in seconds; either all frames have one in the file, or none."""
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise FormatError(path, f"frames[{i}]: expected an object, got {type(frame).__name__}")
    timed = [i for i, frame in enumerate(frames) if "time" in frame]
    if not timed:
        return options.times(path, len(frames))
    if len(timed) < len(frames):
        first = next(i for i, frame in enumerate(frames) if "time" not in frame)
        raise FormatError(
            path, f"frames[{first}]: expected a time in every frame or in none, got {len(timed)} of {len(frames)}"
        )
    times = []
    for i, frame in enumerate(frames):
        try:
            times.append(check_number("time", frame["time"]))
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"frames[{i}]: {error}") from None
    return options.seconds(path, np.array(times))


def _matrix(frame: dict[str, Any]) -> list[Any]:
    if "transform_matrix" not in frame and "camtoworld" in frame:
        raise ValueError("transform_matrix is missing; SDFStudio's meta_data.json? its camtoworld has OpenCV axes")
    matrix = frame["transform_matrix"]
    if not isinstance(matrix, list):
        raise TypeError(f"transform_matrix: expected four rows, got {type(matrix).__name__}")
    return [*matrix, [0, 0, 0, 1]] if len(matrix) == 3 else matrix


def _check_axes(fields: dict[str, Any]) -> None:
    for name in ("from_na", "from_mitsuba"):
        if not is_nothing(fields.get(name)):
            raise ValueError(
                f"{name}: expected poses with OpenGL axes, got {fields[name]!r:.40}, which means other ones"
            )


def _suspect_units(path: Path, document: dict[str, Any]) -> None:
    """Warn of fields that suggest that positions are not in the units of the scene."""
    said = []
    if document.get("applied_scale", 1) != 1:
        said.append(f"applied_scale {document['applied_scale']!r:.40} was applied to them: depth must be scaled alike")
    transform = np.asarray(document.get("applied_transform", np.eye(3)), dtype=object)
    try:
        axes = as_array("applied_transform", transform[:3, :3].astype(np.float64), np.float64, (3, 3), finite=True)
        scale = float(np.cbrt(abs(determinant(axes))))
    except (IndexError, TypeError, ValueError):
        said.append("applied_transform is no matrix")
    else:
        if not abs(scale - 1) <= 1e-3:
            said.append(f"applied_transform scaled them by {scale:.4g}: depth must be scaled alike")
    said += [f"{name} is set" for name in ("centered", "scaled") if not is_nothing(document.get(name))]
    if document.get("scale", 1) != 1 or not is_nothing(document.get("offset")):
        said.append("scale and offset, by which instant-ngp places the scene, were skipped")
    if said:
        suspect(f"{path}: positions are taken as they are in the file; {'; '.join(said)}")


def _camera(fields: dict[str, Any], options: ReadOptions) -> tuple[F64, tuple[int, int]]:
    """((fx, fy, cx, cy), (width, height)) of a frame, from its own fields merged over the shared ones."""
    refuse_bent(fields)
    size = _size(fields, options)
    focal = {
        axis: _focal(fields, (f"fl_{axis}", f"camera_angle_{axis}", f"{axis}_fov"), side)
        for axis, side in zip("xy", size, strict=True)
    }
    fx, fy = (focal[axis] or focal["y" if axis == "x" else "x"] for axis in "xy")
    if fx is None or fy is None:
        raise ValueError("expected a focal length fl_x or a field of view camera_angle_x, got neither")
    cx = check_number("cx", fields.get("cx", 0.5 * size[0]))
    cy = check_number("cy", fields.get("cy", 0.5 * size[1]))
    return np.array([fx, fy, cx, cy]), size


def _size(fields: dict[str, Any], options: ReadOptions) -> tuple[int, int]:
    missing = [name for name in ("w", "h") if name not in fields]
    if missing and options.size is None:
        raise ValueError(
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing, as in files of Blender: give the "
            "image size (size, --size)"
        )
    given = options.size or (0, 0)
    width, height = (
        whole_pixels(name, fields[name]) if name in fields else side for name, side in zip("wh", given, strict=True)
    )
    options.check_size((width, height))
    return width, height


def _focal(fields: dict[str, Any], names: tuple[str, str, str], side: int) -> float | None:
    """The focal length of an axis in pixels, from whichever fields are present; they must agree."""
    length, angle, degrees = names
    found: dict[str, float] = {}
    if length in fields:
        found[length] = check_number(length, fields[length], above=0.0)
    if angle in fields:
        radians = check_number(angle, fields[angle], above=0.0, maximum=3.14)
        found[angle] = 0.5 * side / math.tan(0.5 * radians)
    if degrees in fields:
        radians = math.radians(check_number(degrees, fields[degrees], above=0.0, maximum=179.9))
        found[degrees] = 0.5 * side / math.tan(0.5 * radians)
    for name, focal in found.items():
        first = next(iter(found))
        if abs(focal - found[first]) > _SAME_FOCAL * found[first]:
            raise ValueError(
                f"{first}, {name}: expected the same focal length, got {found[first]:.6g} and {focal:.6g} pixels for a "
                f"side of {side}; is one of them of another image size?"
            )
    return next(iter(found.values()), None)
