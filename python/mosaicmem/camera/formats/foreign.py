"""Files and folders mistaken for camera paths: describes what they are, and what to do instead."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from mosaicmem._numpy_files import check_entries
from mosaicmem._opening import open_file

_HEAD = 4096

_VIDEO = "a video: poses must be estimated from its frames first, with COLMAP say"
_IMAGE = "an image: expected the file of its poses"
_POSES_OF_ARRAY = (
    "an array of NumPy, which does not say its convention: numpy.load it, make each pose with "
    "CameraPose.from_world_from_camera or from_camera_from_world, then CameraTrajectory(poses, intrinsics).save; or "
    "numpy.savez it as extrinsics_c2w, if it is world_from_camera (N, 4, 4), or name the format (numpy)"
)
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", _POSES_OF_ARRAY),
    (b"\x89PNG", _IMAGE),
    (b"\xff\xd8\xff", _IMAGE),
    (b"GIF8", _IMAGE),
    (b"II*\0", _IMAGE),
    (b"MM\0*", _IMAGE),
    (b"v/1\x01", _IMAGE),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"#ROSBAG", "a ROS bag: export its poses as TUM lines first (evo_traj bag FILE TOPIC --save_as_tum)"),
    (b"\x89MCAP", "an MCAP recording: export its poses as TUM lines first (evo_traj bag2 FILE TOPIC --save_as_tum)"),
    (
        b"SQLite format 3\0",
        "a database: give the folder of a COLMAP model (sparse/0), or export the poses of a ROS bag",
    ),
    (b"\x89HDF", "an HDF5 file: write its poses in one of the known formats first"),
    (b"\x1f\x8b", "compressed: unpack it with gunzip first"),
    (b"ply\n", "a point cloud or a mesh: expected the file of the poses"),
    (b"ply\r", "a point cloud or a mesh: expected the file of the poses"),
    (b"glTF", "a mesh: expected the file of the poses"),
    (b"%PDF", "a PDF"),
    (b"<?xml", "XML, of Agisoft Metashape say: export the cameras as COLMAP or as nerfstudio's transforms.json"),
)
# Glob pattern in a folder, and what to do with such a folder. The first match wins.
_FOLDERS: tuple[tuple[str, str], ...] = (
    ("rgb.txt", "a TUM sequence: give its groundtruth.txt, or the folder as a scene (open_sequence, --scene)"),
    ("traj.txt", "a Replica sequence: give the folder as a scene (open_sequence, --scene)"),
    ("*.pose.txt", "a 7-Scenes sequence: give the folder as a scene (open_sequence, --scene)"),
    ("pose/*.txt", "a ScanNet sequence: give the folder as a scene (open_sequence, --scene)"),
    ("manifest.json", "a store of patches: expected a camera path"),
    ("transforms*.json", "a data set of nerfstudio or Blender: give the file"),
    ("*.json", "give the file"),
    ("*.npz", "give the file"),
    ("*.txt", "give the file"),
    ("*.mp4", _VIDEO),
    ("*.png", "images: expected the file of their poses"),
    ("*.jpg", "images: expected the file of their poses"),
)


def what_file_is(path: Path) -> str | None:
    """What a file is, if it is known not to be a readable camera path."""
    with open_file(path) as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file"
    for beginning, said in _BEGINNINGS:
        if head.startswith(beginning):
            return said
    if head[4:8] == b"ftyp" or (head.startswith(b"RIFF") and head[8:11] == b"AVI"):
        return _VIDEO
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which is not read, since it may run code: save its poses as JSON or npz"
    if head[:2] in (b"P2", b"P3", b"P5", b"P6") and head[2:3].isspace():
        return _IMAGE
    return None


def what_folder_is(folder: Path) -> str:
    """What a folder that is no COLMAP model holds."""
    for pattern, said in _FOLDERS:
        found = min(folder.glob(pattern), default=None)
        if found is not None:
            return f"{found.relative_to(folder)} is there; {said}"
    return "empty" if not any(folder.iterdir()) else "nothing in it is known"


def is_poses_bounds(path: Path) -> bool:
    """Whether a file is an array of NumPy with 17 columns, as LLFF's poses_bounds.npy is."""
    head = _head(path)
    return head.startswith(b"\x93NUMPY") and re.search(rb"'shape': \(\d+, 17\)", head[:200]) is not None


def begins_with(path: Path, heading: bytes) -> bool:
    """Whether a file begins so."""
    return _head(path).startswith(heading)


def has_entry(path: Path, name: str) -> bool:
    """Whether an archive of NumPy has an array of this name; False for a damaged one, of which its reader tells."""
    try:
        with open_file(path) as file:
            check_entries(path, file)
            with zipfile.ZipFile(file) as archive:
                return f"{name}.npy" in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as every .npz is."""
    return _head(path).startswith(b"PK\x03\x04")


def is_json(path: Path) -> bool:
    """Whether a file begins like a JSON object or list."""
    return _head(path).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def what_text_is(line: str) -> str:
    """What a line of text in none of the known formats seems to hold."""
    count = len(line.split())
    if "," in line:
        return (
            "comma-separated ones, as of EuRoC: write TUM lines, timestamp tx ty tz qx qy qz qw with spaces between "
            "(evo_traj euroc FILE --save_as_tum)"
        )
    hints = {
        7: "a position and a quaternion without its time? if they are TartanAir's, name the format (tartanair); "
        "otherwise put a time before each line, and it is TUM",
        9: "rotations, or a K? expected poses",
        4: "one 4x4 matrix: a camera path has one for each frame",
        3: "positions alone, or a K? expected poses",
    }
    return f"lines of {count} words" + (f": {hints[count]}" if count in hints else "")


def _head(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(_HEAD)
