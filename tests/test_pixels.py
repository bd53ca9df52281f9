"""Images of keyframes, warped pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

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
)
from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    SpatialManipulation,
    extend_depth,
)
from mosaicmem.geometry.depth import extended_grids
from mosaicmem.memory import Box, KeyframeSelection
from mosaicmem.memory.contents import observed_keyframes
from reference import blend as reference

pytestmark = pytest.mark.kernel

SIZE = (K.height, K.width)
FLAT = np.full((ROWS, COLUMNS), 3.0, np.float32)


def picture(rng):
    """Smooth, so that resampling changes little."""
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((K.width, K.height), Image.Resampling.BICUBIC))


def insert(store, image, depth=FLAT, pose=None, pixels=4, **options):
    latents = np.zeros((ROWS, COLUMNS, 2), np.float32)
    pose = sideways(0) if pose is None else pose
    store.insert_keyframe(latents, depth, K, pose, image=image, image_pixels=pixels, **options)


class TestCompose:
    @pytest.mark.parametrize("pixels", [2, 4])
    def test_is_the_blend_of_a_keyframe_whose_cells_are_pixels(self, rng, pixels):
        """The twin, on sources whose grid is that of the image, with the depth of subcells as many."""
        sources = random_sources(rng, 3)
        store, fine = MosaicMemoryStore(1), []
        for source in sources:
            image = picture(rng)
            depth = np.repeat(np.repeat(source["depth"], pixels, axis=0), pixels, axis=1)
            confidence = source["confidence"]
            store.insert_keyframe(
                source["latents"],
                source["depth"],
                K,
                source["pose"],
                confidence=confidence,
                subcell_depth=depth,
                image=image,
                image_pixels=pixels,
            )
            reduced = Image.fromarray(image).resize((pixels * COLUMNS, pixels * ROWS), Image.Resampling.BOX)
            known = np.isfinite(source["depth"]) & (source["depth"] > 0)
            depth = np.where(np.kron(known, np.ones((pixels, pixels))) > 0, depth, 0)
            sure = None if confidence is None else np.kron(confidence, np.ones((pixels, pixels)))
            colors = np.asarray(reduced, np.float64) / 255
            fine.append({**source, "latents": colors, "depth": depth, "confidence": sure, "stride": STRIDE / pixels})
        poses = [sideways(0.1, 0.05, 0.1, 0.05, time=5.0), sideways(-0.2, 0, 0.5, time=7.0)]
        retrieval = KeyframeRetrieval(depth_tolerance=TOLERANCE, **SCALES)
        chosen = everything_in(store, 2)
        shown = retrieval.compose_pixels(store, targets_of(*poses), STRIDE, chosen, pixel_stride=STRIDE // pixels)
        as_canvas = {"latents": shown.colors}
        for name in ("coverage", "depth", "source", "weight"):
            as_canvas[name] = getattr(shown, name)
        for frame, pose in enumerate(poses):
            target = {**as_reference(pose), "rows": pixels * ROWS, "columns": pixels * COLUMNS}
            target["stride"] = STRIDE / pixels
            expected = reference.blend(fine, target, tuple(SCALES.values()), TOLERANCE, "blend")
            assert_same_canvas(Namespace(**as_canvas), frame, expected)

    def test_from_the_same_place_the_image_comes_back(self, rng):
        store, image = MosaicMemoryStore(1), picture(rng)
        insert(store, image)
        shown = KeyframeRetrieval().retrieve_pixels(store, CameraTrajectory([sideways(0)], K), STRIDE, pixel_stride=2)
        assert shown.colors.shape == (1, K.height // 2, K.width // 2, 3)
        assert shown.coverage.all()
        truth = np.asarray(Image.fromarray(image).resize((K.width // 2, K.height // 2), Image.Resampling.BOX)) / 255
        np.testing.assert_allclose(shown.colors[0], truth, atol=0.01)
        np.testing.assert_allclose(shown.depth, 3, rtol=1e-5)
        assert shown.observed.all()

    def test_moves_by_less_than_a_cell(self, rng):
        """A camera that moves by one pixel of the image sees it moved by one pixel; a canvas of cells cannot tell."""
        store, image = MosaicMemoryStore(1), picture(rng)
        insert(store, image)
        step = 2 * 3.0 / K.fx  # metres that are 2 camera pixels at 3 m
        shown = KeyframeRetrieval().retrieve_pixels(
            store, CameraTrajectory([sideways(step)], K), STRIDE, pixel_stride=2
        )
        truth = np.asarray(Image.fromarray(image).resize((K.width // 2, K.height // 2), Image.Resampling.BOX)) / 255
        np.testing.assert_allclose(shown.colors[0, :, :-1], truth[:, 1:], atol=0.02)

    def test_depth_is_smooth_within_a_surface_and_not_across(self, rng):
        """A slope whose depth is known per cell moves as one; a step stays a step."""
        store = MosaicMemoryStore(1)
        depth = np.broadcast_to(np.linspace(2, 3, COLUMNS, dtype=np.float32), (ROWS, COLUMNS)).copy()
        depth[:, COLUMNS // 2 :] += 3
        insert(store, picture(rng), depth)
        shown = KeyframeRetrieval().retrieve_pixels(store, CameraTrajectory([sideways(0)], K), STRIDE, pixel_stride=2)
        row = shown.depth[0, K.height // 4]
        steps = np.abs(np.diff(row))
        assert (steps > 1).sum() == 1
        assert np.sort(steps)[-2] < 0.1

    def test_keyframes_without_an_image_show_nothing(self, rng):
        store = MosaicMemoryStore(1)
        insert(store, None)
        targets = CameraTrajectory([sideways(0)], K)
        assert not KeyframeRetrieval().retrieve_pixels(store, targets, STRIDE).coverage.any()
        insert(store, picture(rng))
        assert KeyframeRetrieval().retrieve_pixels(store, targets, STRIDE).coverage.all()

    def test_an_empty_store_shows_nothing(self):
        targets = CameraTrajectory([sideways(0)], K)
        shown = KeyframeRetrieval().retrieve_pixels(MosaicMemoryStore(1), targets, STRIDE)
        assert not shown.coverage.any()
        assert shown.colors.shape == (1, K.height // 4, K.width // 4, 3)

    def test_what_is_erased_or_moved_shows_so(self, rng):
        store = MosaicMemoryStore(1)
        depth = FLAT.copy()
        depth[:, 5:7] = 1.5
        insert(store, picture(rng), depth)
        targets = CameraTrajectory([sideways(0)], K)
        SpatialManipulation(store).erase(Box([-9, -9, 1], [9, 9, 2]))
        shown = KeyframeRetrieval().retrieve_pixels(store, targets, STRIDE)
        assert not shown.coverage[0, :, 11:13].any()
        assert (shown.depth[shown.coverage] > 2).all()

    def test_threads_change_nothing(self, rng):
        images = [picture(rng) for _ in range(3)]
        shown = []
        for threads in (1, 2):
            store = MosaicMemoryStore(1, num_threads=threads)
            for i, image in enumerate(images):
                insert(store, image, pose=sideways(0.2 * i))
            targets = CameraTrajectory([sideways(0.1 * i) for i in range(4)], K)
            shown.append(KeyframeRetrieval().retrieve_pixels(store, targets, STRIDE).colors)
        np.testing.assert_array_equal(*shown)

    def test_nonsense_is_refused(self, rng):
        store, targets, retrieval = MosaicMemoryStore(1), CameraTrajectory([sideways(0)], K), KeyframeRetrieval()
        insert(store, picture(rng))
        with pytest.raises(ValueError, match="pixel_stride: expected a divisor of stride = 8, got 3"):
            retrieval.retrieve_pixels(store, targets, STRIDE, pixel_stride=3)
        with pytest.raises(ValueError, match="sources: expected those of 1 targets, got those of 2"):
            retrieval.compose_pixels(store, targets, STRIDE, everything_in(store, 2))
        patches = MemoryRetrieval(top_k=4).retrieve(store, targets, STRIDE)
        with pytest.raises(TypeError, match="sources: expected KeyframeSelection, got Mosaic"):
            retrieval.compose_pixels(store, targets, STRIDE, patches)
        with pytest.raises(ValueError, match="image_pixels"):
            insert(store, picture(rng), pixels=65)


class Namespace:
    def __init__(self, **fields):
        self.__dict__.update(fields)


class TestPooled:
    def shown(self, rng, coverage):
        store = MosaicMemoryStore(1)
        insert(store, picture(rng))
        shown = KeyframeRetrieval().retrieve_pixels(store, CameraTrajectory([sideways(0)], K), STRIDE, pixel_stride=2)
        shown.coverage[...] = coverage
        shown.colors[~shown.coverage] = 0
        shown.depth[~shown.coverage] = 0
        return shown

    def test_the_mean_of_what_is_covered(self, rng):
        coverage = np.ones((K.height // 2, K.width // 2), np.bool_)
        coverage[:4, :1] = False  # a quarter of the first cell
        coverage[4:8, :3] = False  # three quarters of the one below
        shown = self.shown(rng, coverage)
        cells = shown.pooled(STRIDE)
        np.testing.assert_allclose(cells["colors"][0, 0, 0], shown.colors[0, :4, 1:4].mean(axis=(0, 1)), rtol=1e-5)
        assert cells["coverage"][0, :2, 0].tolist() == [True, False]
        assert not cells["colors"][0, 1, 0].any()
        assert not cells["depth"][0, 1, 0]
        assert shown.pooled(STRIDE, least=0.2)["coverage"].all()
        with pytest.raises(ValueError, match="stride: expected a multiple of pixel_stride = 2, got 5"):
            shown.pooled(5)

    def test_filled_continues_what_is_covered(self, rng):
        coverage = np.ones((K.height // 2, K.width // 2), np.bool_)
        coverage[:, 20:] = False
        shown = self.shown(rng, coverage)
        filled = shown.filled()
        np.testing.assert_array_equal(filled[0, :, :20], shown.colors[0, :, :20])
        beside, edge = filled[0, :, 20], shown.colors[0, :, 19]
        rest = shown.colors[0, :, :20].mean(axis=(0, 1))
        assert np.abs(beside - edge).mean() < 0.9 * np.abs(edge - rest).mean()
        assert (filled >= 0).all()
        nothing = self.shown(rng, np.zeros_like(coverage))
        np.testing.assert_array_equal(nothing.filled(), 0.5)


class TestPipeline:
    def context(self, rng, **options):
        config = PipelineConfig(vae_stride=STRIDE, latent_channels=12, **options)
        pipeline = AutoregressivePipeline(config)
        image = picture(rng)
        pipeline.observe(image, np.full(SIZE, 3.0, np.float32), K, sideways(0))
        targets = CameraTrajectory([sideways(0), sideways(0.3, time=1.0)], TARGET_K)
        return pipeline, image, pipeline._conditioner.context(pipeline.store, targets, 0)

    def test_the_canvas_is_encoded_pixels(self, rng):
        pipeline, image, context = self.context(rng, canvas="pixels", image_pixels=8)
        shown = CameraTrajectory([sideways(0)], K)
        again = pipeline._conditioner.context(pipeline.store, shown, 0)
        np.testing.assert_allclose(again.canvas[0], pipeline.vae.encode_image(image), atol=0.05)
        assert context.coverage[1].any()
        assert not context.canvas[~context.coverage].any()

    def test_latents_show_where_there_are_no_images(self, rng):
        pipeline, _, _ = self.context(rng, canvas="pixels", image_pixels=4)
        latents = np.ones((ROWS, COLUMNS, 12), np.float32)
        pipeline.store.insert_keyframe(latents, FLAT, K, sideways(4.0, time=1.0))
        context = pipeline._conditioner.context(pipeline.store, CameraTrajectory([sideways(4.0, time=2.0)], K), 0)
        assert context.coverage.all()
        np.testing.assert_allclose(context.canvas, 1, rtol=1e-5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"thumbnails": False}, "canvas: expected thumbnails with pixels"),
            ({"image_pixels": 3}, "image_pixels: expected a divisor of the VAE's stride = 8"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            AutoregressivePipeline(PipelineConfig(canvas="pixels", vae_stride=8, **options))


class TestExtendDepth:
    def test_takes_the_nearest(self, rng):
        depth = rng.uniform(1, 9, (13, 17)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.9] = [0, np.nan, -1][0]
        known = np.argwhere(depth > 0)
        for reach in (0, 1, 2, 5, 40):
            out = extend_depth(depth, reach)
            for r, c in np.ndindex(depth.shape):
                away = ((known - (r, c)) ** 2).sum(axis=1)
                if away.min() > reach * reach:
                    assert out[r, c] == 0
                else:
                    nearest = known[away == away.min()]
                    assert out[r, c] in depth[tuple(nearest.T)]

    def test_nothing_and_everything(self):
        assert not extend_depth(np.zeros((4, 5), np.float32), 9).any()
        full = np.arange(1, 21, dtype=np.float32).reshape(4, 5)
        np.testing.assert_array_equal(extend_depth(full, 9), full)
        assert extend_depth(np.zeros((0, 5), np.float32), 1).shape == (0, 5)
        with pytest.raises(ValueError, match="reach: expected at least 0, got -1"):
            extend_depth(full, -1)

    def test_doubtful_cells_show_only_where_nothing_else_does(self):
        """A hole in the depth of a wall is filled; something real behind it shows through."""
        depth, confidence = FLAT.copy(), np.ones_like(FLAT)
        depth[:, 4:8], confidence[:, 4:8] = 2.0, 1e-3
        store, targets = MosaicMemoryStore(1), CameraTrajectory([sideways(0)], K)
        ones = np.ones((ROWS, COLUMNS, 1), np.float32)
        first = store.insert_keyframe(ones, depth, K, sideways(0), confidence=confidence)
        alone = KeyframeRetrieval().retrieve(store, targets, STRIDE)
        assert alone.coverage.all()
        assert (alone.depth[0, :, 5:7] == 2).all()
        assert alone.weight[0, :, 5:7].max() < 0.01
        far = np.full_like(FLAT, 5.0)
        second = store.insert_keyframe(0 * ones, far, K, sideways(0))
        both = KeyframeSelection([np.array([first, second])])
        shown = KeyframeRetrieval().compose(store, targets, STRIDE, both)
        np.testing.assert_allclose(shown.depth[0, :, 5:7], 5, rtol=1e-5)
        np.testing.assert_allclose(shown.latents[0, :, 5:7], 0, atol=1e-6)
        np.testing.assert_allclose(shown.depth[0, :, :3], 3, rtol=1e-5)

    def test_the_pipeline_continues_observed_depth(self, rng):
        depth = np.full(SIZE, 3.0, np.float32)
        depth[:, 64:] = 0
        shown = []
        for reach in (0, 2, 99):
            pipeline = AutoregressivePipeline(PipelineConfig(vae_stride=8, latent_channels=4, extend_depth=reach))
            pipeline.observe(picture(rng), depth, K, CameraPose(np.eye(4)))
            store = pipeline.store
            mosaic = KeyframeRetrieval().retrieve(store, CameraTrajectory([CameraPose(np.eye(4))], K), 8)
            shown.append(int(mosaic.coverage.sum()) // ROWS)
        assert shown in ([8, 10, 12], [9, 11, 12])  # a tent may reach into the next cell

    def test_what_moves_stays_out_however_far_depth_reaches(self, rng):
        """And so does what pads an image to whole cells."""
        moving = np.zeros(SIZE, np.bool_)
        moving[:, 40:56] = True
        config = PipelineConfig(vae_stride=8, latent_channels=4, extend_depth=99, depth_subcells=4)
        pipeline = AutoregressivePipeline(config)
        camera = K.cropped(0, 0, 90, 72)  # padded by 6 pixels
        pipeline.observe(
            picture(rng)[:, :90], np.full((72, 90), 3.0), camera, CameraPose(np.eye(4)), dynamic=moving[:, :90]
        )
        (keyframe,) = observed_keyframes(pipeline.store)
        assert not keyframe.depth[:, 5:7].any()
        assert keyframe.depth[:, :5].all()
        assert keyframe.depth[:, 7:11].all()
        fine = pipeline.store._exported().arrays[0][4]
        assert not fine[:, 20:28].any()

    def test_subcells_of_known_cells_stay_as_they_were(self):
        depth = np.array([[2.0, 0.0]], np.float32)
        fine = np.array([[2.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]], np.float32)
        whole, parts, sure = extended_grids(depth, fine, None, 3)
        np.testing.assert_array_equal(whole, [[2, 2]])
        np.testing.assert_array_equal(parts, [[2, 0, 2, 2], [2, 2, 2, 2]])
        np.testing.assert_allclose(sure, [[1, 1e-3]])

    def test_holes_of_nan_are_holes(self, rng):
        shown = []
        for hole in (0.0, np.nan):
            store, depth = MosaicMemoryStore(1), FLAT.copy()
            depth[4, 5] = hole
            image = np.full((*SIZE, 3), 100, np.uint8)
            insert(store, image, depth)
            shown.append(KeyframeRetrieval().retrieve_pixels(store, CameraTrajectory([sideways(0)], K), STRIDE))
        np.testing.assert_array_equal(shown[0].coverage, shown[1].coverage)
