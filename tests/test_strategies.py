"""Strategies by name, a user-defined one, and the published rules on the keyframes of a store."""

import numpy as np
import pytest

import mosaicmem.memory.strategies.registry as registry
from cli_helpers import run
from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    Mosaic,
    MosaicMemoryStore,
    PatchMemory,
    PipelineConfig,
)
from mosaicmem.evaluation.strategies import check_rules
from mosaicmem.memory import KeyframeSelection, register_strategy, strategy_names
from mosaicmem.memory.strategies import make_strategy

CAMERA = CameraIntrinsics(120.0, 118.0, 80.5, 47.0, 160, 96)
STRIDE, ROWS, COLUMNS = 16, 6, 10


def poses(count):
    return [
        CameraPose.look_at([0.3 * i, 0.1 * (i % 3), 0.0], [0.2 * i, 0.0, 4.0], timestamp=i / 5) for i in range(count)
    ]


def filled(rng, count=12, **options):
    store = MosaicMemoryStore(**options)
    for pose in poses(count):
        latents, depth = rng.random((ROWS, COLUMNS, 3)), rng.uniform(2, 5, (ROWS, COLUMNS))
        store.insert_keyframe(latents, depth, CAMERA, pose)
    return store


TARGETS = CameraTrajectory(poses(4)[1:], CAMERA)


@pytest.fixture
def newest():
    """A user-defined strategy: the newest keyframes."""

    class Newest:
        def __init__(self, options):
            self.count = options.max_keyframes

        def select(self, store, targets, stride):
            slots = np.unique(store.describe_patches(store.patch_ids)["observation"])
            return KeyframeSelection([slots[::-1][: self.count]] * len(targets))

    register_strategy("newest", Newest)
    yield Newest
    del registry._FACTORIES["newest"]


class TestNames:
    @pytest.mark.parametrize("name", strategy_names())
    def test_each_is_known_everywhere(self, rng, name):
        assert PipelineConfig(strategy=name).strategy == name
        check_rules(name, "blend", STRIDE)
        mosaic = KeyframeRetrieval(name).retrieve(filled(rng), TARGETS, STRIDE)
        assert mosaic.coverage.any()
        assert name in run("evaluate", "--help").stdout

    def test_one_that_nobody_has(self):
        with pytest.raises(ValueError, match=r"strategy: expected one of visible_coverage, top_k, .*, got 'nearest'"):
            KeyframeRetrieval("nearest")
        with pytest.raises(ValueError, match=r"strategy: expected one of visible_coverage, top_k"):
            PipelineConfig(strategy="nearest")
        with pytest.raises(TypeError, match="strategy: expected the methods of Strategy, got object without select"):
            KeyframeRetrieval(object())

    @pytest.mark.parametrize("name", ["top_k", "two words", 3])
    def test_names_that_cannot_be_given(self, name):
        with pytest.raises(ValueError, match="name: expected"):
            register_strategy(name, lambda options: None)


class TestYourOwn:
    def test_by_name(self, rng, newest):
        store = filled(rng)
        mosaic = KeyframeRetrieval("newest", max_keyframes=2).retrieve(store, TARGETS, STRIDE)
        assert [list(each) for each in mosaic.selection.packed()] == [list(mosaic.selection.packed()[0])] * 3
        assert set(mosaic.frame_ids[np.unique(mosaic.source[mosaic.source >= 0])]) <= {10, 11}
        check_rules("newest", "backward", 8)

    def test_as_an_object(self, rng, newest):
        store, strategy = filled(rng), newest(KeyframeRetrieval(max_keyframes=2).options)
        expected = KeyframeRetrieval("newest", max_keyframes=2).retrieve(store, TARGETS, STRIDE)
        given = KeyframeRetrieval(strategy).retrieve(store, TARGETS, STRIDE)
        np.testing.assert_array_equal(given.latents, expected.latents)

    def test_in_the_pipeline(self, newest):
        """The loop asks the strategy for the keyframes of each window."""
        camera = CameraIntrinsics.from_fov(64, 32, fov_x=1.2)
        path = CameraTrajectory([CameraPose(timestamp=i / 10) for i in range(12)], camera)
        asked = []
        select = newest.select

        def counted(self, store, targets, stride):
            asked.append(len(targets))
            return select(self, store, targets, stride)

        newest.select = counted
        config = PipelineConfig(strategy="newest", window_size=6, window_overlap=2, num_inference_steps=2)
        AutoregressivePipeline(config).generate(path)
        assert 6 in asked


