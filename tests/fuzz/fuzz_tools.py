"""Readers of what other tools leave: depth maps, descriptions of folders, metadata of captures, predictions."""

import io
import json

import numpy as np
from fuzz_loop import Target
from PIL import Image

from mosaicmem._depth_maps import read_depth_map, read_packed_depth
from mosaicmem.datasets import open_sequence
from mosaicmem.datasets.tools import arkitscenes, colmap, cut3r, icl_nuim, nerfstudio, polycam, record3d, scannetpp

WIDTH, HEIGHT = 16, 12
NUMBERS = (b"0", b"1", b"-1", b"0.5", b"1e9", b"nan")
JSON = (b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"\\u0000", b"[[[[[[[[", b'"../a"')
EYE = np.eye(4).tolist()
K = [[20.0, 0, 8.0], [0, 20.0, 6.0], [0, 0, 1]]
METRES = np.arange(WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)


def image_bytes(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def map_target(suffix, *seeds, tokens=(), read=lambda path: read_depth_map(path, 1000.0, 65535)):
    return Target(f"depth-map-{suffix}", f"a.{suffix}", lambda _: list(seeds), read, tokens=tokens)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def picture(path, depth=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH), 1000, np.uint16) if depth else np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def folder_target(name, file, content, read, images=(), depths=(), others=(), tokens=JSON):
    """A folder of a tool, of which one file is mutated."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()

    def prepare(folder):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        for each in images:
            picture(folder / each)
        for each in depths:
            picture(folder / each, depth=True)
        for each, text in others:
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            (folder / each).write_bytes(text)
        return [data]

    return Target(
        f"folder-{name}",
        file,
        prepare,
        lambda path: read(path.parents[file.count("/")]),
        (*NUMBERS, *tokens),
        speed=0.3,
    )


def first_frame(folder):
    open_sequence(folder)[0]


DESCRIBED = {"images": "rgb", "trajectory": "t.json", "depth": {"files": "z", "units_per_metre": 500}, "fps": 10}
PATH = {
    "schema": "mosaicmem.trajectory",
    "schema_version": 1,
    "intrinsics": {"fx": 20.0, "fy": 20.0, "cx": 8.0, "cy": 6.0, "width": WIDTH, "height": HEIGHT},
    "frames": [{"timestamp": 0.0, "world_from_camera": EYE}],
}
FRAME = {"file_path": "images/0.png", "depth_file_path": "depth/0.png", "transform_matrix": EYE}
TRANSFORMS = {"w": WIDTH, "h": HEIGHT, "fl_x": 20.0, "k1": 0.0, "camera_model": "OPENCV", "frames": [FRAME, FRAME]}
RECORD = {"w": WIDTH, "h": HEIGHT, "fps": 60, "K": [20, 0, 0, 0, 20, 0, 8, 6, 1], "poses": [[0, 0, 0, 1, 0, 0, 0]]}
POLYCAM = {f"t_{row}{column}": EYE[row][column] for row in range(3) for column in range(4)}
POLYCAM |= {"fx": 20, "fy": 20, "cx": 8, "cy": 6, "width": WIDTH, "height": HEIGHT}
IPHONE = {"frame_000000": {"timestamp": 1.5, "aligned_pose": EYE, "intrinsic": K}}


TOOLS = [
    map_target("pfm", b"Pf\n16 12\n-1.0\n" + METRES.tobytes(), tokens=(b"PF", b"\n1e9 1e9\n", b"Pf", b"1.0")),
    map_target("bin", b"16&12&1&" + METRES.tobytes(), tokens=(b"&", b"&3&", b"99999999")),
    map_target("npy", npy(METRES), npy(METRES.astype(np.uint16)), tokens=(b"|O", b"<f8", b"(12, 16)", b"True")),
    map_target("npz", archive(depth=METRES), archive(arr_0=METRES[None]), tokens=(b"PK\1\2", b".npy", b"depth")),
    map_target("tiff", image_bytes(METRES, "TIFF"), image_bytes(METRES.astype(np.uint16), "TIFF")),
    Target(
        "depth-map-packed",
        "a.png",
        lambda _: [image_bytes(METRES.view(np.uint8).reshape(HEIGHT, WIDTH, 4), "PNG")],
        read_packed_depth,
    ),
    Target(
        "predictions",
        "a.npz",
        lambda _: [archive(images=np.zeros((1, 12, 16, 3), np.uint8), depths=METRES[None], K=K, c2w=np.array([EYE]))],
        first_frame,
        tokens=(b"PK\1\2", b".npy", b"w2c", b"conf", b"|O"),
    ),
    folder_target(
        "described",
        "dataset.json",
        DESCRIBED,
        first_frame,
        ["rgb/0.png"],
        ["z/0.png"],
        [("t.json", json.dumps(PATH).encode())],
    ),
    folder_target("nerfstudio", "transforms.json", TRANSFORMS, nerfstudio.read, ["images/0.png"], ["depth/0.png"]),
    folder_target("record3d", "metadata.json", RECORD, record3d.read, ["rgb/0.png"]),
    folder_target("polycam", "keyframes/cameras/0.json", POLYCAM, polycam.read, ["keyframes/images/0.png"]),
    folder_target("scannetpp", "pose_intrinsic_imu.json", IPHONE, scannetpp.read, ["rgb/frame_000000.png"]),
    folder_target(
        "colmap",
        "sparse/0/images.txt",
        b"1 1 0 0 0 0 0 0 1 0.png\n\n",
        colmap.read,
        ["images/0.png"],
        others=[("sparse/0/cameras.txt", b"1 OPENCV 16 12 20 20 8 6 0.1 0 0 0\n")],
        tokens=(b"../0.png", b"\n"),
    ),
    folder_target(
        "cut3r",
        "camera/0.npz",
        archive(pose=np.eye(4), intrinsics=np.array(K)),
        cut3r.read,
        ["color/0.png"],
        tokens=(b"PK\1\2", b"pose", b"|O"),
    ),
    folder_target(
        "arkitscenes",
        "lowres_wide.traj",
        b"1.0 0.1 0 0 1 2 3\n1.1 0 0 0 1 2 3\n",
        arkitscenes.read,
        ["lowres_wide/4_1.000.png"],
        ["lowres_depth/4_1.000.png"],
        [("lowres_wide_intrinsics/4_1.000.pincam", b"16 12 20 20 8 6\n")],
        tokens=(),
    ),
    folder_target(
        "icl-nuim",
        "associations.txt",
        b"0 depth/0.png 0 rgb/0.png\n",
        icl_nuim.read,
        ["rgb/0.png"],
        ["depth/0.png"],
        [("a.gt.freiburg", b"0 0 0 0 0 0 0 1\n")],
        tokens=(b"../rgb", b"\n"),
    ),
]
