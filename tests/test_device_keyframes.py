"""Keyframes are chosen and composed on the GPU as on the host."""

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    depth_to_grid,
)
from mosaicmem._border.stores import DevicePlace
from mosaicmem.memory import KeyframeSelection, Mosaic

pytestmark = pytest.mark.kernel

STRIDE = 8
K = CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(70))
CHANNELS = 5


def path(count, turn=0.04):
    """Cameras that walk through the room and turn."""
    poses = []
    for i in range(count):
        at = np.array([-1.5 + 0.12 * i, -1.4, -0.5 + 0.05 * i])
        poses.append(
            CameraPose.look_at(at, at + np.array([np.sin(turn * i), 0.0, np.cos(turn * i)]), timestamp=float(i))
        )
    return poses


def keyframes(rng, world, poses):
    for pose in poses:
        depth = depth_to_grid(world.render(K, pose).depth, STRIDE).copy()
        depth[rng.random(depth.shape) < 0.05] = 0
        yield rng.standard_normal((*depth.shape, CHANNELS)).astype(np.float32), depth, pose


def parts_of(rng, depth, i):
    """Depth of subcells: of every three keyframes, one has none, the others have 2x2 and 4x4 a cell."""
    parts = 2 ** (i % 3)
    fine = np.repeat(np.repeat(depth, parts, axis=0), parts, axis=1)
    fine = (fine * rng.uniform(0.9, 1.1, fine.shape)).astype(np.float32)
    return None if parts == 1 else fine


@pytest.fixture
def stores(rng, world, device):
    """The same keyframes on the host and on the device."""
    return fill(rng, world, device, path(14))


def fill(rng, world, device, poses, **options):
    pair = MosaicMemoryStore(**options), MosaicMemoryStore(**options, device=device.for_store)
    for i, (latents, depth, pose) in enumerate(keyframes(rng, world, poses)):
        confidence = rng.random(depth.shape).astype(np.float32)
        confidence[confidence < 0.2] = 0.005  # doubtful
        parts = parts_of(rng, depth, i)
        for store in pair:
            store.insert_keyframe(latents, depth, K, pose, confidence=confidence, subcell_depth=parts)
    return pair


def targets(count=3):
    return CameraTrajectory([CameraPose(p.world_from_camera, 20.0) for p in path(14)[4 : 4 + count]], K)


def zooming(count=3):
    some = targets(count)
    return CameraTrajectory(
        some.poses, [CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(70 - 12 * i)) for i in range(count)]
    )


def assert_alike(device, expected, got, part=2e-3):
    """The canvases agree except in a fraction `part` of the cells, where float32 rounding tips a decision."""
    few = part * expected.coverage.size
    coverage = device.get(got.coverage)
    assert (coverage != expected.coverage).sum() <= few
    both = coverage & expected.coverage
    for name in ("depth", "weight", "latents"):
        a, b = device.get(getattr(got, name)), getattr(expected, name)
        # Angles come from a cosine near 1, where one rounding error changes them by a part in a thousand.
        close = np.isclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max(initial=0))
        close = close if close.ndim == 3 else close.all(axis=-1)
        assert (~close & both).sum() <= few, name
        assert (a[~coverage] == 0).all()
    source = device.get(got.source)
    assert (source[~coverage] == -1).all()
    same = got.observations[source[both]] == expected.observations[expected.source[both]]
    assert (~same).sum() <= few


