"""The live view: composing and colouring what memory shows to a camera, which must keep up with its motion."""

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, CameraPose, MosaicMemoryStore
from mosaicmem.viewer.cloud import MemoryCloud
from mosaicmem.viewer.preview import Previewer

SIZES = {
    "320x192, stride 8": (320, 192, 8, 16),
    "640x480, stride 16": (640, 480, 16, 16),
    "1280x704, stride 16": (1280, 704, 16, 48),
}


def turning_store(width, height, stride, channels, keyframes=100):
    """Keyframes that look around in a room of 3 m, from places within 1 m."""
    rng = np.random.default_rng(0)
    camera = CameraIntrinsics.from_fov(width, height, fov_x=1.3)
    rows, columns = height // stride, width // stride
    store = MosaicMemoryStore()
    for i in range(keyframes):
        pose = turned(2 * np.pi * i / keyframes, rng.uniform(-1, 1, 3), float(i))
        latents = rng.standard_normal((rows, columns, channels)).astype(np.float32)
        depth = rng.uniform(2.5, 3.5, (rows, columns)).astype(np.float32)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        store.insert_keyframe(latents, depth, camera, pose, image=image)
    return store


def turned(angle, position, time=0.0):
    matrix = np.eye(4)
    matrix[0, 0] = matrix[2, 2] = np.cos(angle)
    matrix[0, 2], matrix[2, 0] = np.sin(angle), -np.sin(angle)
    matrix[:3, 3] = position
    return CameraPose(matrix, time)


@pytest.mark.parametrize("size", SIZES)
def test_view_of_100_keyframes(benchmark, size):
    """One picture of a moving camera: select keyframes, compose, colour, draw the maps."""
    store = turning_store(*SIZES[size])
    previewer = Previewer()
    camera, stride = previewer.camera(store, 0.9, 1.5)
    angles = iter(np.linspace(0, 60, 100_000))

    preview = benchmark(lambda: previewer.compose(store, camera, stride, turned(next(angles), np.zeros(3), 100.0)))
    assert preview.covered > 0.5
    benchmark.extra_info["views a second"] = 1 / benchmark.stats["median"] if benchmark.stats else None


def test_points_of_100_keyframes(benchmark):
    """Reading a store into a cloud, from nothing."""
    store = turning_store(*SIZES["640x480, stride 16"])

    def read():
        cloud = MemoryCloud()
        for _ in cloud.update(store):
            pass
        return cloud.drawn("scene")

    points, _ = benchmark(read)
    assert len(points) == 100 * 30 * 40
