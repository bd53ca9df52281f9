import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    DDPMScheduler,
    FlowMatchingScheduler,
    FormatError,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    SuspiciousInput,
    SyntheticBackbone,
    SyntheticDepthEstimator,
    WindowError,
    depth_to_grid,
)
from mosaicmem.evaluation import compare_memory
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.metrics import psnr
from scene_helpers import observed

SMALL = {"window_size": 6, "window_overlap": 2, "num_inference_steps": 4}


@pytest.fixture(scope="session")
def loop(world, small_camera):
    return world.leave_and_return(small_camera.scaled(160, 96), 24)


class TestConfig:
    def test_json_round_trip(self, tmp_path):
        config = PipelineConfig(seed=7, prompt="a garden", half_life=2.5, max_patches=None)
        config.save(tmp_path / "config.json")
        assert PipelineConfig.load(tmp_path / "config.json") == config

    @pytest.mark.parametrize("far", [None, math.inf])
    def test_far_has_no_limit_unless_one_is_set(self, tmp_path, far):
        for config in (PipelineConfig(), PipelineConfig(far=far)):
            config.save(tmp_path / "config.json")
            config = PipelineConfig.load(tmp_path / "config.json")
            assert config.far is None
            assert MemoryRetrieval(**config.patch_options()).options.far == RetrievalOptions().far == math.inf
            assert KeyframeRetrieval(**config.keyframe_options()).options.far == KeyframeOptions().far == math.inf
        assert PipelineConfig(far=9.0).patch_options()["far"] == 9.0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"window_sise": 8}, "window_sise: no such setting"),
            ({"window_size": 0}, "window_size: input should be greater than or equal to 1, got 0"),
            ({"window_size": 4, "window_overlap": 4}, "window_overlap: expected less than window_size = 4, got 4"),
            ({"near": 2.0, "far": 1.0}, "far: expected more than near = 2.0, got 1.0"),
            ({"noise_schedule": "square"}, "noise_schedule: .*'square'"),
            ({"seed": -1}, "seed"),
            ({"top_k": 99999999999999999999}, "top_k"),
            ({"top_k": True}, "top_k"),
            ({"top_k": "4"}, "top_k"),
            ({"use_memory": "yes"}, "use_memory"),
            ({"half_life": "long"}, "half_life"),
            ({"latent_channels": 500}, "latent_channels: expected at most"),
        ],
    )
    def test_errors_name_the_field_and_the_file(self, tmp_path, content, message):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        with pytest.raises(FormatError, match=rf"config\.json: {message}"):
            PipelineConfig.load(path)
        with pytest.raises(ValidationError):
            PipelineConfig(**content)

    def test_is_immutable(self):
        with pytest.raises(ValidationError):
            PipelineConfig().seed = 3


class TestOcclusion:
    """A wall hides what is behind it."""

    BEHIND = CameraPose.look_at([1.0, -1.5, -1.0], [4, -1.5, -0.2])  # in the second room, at its far wall
    WALL = CameraPose.look_at([-2.6, -1.5, -1.2], [0, -1.5, -1.2])  # in the first room, at the wall between
    TARGET = CameraPose.look_at([-2.4, -1.4, -1.0], [0, -1.5, -1.1])

    def align(self, world, camera, *seen):
        pipeline = AutoregressivePipeline(PipelineConfig())
        for pose in seen:
            view = world.render(camera, pose)
            pipeline.observe(view.image, view.depth, camera, pose)
        context = pipeline.align(CameraTrajectory([self.TARGET], camera))
        truth = depth_to_grid(world.render(camera, self.TARGET).depth, 8)
        shown = context.depth[0]
        return context.coverage[0], np.abs(shown - truth) < 0.05 * truth

    def test_without_the_wall_in_memory_the_room_behind_shows(self, world, small_camera):
        covered, right = self.align(world, small_camera.scaled(160, 96), self.BEHIND)
        assert covered.mean() > 0.2
        assert not right[covered].any()

    def test_with_the_wall_in_memory_it_is_hidden(self, world, small_camera):
        covered, right = self.align(world, small_camera.scaled(160, 96), self.BEHIND, self.WALL)
        assert covered.mean() > 0.8
        seen_through = covered & ~right
        assert seen_through.sum() <= 0.1 * covered.sum()  # at the rim that the wall's view did not reach


