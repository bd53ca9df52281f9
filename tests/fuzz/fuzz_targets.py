"""Every reader of the library, and the small files that it is fuzzed from.

A target for another reader is a `Target` in a list of its own module, which is added to `TARGETS` below.
"""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from fuzz_loop import Target
from fuzz_stores import STORES
from fuzz_tools import TOOLS
from PIL import Image

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    DepthFromFiles,
    OnnxDepthEstimator,
    PipelineConfig,
    PointCloud,
)
from mosaicmem._images import image_size, read_color, read_depth
from mosaicmem.attention._weights import read_weights, write_weights
from mosaicmem.camera.formats import load_trajectory, save_trajectory
from mosaicmem.datasets import Replica, ScanNet, TumRgbd
from mosaicmem.datasets.intrinsics_files import find_intrinsics
from onnx_models import PLAIN, mean_model, red_model

WIDTH, HEIGHT = 16, 12
CAMERA = CameraIntrinsics(20.0, 21.0, 8.0, 6.0, WIDTH, HEIGHT)
POSES = [CameraPose.look_at([0.1 * i, 0.2, -0.3], [0.2, 0.1, 5], timestamp=i / 30) for i in range(3)]
PATH = CameraTrajectory(POSES, CAMERA)
NUMBERS = (b"0", b"1", b"-1", b"0.5", b"1e9", b"nan")
JSON = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"\\u0000", b"\\ud800", b"[[[[[[[[")


# Camera paths


def path_target(name, tokens=(), seeds=(), wrap=None, **options):
    def prepare(folder):
        save_trajectory(folder / "seed", PATH, name)
        return [(folder / "seed").read_bytes(), *seeds]

    def read(path):
        load_trajectory(path, name, **options)

    return Target(f"path-{name}", "a.txt", prepare, read, tokens=(*NUMBERS, *tokens), wrap=wrap)


def detected():
    """Camera paths whose format is detected; seeds of each format that is a single file."""

    def prepare(folder):
        seeds = []
        for name in ("mosaicmem", "tum", "kitti", "re10k", "nerfstudio", "matrixgame", "worldplay"):
            save_trajectory(folder / name, PATH, name)
            seeds.append((folder / name).read_bytes())
        return seeds

    return Target("path-detected", "a", prepare, lambda path: load_trajectory(path, intrinsics=CAMERA), tokens=JSON)


def read_only_target(name, seed, tokens=(), file="a.txt", **options):
    """A format that is only read."""
    data = seed if isinstance(seed, bytes) else json.dumps(seed).encode()
    tokens = (*NUMBERS, *tokens) if isinstance(seed, bytes) else (*NUMBERS, *JSON, *tokens)
    target = f"path-{name}{'-log' if file.endswith('.log') else ''}"
    return Target(target, file, lambda _: [data], lambda path: load_trajectory(path, name, **options), tokens=tokens)


