"""Depth image to world points, 640x480. Limit: 4 bytes read and 13 written per pixel, over memory bandwidth."""

import numpy as np
import pytest

from conftest import peer
from mosaicmem import unproject_to_image

pytestmark = pytest.mark.benchmark(group="unproject 640x480")


@pytest.fixture
def frame(rgbd_frames):
    return rgbd_frames[0]


def numpy_unproject(depth, intrinsics, pose):
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float32) + np.float32(0.5)
    x = (u - np.float32(intrinsics.cx)) / np.float32(intrinsics.fx) * depth
    y = (v - np.float32(intrinsics.cy)) / np.float32(intrinsics.fy) * depth
    matrix = pose.world_from_camera.astype(np.float32)
    return np.stack([x, y, depth], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]


def test_mosaicmem(benchmark, frame, threads):
    depth, _, intrinsics, pose = frame
    points, valid = benchmark(unproject_to_image, depth, intrinsics, pose, num_threads=threads)
    np.testing.assert_allclose(points[valid], numpy_unproject(depth, intrinsics, pose)[valid], atol=1e-4)


def test_numpy(benchmark, frame):
    depth, _, intrinsics, pose = frame
    benchmark(numpy_unproject, depth, intrinsics, pose)


def test_torch(benchmark, frame, threads):
    torch = peer("torch")
    torch.set_num_threads(threads)
    depth, _, intrinsics, pose = frame
    z = torch.from_numpy(depth)
    matrix = torch.from_numpy(pose.world_from_camera.astype(np.float32))

    def run():
        v, u = torch.meshgrid(torch.arange(480) + 0.5, torch.arange(640) + 0.5, indexing="ij")
        x = (u - intrinsics.cx) / intrinsics.fx * z
        y = (v - intrinsics.cy) / intrinsics.fy * z
        return torch.stack([x, y, z], dim=-1) @ matrix[:3, :3].T + matrix[:3, 3]

    points = benchmark(run)
    expected, valid = unproject_to_image(depth, intrinsics, pose)
    np.testing.assert_allclose(points.numpy()[valid], expected[valid], atol=1e-4)


def test_limit_memory_copy(benchmark):
    """Moves as many bytes as the kernel must: the lower bound of its time on one thread."""
    source = np.ones(640 * 480 * 17 // 8, dtype=np.float32)
    target = np.empty_like(source)
    benchmark(np.copyto, target, source)
