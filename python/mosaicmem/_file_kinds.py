"""Identifies files by their first bytes, for error messages about files of the wrong kind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_BY_BYTES = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"\x1aE\xdf\xa3", "a video (Matroska)"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"#ROSBAG", "a ROS bag"),
    (b"\x89MCAP", "a ROS bag (MCAP)"),
    (b"SQLite format 3\0", "an SQLite file (a ROS 2 bag?)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ply", "a PLY point cloud"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"BZh", "a compressed archive"),
    (b"\xfd7zXZ", "a compressed archive"),
    (b"7z\xbc\xaf", "a compressed archive"),
)
_BY_SUFFIX = {
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"), "a video"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2"), "a compressed archive"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "a PGM or PPM image"),
    **dict.fromkeys((".tif", ".tiff"), "a TIFF image"),
    **dict.fromkeys((".bag", ".db3", ".mcap"), "a ROS bag"),
    **dict.fromkeys((".heic", ".heif", ".avif"), "a HEIF or AVIF image"),
    ".exr": "an OpenEXR image",
    ".hdr": "a Radiance HDR image",
    ".pfm": "a PFM image",
    ".webp": "a WebP image",
    ".bmp": "a BMP image",
    ".jxl": "a JPEG XL image",
    ".npy": "a NumPy array (.npy)",
    ".npz": "NumPy arrays (.npz)",
    ".sens": "a ScanNet recording (.sens)",
    ".h5": "an HDF5 file",
    ".ply": "a PLY point cloud",
    ".json": "a JSON file",
}
_ADVICE = {
    "a video": "a sequence needs the depth and the pose of each frame: mosaicmem import estimates them",
    "a ROS bag": "extract its colour and depth images and its poses, in the layout of TUM RGB-D say",
    "a ScanNet recording": "export it with ScanNet's SensReader, which writes color, depth, pose and intrinsic",
    "a compressed archive": "unpack it, and give the folder",
    "a ZIP archive": "unpack it, and give the folder",
    "NumPy arrays": "give an .npz file of images, depth, K and poses, or write its frames as images and text files",
    "a NumPy array": "write its frames as images and text files, in the layout of 7-Scenes say",
    "an HDF5 file": "write its frames as images and text files, in the layout of 7-Scenes say",
    "a PLY point cloud": "a sequence is what the cloud was made from: colour, depth and poses of frames",
}
OTHER_IMAGES = frozenset(
    f".{suffix}"
    for suffix in (
        *("ppm", "pgm", "pbm", "pnm", "pfm", "tif", "tiff", "exr", "hdr", "webp", "bmp", "gif"),
        *("heic", "heif", "avif", "jxl", "npy", "npz", "raw"),
    )
)
"""Suffixes of colour and depth image formats that this library does not read."""


def describe_file(path: Path) -> str:
    """``a video``, ``a TIFF image`` and so on; ``a file`` if unknown. Reads only regular files."""
    head = _head(path)
    if head is None:
        return "not a regular file"
    suffix = path.suffix.lower()
    if head[4:8] == b"ftyp":
        return "a HEIF or AVIF image" if head[8:12] in (b"heic", b"heix", b"mif1", b"avif") else "a video"
    if head[:4] == b"RIFF":
        return "a WebP image" if head[8:12] == b"WEBP" else "a video"
    if head[:4] == b"PK\x03\x04":
        return "NumPy arrays (.npz)" if suffix == ".npz" else "a ZIP archive"
    if head[:1] == b"P" and head[1:2] in b"123456Ff" and head[2:3].isspace():
        return "a PFM image" if head[1:2] in b"Ff" else "a PGM or PPM image"
    by_bytes = (kind for magic, kind in _BY_BYTES if head.startswith(magic))
    return next(by_bytes, _BY_SUFFIX.get(suffix, "a file"))


def advice_on(kind: str) -> str:
    """What to do with a file of this kind that was given in place of a sequence folder."""
    return next((what for start, what in _ADVICE.items() if kind.startswith(start)), "give the folder that it is in")


def _head(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block until it has a writer
    except OSError:
        return None
    try:
        return os.read(descriptor, 16) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)