def read_only_targets():
    eye = np.eye(4)
    line = " ".join(map(str, eye.ravel()))
    size = {"width": WIDTH, "height": HEIGHT}
    splat = {"position": [0, 1, 2], "rotation": eye[:3, :3].tolist(), "fx": 20.0, "fy": 21.0, **size}
    shot = {"rotation": [0.1, 0, 0], "translation": [0, 1, 2], "camera": "a"}
    sfm = [{"cameras": {"a": {"focal": 1.1, "k1": 0, **size}}, "shots": {"x.png": shot, "y.png": shot}}]
    frame = {"camera_to_world": eye.ravel().tolist(), "fov": 50.0}
    viewer = {"camera_path": [frame] * 2, "render_width": WIDTH, "render_height": HEIGHT, "fps": 24}
    pinhole = {"intrinsic_matrix": CAMERA.matrix.T.ravel().tolist(), **size}
    frames = [{"extrinsic": eye.T.ravel().tolist(), "intrinsic": pinhole}]
    open3d = {"class_name": "PinholeCameraTrajectory", "parameters": frames}
    log = b"0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    bundle = b"# Bundle file v0.3\n2 0\n" + 2 * b"20 0 0\n1 0 0\n0 1 0\n0 0 1\n0 1 2\n"
    euroc = 2 * b"1403636579763555584,1,2,3,1,0,0,0\n"
    lens = {"focal_length": 20, "principal_point": [8, 6], "disto_k1": [0], **size}
    view = {"filename": "a.png", "id_pose": 0, "id_intrinsic": 0}
    openmvg = {
        "views": [{"key": 0, "value": {"ptr_wrapper": {"data": view}}}],
        "intrinsics": [{"key": 0, "value": {"ptr_wrapper": {"data": lens}}}],
        "extrinsics": [{"key": 0, "value": {"rotation": eye[:3, :3].tolist(), "center": [0, 1, 2]}}],
    }
    bounds = np.array([[1, 0, 0, 0, HEIGHT, 0, 1, 0, 0, WIDTH, 0, 0, -1, 2, 20, 1, 9.0]] * 2)
    projections = io.BytesIO()
    np.savez(projections, world_mat_0=eye, world_mat_1=np.diag([20.0, 20, 1, 1]))
    lyra = io.BytesIO()
    sides = {"image_height": HEIGHT, "image_width": WIDTH}
    np.savez(lyra, w2c=np.tile(eye, (2, 1, 1)), intrinsics=np.tile(CAMERA.matrix, (2, 1, 1)), **sides)
    unreal = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [300 200 170 1] "
    quaternion = {"tx": 0.0, "ty": 1.0, "tz": 2.0, "qx": 0.0, "qy": 0.0, "qz": 0.0, "qw": 1.0}
    rust = {"timestamp": 0.5, "world_to_camera": quaternion}
    return [
        read_only_target("3dgs", [splat, splat], (b'"k1"',)),
        read_only_target("opensfm", sfm, (b'"projection_type"', b'"brown"')),
        read_only_target("camera-path", viewer, (b'"camera_type"',)),
        read_only_target("open3d", open3d, file="a.json"),
        read_only_target("open3d", log * 2, file="a.log", intrinsics=CAMERA),
        read_only_target("bundler", bundle, size=(WIDTH, HEIGHT)),
        read_only_target("matrices", f"{line}\n{line}\n".encode(), intrinsics=CAMERA),
        read_only_target("euroc", euroc, intrinsics=CAMERA),
        read_only_target("openmvg", openmvg, (b'"disto_k1"',)),
        read_only_target("numpy", npy(np.tile(eye, (2, 1, 1))), (b"(2, 4, 4)", b"|O", b"<f8"), intrinsics=CAMERA),
        read_only_target("tartanair", b"1 2 3 0 0 0 1\n2 3 4 0 0 0 1\n"),
        read_only_target("llff", npy(bounds), (b"(2, 17)", b"|O", b"<f8", b"True")),
        read_only_target("lyra", lyra.getvalue(), (b"PK\1\2", b".npy", b"w2c", b"image_width")),
        read_only_target("recammaster", {"frame0": {"cam01": unreal}, "frame1": {"cam01": unreal}}, intrinsics=CAMERA),
        read_only_target("motionctrl", [eye[:3].ravel().tolist()] * 2, file="a.json", intrinsics=CAMERA),
        read_only_target("rust", {"poses": [rust, rust]}, (b'"world_to_camera"',), intrinsics=CAMERA),
        read_only_target("viewcrafter", b"0 40\n0 -10\n0 -0.5\n", intrinsics=CAMERA),
        read_only_target("neus", projections.getvalue(), (b"PK\1\2", b".npy", b"world_mat_"), size=(WIDTH, HEIGHT)),
    ]


def colmap_target(name, *tokens):
    kind = "colmap-binary" if name.endswith(".bin") else "colmap"

    def prepare(folder):
        save_trajectory(folder, PATH, kind)
        seeds = [(folder / name).read_bytes()]
        if name == "images.txt":
            seeds.append(seeds[0].replace(b"png\n\n", b"png\n1.5 2.5 -1 3.5 4.5 7\n"))
        return seeds

    return Target(
        f"colmap-{name}", name, prepare, lambda path: load_trajectory(path.parent), tokens=(*NUMBERS, *tokens)
    )


