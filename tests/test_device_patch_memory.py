"""The published patch memory on the GPU: the same candidates and the same bits as on the CPU."""

import numpy as np
import pytest

from mosaicmem import PatchMemory
from mosaicmem.published.patch_memory import POLICIES
from test_patch_memory import filled, queries, scene

pytestmark = pytest.mark.kernel


def on_device(device, policy, frames):
    latents, poses, k, depth = frames
    memory = PatchMemory(policy)
    memory.append(device.put(latents), poses, k, device.put(depth))
    return memory


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("frames", [1, 3, 7, 60])
@pytest.mark.parametrize("spread", [0.15, 30.0])
def test_choices_and_mosaics_are_those_of_the_cpu(device, rng, policy, frames, spread):
    parts = scene(rng, frames, spread=spread)
    poses, k = queries(rng, 6)
    memory, expected = on_device(device, policy, parts), filled(policy, parts)
    ids = memory.select_candidate_frame_ids(poses, k)
    expected_ids = expected.select_candidate_frame_ids(poses, k)
    np.testing.assert_array_equal(device.get(ids), expected_ids)
    mosaic = expected.fuse_candidates(poses, expected_ids, query_intrinsics=k)
    for given in (ids, expected_ids):
        for _ in range(3):
            fused = memory.fuse_candidates(poses, given, query_intrinsics=k)
            for part, same in zip(fused, mosaic, strict=True):
                np.testing.assert_array_equal(device.get(part), same)


def test_appending_in_parts_is_appending_at_once(device, rng):
    latents, poses, k, depth = scene(rng, 9)
    query = queries(rng, 3)
    memory = PatchMemory("distilled")
    for part in (slice(2), slice(2, 3), slice(3, 9)):
        memory.append(device.put(latents[:, part]), poses[part], k[part], device.put(depth[part]))
    assert memory.num_frames == 9
    whole = on_device(device, "distilled", (latents, poses, k, depth))
    parts = [m.fuse_candidates(query[0], [[0, 1, 5, 8]] * 3) for m in (memory, whole)]
    for one, other in zip(*parts, strict=True):
        np.testing.assert_array_equal(device.get(one), device.get(other))
    result = memory.query(poses[-1], query[0], query[1])
    assert device.get(result.latents).shape == (3, 3, 9, 13)


def test_frames_that_do_not_exist_count_as_none(device, rng):
    parts = scene(rng, 3)
    poses, k = queries(rng, 2)
    memory = on_device(device, "base", parts)
    wrong = device.put(np.array([[7, 1, -5], [-1, 3, 2**40]]))
    expected = filled("base", parts).fuse_candidates(poses, [[1], [-1]], query_intrinsics=k)
    for part, same in zip(memory.fuse_candidates(poses, wrong, query_intrinsics=k), expected, strict=True):
        np.testing.assert_array_equal(device.get(part), same)


def test_mixing_places_is_named(device, rng):
    latents, poses, k, depth = scene(rng, 2)
    memory = on_device(device, "base", (latents, poses, k, depth))
    with pytest.raises(ValueError, match="latents: expected an array on a device, where memory is, got one on the CPU"):
        memory.append(latents, poses, k, depth)
    with pytest.raises(ValueError, match="depths: expected an array on cuda:0, where latents is, got ndarray"):
        memory.append(device.put(latents), poses, k, depth)
    assert memory.num_frames == 2
    with pytest.raises(ValueError, match="latents: expected an array on the CPU, where memory is, got one on a device"):
        filled("base", (latents, poses, k, depth)).append(device.put(latents), poses, k, device.put(depth))
