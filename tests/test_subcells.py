"""Depth of subcells: what a cell shows of two surfaces goes to where each of them is."""

import numpy as np
import pytest

from keyframe_helpers import (
    COLUMNS,
    ROWS,
    SCALES,
    STRIDE,
    TARGET_K,
    TOLERANCE,
    K,
    as_reference,
    assert_same_canvas,
    everything_in,
    random_sources,
    sideways,
    targets_of,
    tilted,
)
from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    SpatialManipulation,
    depth_to_grid,
)
from mosaicmem.memory import Box
from reference import blend as reference

pytestmark = pytest.mark.kernel


def refined(rng, source, times):
    """The source with depth of times x times subcells: bumps, steps within cells, and holes."""
    if times == 1:
        return source
    depth = np.repeat(np.repeat(source["depth"], times, axis=0), times, axis=1)
    depth = depth + rng.uniform(0, 0.05, depth.shape)
    depth[:, : depth.shape[1] // 2 + 1] -= 0.4
    depth[rng.random(depth.shape) < 0.05] = [0, np.nan, -1][times % 3]
    fine = depth.astype(np.float32)
    coarse = depth_to_grid(fine, times)
    fine[np.kron(coarse, np.ones((times, times))) == 0] = 0
    return {**source, "depth": coarse, "subcell_depth": fine}


def insert(store, latents, depth, **masks):
    """At the origin, with the depth of subcells."""
    times = len(depth) // len(latents)
    store.insert_keyframe(latents, depth_to_grid(depth, times), K, sideways(0), subcell_depth=depth, **masks)


def store_of(sources, **options):
    store = MosaicMemoryStore(2, **options)
    for source in sources:
        store.insert_keyframe(
            source["latents"],
            source["depth"],
            K,
            source["pose"],
            confidence=source["confidence"],
            subcell_depth=source.get("subcell_depth"),
        )
    return store


def cell_and_parts(rng, times=2):
    """A keyframe of a wall behind a post, whose edge lies within cells, as latents and depth of subcells."""
    x = ((np.arange(times * COLUMNS) + 0.5) * STRIDE / times - K.cx) / K.fx
    depth = np.full((times * ROWS, times * COLUMNS), 4.0, np.float32)
    depth[:, np.abs(x) < 0.13] = 2.0
    latents = rng.standard_normal((ROWS, COLUMNS, 3)).astype(np.float32)
    return latents, depth


class TestTwin:
    @pytest.mark.parametrize("composition", ["blend", "backward"])
    @pytest.mark.parametrize("times", [(2,), (2, 1, 4), (8, 2)])
    def test_is_that_of_the_twin(self, rng, composition, times):
        sources = [refined(rng, source, n) for source, n in zip(random_sources(rng, len(times)), times, strict=True)]
        poses = [
            sideways(0.1, 0.05, 0.1, 0.05, time=2.0),
            tilted(rng, sideways(-0.3, 0, 0.8, -0.1, time=7.0)),
            sideways(0.0, 0.0, -1.5, time=8.0),  # parts land close together
            sideways(0.0, 0.0, 1.3, time=9.0),  # and far apart
        ]
        retrieval = KeyframeRetrieval(composition=composition, depth_tolerance=TOLERANCE, **SCALES)
        mosaic = retrieval.compose(store_of(sources), targets_of(*poses), STRIDE, everything_in(store_of(sources), 4))
        for frame, pose in enumerate(poses):
            expected = reference.blend(sources, as_reference(pose), tuple(SCALES.values()), TOLERANCE, composition)
            assert mosaic.coverage[frame].any()
            assert_same_canvas(mosaic, frame, expected)

    def test_one_depth_per_subcell_of_a_flat_wall_is_as_sharp_as_can_be(self, rng):
        """From where it was seen, a cell comes back as it was: its parts share no area with its neighbours."""
        latents = rng.standard_normal((ROWS, COLUMNS, 3)).astype(np.float32)
        for times in (2, 4):
            store = MosaicMemoryStore(1)
            insert(store, latents, np.full((times * ROWS, times * COLUMNS), 3, np.float32))
            mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
            own = (1 + 1 / times) / 2
            height = sum(max(0, 1 - abs(d) / own) for d in (np.arange(times) + 0.5) / times - 0.5)
            neighbour = sum(max(0, 1 - abs(d) / own) for d in (np.arange(times) + 0.5) / times - 1.5)
            ours = height / (height + 2 * neighbour)
            inside = mosaic.latents[0, 1:-1, 1:-1]
            across = latents[1:-1, :-2] + latents[1:-1, 2:]
            assert ours > 0.75
            row = ours * latents[:, 1:-1] + (1 - ours) / 2 * (latents[:, :-2] + latents[:, 2:])
            expected = ours * row[1:-1] + (1 - ours) / 2 * (row[:-2] + row[2:])
            np.testing.assert_allclose(inside, expected, atol=1e-5)
            assert across.shape == inside.shape


class TestEdges:
    def test_the_parts_of_a_cell_part_ways(self, rng):
        """Seen from the side, what a cell at the post's edge shows of the wall stays at the wall."""
        latents, depth = cell_and_parts(rng)
        fine, coarse = MosaicMemoryStore(1), MosaicMemoryStore(1)
        insert(fine, latents, depth)
        coarse.insert_keyframe(latents, depth_to_grid(depth, 2), K, sideways(0))
        moved = [0.05, 0.12, 0.2, 0.27, 0.33]
        targets = CameraTrajectory([sideways(x) for x in moved], K)
        sharp, blunt = (KeyframeRetrieval().retrieve(store, targets, STRIDE) for store in (fine, coarse))
        truth = 2 * 0.13 / 2 * K.fx / STRIDE * ROWS  # cells of a post 0.26 wide at 2 m
        errors = [np.abs((canvas.depth == 2).sum(axis=(1, 2)) - truth).mean() for canvas in (sharp, blunt)]
        assert errors[0] < 0.8 * errors[1], errors

    def test_coverage_reaches_as_far_as_whole_cells(self, rng):
        """Beside an edge, the skirts of narrow tents cover what the tents of whole cells would."""
        latents, _ = cell_and_parts(rng)
        depth = np.full((ROWS, COLUMNS), 3, np.float32)
        depth[:, COLUMNS // 2 :] = 0
        coverage = []
        for times in (None, 2):
            store = MosaicMemoryStore(1)
            fine = None if times is None else np.kron(depth, np.ones((times, times), np.float32))
            store.insert_keyframe(latents, depth, K, sideways(0), subcell_depth=fine)
            mosaic = KeyframeRetrieval().retrieve(store, targets_of(sideways(0.13, 0.04)), STRIDE)
            coverage.append(mosaic.coverage[0])
        assert coverage[1].sum() >= 0.97 * coverage[0].sum()

    def test_erased_patches_and_moved_ones(self, rng):
        latents, depth = cell_and_parts(rng)
        store = MosaicMemoryStore(2)
        insert(store, latents, depth)
        targets = CameraTrajectory([sideways(0)], K)
        before = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        SpatialManipulation(store).erase(Box([-0.3, -9, 1.5], [0.3, 9, 2.5]))
        erased = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        assert (before.depth == 2).any()
        assert not (erased.depth == 2).any()
        SpatialManipulation(store).scale(2.0, [0, 0, 0])
        scaled = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        np.testing.assert_allclose(scaled.depth, 2 * erased.depth, rtol=1e-4)


class TestKeeping:
    def test_bytes_are_counted(self, rng):
        latents, depth = cell_and_parts(rng, 4)
        store = MosaicMemoryStore(1)
        insert(store, latents, depth)
        assert store.statistics().depth_bytes == 4 * (1 + 16) * ROWS * COLUMNS

    def test_saved_and_opened(self, rng, tmp_path):
        store = store_of([refined(rng, source, 2) for source in random_sources(rng, 3)])
        targets = targets_of(sideways(0.1))
        store.save(tmp_path)
        opened = MosaicMemoryStore.open(tmp_path)
        ours, theirs = (KeyframeRetrieval().retrieve(each, targets, STRIDE) for each in (store, opened))
        np.testing.assert_array_equal(ours.latents, theirs.latents)
        assert opened.statistics().depth_bytes == store.statistics().depth_bytes

    def test_masks_of_cells_hold_for_all_their_parts(self, rng):
        latents, depth = cell_and_parts(rng)
        left = np.zeros((ROWS, COLUMNS), np.bool_)
        left[:, :3] = True
        for masks in ({"dynamic": left}, {"valid": ~left}):
            store = MosaicMemoryStore(1)
            insert(store, latents, depth, **masks)
            mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
            assert not mosaic.coverage[0, :, :2].any()
            assert mosaic.coverage[0, :, 4:].all()

    @pytest.mark.parametrize(
        "shape", [(3 * ROWS, 3 * COLUMNS), (2 * ROWS, COLUMNS), (ROWS, COLUMNS), (16 * ROWS, 16 * COLUMNS), (ROWS,)]
    )
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"subcell_depth: expected 2, 4 or 8 times the 9x12 cells"):
            MosaicMemoryStore().insert_keyframe(
                np.zeros((ROWS, COLUMNS, 3), np.float32),
                np.ones((ROWS, COLUMNS), np.float32),
                K,
                sideways(0),
                subcell_depth=np.ones(shape, np.float32),
            )

    def test_cells_without_depth_have_no_parts(self, rng):
        latents, depth = cell_and_parts(rng)
        coarse = depth_to_grid(depth, 2).copy()
        coarse[:, :4] = 0
        store = MosaicMemoryStore(1)
        store.insert_keyframe(latents, coarse, K, sideways(0), subcell_depth=depth)
        mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([sideways(0)], K), STRIDE)
        assert not mosaic.coverage[0, :, :3].any()

    @pytest.mark.parametrize(("stride", "asked", "kept"), [(8, 2, 4), (8, 1, 0), (8, 4, 16), (4, 8, 16), (3, 2, 0)])
    def test_the_pipeline_keeps_as_many_as_the_stride_allows(self, stride, asked, kept):
        config = PipelineConfig(vae_stride=stride, latent_channels=4, depth_subcells=asked, thumbnails=False)
        camera = TARGET_K
        pipeline = AutoregressivePipeline(config)
        pipeline.observe(np.full((72, 96, 3), 0.4), np.full((72, 96), 2.0), camera, CameraPose(np.eye(4)))
        assert pipeline.store.statistics().depth_bytes == 4 * (1 + kept) * (72 // stride) * (96 // stride)