def npz_of(content):
    """An npz archive whose poses are the mutated array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("extrinsics_c2w.npy", content)
        archive.writestr("intrinsics.npy", npy(CAMERA.matrix))
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz_target():
    tokens = (
        b"(3, 4, 4)",
        b"<f8",
        b"|O",
        b"'descr'",
        b"'shape'",
        b"True",
        b"False",
        b"(",
        b"L,",
        b"{",
        b"\x93NUMPY\2\0",
    )
    return Target(
        "npz-arrays",
        "a.npz",
        lambda folder: [npy(PATH.world_from_camera), npy(PATH.world_from_camera.astype(">f4").T)],
        lambda path: load_trajectory(path, size=(WIDTH, HEIGHT)),
        tokens=tokens,
        wrap=npz_of,
    )


PATHS = [
    path_target("mosaicmem", (*JSON, b'"frames"', b'"schema_version"')),
    path_target("tum", intrinsics=CAMERA),
    path_target("kitti", intrinsics=CAMERA),
    path_target("re10k", size=(WIDTH, HEIGHT)),
    path_target("nerfstudio", (*JSON, b'"k1"', b'"camera_model"', b'"applied_transform"', b'"w"', b'"camera_angle_x"')),
    path_target("matrixgame", (b"PK\1\2", b"PK\5\6", b".npy"), size=(WIDTH, HEIGHT)),
    path_target("worldplay", (*JSON, b'"K"', b'"3"')),
    *read_only_targets(),
    npz_target(),
    detected(),
    colmap_target("cameras.txt", b"PINHOLE", b"OPENCV"),
    colmap_target("images.txt", b"\n", b"#"),
    colmap_target("cameras.bin"),
    colmap_target("images.bin"),
]


# Clouds, images, depth


def clouds(folder):
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        rng.random((5, 3), np.float32), rng.integers(0, 256, (5, 3), np.uint8), rng.random((5, 3), np.float32)
    )
    seeds = []
    for binary in (True, False):
        cloud.save_ply(folder / "seed", binary=binary)
        seeds.append((folder / "seed").read_bytes())
    faces = b"element face 2\nproperty list uchar int vertex_indices\n"
    seeds += [seed.replace(b"element vertex", faces + b"element vertex") for seed in seeds]
    seeds += [seed.replace(b"binary_little", b"binary_big") for seed in seeds[:1]]
    return [*seeds, seeds[0].replace(b"uchar", b"float"), seeds[1].replace(b"float", b"double")]


def pictures(folder):
    rng = np.random.default_rng(0)
    seeds = []
    for mode, channels in (("L", ()), ("RGB", (3,)), ("RGBA", (4,)), ("P", ())):
        image = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, *channels), np.uint8))
        for kind, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})):
            if kind == "JPEG" and mode in ("RGBA", "P"):
                continue
            file = io.BytesIO()
            (image.convert("P") if mode == "P" else image).save(file, format=kind, **options)
            seeds.append(file.getvalue())
    return seeds


def depth_images(folder):
    file = io.BytesIO()
    Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH)).save(file, format="PNG")
    return [file.getvalue()]


def with_checksums(content):
    """A PNG with valid checksums in all chunks."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = min(struct.unpack_from(">I", content, at)[0], len(content) - at - 12)
        body = content[at + 4 : at + 8 + length]
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts)


def read_picture(path):
    image_size(path)
    read_color(path, (WIDTH, HEIGHT), (8, 6))


def read_units(path):
    read_depth(path, (WIDTH, HEIGHT), 1000.0)


def estimate(path):
    DepthFromFiles([path], [0.0]).estimate(None, CAMERA, POSES[0], None)


PNG = (b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"IEND", b"eXIf", b"zTXt", b"iTXt", b"iCCP", b"gAMA")
JPEG = (
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xc0",
    b"\xff\xc2",
    b"\xff\xe1",
    b"\xff\xfe",
    b"Exif\0\0",
    b"\xff\xdb",
    b"\xff\xc4",
)
PLY = (
    b"ply\n",
    b"element vertex 5\n",
    b"property list uchar int a\n",
    b"property float x\n",
    b"end_header\n",
    b"double",
)
ARRAYS = [
    Target("ply", "a.ply", clouds, PointCloud.load_ply, tokens=(*NUMBERS, *PLY, b"uchar", b"double", b"list")),
    Target("color", "a.png", pictures, read_picture, tokens=(*PNG, *JPEG), wrap=with_checksums),
    Target(
        "depth-png", "a.png", depth_images, lambda path: read_depth(path, (WIDTH, HEIGHT), 1000.0), PNG, with_checksums
    ),
    Target(
        "depth-npy",
        "a.npy",
        lambda folder: [npy(np.ones((HEIGHT, WIDTH), kind)) for kind in (np.float32, ">f8", np.float16)],
        estimate,
        tokens=(b"(12, 16)", b"<f4", b"True", b"'descr'", b"(", b"L", b"|O", b"\x93NUMPY\2\0"),
    ),
]


# Networks


def networks(folder):
    pytest.importorskip("onnxruntime")
    fixed = mean_model([1, 3, 12, 16])
    return [red_model(size=(12, 16)), fixed, mean_model([1, 12, 16, 3], "UINT8", axis=3)]


def open_network(path):
    OnnxDepthEstimator(path, **PLAIN)


WORDS = (b"image", b"answer", b"Slice", b"Mul", b"Add", b"Cast", b"ReduceMean", b"\x08\x01", b"\x12\x00")
NETWORKS = [Target("onnx", "a.onnx", networks, open_network, tokens=WORDS)]


