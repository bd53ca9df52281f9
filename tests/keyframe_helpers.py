"""Scenes of whole keyframes, for tests of choosing them and of what is composed from them."""

import numpy as np

from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, MosaicMemoryStore
from mosaicmem.memory import KeyframeSelection

STRIDE, ROWS, COLUMNS = 8, 9, 12
K = CameraIntrinsics(85.0, 82.0, 47.0, 37.0, 96, 72)
TARGET_K = CameraIntrinsics(78.0, 80.0, 50.0, 35.0, 96, 72)
SCALES = {"viewing_angle": 0.4, "field_angle": 0.1, "half_life": 5.0}
TOLERANCE = 0.1


def sideways(x, y=0.0, z=0.0, yaw=0.0, time=0.0):
    """A camera at (x, y, z) that looks along +z, turned by yaw."""
    return CameraPose.look_at([x, y, z], [x + np.sin(yaw), y, z + np.cos(yaw)], timestamp=time)


def tilted(rng, pose):
    """Turned a little about every axis."""
    quaternion = np.array([1, *(0.05 * rng.standard_normal(3))])
    turn = CameraPose.from_quaternion(quaternion / np.linalg.norm(quaternion), [0, 0, 0])
    return CameraPose(pose.world_from_camera @ turn.world_from_camera, pose.timestamp)


def wall_with_post(pose, near=2.0, far=4.0, camera=K):
    """Depth (ROWS, COLUMNS) of a wall at z = far behind a post at z = near, |x| < 0.2, seen by a camera along +z."""
    c, r = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5
    x = (c * STRIDE - camera.cx) / camera.fx
    depth = np.full((ROWS, COLUMNS), far - pose.position[2], np.float32)
    at_post = np.abs(pose.position[0] + x * (near - pose.position[2])) < 0.2
    depth[:, at_post] = near - pose.position[2]
    assert np.allclose(pose.world_from_camera[:3, :3], np.eye(3))
    return depth + 0 * r[:, None].astype(np.float32)


def insert(store, pose, depth, latents, **options):
    store.insert_keyframe(
        np.broadcast_to(latents, (*depth.shape, np.shape(latents)[-1])).copy(), depth, K, pose, **options
    )


def random_sources(rng, count, channels=3):
    """Keyframes around one place: smooth surfaces with steps and holes, one of them with confidence."""
    sources = []
    for i in range(count):
        pose = tilted(rng, sideways(*(0.25 * rng.standard_normal(3)), yaw=0.15 * rng.standard_normal(), time=float(i)))
        bumps = rng.uniform(0, 0.05, (ROWS, COLUMNS))
        depth = (2 + bumps + (np.arange(COLUMNS) > rng.integers(4, 9)) * 1.5 - pose.position[2]).astype(np.float32)
        depth[rng.random(depth.shape) < 0.1] = [0, np.nan, -1][i % 3]
        sources.append(
            {
                "latents": rng.standard_normal((ROWS, COLUMNS, channels)).astype(np.float32),
                "depth": depth,
                "confidence": rng.choice([0, 0.005, 0.3, 1], depth.shape).astype(np.float32) if i == 1 else None,
                "k": K.params,
                "stride": STRIDE,
                "world_from_camera": pose.world_from_camera,
                "timestamp": pose.timestamp,
                "pose": pose,
            }
        )
    return sources


def refine(source, times):
    """Split each cell of a source into times x times cells, for the same view."""
    for name in ("latents", "depth", "confidence"):
        if source[name] is not None:
            source[name] = source[name].repeat(times, axis=0).repeat(times, axis=1)
    source["k"] = tuple(times * value for value in K.params)


def store_of(sources, **options):
    store = MosaicMemoryStore(2, **options)
    for source in sources:
        store.insert_keyframe(source["latents"], source["depth"], K, source["pose"], confidence=source["confidence"])
    return store


def targets_of(*poses):
    return CameraTrajectory(list(poses), TARGET_K)


def everything_in(store, targets=1):
    """All keyframes for each target."""
    return KeyframeSelection([np.unique(store.describe_patches(store.patch_ids)["observation"])] * targets)


def as_reference(pose, near=0.05, far=np.inf):
    return {
        "k": TARGET_K.params,
        "stride": STRIDE,
        "camera_from_world": pose.camera_from_world,
        "rows": ROWS,
        "columns": COLUMNS,
        "time": pose.timestamp,
        "near": near,
        "far": far,
    }


def assert_same_canvas(actual, frame, expected, most_different=0.02):
    """Cells may differ where a threshold decides differently in float32 and float64."""
    latents, coverage, depth, source, weight = expected
    near = {"rtol": 1e-4, "atol": 1e-4}
    same = (
        np.isclose(actual.latents[frame], latents, **near).all(axis=-1)
        & (actual.coverage[frame] == coverage)
        & np.isclose(actual.depth[frame], depth, **near)
        & (actual.source[frame] == source)
        & np.isclose(actual.weight[frame], weight, rtol=1e-3, atol=1e-6)
    )
    assert (~same).mean() <= most_different, f"{(~same).sum()} of {same.size} cells differ"
