"""The pipeline taken in single steps: one window, one frame to remember, memory reset; keyframes and the fused map."""

import math

import numpy as np
import pytest

from memory_helpers import filled_store
from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    PipelineConfig,
    PointCloud,
    SyntheticDepthEstimator,
    SyntheticWorld,
    WindowError,
)

K = CameraIntrinsics.from_fov(64, 48, fov_x=math.radians(75))
WORLD = SyntheticWorld(0)


@pytest.fixture(scope="module")
def path():
    return WORLD.leave_and_return(K, 24, fps=8)


def pipeline(**settings):
    config = PipelineConfig(window_size=8, window_overlap=2, num_inference_steps=3, **settings)
    return AutoregressivePipeline(config, depth_estimator=SyntheticDepthEstimator(WORLD))


def observe(one, path, frames):
    for i in frames:
        seen = WORLD.render(K, path[i])
        one.observe(seen.image, seen.depth, K, path[i])


class TestOneWindow:
    def test_it_is_the_first_of_a_run(self, path):
        single, whole = pipeline(), pipeline()
        for one in (single, whole):
            observe(one, path, range(0, 8, 2))
        window = single.generate_window(path[:8])
        first = next(whole.stream(path))
        np.testing.assert_array_equal(window.video, first.video)
        assert window.final == range(8)
        assert single.store.statistics() == whole.store.statistics()
        assert window.statistics.keyframes == first.statistics.keyframes > 0

    def test_the_number_decides_noise_and_prompt(self, path):
        one = pipeline(events=[{"window": 2, "prompt": "it rains"}])
        told = []
        windows = [
            one.varied().generate_window(path[:8], number=n, on_step=lambda *step: told.append(step))
            for n in (0, 1, 2, 1)
        ]
        np.testing.assert_array_equal(windows[1].video, windows[3].video)
        assert np.abs(windows[0].video - windows[1].video).max() > 0.01
        assert [window.context.prompt for window in windows] == ["", "", "it rains", ""]
        assert [window.statistics.window for window in windows] == [0, 1, 2, 1]
        assert {step[0] for step in told} == {0, 1, 2}

    def test_longer_paths_are_refused(self, path):
        with pytest.raises(ValueError, match="cameras: expected one window, at most 8 frames, got 9; generate follows"):
            pipeline().generate_window(path[:9])

    def test_failures_name_the_window_and_leave_memory(self, path):
        one = pipeline()
        observe(one, path, [0])
        before = one.store.patch_ids

        def fail(*_):
            raise RuntimeError("enough")

        failed = r"window 5 \(frames 0-7\) failed in stage 'denoise': RuntimeError: enough"
        with pytest.raises(WindowError, match=failed):
            one.generate_window(path[:8], number=5, on_step=fail)
        np.testing.assert_array_equal(one.store.patch_ids, before)


class TestRemember:
    def test_a_generated_frame(self, path):
        one = pipeline()
        seen = WORLD.render(K, path[0])
        one.remember(seen.image, K, path[0])
        statistics = one.store.statistics()
        assert statistics.generated_keyframes == statistics.keyframes == 1
        again = one.store.statistics().patches
        one.remember(seen.image, K, path[0], depth=seen.depth)  # nothing of it is novel
        assert one.store.statistics().patches == again

    def test_with_a_depth_of_its_own(self, path):
        one = pipeline(remember="all")
        one.remember(np.zeros((48, 64, 3)), K, path[0], depth=np.full((48, 64), 2.5))
        canvas = KeyframeRetrieval().retrieve(one.store, path[:1], 8)
        np.testing.assert_allclose(canvas.depth[canvas.coverage], 2.5, rtol=1e-5)
        assert not canvas.observed.any()

    def test_inputs_are_checked(self, path):
        with pytest.raises(ValueError, match=r"image: expected shape \(48, 64, 3\)"):
            pipeline().remember(np.zeros((48, 60, 3)), K, path[0])
        with pytest.raises(TypeError, match="pose: expected CameraPose"):
            pipeline().remember(np.zeros((48, 64, 3)), K, np.eye(4))


