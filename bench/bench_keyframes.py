"""Speed and quality of selecting whole keyframes for a window of 21 latents, and of composing its canvases.

The grid has 30x40 cells of 16 pixels. The first three of 16 channels are colours pooled to it, so that PSNR measures
image quality. MOSAICMEM_BENCH_KEYFRAMES sets the size of the large memory.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from building import depth_of, random_pose
from conftest import QUICK, peer
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, KeyframeRetrieval, MosaicMemoryStore, PatchMemory
from mosaicmem.datasets import SevenScenes, SyntheticWalk

STRIDE, ROWS, COLUMNS, CHANNELS, WINDOW = 16, 30, 40, 16, 21
KEYFRAMES = int(os.environ.get("MOSAICMEM_BENCH_KEYFRAMES", 10_000))
CAMERA = CameraIntrinsics.from_fov(COLUMNS * STRIDE, ROWS * STRIDE, fov_x=1.0)


def turning(pose, angle=0.02):
    """21 cameras that turn and move a little, starting at a pose."""
    step = np.eye(4)
    step[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    step[2, 3] = 0.02
    poses = [pose]
    for _ in range(WINDOW - 1):
        poses.append(CameraPose(poses[-1].world_from_camera @ step, pose.timestamp))
    return CameraTrajectory(poses, CAMERA)


@pytest.fixture(scope="class")
def poses(rooms):
    rng = np.random.default_rng(rooms)
    return [random_pose(rng, float(i), rooms) for i in range(KEYFRAMES)]


@pytest.mark.parametrize("rooms", [20, 1], ids=["400 rooms", "one room"], scope="class")
class TestChoose:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, rooms):
        benchmark.group = f"choose for {WINDOW} latents among {KEYFRAMES:,} keyframes in {rooms * rooms} room(s)"

    def test_mosaicmem_visible_coverage(self, benchmark, poses, threads):
        store, latents = MosaicMemoryStore(2, num_threads=threads), np.zeros((ROWS, COLUMNS, 1), np.float32)
        for pose in poses:
            store.insert_keyframe(latents, depth_of(pose, CAMERA.latent_grid(STRIDE)), CAMERA, pose, copy=False)
        targets = turning(poses[0])
        chosen = benchmark(KeyframeRetrieval().select, store, targets, STRIDE)
        mosaic = KeyframeRetrieval().compose(store, targets, STRIDE, chosen)
        benchmark.extra_info["coverage %"] = round(100 * float(mosaic.coverage.mean()), 1)
        assert len(chosen.window) <= 32

    def test_published_coverage(self, benchmark, poses, threads):
        memory, k = PatchMemory("distilled", num_threads=threads), CAMERA.matrix[None]
        for pose in poses:
            depth = depth_of(pose, CAMERA.latent_grid(STRIDE))[None]
            memory.append(np.zeros((1, 1, ROWS, COLUMNS), np.float32), pose.camera_from_world[None], k, depth)
        query = np.repeat(turning(poses[0]).camera_from_world, 4, axis=0)
        benchmark(memory.select_candidate_frame_ids, query)


def real_frames(kind):
    """(sequence, memory, targets): the camera continues into unseen space, or comes back."""
    root = os.environ.get("MOSAICMEM_TEST_DATA")
    if not root or not (Path(root) / "rgbd_scene").is_dir():
        pytest.skip("no real RGB-D frames; set MOSAICMEM_TEST_DATA")
    sequence = SevenScenes(Path(root) / "rgbd_scene")
    if kind == "real, going on":
        return sequence, range(60), range(61, 82)
    return sequence, [i for i in range(len(sequence)) if not 35 <= i < 66], range(40, 61)


def scene_of(kind):
    if kind == "synthetic":
        return SyntheticWalk(180), range(0, 121, 8 if QUICK else 1), range(140, 140 + WINDOW)
    return real_frames(kind)


@pytest.fixture(scope="class")
def frames(kind):
    """Memory and targets on the grid, and their camera."""
    from mosaicmem.evaluation import grid_frames
    from mosaicmem.evaluation.frames import cropped

    sequence, memory, targets = scene_of(kind)
    camera = cropped(sequence.intrinsics, STRIDE)
    return grid_frames(sequence, memory, STRIDE), grid_frames(sequence, targets, STRIDE), camera


@pytest.mark.parametrize("kind", ["synthetic", "real, going on", "real, coming back"], scope="class")
class TestWindow:
    @pytest.fixture(autouse=True)
    def group(self, benchmark, kind):
        benchmark.group = f"choose and compose {WINDOW} latents of {CHANNELS} channels: {kind}"

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_mosaicmem(self, benchmark, frames, composition, threads):
        memory, truth, camera = frames
        store = MosaicMemoryStore(2, num_threads=threads)
        for frame in memory:
            store.insert_keyframe(in_channels(frame.colors), frame.depth, camera, frame.pose)
        targets = CameraTrajectory([frame.pose for frame in truth], camera)
        mosaic = benchmark(KeyframeRetrieval(composition=composition).retrieve, store, targets, STRIDE)
        keyframes = np.mean([len(each) for each in mosaic.selection.packed()])
        hidden = mosaic.depth > 1.05 * np.stack([frame.farthest for frame in truth])
        known = mosaic.coverage & (np.stack([frame.farthest for frame in truth]) > 0)
        report(benchmark, composition, mosaic.latents[..., :3], mosaic.coverage, truth, keyframes)
        benchmark.extra_info["hidden shown %"] = round(100 * float(hidden[known].mean()), 2)
        assert max(len(each) for each in mosaic.selection.packed()) <= 16

    @pytest.mark.parametrize("policy", ["base", "distilled"])
    def test_published(self, benchmark, frames, policy, threads):
        memory, truth, camera = frames
        rules = PatchMemory(policy, num_threads=threads)
        rules.append(
            np.stack([in_channels(frame.colors) for frame in memory]).transpose(3, 0, 1, 2),
            np.stack([frame.pose.camera_from_world for frame in memory]),
            np.tile(camera.matrix, (len(memory), 1, 1)),
            np.stack([frame.pixel_depth for frame in memory]),
        )
        query = np.repeat(np.stack([frame.pose.camera_from_world for frame in truth]), 4, axis=0)

        def run():
            return rules.fuse_candidates(query, rules.select_candidate_frame_ids(query))

        latents, valid = benchmark(run)
        report(benchmark, policy, np.moveaxis(latents, 0, -1)[..., :3], valid, truth, 5)


def in_channels(colors):
    return np.ascontiguousarray(np.tile(colors, 6)[..., :CHANNELS])


def report(benchmark, name, colors, coverage, truth, keyframes):
    psnr = peer("skimage.metrics").peak_signal_noise_ratio
    expected = np.stack([frame.colors for frame in truth])
    benchmark.extra_info.update(
        {
            "rules": name,
            "PSNR": f"{psnr(expected[coverage], colors[coverage], data_range=1.0):.2f} dB",
            "coverage %": round(100 * float(coverage.mean()), 1),
            "keyframes": round(float(keyframes), 1),
        }
    )
