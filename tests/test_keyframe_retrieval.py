"""Whole keyframes: which are chosen for a window, and what is composed from them."""

import numpy as np
import pytest

from conftest import random_pose
from keyframe_helpers import (
    COLUMNS,
    ROWS,
    SCALES,
    STRIDE,
    TOLERANCE,
    K,
    as_reference,
    assert_same_canvas,
    everything_in,
    insert,
    random_sources,
    refine,
    sideways,
    store_of,
    targets_of,
    tilted,
    wall_with_post,
)
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    depth_to_grid,
)
from mosaicmem.memory import Box, KeyframeSelection
from reference import blend as reference

pytestmark = pytest.mark.kernel


class TestBlend:
    @pytest.mark.parametrize("composition", ["blend", "backward"])
    @pytest.mark.parametrize("count", [1, 2, 6])
    def test_is_that_of_the_twin(self, rng, composition, count):
        sources = random_sources(rng, count)
        store = store_of(sources)
        poses = [sideways(0.1, 0.05, 0.1, 0.05, time=2.0), tilted(rng, sideways(-0.3, 0, 0.8, -0.1, time=7.0))]
        retrieval = KeyframeRetrieval(composition=composition, depth_tolerance=TOLERANCE, **SCALES)
        mosaic = retrieval.compose(store, targets_of(*poses), STRIDE, everything_in(store, 2))
        assert mosaic.coverage.any()
        for frame, pose in enumerate(poses):
            expected = reference.blend(sources, as_reference(pose), tuple(SCALES.values()), TOLERANCE, composition)
            assert_same_canvas(mosaic, frame, expected)

    @pytest.mark.parametrize("channels", [1, 4, 6, 16, 23, 48])
    def test_any_number_of_channels_is_added_alike(self, rng, channels):
        sources = random_sources(rng, 3, channels)
        pose = sideways(0.1, 0.05, 0.1, 0.05, time=2.0)
        retrieval = KeyframeRetrieval(depth_tolerance=TOLERANCE, **SCALES)
        mosaic = retrieval.compose(store_of(sources), targets_of(pose), STRIDE, everything_in(store_of(sources)))
        expected = reference.blend(sources, as_reference(pose), tuple(SCALES.values()), TOLERANCE, "blend")
        assert_same_canvas(mosaic, 0, expected)

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_the_wall_behind_a_post_does_not_show(self, composition):
        store = MosaicMemoryStore(1)
        for x in (-0.6, 0.0, 0.6):  # the side views see the wall that the post hides in the target
            depth = wall_with_post(sideways(x))
            insert(store, sideways(x), depth, np.where(depth[..., None] < 3, [1.0], [0.0]).astype(np.float32))
        target = sideways(0.15)
        mosaic = KeyframeRetrieval(composition=composition).retrieve(store, CameraTrajectory([target], K), STRIDE)
        truth = wall_with_post(target)
        post = (truth == 2) & mosaic.coverage[0]
        assert post.sum() > ROWS
        np.testing.assert_allclose(mosaic.latents[0, post], 1, atol=1e-5)
        np.testing.assert_allclose(mosaic.depth[0, post], 2, rtol=1e-5)
        shown = mosaic.coverage[0]
        assert (mosaic.depth[0, shown] <= truth[shown] * 1.001).all()

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_small_holes_close_where_both_sides_agree(self, composition):
        """Cells of a wall seen from 10 m land 7.1 cells apart in a view from 1.4 m; a source cell spans 6 at most."""
        store = MosaicMemoryStore(1)
        depth = np.full((ROWS, COLUMNS), 10.0, np.float32)
        insert(store, sideways(0), depth, np.float32([1.0]))
        near = CameraTrajectory([sideways(0, z=8.6)], K)
        retrieval = KeyframeRetrieval(composition=composition)
        mosaic = retrieval.retrieve(store, near, STRIDE)
        assert mosaic.coverage[0, 2:-2, 2:-2].all()  # outermost holes have a source cell on one side only
        np.testing.assert_allclose(mosaic.depth[mosaic.coverage], 1.4, rtol=1e-5)

        nearer = CameraTrajectory([sideways(0, z=8.95)], K)  # 9.5 cells apart: holes of three and more
        assert not retrieval.retrieve(store, nearer, STRIDE).coverage[0, 2:-2, 2:-2].all()

        combed = MosaicMemoryStore(1)
        depth[:, ::2] = 9.8  # 1.2 m: another surface
        insert(combed, sideways(0), depth, np.float32([1.0]))
        mosaic = retrieval.retrieve(combed, near, STRIDE)
        assert 0 < (~mosaic.coverage[0, 2:-2, 2:-2]).mean() < 0.5
        either = np.isclose(mosaic.depth, 1.4, rtol=1e-5) | np.isclose(mosaic.depth, 1.2, rtol=1e-5)
        assert either[mosaic.coverage].all()

    def test_coarse_sources_leave_no_holes(self):
        """A wall seen from 4 m covers a view from 1.5 m, though its cells land 2.7 apart, and hides what is behind."""
        store = MosaicMemoryStore(1)
        insert(store, sideways(0), np.full((ROWS, COLUMNS), 4.0, np.float32), np.ones(1, np.float32))
        behind = np.full((ROWS, COLUMNS), 6.0, np.float32)  # as if it had been seen before the wall was there
        insert(store, sideways(0), behind, np.zeros(1, np.float32))
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0, z=2.5)], K), STRIDE)
        assert mosaic.coverage.all()
        np.testing.assert_allclose(mosaic.latents, 1)
        np.testing.assert_allclose(mosaic.depth, 1.5, rtol=1e-5)

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_confidence_and_masks_of_sources(self, composition):
        depth = np.full((ROWS, COLUMNS), 3.0, np.float32)
        sure, left, right = np.ones(depth.shape, np.float32), np.zeros(depth.shape, bool), np.zeros(depth.shape, bool)
        left[:, :4], right[:, 9:] = True, True
        store = MosaicMemoryStore(1)
        insert(store, sideways(0), depth, np.float32([1.0]), confidence=0.25 * sure, dynamic=left)
        insert(store, sideways(0), depth, np.float32([0.0]), confidence=sure * ~right, valid=~left)
        retrieval = KeyframeRetrieval(composition=composition)
        mosaic = retrieval.retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
        assert not mosaic.coverage[0, :, :4].any()
        np.testing.assert_allclose(mosaic.latents[0, :, 4:9], 0.2, rtol=1e-5)
        np.testing.assert_allclose(mosaic.latents[0, :, 9:], 1, rtol=1e-5)
        assert (mosaic.frame_ids[mosaic.source[0, :, 4:9]] == 1).all()
        assert (mosaic.frame_ids[mosaic.source[0, :, 9:]] == 0).all()
        np.testing.assert_array_equal(mosaic.weight == 0, ~mosaic.coverage)

    def test_newer_sources_count_more(self):
        depth = np.full((ROWS, COLUMNS), 3.0, np.float32)
        store = MosaicMemoryStore(1)
        for time in (0.0, 4.0, 6.0):
            insert(store, sideways(0, time=time), depth, np.float32([time]))
        retrieval, targets = KeyframeRetrieval(half_life=2.0), CameraTrajectory([sideways(0, time=4.0)], K)
        mosaic = retrieval.compose(store, targets, STRIDE, everything_in(store))
        np.testing.assert_allclose(mosaic.latents, (0.25 * 0 + 1 * 4 + 1 * 6) / 2.25, rtol=1e-5)

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_moving_the_world_changes_nothing(self, rng, composition):
        sources = random_sources(rng, 4)
        target = sideways(0.1, 0.05, 0.2, time=3.0)
        world = random_pose(rng, spread=5.0).world_from_camera
        mosaics = []
        for move in (np.eye(4), world):
            moved = [
                {**s, "pose": CameraPose(move @ s["pose"].world_from_camera, s["pose"].timestamp)} for s in sources
            ]
            pose = CameraPose(move @ target.world_from_camera, target.timestamp)
            mosaics.append(
                KeyframeRetrieval(composition=composition, **SCALES).retrieve(store_of(moved), targets_of(pose), STRIDE)
            )
        one, other = mosaics
        parts = (other.latents[0], other.coverage[0], other.depth[0], other.source[0], other.weight[0])
        assert_same_canvas(one, 0, parts)

    def test_half_precision_latents_and_patches_that_died(self, rng):
        sources = random_sources(rng, 3)
        target = targets_of(sideways(0.1))
        exact = KeyframeRetrieval().retrieve(store_of(sources), target, STRIDE)
        for dtype, error in (("float16", 1e-3), ("bfloat16", 1e-2)):
            half = KeyframeRetrieval().retrieve(store_of(sources, latent_dtype=dtype), target, STRIDE)
            np.testing.assert_allclose(half.latents, exact.latents, atol=4 * error)
            np.testing.assert_array_equal(half.weight, exact.weight)
        store = store_of(sources)
        store.delete_patches(store.patch_ids[::3])
        assert KeyframeRetrieval().retrieve(store, target, STRIDE).weight.sum() < exact.weight.sum()
        store.delete_patches(store.patch_ids)
        assert not KeyframeRetrieval().retrieve(store, target, STRIDE).coverage.any()

    def test_what_an_edit_moves_shows_where_it_is(self):
        store = MosaicMemoryStore(1)
        depth = wall_with_post(sideways(0))
        insert(store, sideways(0), depth, np.where(depth[..., None] < 3, [1.0], [0.0]).astype(np.float32))
        SpatialManipulation(store).translate([0.5, 0, 0], Box([-0.4, -9, 1.5], [0.4, 9, 2.5]))
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0.5)], K), STRIDE)
        post = wall_with_post(sideways(0)) == 2
        np.testing.assert_allclose(mosaic.latents[0, post], 1)
        np.testing.assert_allclose(mosaic.depth[0, post], 2, rtol=1e-5)

    def test_a_world_of_twice_the_size_looks_the_same(self, rng):
        store = store_of(random_sources(rng, 3))
        targets = targets_of(sideways(0))
        before = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        SpatialManipulation(store).scale(2.0, [0, 0, 0])
        after = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        parts = (before.latents[0], before.coverage[0], 2 * before.depth[0], before.source[0], before.weight[0])
        assert_same_canvas(after, 0, parts)

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_near_and_far(self, composition):
        store = MosaicMemoryStore(1)
        insert(store, sideways(0), wall_with_post(sideways(0)), np.float32([1.0]))
        targets = CameraTrajectory([sideways(0)], K)
        depths = [
            np.unique(KeyframeRetrieval(composition=composition, **limits).retrieve(store, targets, STRIDE).depth)
            for limits in ({}, {"far": 3.0}, {"near": 3.0})
        ]
        np.testing.assert_allclose(np.concatenate(depths), [2, 4, 0, 2, 0, 4], rtol=1e-6)

    def test_patches_are_composed_by_the_same_rules(self, rng):
        sources = random_sources(rng, 4)
        store = store_of(sources)
        targets = targets_of(sideways(0.1, time=9.0), sideways(-0.1, 0, 0.2, time=9.0))
        found = MemoryRetrieval(top_k=10_000, min_visibility=0.0).retrieve(store, targets, STRIDE)
        retrieval = KeyframeRetrieval(**SCALES)
        from_patches = retrieval.compose(store, targets, STRIDE, found)
        keyframes = retrieval.compose(store, targets, STRIDE, retrieval.select(store, targets, STRIDE))
        seen = from_patches.coverage & keyframes.coverage
        assert seen.mean() > 0.8 * keyframes.coverage.mean()
        inside = np.zeros_like(seen)
        inside[:, 2:-2, 2:-2] = True  # patches whose centre is out of view were not retrieved
        differ = ~np.isclose(from_patches.weight, keyframes.weight, rtol=1e-4, atol=1e-6) & inside
        assert differ.sum() <= 0.1 * inside.sum()
        few = MemoryRetrieval(top_k=3).retrieve(store, targets, STRIDE)
        some = retrieval.compose(store, targets, STRIDE, few)
        assert 0 < some.coverage.sum() < from_patches.coverage.sum()
        assert some.selection is None