class TestReset:
    def test_everything_is_forgotten(self, path):
        one = pipeline(fusion_voxel_size=0.1, max_patches=500)
        observe(one, path, [0, 1])
        old = one.store
        one.reset_memory()
        assert (len(one.store), len(one.fusion), one.pose_check.compared) == (0, 0, 0)
        assert len(old) > 0
        assert one.store.max_patches == 500
        fresh = pipeline(fusion_voxel_size=0.1, max_patches=500)
        np.testing.assert_array_equal(one.generate(path[:8]).frames, fresh.generate(path[:8]).frames)

    def test_a_store_that_was_given_keeps_its_settings(self, rng):
        store, _ = filled_store(rng, 1, latent_patch_size=3, latent_dtype="float16")
        one = AutoregressivePipeline(PipelineConfig(latent_channels=4), store=store)
        one.reset_memory()
        assert (one.store.latent_patch_size, one.store.latent_dtype, len(one.store)) == (3, "float16", 0)
        assert len(store) > 0


class TestKeyframes:
    def test_uniform(self):
        still = CameraTrajectory([WORLD.leave_and_return(K, 20)[0].at(i / 8) for i in range(20)], K)
        moving = WORLD.leave_and_return(K, 20, fps=8)
        uniform = pipeline(adaptive_keyframes=False, keyframe_interval=5, remember="all")
        adaptive = pipeline(keyframe_interval=5, remember="all")
        counts = {}
        for name, one in (("uniform", uniform), ("adaptive", adaptive)):
            for way, path in (("still", still), ("moving", moving)):
                counts[name, way] = sum(window.keyframes for window in one.varied().generate(path).windows)
        assert counts["uniform", "still"] == counts["uniform", "moving"] == 4
        assert counts["adaptive", "moving"] > counts["adaptive", "still"] == 4


class TestMap:
    def test_what_is_remembered_is_fused(self, path, tmp_path):
        one = pipeline(fusion_voxel_size=0.05)
        observe(one, path, [0])
        seen = WORLD.render(K, path[0])
        alone = (seen.depth > 0).sum()
        assert one.fusion.voxel_history()[0].sum() == alone
        windows = one.generate(path[:14]).windows
        assert one.fusion.voxel_history()[0].sum() == alone + sum(window.fused_points for window in windows)
        assert windows[-1].fused_voxels == len(one.fusion)
        assert windows[0].fused_points > 0
        one.fusion.point_cloud().save_ply(tmp_path / "scene.ply")
        assert len(PointCloud.load_ply(tmp_path / "scene.ply")) == len(one.fusion)

    def test_known_places_are_not_fused_again(self, path):
        one = pipeline(fusion_voxel_size=0.05)
        observe(one, path, [0])
        before = one.fusion.voxel_history()[0].sum()
        seen = WORLD.render(K, path[0])
        one.remember(seen.image, K, path[0], depth=seen.depth)
        novel = one.fusion.voxel_history()[0].sum() - before
        assert novel < 0.1 * before

    def test_without_a_map(self, path):
        one = pipeline()
        assert one.fusion is None
        window = one.generate(path[:8]).windows[0]
        assert (window.fused_points, window.fused_voxels) == (0, 0)


class TestWarpValidRatio:
    def test_it_is_counted_cell_by_cell(self, rng):
        store, keyframes = filled_store(rng, 3)
        from memory_helpers import K as CAMERA

        targets = CameraTrajectory([pose for _, _, pose in keyframes[:2]], CAMERA)
        mosaic = MemoryRetrieval(top_k=20).retrieve(store, targets, 8)
        landed = 0
        for t in range(2):
            for id_ in mosaic.patch_ids[t][mosaic.patch_ids[t] >= 0]:
                tokens = store.project_tokens([id_], CAMERA, targets[t])["projected"]
                landed += int(((tokens[:, :2] > 0) & (tokens[:, :2] < (80, 48))).all(axis=1).sum())
        assert mosaic.warp_valid_ratio == landed / (4 * (mosaic.patch_ids >= 0).sum())
        assert 0 < mosaic.warp_valid_ratio < 1

    def test_it_is_that_of_the_warp_without_warped_rope_too(self, rng):
        store, keyframes = filled_store(rng, 3)
        from memory_helpers import K as CAMERA

        targets = CameraTrajectory([pose for _, _, pose in keyframes[:2]], CAMERA)
        mosaic = MemoryRetrieval(top_k=20).retrieve(store, targets, 8)
        for other in (mosaic.unwarped(), mosaic.unwarped().on_host(), mosaic.unwarped().unwarped()):
            assert other.warp_valid_ratio == mosaic.warp_valid_ratio < 1

    def test_runs_report_it(self, path):
        one = pipeline()
        assert one.varied().generate(path[:8]).windows[0].warp_valid_ratio == 0
        observe(one, path, [0, 2])
        assert 0.5 < one.generate(path[:8]).windows[0].warp_valid_ratio <= 1