# Weights, settings, data sets


SHAPES = {"query": (2, 3), "gate": (2,)}


def weights(folder):
    write_weights(folder / "seed", {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    content = (folder / "seed").read_bytes()
    return [content, content.replace(b'"F32"', b'"F16"'), content.replace(b'"F32"', b'"BF16"')]


def with_length(content):
    """A safetensors file whose header length is right."""
    end = content.rindex(b"}") + 1
    return struct.pack("<Q", end - 8) + content[8:]


def config(folder):
    PipelineConfig().save(folder / "seed")
    events = {"events": [{"window": 1, "prompt": "a"}], "prompt": None}
    return [(folder / "seed").read_bytes(), json.dumps(events).encode()]


def intrinsics(folder):
    camera = {"camera": {"fx": 20, "fy": 20, "cx": 8, "cy": 6, "w": WIDTH, "h": HEIGHT}}
    return [
        b"20 0 8\n0 20 6\n0 0 1\n",
        b"20,20,8,6\n",
        json.dumps(camera).encode(),
        b'{"K": [[20,0,8],[0,20,6],[0,0,1]]}',
    ]


def scene(folder):
    """The images and lists that each of the layouts needs."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    depth = Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint16))
    for name in ("color", "depth", "pose", "intrinsic", "results"):
        (folder / name).mkdir(exist_ok=True)
    for i in range(2):
        image.save(folder / f"color/{i}.jpg")
        depth.save(folder / f"depth/{i}.png")
        image.save(folder / f"results/frame{i:06d}.jpg")
        depth.save(folder / f"results/depth{i:06d}.png")
        np.savetxt(folder / f"pose/{i}.txt", np.eye(4))
    np.savetxt(folder / "intrinsic/intrinsic_depth.txt", np.diag([20.0, 20, 1, 1]) + np.eye(4)[:, :4] * 0)
    (folder / "rgb.txt").write_text("# a\n0.0 color/0.jpg\n0.1 color/1.jpg\n")
    (folder / "depth.txt").write_text("0.0 depth/0.png\n0.1 depth/1.png\n")
    (folder / "groundtruth.txt").write_text("0.0 0 0 0 0 0 0 1\n0.1 0.1 0 0 0 0 0 1\n")
    (folder / "calibration.txt").write_text("20 20 8 6\n")
    np.savetxt(folder / "traj.txt", np.tile(np.eye(4).ravel(), (2, 1)))
    camera = {"fx": 20, "fy": 20, "cx": 8, "cy": 6, "w": WIDTH, "h": HEIGHT, "scale": 1000}
    (folder / "cam_params.json").write_text(json.dumps({"camera": camera}))


def scene_target(layout, name, *tokens):
    def prepare(folder):
        scene(folder)
        return [(folder / name).read_bytes()]

    def read(path):
        sequence = layout(path.parents[name.count("/")])
        for i in range(len(sequence)):
            sequence.pose(i)

    return Target(f"{layout.__name__}-{name.replace('/', '-')}", name, prepare, read, (*NUMBERS, *tokens))


def read_intrinsics(path):
    for suffix in (".txt", ".json"):
        other = path.with_suffix(suffix)
        other.write_bytes(path.read_bytes())
        find_intrinsics(path.parent, (WIDTH, HEIGHT), 1000.0) if path.read_bytes() else None
        other.unlink()


SETTINGS = [
    Target(
        "weights",
        "a.safetensors",
        weights,
        lambda path: read_weights(path, SHAPES, ""),
        tokens=(*JSON, b'"F32"', b'"BF16"', b'"data_offsets"', b'"shape"', b'"__metadata__"'),
        wrap=with_length,
    ),
    Target("config", "a.json", config, PipelineConfig.load, tokens=(*JSON, b'"events"', b'"prompt"')),
    Target("intrinsics", "calibration.in", intrinsics, read_intrinsics, tokens=(*JSON, *NUMBERS, b"k1", b"fx")),
    scene_target(TumRgbd, "rgb.txt", b"../", b"color/0.jpg"),
    scene_target(TumRgbd, "groundtruth.txt"),
    scene_target(Replica, "traj.txt"),
    scene_target(Replica, "cam_params.json", *JSON, b'"scale"'),
    scene_target(ScanNet, "pose/0.txt"),
    scene_target(ScanNet, "intrinsic/intrinsic_depth.txt"),
]

TARGETS = {target.name: target for target in (*PATHS, *ARRAYS, *NETWORKS, *SETTINGS, *STORES, *TOOLS)}
