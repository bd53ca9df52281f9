"""How much of a long walk a memory with a quarter of the bytes still covers, by eviction policy.

A camera walks through twelve rooms of a building, looking around in each. Then other cameras revisit all rooms:
coverage is the fraction of their latent cells that the retrieved patches land on.
"""

import numpy as np
import pytest

from building import ROOM, K, depth_of
from mosaicmem import CameraPose, CameraTrajectory, MemoryRetrieval, MosaicMemoryStore

ROOMS = 12
FRAMES_A_ROOM = 50
CAMERA = K.scaled(320, 176)
STRIDE = 8
GRID = CAMERA.latent_grid(STRIDE)
CHANNELS = 16

pytestmark = pytest.mark.benchmark(group=f"a walk of {ROOMS * FRAMES_A_ROOM} keyframes into a quarter of its bytes")


def inside(room, x, z, yaw, pitch, time):
    """A camera in a room at (x, z), as fractions of the room's size."""
    eye = ROOM * [room + x, 0.5, z]
    ahead = [np.cos(yaw) * np.cos(pitch), np.sin(pitch), np.sin(yaw) * np.cos(pitch)]
    return CameraPose.look_at(eye, eye + ahead, timestamp=time)


def walk():
    """Crosses each room from one side to the other, with one full turn."""
    for frame in range(ROOMS * FRAMES_A_ROOM):
        room, part = divmod(frame / FRAMES_A_ROOM, 1)
        yield inside(
            room, 0.1 + 0.8 * part, 0.5 + 0.3 * np.sin(6 * part), 2 * np.pi * part, 0.2 * np.sin(25 * part), frame
        )


def revisits():
    rng = np.random.default_rng(3)
    time = ROOMS * FRAMES_A_ROOM
    return CameraTrajectory(
        [
            inside(room, *rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15), time)
            for room in range(ROOMS)
            for _ in range(8)
        ],
        CAMERA,
    )


def remember(**options):
    rng = np.random.default_rng(0)
    store = MosaicMemoryStore(2, latent_dtype="float16", **options)
    for pose in walk():
        latents = rng.standard_normal((GRID.height, GRID.width, CHANNELS)).astype(np.float32)
        store.insert_keyframe(latents, depth_of(pose, GRID), CAMERA, pose)
    return store


def coverage(store):
    return float(MemoryRetrieval(top_k=4096).retrieve(store, revisits(), STRIDE).coverage_ratio.mean())


@pytest.fixture(scope="module")
def unbounded():
    store = remember()
    return store.nbytes, coverage(store)


@pytest.mark.parametrize("policy", ["redundant", "oldest"])
def test_mosaicmem(benchmark, unbounded, policy):
    nbytes, all_covered = unbounded
    store = benchmark.pedantic(remember, kwargs={"max_bytes": nbytes // 4, "eviction": policy}, rounds=1)
    assert store.nbytes <= nbytes // 4
    covered = coverage(store)
    benchmark.extra_info.update(
        policy=policy,
        revisit_coverage=round(covered, 3),
        of_unbounded=f"{100 * covered / all_covered:.0f} %",
        unbounded_coverage=round(all_covered, 3),
    )
    if policy == "redundant":
        assert covered >= 0.9 * all_covered
