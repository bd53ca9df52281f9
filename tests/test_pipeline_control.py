"""What steers a run: streaming, ablations, prompts, guidance, schedulers, image sizes, carried memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    HashedTextEncoder,
    MosaicMemoryStore,
    PipelineConfig,
    SyntheticBackbone,
    SyntheticDepthEstimator,
    SyntheticVAE,
    WindowError,
)
from mosaicmem.evaluation import ABLATIONS, ablate
from mosaicmem.metrics import psnr
from mosaicmem.pipeline.denoising import denoise
from scene_helpers import observed

SMALL = {"window_size": 6, "window_overlap": 2, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def loop(world, small_camera):
    return world.leave_and_return(small_camera.scaled(160, 96), 24)


class TestStream:
    def test_windows_are_those_of_generate(self, world, loop):
        whole = observed(world, PipelineConfig(**SMALL), loop, range(3)).generate(loop)
        windows = list(observed(world, PipelineConfig(**SMALL), loop, range(3)).stream(loop))
        assert [list(w.frames) for w in windows] == [list(r) for r in loop.windows(6, 2)]
        assert [i for w in windows for i in w.final] == list(range(24))
        np.testing.assert_array_equal(np.concatenate([w.final_video for w in windows]), whole.frames)
        assert windows[0].video.shape == (6, 96, 160, 3)
        assert list(windows[0].final) == [0, 1, 2, 3]  # the next window blends into the other two

    def test_a_window_is_generated_when_it_is_asked_for(self, loop):
        asked = []

        class Counts(SyntheticBackbone):
            def predict(self, sample, timestep, context):
                asked.append(context.window)
                return super().predict(sample, timestep, context)

        pipeline = AutoregressivePipeline(PipelineConfig(**SMALL))
        pipeline.backbone = Counts(pipeline.scheduler)
        stream = pipeline.stream(loop)
        assert not asked
        next(stream)
        assert set(asked) == {0}
        next(stream)
        assert set(asked) == {0, 1}

    def test_what_was_streamed_stays(self, loop):
        """A consumer that keeps a window finds it unchanged later."""
        stream = AutoregressivePipeline(PipelineConfig(**SMALL)).stream(loop)
        first = next(stream)
        final, video = first.final_video.copy(), first.video.copy()
        list(stream)
        np.testing.assert_array_equal(first.final_video, final)
        np.testing.assert_array_equal(first.video, video)

    def test_failures_come_out_of_the_stream(self, loop):
        def fail(self, image, intrinsics, pose, known_depth):
            raise RuntimeError("no depth")

        pipeline = AutoregressivePipeline(
            PipelineConfig(**SMALL), depth_estimator=type("Broken", (), {"estimate": fail})()
        )
        with pytest.raises(WindowError, match=r"window 0 .* stage 'remember': RuntimeError: no depth"):
            next(pipeline.stream(loop))

    def test_memory_does_not_grow_with_the_path(self, small_camera):
        """Only the last window is held."""
        long = CameraTrajectory([CameraPose(timestamp=float(i)) for i in range(60)], small_camera)
        config = PipelineConfig(**SMALL, use_memory=False)
        tracemalloc.start()
        peaks = []
        for window in AutoregressivePipeline(config).stream(long):
            peaks.append(tracemalloc.get_traced_memory()[0])
            del window
        tracemalloc.stop()
        assert peaks[-1] < 1.1 * peaks[2] < 60 * 48 * 80 * 3 * 4

    def test_what_a_consumer_writes_into_stays_with_it(self, loop):
        def scribble(window):
            window.final_video[...] = 0
            window.video[...] = 0

        plain = AutoregressivePipeline(PipelineConfig(**SMALL)).generate(loop)
        scribbled = AutoregressivePipeline(PipelineConfig(**SMALL)).generate(loop, on_window=scribble)
        np.testing.assert_array_equal(scribbled.frames, plain.frames)


class TestReusedArrays:
    """Models may return the same array each time, as those that replay a graph do."""

    def test_of_the_backbone(self, loop):
        class Buffered(SyntheticBackbone):
            def predict(self, sample, timestep, context):
                self.buffer = getattr(self, "buffer", np.empty_like(sample))
                self.buffer[...] = super().predict(sample, timestep, context)
                return self.buffer

        def run(kind):
            config = PipelineConfig(**SMALL, prompt="rain", guidance_scale=2.5)
            pipeline = AutoregressivePipeline(config)
            pipeline.backbone = kind(pipeline.scheduler)
            return pipeline.generate(loop[:4]).frames

        np.testing.assert_array_equal(run(Buffered), run(SyntheticBackbone))

    def test_of_the_vae(self, world, loop):
        class Buffered(SyntheticVAE):
            def encode_image(self, image):
                latents = super().encode_image(image)
                self.buffer = getattr(self, "buffer", np.empty_like(latents))
                self.buffer[...] = latents
                return self.buffer

        canvases = []
        for vae in (SyntheticVAE(), Buffered()):
            pipeline = AutoregressivePipeline(PipelineConfig(**SMALL), vae=vae)
            for i in range(3):
                view = world.render(loop.intrinsics, loop[i])
                pipeline.observe(view.image, view.depth, loop.intrinsics, loop[i])
            canvases.append(pipeline.align(loop[:3]).canvas)
        np.testing.assert_array_equal(*canvases)


class TestVaried:
    def test_parts_that_are_shared_cannot_be_varied(self):
        pipeline = AutoregressivePipeline(PipelineConfig(**SMALL))
        assert pipeline.varied(top_k=7).config.top_k == 7
        with pytest.raises(ValueError, match="max_patches, scheduler: cannot be varied"):
            pipeline.varied(scheduler="flow_matching", max_patches=10)


class TestAblation:
    def test_each_part_is_worth_something(self, world, loop):
        pipeline = observed(world, PipelineConfig(**SMALL), loop, range(5))
        before = pipeline.store.patch_ids
        truth = {i: world.render(loop.intrinsics, loop[i]).image for i in range(20, 24)}
        named = []
        scores = {s.name: s for s in ablate(pipeline, loop, truth, on_variant=named.append)}
        assert list(scores) == named == list(ABLATIONS)
        everything = scores["everything"].psnr
        assert everything > scores["no memory"].psnr + 5
        assert everything > scores["no Warped RoPE"].psnr + 0.5
        assert everything > scores["gate 0 (no attention)"].psnr
        assert scores["no Warped Latent"].psnr > scores["no Warped Latent, no Warped RoPE"].psnr + 2
        assert scores["no memory"].coverage == 0 < scores["no Warped Latent"].coverage
        np.testing.assert_array_equal(pipeline.store.patch_ids, before)

    def test_what_a_model_is_given(self, world, loop):
        """A real backbone reads the same switches from its context."""

        def context(**changes):
            return observed(world, PipelineConfig(**SMALL, **changes), loop, range(3)).align(loop[1:3])

        full = context()
        assert full.use_prope
        assert full.gate is None
        assert full.coverage.any()
        no_canvas = context(use_warped_latent=False)
        assert not no_canvas.coverage.any()
        assert not no_canvas.canvas.any()
        assert (no_canvas.mosaic.valid == full.mosaic.valid).all()
        unwarped, warped = context(use_warped_rope=False).mosaic.packed(), full.mosaic.packed()
        np.testing.assert_array_equal(unwarped.positions[:, 1:], unwarped.source_positions)
        np.testing.assert_array_equal(unwarped.positions[:, 0], warped.positions[:, 0])
        assert np.abs(warped.positions - unwarped.positions).max() > 1
        assert not context(use_prope=False).use_prope
        assert context(memory_gate=0.5).gate == 0.5
        assert context(memory_gate=0.0).mosaic is None
        empty = context(use_memory=False)
        assert empty.mosaic is None
        for name in ("canvas", "coverage", "depth", "observed"):
            blank, filled = getattr(empty, name), getattr(full, name)
            assert (blank.shape, blank.dtype, blank.any()) == (filled.shape, filled.dtype, False), name


class TestPrompts:
    def test_a_prompt_changes_what_is_unseen_and_leaves_what_is_known(self, world, loop):
        def run(prompt):
            pipeline = observed(world, PipelineConfig(**SMALL, prompt=prompt), loop, range(5))
            contexts = []
            frames = pipeline.generate(loop, on_window=lambda w: contexts.append(w.context)).frames
            return frames, contexts

        (plain, contexts), (other, _) = run("a flat"), run("a red cave under the sea")
        first = contexts[0].coverage[0]
        known = np.kron(first, np.ones((8, 8), bool))
        assert np.abs(plain[0] - other[0])[known].mean() < 0.01
        away = np.abs(plain[12] - other[12]).mean()  # in the other room, which nobody has seen
        assert away > 0.05

    def test_events_take_over_when_their_window_begins(self, loop):
        events = [{"window": 3, "prompt": "night"}, {"window": 1, "prompt": "rain"}]
        config = PipelineConfig(**SMALL, prompt="a flat", events=events)
        assert [config.prompt_of(i) for i in range(5)] == ["a flat", "rain", "rain", "night", "night"]
        seen = []
        AutoregressivePipeline(config).generate(loop, on_window=lambda w: seen.append(w.context))
        assert [c.prompt for c in seen[:4]] == ["a flat", "rain", "rain", "night"]
        np.testing.assert_array_equal(seen[1].text, HashedTextEncoder().encode("rain"))
        plain = AutoregressivePipeline(PipelineConfig(**SMALL, prompt="a flat")).generate(loop)
        changed = AutoregressivePipeline(config).generate(loop)
        np.testing.assert_array_equal(plain.frames[:4], changed.frames[:4])
        assert np.abs(plain.frames[6:10] - changed.frames[6:10]).mean() > 0.02

    def test_events_in_files(self, tmp_path):
        config = PipelineConfig(events=[{"window": 2, "prompt": "rain"}])
        config.save(tmp_path / "c.json")
        assert PipelineConfig.load(tmp_path / "c.json") == config
        with pytest.raises(ValueError, match="window"):
            PipelineConfig(events=[{"window": -1, "prompt": "rain"}])

    def test_an_encoder_of_ones_own(self, loop):
        class Letters:
            def encode(self, prompt):
                return np.array([[ord(c)] for c in prompt], np.float32)

        pipeline = AutoregressivePipeline(PipelineConfig(prompt="ab"), text_encoder=Letters())
        np.testing.assert_array_equal(pipeline.align(loop[:1]).text, [[97], [98]])
        broken = type("Broken", (), {"encode": lambda self, prompt: np.full((1, 2), np.nan)})()
        with pytest.raises(ValueError, match="text encoder's vectors: expected finite values"):
            AutoregressivePipeline(text_encoder=broken).align(loop[:1])
        with pytest.raises(TypeError, match="text_encoder: expected the methods of TextEncoder, got object"):
            AutoregressivePipeline(text_encoder=object())


class TestGuidance:
    def test_leads_away_from_the_answer_without_prompt(self, loop):
        """The model predicts (words + 1) / 10: 0.1 without a prompt, 0.3 with two words."""
        calls = []

        class Length:
            prediction_type = "sample"

            def predict(self, sample, timestep, context):
                calls.append(context.prompt)
                return np.full_like(sample, (len(context.text) + 1) / 10)

        def latents(scale):
            calls.clear()
            config = PipelineConfig(prompt="two words", guidance_scale=scale, num_inference_steps=3)
            pipeline = AutoregressivePipeline(config, backbone=Length())
            context = pipeline.align(loop[:1])
            return denoise(pipeline.backbone, pipeline.scheduler, config, pipeline.vae.channels, context)

        np.testing.assert_allclose(latents(1.0), 0.3, rtol=1e-6)
        assert calls == ["two words"] * 3
        np.testing.assert_allclose(latents(2.5), 0.1 + 2.5 * 0.2, rtol=1e-6)
        assert calls == ["two words", ""] * 3
        np.testing.assert_allclose(latents(0.0), 0.1, rtol=1e-6)


class TestSchedulers:
    @pytest.mark.parametrize("scheduler", ["ddpm", "flow_matching"])
    @pytest.mark.parametrize("steps", [1, 7, 1000])
    def test_any_number_of_steps(self, world, loop, scheduler, steps):
        config = PipelineConfig(scheduler=scheduler, num_inference_steps=steps, window_size=2, window_overlap=0)
        small = CameraTrajectory(loop.poses[:2], loop.intrinsics.scaled(80, 48))
        pipeline = observed(world, config, small, [0])
        truth = world.render(small.intrinsics, small[0]).image
        assert psnr(pipeline.generate(small).frames[0], truth) > 18

    def test_the_scheduler_is_for_what_the_backbone_predicts(self):
        class Velocity:
            prediction_type = "velocity"

            def predict(self, sample, timestep, context):
                return sample

        pipeline = AutoregressivePipeline(
            PipelineConfig(scheduler="flow_matching", flow_shift=3.0), backbone=Velocity()
        )
        assert pipeline.scheduler.prediction_type == "velocity"
        assert pipeline.scheduler.shift == 3.0
        with pytest.raises(ValueError, match="prediction_type: expected one of epsilon, sample, v_prediction"):
            AutoregressivePipeline(PipelineConfig(scheduler="ddpm"), backbone=Velocity())


class TestSizes:
    def test_sizes_need_not_be_of_whole_cells(self, world, loop):
        """Partial cells are computed whole and cropped; the rest looks as in a larger image."""
        odd = replace(loop.intrinsics, width=157, height=91)
        path = CameraTrajectory(loop.poses[:8], odd)
        pipeline = observed(world, PipelineConfig(**SMALL), path, range(3))
        result = pipeline.generate(path)
        assert result.frames.shape == (8, 91, 157, 3)
        whole = observed(world, PipelineConfig(**SMALL), loop, range(3)).generate(loop[:8])
        assert psnr(result.frames[:, :80, :144], whole.frames[:, :80, :144]) > 25
        assert pipeline.align(path[:1]).canvas.shape[1:3] == (12, 20)

    def test_depth_is_estimated_for_the_image_that_was_asked_for(self, loop):
        shapes = []

        class Spy:
            def estimate(self, image, intrinsics, pose, known_depth):
                shapes.append((image.shape, (intrinsics.height, intrinsics.width), known_depth.shape))
                return np.ones(image.shape[:2], np.float32)

        odd = CameraTrajectory(loop.poses[:2], replace(loop.intrinsics, width=157, height=91))
        AutoregressivePipeline(PipelineConfig(**SMALL), depth_estimator=Spy()).generate(odd)
        assert shapes[0] == ((91, 157, 3), (91, 157), (91, 157))


class TestCarriedMemory:
    def test_from_call_to_call_and_through_a_folder(self, world, loop, tmp_path):
        pipeline = observed(world, PipelineConfig(**SMALL), loop, range(3))
        pipeline.generate(loop[:8])
        pipeline.store.save(tmp_path / "memory")
        pipeline.store.close()
        here = pipeline.generate(loop[8:16]).frames
        there = AutoregressivePipeline(
            PipelineConfig(**SMALL),
            depth_estimator=SyntheticDepthEstimator(world),
            store=MosaicMemoryStore.open(tmp_path / "memory"),
        ).generate(loop[8:16])
        np.testing.assert_array_equal(there.frames, here)
        assert there.windows[0].coverage > 0.05
