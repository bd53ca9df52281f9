"""Streaming fusion of 32 frames of 640x480 at 5 cm. Times are for the whole sequence; divide by 32 for one frame."""

import time

import numpy as np
import pytest

from conftest import peer
from mosaicmem import StreamingFusion, unproject_depth

pytestmark = pytest.mark.benchmark(group="fuse 32 frames 640x480 at 5 cm")

VOXEL = 0.05


def fuse(frames, threads):
    fusion = StreamingFusion(VOXEL, num_threads=threads)
    seconds = []
    for depth, color, intrinsics, pose in frames:
        start = time.perf_counter()
        fusion.add_frame(depth, intrinsics, pose, color)
        seconds.append(time.perf_counter() - start)
    return fusion, seconds


def test_mosaicmem(benchmark, rgbd_frames, threads):
    fusion, _ = benchmark.pedantic(fuse, args=(rgbd_frames, threads), rounds=7, warmup_rounds=1)
    expected = {
        tuple(v)
        for depth, _, intrinsics, pose in rgbd_frames[:4]
        for v in np.unique(np.floor(unproject_depth(depth, intrinsics, pose)[0] / VOXEL), axis=0).astype(int)
    }
    four, _ = fuse(rgbd_frames[:4], threads)
    assert abs(len(four) - len(expected)) < 0.01 * len(expected)
    runs = np.array([fuse(rgbd_frames, threads)[1] for _ in range(5)])
    per_frame = 1000 * np.median(runs, axis=0)
    benchmark.extra_info.update(
        voxels=len(fusion),
        ms_a_frame=round(float(np.median(per_frame)), 2),
        ms_first_frames=round(float(per_frame[:4].mean()), 2),
        ms_last_frames=round(float(per_frame[-4:].mean()), 2),
    )


def test_numpy_unique(benchmark, rgbd_frames):
    """The usual vectorised way: np.unique on the voxel keys of the whole cloud so far, after each frame."""

    def run():
        cloud = np.zeros((0, 3), np.float32)
        for depth, _, intrinsics, pose in rgbd_frames:
            cloud = np.concatenate([cloud, unproject_depth(depth, intrinsics, pose)[0]])
            keys = np.floor(cloud / VOXEL).astype(np.int64) + (1 << 20)
            _, index, count = np.unique(
                keys[:, 0] << 42 | keys[:, 1] << 21 | keys[:, 2], return_inverse=True, return_counts=True
            )
            cloud = np.stack([np.bincount(index, cloud[:, a]) / count for a in range(3)], axis=1).astype(np.float32)
        return cloud

    cloud = benchmark.pedantic(run, rounds=1)
    assert abs(len(cloud) - len(fuse(rgbd_frames, 0)[0])) < 0.02 * len(cloud)


def test_open3d(benchmark, rgbd_frames):
    """voxel_down_sample of the growing cloud after each frame."""
    o3d = peer("open3d")

    def cloud_of(depth, color, intrinsics, pose):
        points, pixels = unproject_depth(depth, intrinsics, pose)
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.astype(np.float64)))
        cloud.colors = o3d.utility.Vector3dVector(color.reshape(-1, 3)[pixels] / 255)
        return cloud

    def run():
        cloud = o3d.geometry.PointCloud()
        for frame in rgbd_frames:
            cloud = (cloud + cloud_of(*frame)).voxel_down_sample(VOXEL)
        return cloud

    benchmark.pedantic(run, rounds=1)
    # Open3D's grid starts at the corner of each growing cloud, so repeated downsampling thins the cloud. Downsampling
    # all points once gives the same voxel count, up to the offset of the grid.
    whole = o3d.geometry.PointCloud()
    for frame in rgbd_frames:
        whole += cloud_of(*frame)
    assert abs(len(whole.voxel_down_sample(VOXEL).points) / len(fuse(rgbd_frames, 0)[0]) - 1) < 0.05