@pytest.mark.parametrize("composition", ["blend", "backward"])
class TestComposing:
    def test_is_that_of_the_host(self, device, stores, composition):
        retrieval = KeyframeRetrieval(composition=composition, half_life=9.0)
        expected, got = (retrieval.retrieve(store, targets(), STRIDE) for store in stores)
        assert expected.coverage_ratio.mean() > 0.7
        np.testing.assert_array_equal(got.coverage_ratio, device.get(got.coverage).mean(axis=(1, 2)))
        assert_alike(device, expected, got)
        again = retrieval.retrieve(stores[1], targets(), STRIDE)
        for name in ("latents", "coverage", "depth", "source", "weight"):
            a, b = device.get(getattr(got, name)), device.get(getattr(again, name))
            assert a.tobytes() == b.tobytes()

    @pytest.mark.parametrize("weight", [0.0, 0.4])
    def test_generated_keyframes_are_weighed(self, rng, world, device, composition, weight):
        pair = MosaicMemoryStore(), MosaicMemoryStore(device=device.for_store)
        for i, (latents, depth, pose) in enumerate(keyframes(rng, world, path(14))):
            for store in pair:
                store.insert_keyframe(latents, depth, K, pose, provenance="generated" if i % 2 else "observed")
        retrieval = KeyframeRetrieval(composition=composition, generated_weight=weight)
        expected, got = (retrieval.retrieve(store, targets(), STRIDE) for store in pair)
        assert_alike(device, expected, got)
        assert (device.get(got.observed) == expected.observed).mean() > 0.99
        assert (expected.observed == expected.coverage).all() == (weight == 0)

    def test_of_targets_that_are_coarser_finer_and_elsewhere(self, device, stores, composition):
        retrieval = KeyframeRetrieval(composition=composition)
        for width, stride in ((40, 2), (160, 32), (480, 8)):
            camera = K.scaled(width, width * 96 // 160)
            window = CameraTrajectory([targets()[0]], camera)
            expected, got = (retrieval.retrieve(store, window, stride) for store in stores)
            assert_alike(device, expected, got, part=1 / 15 if stride == 32 else 5e-3)

    def test_from_far_away_a_keyframe_is_a_few_cells(self, rng, world, device, composition):
        pair = fill(rng, world, device, path(3))
        back = targets(1)[0].world_from_camera.copy()
        back[:3, 3] -= 90 * back[:3, 2]
        window = CameraTrajectory([CameraPose(back)], K)
        retrieval = KeyframeRetrieval(composition=composition)
        expected, got = (retrieval.retrieve(store, window, STRIDE) for store in pair)
        assert expected.coverage.sum() < 20
        assert composition == "backward" or expected.coverage.any()
        assert_alike(device, expected, got, part=0.0)

    def test_small_holes_are_closed(self, rng, device, composition):
        pair = MosaicMemoryStore(), MosaicMemoryStore(device=device.for_store)
        depth = np.full((12, 20), 2.0, np.float32)
        depth[1::3, 1::3] = 0  # isolated holes
        latents = rng.standard_normal((12, 20, CHANNELS)).astype(np.float32)
        for store in pair:
            store.insert_keyframe(latents, depth, K, CameraPose())
        aside = np.eye(4)
        aside[:2, 3] = 0.014, 0.01  # so that a hole leaves two target cells between its neighbours
        retrieval = KeyframeRetrieval(composition=composition)
        window = CameraTrajectory([CameraPose(aside)], K)
        expected, got = (retrieval.retrieve(store, window, 2) for store in pair)
        assert_alike(device, expected, got, part=0.0)

    def test_after_edits_and_deletions(self, rng, device, stores, composition):
        some = rng.choice(stores[0].patch_ids, 300, replace=False)
        for store in stores:
            store.delete_patches(some)
            SpatialManipulation(store).rotate([0, 1, 0], 0.05)
        retrieval = KeyframeRetrieval(composition=composition)
        expected, got = (retrieval.retrieve(store, targets(), STRIDE) for store in stores)
        assert_alike(device, expected, got)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_of_smaller_latents_in_pinned_memory(self, rng, world, device, composition, dtype):
        pair = fill(rng, world, device, path(8), latent_dtype=dtype)
        pair[1]._place = DevicePlace(device.for_store, 0)
        retrieval = KeyframeRetrieval(composition=composition)
        expected, got = (retrieval.retrieve(store, targets(2), STRIDE) for store in pair)
        assert_alike(device, expected, got)

    def test_of_chosen_keyframes(self, device, stores, composition):
        retrieval = KeyframeRetrieval(composition=composition)
        chosen = retrieval.select(stores[0], targets(), STRIDE)
        chosen = KeyframeSelection([*chosen.packed()[:2], np.array([], np.uint64)])  # and none for the third target
        expected, got = (retrieval.compose(store, targets(), STRIDE, chosen) for store in stores)
        assert not expected.coverage[2].any()
        assert_alike(device, expected, got)


class TestChoosing:
    def test_is_that_of_the_host(self, device, stores):
        for options in ({}, {"max_keyframes": 3, "max_window_keyframes": 5}, {"half_life": 4.0}, {"near": 1.5}):
            retrieval = KeyframeRetrieval(**options)
            expected, got = (retrieval.select(store, targets(), STRIDE) for store in stores)
            assert len(got) == 3
            device.get(got.picks)  # `get` checks that they are on the device
            for a, b in zip(expected.packed(), got.packed(), strict=True):
                assert len(a) > 1
                np.testing.assert_array_equal(a, b)

    def test_what_is_hidden_is_not_chosen(self, rng, device):
        pair = MosaicMemoryStore(), MosaicMemoryStore(device=device.for_store)
        for z in (2.0, 6.0, 4.0):
            for store in pair:
                store.insert_keyframe(
                    np.ones((12, 20, CHANNELS), np.float32), np.full((12, 20), z, np.float32), K, CameraPose()
                )
        window = CameraTrajectory([CameraPose(), CameraPose()], K)
        expected, got = (KeyframeRetrieval().select(store, window, STRIDE) for store in pair)
        for a, b in zip(expected.packed(), got.packed(), strict=True):
            np.testing.assert_array_equal(a, [0])
            np.testing.assert_array_equal(b, [0])

    def test_among_more_than_are_looked_at(self, rng, world, device):
        pair = fill(rng, world, device, path(110, turn=0.01))
        retrieval = KeyframeRetrieval()
        expected, got = (retrieval.select(store, targets(2), STRIDE) for store in pair)
        for a, b in zip(expected.packed(), got.packed(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_in_empty_stores_and_out_of_sight(self, rng, device, stores):
        away = CameraTrajectory([CameraPose.look_at([500.0, 0, 0], [501.0, 0, 0])], K)
        empty = MosaicMemoryStore(device=device.for_store)
        for store in (empty, stores[1]):
            if store is empty:
                store.insert_keyframe(
                    np.ones((12, 20, CHANNELS), np.float32), np.ones((12, 20), np.float32), K, CameraPose()
                )
                store.delete_patches(store.patch_ids)
            mosaic = KeyframeRetrieval().retrieve(store, away, STRIDE)
            assert not device.get(mosaic.coverage).any()
            assert (device.get(mosaic.latents) == 0).all()

    def test_a_choice_outlives_changes_of_the_store(self, rng, device, stores):
        """Keyframes that have left the store are skipped; the others are still found, in tables that have changed."""
        retrieval = KeyframeRetrieval()
        chosen = [retrieval.select(store, targets(), STRIDE) for store in stores]
        for store in stores:
            store.delete_frame(5)
            SpatialManipulation(store).translate([0.01, 0, 0], store.patch_ids[:40])
        expected, got = (
            retrieval.compose(store, targets(), STRIDE, each) for store, each in zip(stores, chosen, strict=True)
        )
        assert expected.coverage.any()
        assert_alike(device, expected, got)

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_cameras_that_zoom(self, device, stores, composition):
        host, there = stores
        retrieval = KeyframeRetrieval(composition=composition)
        assert_alike(device, retrieval.retrieve(host, zooming(), STRIDE), retrieval.retrieve(there, zooming(), STRIDE))

    def test_patches_are_composed_too(self, device, stores):
        patches = KeyframeRetrieval("top_k")
        chosen = patches.select(stores[1], targets(), STRIDE)
        assert isinstance(chosen, Mosaic)
        expected = patches.retrieve(stores[0], targets(), STRIDE)
        got = patches.compose(stores[1], targets(), STRIDE, chosen)
        assert expected.coverage.mean() > 0.5
        for name in ("latents", "coverage", "depth", "source", "weight", "observed"):
            np.testing.assert_array_equal(device.get(getattr(got, name)), getattr(expected, name))

    def test_what_cannot_be_composed_there(self, rng, stores):
        retrieval = KeyframeRetrieval()
        with pytest.raises(TypeError, match="sources: expected KeyframeSelection or Mosaic"):
            retrieval.compose(stores[1], targets(), STRIDE, [np.array([0])])
        with pytest.raises(ValueError, match="sources: expected those of 3 targets, got those of 1"):
            retrieval.compose(stores[1], targets(), STRIDE, KeyframeSelection([np.array([0])]))


class TestPrefetching:
    def test_moves_what_a_window_needs(self, rng, world, device):
        poses = path(14)
        nbytes = 12 * 20 * CHANNELS * 4
        host, there = fill(rng, world, device, poses)
        there._place = DevicePlace(device.for_store, 4 * nbytes)
        retrieval = KeyframeRetrieval(max_keyframes=3, max_window_keyframes=3)
        for first in (0, 10, 5):
            window = CameraTrajectory(poses[first : first + 2], K)
            retrieval.prefetch(there, window, STRIDE)
            for slot in retrieval.select(host, window, STRIDE).window:
                assert there._place._store.is_resident(int(slot))
            assert there._place._store.latent_bytes <= 4 * nbytes
            expected, got = (retrieval.retrieve(store, window, STRIDE) for store in (host, there))
            assert_alike(device, expected, got)

    def test_on_the_host_there_is_nothing_to_move(self, stores):
        KeyframeRetrieval().prefetch(stores[0], targets(), STRIDE)

    def test_while_keyframes_come_and_go(self, rng, world, device):
        poses = path(14)
        nbytes = 12 * 20 * CHANNELS * 4
        host = MosaicMemoryStore(max_patches=400)
        there = MosaicMemoryStore(max_patches=400, device=device.for_store, device_bytes=3 * nbytes)
        retrieval = KeyframeRetrieval(max_keyframes=3, max_window_keyframes=3)
        for i, (latents, depth, pose) in enumerate(keyframes(rng, world, poses)):
            for store in (host, there):
                store.insert_keyframe(latents, depth, K, pose)
            window = CameraTrajectory([poses[max(0, i - 3)], random_pose(rng, timestamp=float(i))], K)
            retrieval.prefetch(there, window, STRIDE)
            if i % 2:
                for store in (host, there):
                    store.delete_frame(i - 1)
            expected, got = (retrieval.retrieve(store, window, STRIDE) for store in (host, there))
            assert_alike(device, expected, got)
