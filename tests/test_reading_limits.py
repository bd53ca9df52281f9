"""Memory and time of every reader, for files that expand as far as they can: at most 4 times the file plus 64 MB.

Each file is read in a process of its own, whose peak memory is measured. Processor time must not grow faster than the
file: twice the bytes may take at most three times as long, plus one second.
"""

import io
import json
import multiprocessing
import struct
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory_peak import forget_peak, peak_bytes, resident_bytes
from mosaicmem import CameraIntrinsics, CameraPose, DepthFromFiles, OnnxDepthEstimator, PipelineConfig, PointCloud
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size, read_color, read_depth
from mosaicmem.attention._weights import read_weights
from mosaicmem.camera.formats import load_trajectory
from mosaicmem.datasets import TumRgbd
from mosaicmem.datasets.intrinsics_files import find_intrinsics

MB = 10**6
CAMERA = CameraIntrinsics(500, 500, 320, 240, 640, 480)
ROW = "1 0 0 0 0 1 0 0 0 0 1 0"
MATRIX = "[[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]"
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by /proc")


# Files of about ``size`` bytes. Their items are as small as possible, so that there are as many as possible.


def repeated(part, size, begin=b"", end=b""):
    return begin + part * max(1, (size - len(begin) - len(end)) // len(part)) + end


def json_frames(begin, frame):
    return lambda size: repeated(frame.encode() + b",", size, begin.encode(), frame.encode() + b"]}")


def worldplay(size):
    entry = f'{{"extrinsic":{MATRIX},"K":[[500,0,320],[0,500,240],[0,0,1]]}}'
    return ("{" + ",".join(f'"{i}":{entry}' for i in range(max(1, size // 110))) + "}").encode()


def json_of(part):
    return lambda size: repeated(part + b",", size, b'{"frames":[', b"0]}")


def different_keys(size):
    return ("{" + ",".join(f'"{i:06x}":1' for i in range(size // 11)) + "}").encode()


def keys_and_frames(size):
    """Many keys that concern every frame, and many frames."""
    keys = ",".join(f'"distortion_{i}":0' for i in range(size // 50))
    frames = ",".join(f'{{"transform_matrix":{MATRIX}}}' for _ in range(size // 140))
    return f'{{"w":640,"h":480,"fl_x":500,{keys},"frames":[{frames}]}}'.encode()


def npz(save, growth):
    def make(size):
        file = io.BytesIO()
        save(file, extrinsics_c2w=np.tile(np.eye(4, dtype=np.int8), (size * growth // 16, 1, 1)))
        return file.getvalue()

    return make


def many_entries(size):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(size // 100):
            archive.writestr(f"{i}", b"")
    return file.getvalue()


def colmap_images(size):
    image = struct.pack("<7di", 1, 0, 0, 0, 0, 0, 0, 1) + b"\0" + struct.pack("<Q", 0)
    count = max(1, size // (4 + len(image)))
    return struct.pack("<Q", count) + b"".join(struct.pack("<i", i) + image for i in range(count))


def colmap_names(size):
    """Names that take most of the file, and even more memory as sort keys."""
    count = max(1, size // 300)
    name = b"1a" * 110
    images = (
        struct.pack("<i7di", i, 1, 0, 0, 0, 0, 0, 0, 1) + name + b"%d\0" % i + struct.pack("<Q", 0)
        for i in range(count)
    )
    return struct.pack("<Q", count) + b"".join(images)


def colmap_cameras(size):
    camera = struct.pack("<iQQ3d", 0, 640, 480, 500, 320, 240)
    count = size // (4 + len(camera))
    return struct.pack("<Q", count) + b"".join(struct.pack("<i", i) + camera for i in range(count))


def colmap_text(size):
    return "\n\n".join(f"{i} 1 0 0 0 0 0 0 1 a" for i in range(max(1, size // 26))).encode()


def ply(properties, rows, kind="binary_little_endian"):
    def make(size):
        count = max(1, size // len(rows))
        return f"ply\nformat {kind} 1.0\nelement vertex {count}\n{properties}end_header\n".encode() + rows * count

    return make


XYZ = "property float x\nproperty float y\nproperty float z\n"
COLORS = "property float red\nproperty float green\nproperty float blue\n"


def ply_of_lists(size):
    faces = f"element face {size}\nproperty list uchar int a\n"
    return f"ply\nformat binary_little_endian 1.0\n{faces}element vertex 0\n{XYZ}end_header\n".encode() + bytes(size)


def picture(mode, kind, **options):
    """A uniform image, three pixels per byte of ``size``: at SMALL few enough for any file, at LARGEST too many."""

    def make(size):
        side = int((size * 3) ** 0.5)
        file = io.BytesIO()
        array = np.zeros((side, side, 3) if mode == "RGB" else (side, side), np.uint16 if mode == "I;16" else np.uint8)
        Image.fromarray(array).save(file, format=kind, **options)
        return file.getvalue()

    return make


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_chunks(kind, body):
    def make(size):
        file = io.BytesIO()
        Image.new("RGB", (16, 12)).save(file, format="PNG")
        whole = file.getvalue()
        return whole[:33] + repeated(chunk(kind, body), size) + whole[33:]

    return make


def jpeg_of(part, where=2):
    def make(size):
        file = io.BytesIO()
        Image.new("RGB", (2048, 2048)).save(file, format="JPEG", progressive=True)
        whole = file.getvalue()
        return whole[:where] + repeated(part, size) + whole[where:]

    return make


def npy(size):
    side = int((size / 2) ** 0.5)
    file = io.BytesIO()
    np.save(file, np.ones((side, side), np.float16))
    return file.getvalue()


def safetensors(size):
    entries = ",".join(f'"{i:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(max(1, size // 52)))
    return struct.pack("<Q", len(entries) + 2) + b"{" + entries.encode() + b"}"


def model(sides, output=None):
    def make(size):
        onnx = pytest.importorskip("onnx")
        helper = onnx.helper
        weights = onnx.numpy_helper.from_array(np.zeros(max(1, size // 4), np.float32), "padding")
        graph = helper.make_graph(
            [helper.make_node("ReduceMean", ["image"], ["answer"], axes=[1], keepdims=1)],
            "mean",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, *sides])],
            [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, output)],
            [weights],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 9
        return made.SerializeToString()

    return make


# Readers


def with_cameras(path):
    (path.parent / "cameras.txt").write_text("1 PINHOLE 640 480 500 500 320 240\n")
    (path.parent / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 640, 480, 500, 500, 320, 240))
    load_trajectory(path.parent)


def as_path(name, **options):
    return lambda path: load_trajectory(path, name, **options)


def as_sides(read):
    """Wrap a reader that expects the image size of the data set: pass the image's own size."""

    def checked(path):
        read(path, image_size(path))

    return checked


def as_depth(path):
    rows = columns = int((path.stat().st_size / 2 - 64) ** 0.5) if path.is_file() else 1
    camera = CameraIntrinsics(columns, columns, columns / 2, rows / 2, columns, rows)
    DepthFromFiles([path], [0.0]).estimate(None, camera, CameraPose(), None)


def as_tum(path):
    for name in ("rgb.txt", "depth.txt"):
        (path.parent / name).write_bytes(b"".join(b"%d a\n" % i for i in range(path.stat().st_size // 18)))
    TumRgbd(path.parent)


def tum_lines(size):
    return b"".join(b"%d 0 0 0 0 0 0 1\n" % i for i in range(size // 20))


def as_onnx(path):
    pytest.importorskip("onnxruntime")
    OnnxDepthEstimator(path, num_threads=1)


COLOR, DEPTH = as_sides(read_color), as_sides(lambda path, size: read_depth(path, size, 1000.0))
KEYED = (
    '{"schema":"mosaicmem.trajectory","schema_version":1,"intrinsics":' + json.dumps(CAMERA.to_dict()) + ',"frames":['
)
NERF = '{"w":640,"h":480,"fl_x":500,"frames":['
SIZES = {"size": (640, 480)}
CASES = {
    "own": ("a", json_frames(KEYED, f'{{"timestamp":0,"world_from_camera":{MATRIX}}}'), as_path("mosaicmem")),
    "nerfstudio": ("a", json_frames(NERF, f'{{"transform_matrix":{MATRIX}}}'), as_path("nerfstudio")),
    "nerfstudio keys x frames": ("a", keys_and_frames, as_path("nerfstudio")),
    "nerfstudio unknown keys": (
        "a",
        lambda size: different_keys(size)[:-1] + f',"frames":[{{"transform_matrix":{MATRIX}}}]}}'.encode(),
        as_path("nerfstudio", intrinsics=CAMERA),
    ),
    "worldplay": ("a", worldplay, as_path("worldplay")),
    "json of lists": ("a.json", json_of(b"[]"), load_trajectory),
    "json of objects": ("a.json", json_of(b'{"a":1}'), load_trajectory),
    "json of numbers": ("a.json", json_of(b"1.5"), load_trajectory),
    "json of texts": ("a.json", json_of(b'"ab"'), load_trajectory),
    "json of wide texts": ("a.json", json_of('"\U0001f600a"'.encode()), load_trajectory),
    "json of escapes": ("a.json", json_of(b'"a\\n\\ud83d\\ude00"'), load_trajectory),
    "json of keys": ("a.json", different_keys, read_json_object),
    "kitti": ("a", lambda size: repeated(f"{ROW}\n".encode(), size), as_path("kitti", intrinsics=CAMERA)),
    "tum": ("a", tum_lines, as_path("tum", intrinsics=CAMERA)),
    "re10k": ("a", lambda size: repeated(f"0 1 1 1 1 0 0 {ROW}\n".encode(), size), as_path("re10k", **SIZES)),
    "matrixgame": ("a", npz(np.savez, 1), as_path("matrixgame", intrinsics=CAMERA)),
    "matrixgame compressed": ("a", npz(np.savez_compressed, 300), as_path("matrixgame", intrinsics=CAMERA)),
    "matrixgame of entries": ("a", many_entries, as_path("matrixgame", intrinsics=CAMERA)),
    "colmap binary": ("images.bin", colmap_images, with_cameras),
    "colmap names": ("images.bin", colmap_names, with_cameras),
    "colmap text": ("images.txt", colmap_text, with_cameras),
    "colmap points": (
        "images.txt",
        lambda size: repeated(b"1 2 3 ", size, b"1 1 0 0 0 0 0 0 1 a\n", b"1 2 3\n"),
        with_cameras,
    ),
    "colmap cameras": (
        "cameras.bin",
        colmap_cameras,
        lambda path: [(path.parent / "images.bin").write_bytes(colmap_images(100)), load_trajectory(path.parent)],
    ),
    "ply binary": ("a", ply(XYZ, bytes(12)), PointCloud.load_ply),
    "ply of bytes": ("a", ply(XYZ.replace("float", "char"), bytes(3)), PointCloud.load_ply),
    "ply colours": ("a", ply(XYZ + COLORS, bytes(24)), PointCloud.load_ply),
    "ply text": ("a", ply(XYZ, b"1 1 1\n", "ascii"), PointCloud.load_ply),
    "ply text doubles": ("a", ply(XYZ.replace("float", "double"), b"1 1 1\n", "ascii"), PointCloud.load_ply),
    "ply lists": ("a", ply_of_lists, PointCloud.load_ply),
    "ply header": (
        "a",
        lambda size: repeated(b"element a 0\n", size, b"ply\nformat ascii 1.0\n", b"end_header\n"),
        PointCloud.load_ply,
    ),
    "png colour": ("a", picture("RGB", "PNG"), COLOR),
    "png depth": ("a", picture("I;16", "PNG"), DEPTH),
    "png text": ("a", png_of_chunks(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))), COLOR),
    "png chunks": ("a", png_of_chunks(b"tEXt", b"a\0"), COLOR),
    "jpeg": ("a", picture("RGB", "JPEG", progressive=True), COLOR),
    "jpeg segments": ("a", jpeg_of(b"\xff\xfe\0\2"), COLOR),
    "jpeg scans": ("a", jpeg_of(b"\xff\xda\0\x08\1\1\0\1\x3f\0\xff\xd0", -2), COLOR),
    "npy": ("a.npy", npy, as_depth),
    "tum data set": ("groundtruth.txt", tum_lines, as_tum),
    "weights": ("a", safetensors, lambda path: read_weights(path, {"0": (0,)}, "")),
    "config": ("a", lambda size: repeated(b"0,", size, b'{"events":[', b"0]}"), PipelineConfig.load),
    "config keys": ("a", different_keys, PipelineConfig.load),
    "intrinsics": (
        "calib.txt",
        lambda size: repeated(b"1 ", size),
        lambda path: find_intrinsics(path.parent, (640, 480), 1000.0),
    ),
    "onnx": ("a.onnx", model(("h", "w")), as_onnx),
    "onnx of an image": ("a.onnx", model((12000, 12000)), as_onnx),
    "onnx of a map": ("a.onnx", model(("h", "w"), [1, 1, 12000, 12000]), as_onnx),
}
LARGE = {"onnx": 8, "ply binary": 8, "ply colours": 8, "tum data set": 0.3}  # times as large as others
SMALL, LARGEST = 3, 12
"""In MB: without checks, only the leanest readers would stay within 4 times the file plus 64 MB."""


def measure(path, read, results):
    """In a process of its own: report the time and memory that reading took, and how it ended."""
    said = "read"
    before = resident_bytes()
    forget_peak()
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except ValueError as error:
            said = f"{type(error).__name__}: {str(error)[:300]}"
        except BaseException:
            said = f"crash: {traceback.format_exc()}"
    results.put((time.process_time() - started, peak_bytes() - before, said))


def take(path, read):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=measure, args=(path, read, results))
    process.start()
    try:
        return results.get(timeout=60)
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()


@pytest.mark.parametrize("name", CASES)
def test_memory_and_time(name, tmp_path):
    check(name, tmp_path, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory_and_time_of_larger_files(name, tmp_path):
    check(name, tmp_path, LARGEST)


def check(name, tmp_path, megabytes):
    file, make, read = CASES[name]
    path = tmp_path / file
    times = []
    for part in (2, 1):
        path.write_bytes(make(int(LARGE.get(name, 1) * megabytes * MB / part)))
        seconds, peak, said = take(path, read)
        size = sum(each.stat().st_size for each in tmp_path.iterdir())
        print(f"{name}: {size / MB:.1f} MB, {seconds:.2f} s, {peak / MB:.0f} MB, {said}")
        assert not said.startswith("crash"), said
        assert peak <= 4 * size + 64 * MB, f"{peak / MB:.0f} MB for {size / MB:.1f} MB; {said}"
        times.append(seconds)
    assert times[1] <= 3 * times[0] + 1.0, times
