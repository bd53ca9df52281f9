"""Shared by all benchmarks: inputs, and peer libraries that may be absent."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Peers that use OpenMP get one thread; benchmarks that use more set torch's threads themselves. OpenMP reads this when
# the first peer is loaded, so set it before.
os.environ["OMP_NUM_THREADS"] = "1"

# For the NumPy twins in tests/reference, which the core is compared with.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from mosaicmem import CameraIntrinsics, CameraPose, SyntheticWorld

QUICK = "MOSAICMEM_BENCH_QUICK" in os.environ
"""Smaller inputs, to see that the benchmarks run; their figures mean nothing."""


def peer(name):
    """A module to compare with; skips the benchmark if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")


def peer_or_none(name):
    """The same outside of pytest."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def threads():
    """Threads for every library: MOSAICMEM_NUM_THREADS, or all cores."""
    return int(os.environ.get("MOSAICMEM_NUM_THREADS") or os.cpu_count() or 1)


@pytest.fixture(scope="session")
def rgbd_frames():
    """32 frames of 640x480 as (depth, color, intrinsics, pose).

    From rgbd_scene in MOSAICMEM_TEST_DATA if that is there, else from the synthetic world.
    """
    from mosaicmem.datasets import SevenScenes

    root = os.environ.get("MOSAICMEM_TEST_DATA")
    if root and (Path(root) / "rgbd_scene").is_dir():
        sequence = SevenScenes(Path(root) / "rgbd_scene")
        return [(f.depth, f.image, sequence.intrinsics, f.pose) for f in sequence[:32]]
    world = SyntheticWorld(0)
    path = world.leave_and_return(CameraIntrinsics.from_fov(640, 480, fov_x=1.0), 8 if QUICK else 32)
    views = [world.render(path.intrinsics, pose) for pose in path]
    # The world's walls lie on multiples of 5 cm, where rounding alone decides which voxel a point falls into.
    aside = np.eye(4)
    aside[:3, 3] = [0.013, 0.017, 0.011]
    poses = [CameraPose(aside @ pose.world_from_camera, pose.timestamp) for pose in path]
    return [(v.depth, v.image_uint8, path.intrinsics, pose) for v, pose in zip(views, poses, strict=True)]


def pytest_benchmark_update_machine_info(config, machine_info):
    from machines import describe

    describe(machine_info)