class TestGenerate:
    @pytest.mark.parametrize(("count", "size", "overlap"), [(1, 6, 2), (5, 6, 2), (6, 6, 2), (7, 6, 5), (9, 4, 0)])
    @pytest.mark.parametrize("kind", ["causal", "uniform"])
    def test_exactly_one_frame_for_each_pose(self, loop, count, size, overlap, kind):
        config = PipelineConfig(
            window_size=size, window_overlap=overlap, temporal_kind=kind, temporal_factor=3, num_inference_steps=2
        )
        result = AutoregressivePipeline(config).generate(loop[:count])
        assert result.frames.shape == (count, 96, 160, 3)
        assert result.frames.dtype == np.float32
        assert 0 <= result.frames.min() <= result.frames.max() <= 1
        assert result.windows[-1].last_frame == count - 1

    def test_revisited_views_look_as_they_did(self, world, loop):
        """The goal: on return, generated views are closer to the observed ones than without memory."""
        pipeline = observed(world, PipelineConfig(**SMALL), loop, range(5))
        revisit = range(20, 24)
        assert (pipeline.align(loop[20:]).coverage.mean(axis=(1, 2)) > 0.7).all()
        truth = {i: world.render(loop.intrinsics, loop[i]).image for i in revisit}
        comparison = compare_memory(pipeline, loop, truth)
        for score in comparison.scores:
            assert score.psnr_with_memory > score.psnr_without_memory + 4
        # The last pose equals the first, which was observed: decoding there gives back what was encoded.
        first = truth[23]
        assert psnr(comparison.with_memory.frames[23], first) > 19

    def test_invented_views_stay_as_they_were_invented(self, world, loop):
        """Generated views are remembered too: an invented place looks alike when seen again."""
        unseen = loop[8:12]
        there_and_back = CameraTrajectory([*unseen, *(p.at(p.timestamp + 5) for p in unseen)], loop.intrinsics)
        pipeline = observed(world, PipelineConfig(**{**SMALL, "keyframe_interval": 1}), loop, [0])
        with pytest.warns(SuspiciousInput, match=r"covers 0\.0 % of the first target"):
            frames = pipeline.generate(there_and_back).frames
        assert np.mean([psnr(frames[i], frames[i + 4]) for i in range(4)]) > 22

    @pytest.mark.kernel
    def test_same_bytes_on_one_and_two_threads_and_on_two_runs(self, world, loop):
        runs = []
        for threads in (1, 2, 2):
            pipeline = observed(world, PipelineConfig(**SMALL, num_threads=threads), loop, range(4))
            runs.append(pipeline.generate(loop[:9]).frames.tobytes())
        assert runs[0] == runs[1] == runs[2]

    def test_seed_and_prompt_change_what_is_unseen(self, loop):
        plain = AutoregressivePipeline(PipelineConfig(**SMALL)).generate(loop[:3]).frames
        for change in ({"seed": 5}, {"prompt": "a cave"}):
            other = AutoregressivePipeline(PipelineConfig(**SMALL, **change)).generate(loop[:3]).frames
            assert np.abs(other - plain).mean() > 0.02

    def test_statistics_and_callback(self, world, loop):
        pipeline = observed(world, PipelineConfig(**SMALL), loop, range(3))
        seen = []
        result = pipeline.generate(loop, on_window=seen.append)
        assert [w.statistics for w in seen] == result.windows
        assert [list(w.frames) for w in seen] == [list(r) for r in loop.windows(6, 2)]
        assert result.windows[0].coverage > 0.5
        assert result.windows[0].tokens > result.windows[0].patches > 0
        assert sum(w.keyframes for w in result.windows) == len(loop.select_keyframes(0.3, 0.3, 8))
        assert result.windows[-1].store_patches == len(pipeline.store)
        assert set(result.windows[0].seconds) == {"retrieve", "denoise", "decode", "remember"}

    def test_without_memory_nothing_is_remembered(self, world, loop):
        pipeline = observed(world, PipelineConfig(**SMALL, use_memory=False), loop, range(3))
        before = len(pipeline.store)
        result = pipeline.generate(loop[:8])
        assert len(pipeline.store) == before
        assert all(w.coverage == w.tokens == w.keyframes == 0 for w in result.windows)

    @pytest.mark.parametrize("eviction", ["oldest", "redundant"])
    def test_limits_bound_the_store(self, world, loop, eviction):
        config = PipelineConfig(**SMALL, max_patches=100, eviction=eviction)
        pipeline = observed(world, config, loop, range(5))
        pipeline.generate(loop[:12])
        assert len(pipeline.store) <= 100
        config = PipelineConfig(**SMALL, max_bytes=150_000, eviction=eviction)
        pipeline = observed(world, config, loop, range(5))
        pipeline.generate(loop[:12])
        assert 75_000 < pipeline.store.nbytes <= 150_000

    def test_a_store_is_carried_over(self, world, loop):
        first = observed(world, PipelineConfig(**SMALL), loop, range(3))
        store: MosaicMemoryStore = first.store
        second = AutoregressivePipeline(PipelineConfig(**SMALL), store=store)
        assert second.store is store
        empty = MosaicMemoryStore(latent_dtype="float16")
        assert AutoregressivePipeline(store=empty).store is empty
        assert second.generate(loop[:4]).windows[0].coverage > 0.5


