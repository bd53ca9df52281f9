"""A large building for benchmarks: keyframes whose patches lie on walls, floors and ceilings of many rooms."""

import os

import numpy as np

from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore

ROWS, COLUMNS, STRIDE = 44, 80, 8
PATCHES = ROWS * COLUMNS // 4  # per keyframe, of 2x2 cells each
ROOM = np.array([6.0, 3.0, 6.0])  # metres
ROOMS = 20  # along each side of the building
K = CameraIntrinsics.from_fov(COLUMNS * STRIDE, ROWS * STRIDE, fov_x=1.2)
GRID = K.latent_grid(STRIDE)


def sizes(usual):
    """Numbers of patches to measure."""
    return [int(size) for size in os.environ.get("MOSAICMEM_BENCH_PATCHES", str(usual)).split(",")]


def random_pose(rng, time, rooms=ROOMS):
    """A camera at eye height in a random one of rooms x rooms, looking roughly level."""
    eye = rng.uniform([0.5, 1.2, 0.5], [5.5, 1.8, 5.5]) + ROOM * [rng.integers(rooms), 0, rng.integers(rooms)]
    yaw, pitch = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15)
    ahead = [np.cos(yaw) * np.cos(pitch), np.sin(pitch), np.sin(yaw) * np.cos(pitch)]
    return CameraPose.look_at(eye, eye + ahead, timestamp=time)


def depth_of(pose, grid=GRID):
    """Depth of the walls of the camera's room, at the centres of the grid's cells."""
    v, u = np.mgrid[: grid.height, : grid.width] + 0.5
    rays = np.stack([(u - grid.cx) / grid.fx, (v - grid.cy) / grid.fy, np.ones_like(u)], axis=-1)
    rays = rays @ pose.world_from_camera[:3, :3].T
    low = np.floor(pose.position / ROOM) * ROOM
    with np.errstate(divide="ignore"):
        hit = np.maximum((low - pose.position) / rays, (low + ROOM - pose.position) / rays)
    return hit.min(axis=-1).astype(np.float32)


def fill(patches, seed=0):
    """A store of about this many patches, one keyframe per second from 0; all keyframes share one array of latents."""
    rng = np.random.default_rng(seed)
    store = MosaicMemoryStore(2, num_threads=1)
    latents = np.zeros((ROWS, COLUMNS, 4), dtype=np.float32)
    for i in range(-(-patches // PATCHES)):
        pose = random_pose(rng, float(i))
        store.insert_keyframe(latents, depth_of(pose), K, pose, copy=False)
    return store