class TestChoice:
    @pytest.mark.parametrize("finer", [1, 3])
    def test_is_that_of_the_twin(self, finer):
        """With `finer` = 3, grids exceed 320 cells, and the choice samples only one cell in several."""
        targets = targets_of(sideways(0.1, 0.05, 0.1, time=4.0), sideways(-0.2, 0, 0.3, -0.1, time=4.0))
        options = {"max_keyframes": 3, "max_window_keyframes": 6, "depth_tolerance": TOLERANCE, **SCALES}
        scales = (SCALES["viewing_angle"], 2 * SCALES["field_angle"], SCALES["half_life"])
        equal = 0
        for seed in range(8):
            sources = random_sources(np.random.default_rng(seed), 12)
            store = MosaicMemoryStore(2)
            for source in sources:
                refine(source, finer)
                camera = CameraIntrinsics(*source["k"], finer * K.width, finer * K.height)
                store.insert_keyframe(
                    source["latents"], source["depth"], camera, source["pose"], confidence=source["confidence"]
                )
            chosen = KeyframeRetrieval(**options).select(store, targets, STRIDE)
            assert len(chosen.window) <= 6
            first = np.unique(store.describe_patches(store.patch_ids)["observation"])
            picks = [list(np.searchsorted(first, each)) for each in chosen.packed()]
            expected, worth = reference.choose(
                sources, [as_reference(pose) for pose in targets], scales, TOLERANCE, 3, 6
            )
            for target, (own, theirs) in enumerate(zip(picks, expected, strict=True)):
                value = worth[own, target].max(axis=0).sum()
                assert value == pytest.approx(worth[theirs, target].max(axis=0).sum(), rel=0.02)
            equal += picks == expected
        assert equal >= 6  # others are as good: rounding decides where a cell lands

    @pytest.mark.parametrize("hidden", [6, 150])
    def test_what_is_in_front_is_chosen_however_well_others_see_what_is_behind(self, hidden):
        """One frame, from aside, shows the wall; many show the room behind it, in the direction of the target."""
        store = MosaicMemoryStore(2)
        insert(store, sideways(0.3), np.full((ROWS, COLUMNS), 3.0, np.float32), np.float32([0.0]))
        for i in range(hidden):
            insert(store, sideways(0.001 * i, z=3.5), np.full((ROWS, COLUMNS), 30, np.float32), np.float32([1.0]))
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
        wall = KeyframeRetrieval().compose(store, CameraTrajectory([sideways(0)], K), STRIDE, KeyframeSelection([[0]]))
        assert wall.coverage.mean() > 0.8
        assert (mosaic.latents[wall.coverage] == 0).all()

    @pytest.mark.parametrize("others", [0, 150])
    def test_a_view_within_a_patch_sees_it(self, others):
        """No patch has its centre in view, and yet patches of 4x4 cells fill the view."""
        store = MosaicMemoryStore(4)
        depth = np.full((ROWS, COLUMNS), 3.0, np.float32)
        for i in range(others):
            insert(store, sideways(100.0 + i), depth, np.float32([0.0]))
        insert(store, sideways(0), depth, np.float32([1.0]))
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0.1, 0.1, 2.3)], K), STRIDE)
        assert mosaic.coverage.all()
        np.testing.assert_allclose(mosaic.latents, 1)

    def test_a_few_frames_in_front_of_thousands(self):
        """Sampling the patches in view finds the wall in front of a long corridor."""
        rng = np.random.default_rng(0)
        store, wall = MosaicMemoryStore(2), 1000
        for i in range(2000):
            if i == wall:
                insert(store, sideways(0.3), np.full((ROWS, COLUMNS), 3.0, np.float32), np.float32([0.0]), frame_id=-1)
            eye = rng.uniform([-1, -0.5, 4], [1, 0.5, 100])
            insert(store, sideways(*eye), rng.uniform(3, 30, (ROWS, COLUMNS)).astype(np.float32), np.float32([1.0]))
        for shift in (0.0, 0.02, 0.04):
            mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(shift)], K), STRIDE)
            assert -1 in mosaic.frame_ids

    def test_what_is_hidden_is_not_chosen(self):
        store = MosaicMemoryStore(1)
        insert(store, sideways(0), np.full((ROWS, COLUMNS), 2.0, np.float32), np.float32([1.0]))
        for _ in range(3):
            insert(store, sideways(0), np.full((ROWS, COLUMNS), 4.0, np.float32), np.float32([0.0]))
        chosen = KeyframeRetrieval().select(store, CameraTrajectory([sideways(0.05)], K), STRIDE)
        assert list(chosen.packed()[0]) == [0]

    def test_only_what_adds_is_chosen(self):
        """Copies of one view add nothing; a view of the other side does."""
        store = MosaicMemoryStore(1)
        depth = np.full((ROWS, COLUMNS), 3.0, np.float32)
        for x in (-1.2, -1.2, -1.2, 1.2):
            insert(store, sideways(x), depth, np.float32([x]))
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
        assert sorted(mosaic.frame_ids) == [0, 3]
        assert mosaic.coverage.mean() > 0.9

    def test_targets_share_within_the_limits(self, rng):
        sources = random_sources(rng, 12)
        store = store_of(sources)
        poses = [sideways(0.02 * i, time=9.0) for i in range(6)]
        chosen = KeyframeRetrieval(max_keyframes=3, max_window_keyframes=5).select(store, targets_of(*poses), STRIDE)
        assert len(chosen) == 6
        assert all(1 <= len(each) <= 3 for each in chosen.packed())
        assert len(chosen.window) <= 5

    @pytest.mark.parametrize("composition", ["blend", "backward"])
    def test_threads_change_nothing(self, rng, composition):
        sources = random_sources(rng, 8)
        poses = [sideways(0.05 * i, time=9.0) for i in range(5)]
        mosaics = [
            KeyframeRetrieval(composition=composition).retrieve(
                store_of(sources, num_threads=threads), targets_of(*poses), STRIDE
            )
            for threads in (1, 3, 8)
        ]
        for other in mosaics[1:]:
            for name in ("latents", "coverage", "depth", "source", "weight", "observations"):
                np.testing.assert_array_equal(getattr(mosaics[0], name), getattr(other, name))

    def test_candidates_are_few_however_many_there_are(self, world):
        """In a store with copies of a walk in every house of a town, the copies in the right house are found."""
        camera = CameraIntrinsics.from_fov(96, 72, fov_x=1.0)
        path = world.leave_and_return(camera, 24)
        depth = [depth_to_grid(world.render(camera, pose).depth, STRIDE) for pose in path]
        alone, town = MosaicMemoryStore(2), MosaicMemoryStore(2)
        for house in range(12):
            move = np.eye(4)
            move[:3, 3] = [15.0 * (house % 4), 0, 15.0 * (house // 4)]
            for i, pose in enumerate(path):
                moved = CameraPose(move @ pose.world_from_camera, pose.timestamp)
                latents = np.full((9, 12, 1), house, np.float32)
                town.insert_keyframe(latents, depth[i], camera, moved)
                if house == 5:
                    alone.insert_keyframe(latents, depth[i], camera, moved)
        move[:3, 3] = [15.0, 0, 15.0]
        targets = CameraTrajectory(
            [CameraPose(move @ path[i].world_from_camera, path[i].timestamp) for i in (3, 4, 5)], camera
        )
        retrieval = KeyframeRetrieval(far=8.0)
        one, other = (retrieval.retrieve(store, targets, STRIDE) for store in (alone, town))
        np.testing.assert_allclose(other.latents[other.coverage], 5, rtol=1e-5)
        assert other.coverage.mean() > one.coverage.mean() - 0.02
