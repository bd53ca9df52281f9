"""What composing a view costs: cells as blocks, cells whose parts part ways, and pixels.

A window of 21 views of 1280x704 pixels in one room, from the keyframes that are chosen among 100. NumPy warps pixels
without weights: a z-buffer alone.
"""

import numpy as np
import pytest

from building import depth_of, random_pose
from conftest import QUICK
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, KeyframeRetrieval, MosaicMemoryStore

WIDTH, HEIGHT, STRIDE, CHANNELS, WINDOW = 1280, 704, 16, 48, 21
KEYFRAMES = 8 if QUICK else 100
CAMERA = CameraIntrinsics.from_fov(WIDTH, HEIGHT, fov_x=1.2)


def turning():
    """Views that turn by 1.4 radians in the middle of the room."""
    eye = np.array([3.0, 1.5, 3.0])
    angles = np.linspace(0, 1.4, WINDOW)
    ahead = [np.array([np.cos(a), 0.02, np.sin(a)]) for a in angles]
    return CameraTrajectory([CameraPose.look_at(eye, eye + each, timestamp=1e3) for each in ahead], CAMERA)


def store_with(threads, subcells=1, pixels=None, channels=CHANNELS):
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(2, num_threads=threads)
    grid = CAMERA.latent_grid(STRIDE)
    latents = rng.standard_normal((grid.height, grid.width, channels if pixels is None else 1), np.float32)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for i in range(KEYFRAMES):
        pose = random_pose(rng, float(i), 1)
        options = {}
        if subcells > 1:
            options["subcell_depth"] = depth_of(pose, CAMERA.latent_grid(STRIDE // subcells))
        if pixels is not None:
            options |= {"image": image, "image_pixels": STRIDE // pixels}
        store.insert_keyframe(latents, depth_of(pose, grid), CAMERA, pose, copy=False, **options)
    return store


@pytest.fixture(autouse=True)
def group(benchmark):
    benchmark.group = f"compose {WINDOW} views of {WIDTH}x{HEIGHT} from {KEYFRAMES} keyframes"


def timed(benchmark, compose, store, **options):
    retrieval, targets = KeyframeRetrieval(), turning()
    chosen = retrieval.select(store, targets, STRIDE)
    shown = benchmark(getattr(retrieval, compose), store, targets, STRIDE, chosen, **options)
    median = benchmark.stats.stats.median if benchmark.stats else float("nan")
    picks = np.mean([len(each) for each in chosen.packed()])
    benchmark.extra_info.update({"ms_a_view": round(1e3 * median / WINDOW, 2), "keyframes": round(float(picks), 1)})
    assert shown.coverage.mean() > (0.1 if QUICK else 0.95)


def test_mosaicmem_cells_as_blocks(benchmark, threads):
    timed(benchmark, "compose", store_with(threads))


@pytest.mark.parametrize("subcells", [2, 4])
def test_cells_of_parts(benchmark, threads, subcells):
    benchmark.extra_info["parts"] = f"{subcells}x{subcells}"
    timed(benchmark, "compose", store_with(threads, subcells))


@pytest.mark.parametrize("subcells", [1, 2])
def test_choose_and_compose(benchmark, subcells):
    """Canvases of 16 channels, on one thread."""
    store, retrieval, targets = store_with(1, subcells, channels=16), KeyframeRetrieval(), turning()
    benchmark.group = f"choose among {KEYFRAMES} keyframes and compose {WINDOW} canvases of 44x80x16, one thread"
    benchmark.extra_info["parts"] = f"{subcells}x{subcells}"
    shown = benchmark(retrieval.retrieve, store, targets, STRIDE)
    assert shown.coverage.mean() > (0.1 if QUICK else 0.95)


@pytest.mark.parametrize("stride", [4, 2])
def test_pixels(benchmark, threads, stride):
    benchmark.extra_info["stride"] = stride
    timed(benchmark, "compose_pixels", store_with(threads, STRIDE // stride, stride), pixel_stride=stride)


def test_numpy_pixels(benchmark):
    """One view, from as many keyframes, of stride 4."""
    stride, rng = 4, np.random.default_rng(0)
    grid, target = CAMERA.latent_grid(stride), turning()[0]
    poses = [random_pose(rng, float(i), 1) for i in range(8)]
    frames = [(depth_of(pose, grid), pose) for pose in poses]
    rows, columns = np.mgrid[: grid.height, : grid.width].reshape(2, -1)
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=1)
    colors = rng.random((len(rows), 3), np.float32)

    def warp():
        front = np.full(len(rows), np.inf)
        canvas = np.zeros((len(rows), 3), np.float32)
        for depth, pose in frames:
            matrix = target.camera_from_world @ pose.world_from_camera
            points = grid.unproject(pixels, depth.ravel()) @ matrix[:3, :3].T + matrix[:3, 3]
            z = points[:, 2]
            ahead = z > 0.05
            u = np.floor(grid.fx * points[:, 0] / np.where(ahead, z, 1) + grid.cx)
            v = np.floor(grid.fy * points[:, 1] / np.where(ahead, z, 1) + grid.cy)
            seen = ahead & (u >= 0) & (u < grid.width) & (v >= 0) & (v < grid.height)
            cell = (v[seen] * grid.width + u[seen]).astype(int)
            order = np.argsort(-z[seen], kind="stable")
            nearest, own = np.full(len(rows), np.inf), np.zeros((len(rows), 3), np.float32)
            nearest[cell[order]], own[cell[order]] = z[seen][order], colors[seen][order]
            closer = nearest < front
            front[closer], canvas[closer] = nearest[closer], own[closer]
        return canvas

    benchmark.extra_info["note"] = "one view, not 21"
    benchmark(warp)
