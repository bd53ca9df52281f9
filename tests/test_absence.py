"""Retrieval that finds nothing says why: settings that assume metres, mixed units, or a view of another place."""

import warnings

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    SuspiciousInput,
)

K = CameraIntrinsics(50, 50, 32, 24, 64, 48)


def at(x, z=0.0, yaw=0.0, time=0.0):
    pose = np.eye(4)
    pose[:3, 3] = x, 0, z
    pose[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    return CameraPose(pose, time)


def store_of(depth, step, count=3):
    store = MosaicMemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousInput)  # about depth in millimetres
        for i in range(count):
            store.insert_keyframe(np.ones((6, 8, 4), np.float32), np.full((6, 8), float(depth)), K, at(step * i))
    return store


def retrieve(retrieval, store, *targets):
    return retrieval.retrieve(store, CameraTrajectory(list(targets), K), 8)


class TestRetrieval:
    @pytest.mark.parametrize("kind", [MemoryRetrieval, KeyframeRetrieval])
    @pytest.mark.parametrize(("unit", "hidden"), [(0.001, "near"), (0.01, "near"), (1, ""), (200, "")])
    def test_units_of_the_scene(self, kind, unit, hidden):
        store, retrieval = store_of(2 * unit, 0.1 * unit), kind()
        if hidden:
            message = f"36 patches; 36 of 36 patches in view are nearer than near = 0.05, at depth {2 * unit:g} to"
            with pytest.warns(SuspiciousInput, match=message):
                retrieve(retrieval, store, at(0.05 * unit))
            assert len(retrieve(kind(near=0.02 * unit), store, at(0.05 * unit)).coverage_ratio) == 1
        retrieve(retrieval, store, at(0.05 * unit))  # no second warning

    def test_what_scores_too_low(self):
        store = store_of(1200, 60)
        with pytest.warns(
            SuspiciousInput, match=r"score below min_visibility = 0\.01, at depth 1200 to 1200; .* lower min"
        ):
            assert len(retrieve(MemoryRetrieval(), store, at(30)).packed()) == 0
        assert len(retrieve(MemoryRetrieval(min_visibility=0), store, at(30)).packed()) > 0
        assert retrieve(KeyframeRetrieval(), store, at(30)).coverage_ratio[0] > 0.9

    def test_what_is_too_far_or_too_old(self):
        store = store_of(2, 0.1)
        with pytest.warns(SuspiciousInput, match="are farther than far = 1, at depth 2 to 2"):
            retrieve(KeyframeRetrieval(far=1), store, at(0.05))
        message = r"all patches are 1e\+09 s old or older, .* timestamps in another unit"
        with pytest.warns(SuspiciousInput, match=message):
            retrieve(MemoryRetrieval(half_life=5), store, at(0.05, time=1e9))

    @pytest.mark.parametrize("kind", [MemoryRetrieval, KeyframeRetrieval])
    def test_poses_and_depth_of_different_units(self, kind):
        with pytest.warns(SuspiciousInput, match=r"cameras are 100 apart, .* poses in millimetres and depth in metres"):
            retrieve(kind(), store_of(2, 100), at(50))

    @pytest.mark.parametrize("kind", [MemoryRetrieval, KeyframeRetrieval])
    def test_other_places_and_empty_stores_are_fine(self, kind):
        for store in (store_of(2, 0.1), store_of(2, 0.1, 1), MosaicMemoryStore()):
            retrieve(kind(), store, at(0, yaw=np.pi), at(3000.0) if len(store) > 12 else at(0, z=4))


class TestFirstTarget:
    def pipeline(self, world, camera, **options):
        pipeline = AutoregressivePipeline(
            PipelineConfig(num_inference_steps=1, window_size=5, window_overlap=1, **options)
        )
        path = world.leave_and_return(camera, 40)
        for i in range(0, 6, 2):
            view = world.render(camera, path[i])
            pipeline.observe(view.image, view.depth, camera, path[i])
        return pipeline, path

    def test_a_place_that_is_seen_is_fine(self, world, small_camera):
        pipeline, path = self.pipeline(world, small_camera)
        pipeline.generate(path[:5])

    def test_another_place_is_said_once(self, world, small_camera):
        pipeline, path = self.pipeline(world, small_camera)
        behind = [CameraPose(pose.world_from_camera @ np.diag([-1.0, 1, -1, 1])) for pose in path[:9]]
        with pytest.warns(
            SuspiciousInput, match=r"covers 0\.0 % of the first target; 100 % .* behind .* OpenGL"
        ) as caught:
            pipeline.generate(CameraTrajectory(behind, small_camera))
        assert len(caught) == 1
        assert caught[0].filename == __file__

    def test_settings_that_hide_memory_are_named(self, world, small_camera):
        pipeline, path = self.pipeline(world, small_camera, near=50.0)
        with pytest.warns(SuspiciousInput, match="nearer than near = 50") as caught:
            pipeline.generate(path[:5])
        assert {warning.filename for warning in caught} == {__file__}

    def test_without_memory_nothing_is_said(self, world, small_camera):
        pipeline, path = self.pipeline(world, small_camera, use_memory=False, near=50.0)
        pipeline.generate(path[:5])
        AutoregressivePipeline(PipelineConfig(num_inference_steps=1)).generate(path[:2])


class TestGeneratedKeyframes:
    """Excluding generated keyframes is a choice, so only a run whose first target shows nothing reports it."""

    def test_retrieval_is_silent(self):
        store = MosaicMemoryStore()
        store.insert_keyframe(np.ones((6, 8, 4)), np.full((6, 8), 2.0), K, at(0.0), provenance="generated")
        for retrieval in (MemoryRetrieval(generated_weight=0.0), KeyframeRetrieval(generated_weight=0.0)):
            assert retrieve(retrieval, store, at(0.05)).coverage_ratio[0] == 0

    def test_a_run_says_so(self):
        store = MosaicMemoryStore()
        store.insert_keyframe(np.ones((6, 8, 16)), np.full((6, 8), 2.0), K, at(0.0), provenance="generated")
        config = PipelineConfig(generated_weight=0.0, num_inference_steps=1, window_size=1, window_overlap=0)
        pipeline = AutoregressivePipeline(config, store=store)
        message = "12 of 12 patches in view were generated, and generated_weight = 0 leaves those out"
        with pytest.warns(SuspiciousInput, match=message):
            pipeline.generate(CameraTrajectory([at(0.0)], K))
