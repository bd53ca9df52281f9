"""The published patch memory: the core against its NumPy twin, with the same results."""

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics, PatchMemory, SyntheticWorld
from reference import patch_memory as twin

ROWS, COLUMNS, CHANNELS, FRAMES, GROUPS = 30, 40, 48, 900, 21
POLICIES = {"base": "near", "distilled": "far"}


@pytest.fixture(scope="module")
def scene():
    """900 frames of a walk through the synthetic world, and the cameras of its last 84 frames."""
    rng = np.random.default_rng(0)
    camera = CameraIntrinsics.from_fov(COLUMNS * 16, ROWS * 16, fov_x=1.0)
    small = camera.scaled(COLUMNS * 2, ROWS * 2)
    path = SyntheticWorld(0).leave_and_return(camera, FRAMES + 84)
    world = SyntheticWorld(0)
    depth = np.stack([world.render(small, pose).depth for pose in path[:FRAMES]])
    depth *= rng.normal(1, 0.01, depth.shape).astype(np.float32)  # otherwise whole columns land half-way between cells
    poses = path.camera_from_world.astype(np.float32)
    k = np.tile(camera.matrix.astype(np.float32), (len(path), 1, 1))
    latents = rng.standard_normal((CHANNELS, FRAMES, ROWS, COLUMNS), dtype=np.float32)
    return (latents, poses[:FRAMES], k[:FRAMES], depth), poses[FRAMES:], k[FRAMES:]


def filled(policy, scene, threads):
    memory = PatchMemory(policy, num_threads=threads)
    memory.append(*scene[0])
    return memory


def twin_selection(policy, scene):
    (_, poses, k, depth), query, query_k = scene
    if policy == "base":
        return twin.pose_nearest(poses, query[3::4])
    return twin.coverage(poses, k, depth, query[3::4], query_k[3::4], ROWS, COLUMNS)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.benchmark(group="published rules: choose 21 groups of 5 among 900 frames")
class TestChoose:
    def test_mosaicmem(self, benchmark, scene, threads, policy):
        memory = filled(policy, scene, threads)
        candidates = benchmark(memory.select_candidate_frame_ids, scene[1], scene[2])
        benchmark.extra_info["policy"] = policy
        np.testing.assert_array_equal(candidates, twin_selection(policy, scene))

    def test_numpy(self, benchmark, scene, policy):
        benchmark.extra_info["policy"] = policy
        benchmark(twin_selection, policy, scene)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.benchmark(group="published rules: fuse 21 groups of 5 at 30x40, 48 channels")
class TestFuse:
    def test_mosaicmem(self, benchmark, scene, threads, policy):
        memory, (_, query, query_k) = filled(policy, scene, threads), scene
        candidates = memory.select_candidate_frame_ids(query, query_k)
        mosaic, _ = benchmark(memory.fuse_candidates, query, candidates, query_intrinsics=query_k)
        benchmark.extra_info["policy"] = policy
        expected, _ = twin_fusion(policy, scene, candidates)
        assert (mosaic != expected).any(axis=0).mean() <= 1e-3

    def test_numpy(self, benchmark, scene, threads, policy):
        candidates = filled(policy, scene, threads).select_candidate_frame_ids(*scene[1:])
        benchmark.extra_info["policy"] = policy
        benchmark.pedantic(twin_fusion, (policy, scene, candidates), rounds=3)


def twin_fusion(policy, scene, candidates):
    (latents, poses, k, depth), query, query_k = scene
    return twin.fuse(latents, k, poses, depth, query_k[3::4], query[3::4], candidates, POLICIES[policy])