class FailsAt:
    """A backbone that fails in one window."""

    prediction_type = "sample"

    def __init__(self, window, how):
        self.window, self.how = window, how
        self.inner = SyntheticBackbone(DDPMScheduler())

    def predict(self, sample, timestep, context):
        if context.window == self.window:
            if self.how == "raise":
                raise RuntimeError("out of memory")
            return np.full_like(sample, np.nan)
        return self.inner.predict(sample, timestep, context)


def test_flow_models_are_conditioned_on_a_thousand_sigma(loop):
    class Listening(SyntheticBackbone):
        def predict(self, sample, timestep, context):
            heard.append(timestep)
            return super().predict(sample, timestep, context)

    heard = []
    scheduler = FlowMatchingScheduler(shift=5.0)
    config = PipelineConfig(**{**SMALL, "scheduler": "flow_matching", "flow_shift": 5.0, "num_inference_steps": 4})
    next(AutoregressivePipeline(config, backbone=Listening(scheduler)).stream(loop))
    np.testing.assert_allclose(heard[:4], [1000, 937.5, 2500 / 3, 625])
    assert [scheduler.levels(t)[1] * 1000 for t in heard] == pytest.approx(heard)


class TestFailure:
    @pytest.mark.parametrize("how", ["raise", "nan"])
    def test_a_failed_window_says_where_and_keeps_those_before(self, loop, how):
        config = PipelineConfig(**SMALL)
        whole = AutoregressivePipeline(config).generate(loop)
        with pytest.raises(WindowError, match=r"window 2 \(frames 8-13\) failed in stage 'denoise'") as caught:
            AutoregressivePipeline(config, backbone=FailsAt(2, how)).generate(loop)
        error = caught.value
        assert error.window == 2
        assert error.__cause__ is not None
        assert len(error.completed.windows) == 2
        np.testing.assert_array_equal(error.completed.frames[:8], whole.frames[:8])
        assert len(error.completed.frames) == 10

    def test_a_failed_memory_leaves_what_was_shown_before(self, loop):
        class Broken:
            def estimate(self, image, intrinsics, pose, known_depth):
                if pose.timestamp > loop[9].timestamp:
                    raise RuntimeError("no depth")
                return np.ones(image.shape[:2], np.float32)

        shown = []
        pipeline = AutoregressivePipeline(PipelineConfig(**SMALL, keyframe_interval=1), depth_estimator=Broken())
        with pytest.raises(WindowError, match="stage 'remember': RuntimeError: no depth") as caught:
            pipeline.generate(loop, on_window=lambda window: shown.append(window))
        completed = caught.value.completed
        assert len(completed.windows) == len(shown)
        last = shown[-1]
        np.testing.assert_allclose(completed.frames[last.frames.stop - 2 :], last.video[-2:], atol=1e-6)

    @pytest.mark.parametrize("bad", [np.nan, "shape"])
    def test_bad_estimates_fail_the_window(self, loop, bad):
        class Bad:
            def estimate(self, image, intrinsics, pose, known_depth):
                depth = np.ones(image.shape[:2], np.float32)
                depth[0, 0] = 1.0 if bad == "shape" else bad
                return depth[1:] if bad == "shape" else depth

        with pytest.raises(WindowError, match=r"window 0 \(frames 0-5\) failed in stage 'remember': .*estimated depth"):
            AutoregressivePipeline(PipelineConfig(**SMALL), depth_estimator=Bad()).generate(loop)

    def test_a_failed_window_leaves_memory_as_it_was(self, world, loop):
        """So the same call can be made again."""
        calls = []

        class FailsOnce(SyntheticDepthEstimator):
            def estimate(self, *arguments):
                calls.append(0)
                if len(calls) == 3:
                    raise RuntimeError("no depth")
                return super().estimate(*arguments)

        config = PipelineConfig(**SMALL, keyframe_interval=1, remember="all")
        clean = observed(world, config, loop, range(3)).generate(loop)
        pipeline = observed(world, config, loop, range(3))
        pipeline.depth_estimator = FailsOnce(world)
        before = pipeline.store.patch_ids
        with pytest.raises(WindowError, match=r"window 0 .*remember"):
            pipeline.generate(loop)
        np.testing.assert_array_equal(pipeline.store.patch_ids, before)
        np.testing.assert_array_equal(pipeline.generate(loop).frames, clean.frames)

    def test_a_failed_callback_is_a_failed_window(self, loop):
        def fail(window):
            if window.statistics.window == 1:
                raise OSError("disk full")

        with pytest.raises(WindowError, match="stage 'callback': OSError: disk full") as caught:
            AutoregressivePipeline(PipelineConfig(**SMALL)).generate(loop, on_window=fail)
        assert len(caught.value.completed.frames) == 10

    def test_parts_that_do_not_fit_are_refused_at_once(self, loop):
        store = MosaicMemoryStore()
        store.insert_keyframe(np.zeros((12, 20, 5)), np.ones((12, 20)), loop.intrinsics, loop[0])
        with pytest.raises(ValueError, match="store: expected latents of 16 channels, got 5"):
            AutoregressivePipeline(store=store)
        with pytest.raises(TypeError, match="vae: expected the methods of VAE, got object"):
            AutoregressivePipeline(vae=object())
        backbone = SyntheticBackbone(DDPMScheduler())
        backbone.patch = (1, 2, 2)
        with pytest.raises(TypeError, match=r"backbone.patch: expected an integer, got \(1, 2, 2\)"):
            AutoregressivePipeline(backbone=backbone)
        with pytest.raises(TypeError, match="config: expected PipelineConfig, got dict"):
            AutoregressivePipeline({"seed": 1})
        with pytest.raises(TypeError, match="trajectory: expected CameraTrajectory, got list"):
            AutoregressivePipeline().generate(list(loop))

    def test_prediction_types_must_match(self):
        with pytest.raises(ValueError, match="backbone: expected prediction_type 'epsilon'"):
            AutoregressivePipeline(
                backbone=SyntheticBackbone(DDPMScheduler()), scheduler=DDPMScheduler(prediction_type="epsilon")
            )

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((96, 161, 3), np.uint8), r"image: expected shape \(96, 160, 3\), got \(96, 161, 3\)"),
            (np.full((96, 160, 3), 255.0), "divide by 255"),
            (np.full((96, 160, 3), np.nan), "image: expected finite values"),
        ],
    )
    def test_bad_observations_are_named_and_change_nothing(self, loop, image, message):
        pipeline = AutoregressivePipeline()
        with pytest.raises(ValueError, match=message):
            pipeline.observe(image, np.ones((96, 160)), loop.intrinsics, loop[0])
        assert len(pipeline.store) == 0