class TestPublishedRules:
    @pytest.mark.parametrize(("name", "policy"), [("pose_nearest", "base"), ("coverage", "distilled")])
    def test_are_those_of_the_patch_memory(self, rng, name, policy):
        """Given the depth images that the published rules read, the choices agree in every frame."""
        store, images = filled(rng), rng.uniform(2, 5, (12, 96, 160)).astype(np.float32)
        rules = PatchMemory(policy)
        for pose, image in zip(poses(12), images, strict=True):
            grid = np.zeros((1, 1, ROWS, COLUMNS), np.float32)
            rules.append(grid, pose.camera_from_world[None], CAMERA.matrix[None], image[None])
        queries = np.repeat(TARGETS.camera_from_world, 4, axis=0)
        expected = rules.select_candidate_frame_ids(queries)
        retrieval = KeyframeRetrieval(name)
        slots = np.unique(store.describe_patches(store.patch_ids)["observation"])
        retrieval.strategy.read_depth(dict(zip(slots.tolist(), images, strict=True)))
        chosen = retrieval.select(store, TARGETS, STRIDE)
        assert [np.searchsorted(slots, each).tolist() for each in chosen.packed()] == [
            [i for i in group if i >= 0] for group in expected
        ]

    def test_follow_the_store(self, rng):
        store, strategy = filled(rng), make_strategy("pose_nearest", KeyframeRetrieval().options)
        before = strategy.select(store, TARGETS, STRIDE).packed()[0]
        frame = store.describe_patches(store.patch_ids)
        gone = int(frame["frame_id"][frame["observation"] == before[0]][0])
        store.delete_frame(gone)
        after = strategy.select(store, TARGETS, STRIDE).packed()[0]
        assert before[0] not in after
        other = filled(rng, 2)
        assert len(strategy.select(other, TARGETS, STRIDE).packed()[0]) <= 2
        empty = strategy.select(MosaicMemoryStore(), TARGETS, STRIDE)
        assert [len(each) for each in empty.packed()] == [0, 0, 0]

    def test_generated_keyframes_can_be_left_out(self, rng):
        store = filled(rng, 3)
        store.insert_keyframe(
            rng.random((ROWS, COLUMNS, 3)), np.full((ROWS, COLUMNS), 3.0), CAMERA, TARGETS[0], provenance="generated"
        )
        with_them = KeyframeRetrieval("pose_nearest").select(store, TARGETS, STRIDE)
        without = KeyframeRetrieval("pose_nearest", generated_weight=0.0).select(store, TARGETS, STRIDE)
        assert 3 in with_them.packed()[0] // (ROWS * COLUMNS // 4)
        assert 3 not in without.packed()[0] // (ROWS * COLUMNS // 4)

    def test_what_they_are_not_made_for(self, rng):
        with pytest.raises(ValueError, match="stride: expected 16, which the published rules are made for, got 8"):
            KeyframeRetrieval("coverage").select(filled(rng, 2), TARGETS, 8)
        store = filled(rng, 2)
        half = CameraIntrinsics(60.0, 60.0, 40.0, 24.0, 80, 48)
        store.insert_keyframe(rng.random((3, 5, 3)), np.ones((3, 5)), half, CameraPose())
        with pytest.raises(ValueError, match=r"store: expected keyframes of one size and 16 pixels per .*got 3x5"):
            KeyframeRetrieval("coverage").select(store, TARGETS, STRIDE)


def test_top_k_gives_patches(rng):
    store = filled(rng)
    chosen = KeyframeRetrieval("top_k").select(store, TARGETS, STRIDE)
    assert isinstance(chosen, Mosaic)
    composed = KeyframeRetrieval("top_k").retrieve(store, TARGETS, STRIDE)
    np.testing.assert_array_equal(composed.latents, KeyframeRetrieval().compose(store, TARGETS, STRIDE, chosen).latents)
