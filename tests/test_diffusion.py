import itertools

import numpy as np
import pytest

from mosaicmem import (
    VAE,
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    DDPMScheduler,
    DiffusionBackbone,
    FlowMatchingScheduler,
    HashedTextEncoder,
    MemoryContext,
    NoiseScheduler,
    PipelineConfig,
    SpatialManipulation,
    SyntheticBackbone,
    SyntheticVAE,
    TemporalLayout,
    TextEncoder,
)
from mosaicmem.diffusion import PlaceAttention
from mosaicmem.metrics import psnr


class TestTemporalLayout:
    def test_causal(self):
        layout = TemporalLayout("causal", 4)
        assert layout.num_latents(1) == 1
        assert layout.num_latents(17) == 5
        assert layout.num_latents(18) == 6
        assert [list(layout.frames_of(latent, 10)) for latent in range(4)] == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
        assert layout.reference_frame(1, 10) == 4

    def test_uniform(self):
        layout = TemporalLayout("uniform", 3)
        assert [list(layout.frames_of(latent, 7)) for latent in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]

    @pytest.mark.parametrize("kind", ["causal", "uniform"])
    @pytest.mark.parametrize("factor", [1, 2, 4, 8])
    @pytest.mark.parametrize("frames", [1, 2, 9, 16, 81])
    def test_every_frame_has_one_latent(self, kind, factor, frames):
        layout = TemporalLayout(kind, factor)
        covered = [f for latent in range(layout.num_latents(frames)) for f in layout.frames_of(latent, frames)]
        assert covered == list(range(frames))
        for frame in range(frames):
            assert frame in layout.frames_of(layout.latent_of(frame), frames)

    def test_bad_values(self):
        with pytest.raises(ValueError, match="kind: expected one of causal, uniform, got 'other'"):
            TemporalLayout("other", 4)
        with pytest.raises(ValueError, match="latent: expected at most 2, got 3"):
            TemporalLayout("causal", 4).frames_of(3, 9)


class TestScheduler:
    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_noise_grows_from_almost_none_to_almost_all(self, schedule):
        scheduler = DDPMScheduler(schedule=schedule)
        assert isinstance(scheduler, NoiseScheduler)
        assert (np.diff(scheduler.alphas_cumprod) < 0).all()
        assert scheduler.levels(0)[0] > 0.99
        assert scheduler.levels(999)[0] < 0.01
        signal, noise = scheduler.levels(500)
        assert signal**2 + noise**2 == pytest.approx(1)
        assert scheduler.levels(None) == (1.0, 0.0)

    def test_published_values(self):
        linear = DDPMScheduler(schedule="linear")
        np.testing.assert_allclose(linear.alphas_cumprod[0], 1 - 1e-4)
        np.testing.assert_allclose(linear.alphas_cumprod[-1], 4.036e-5, rtol=1e-3)
        cosine = DDPMScheduler(schedule="cosine")
        expected = (np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
        np.testing.assert_allclose(cosine.alphas_cumprod[499], expected, rtol=1e-12)

    @pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
    def test_timesteps_descend_from_the_noisiest(self, steps):
        timesteps = DDPMScheduler().inference_timesteps(steps)
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert (np.diff(timesteps) < 0).all()
        assert timesteps[-1] >= 0

    @pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
    def test_a_perfect_prediction_brings_back_the_sample(self, rng, prediction_type):
        scheduler = DDPMScheduler(prediction_type=prediction_type)
        clean, noise = rng.standard_normal((2, 3, 4)).astype(np.float32)
        for steps in (1, 5, 40):
            timesteps = [*scheduler.inference_timesteps(steps), None]
            sample = scheduler.add_noise(clean, noise, timesteps[0])
            for t, previous in itertools.pairwise(timesteps):
                signal, level = scheduler.levels(t)
                epsilon = (sample - signal * clean) / level
                prediction = {
                    "epsilon": epsilon,
                    "sample": clean,
                    "v_prediction": signal * epsilon - level * clean,
                }[prediction_type]
                fresh = rng.standard_normal(clean.shape).astype(np.float32)
                sample = scheduler.previous_sample(prediction, t, previous, sample, fresh)
            # With epsilon, x_0 = (x_t - noise level * epsilon) / signal amplifies rounding by 1 / signal.
            amplified = scheduler.levels(999)[0] if prediction_type == "epsilon" else 1.0
            np.testing.assert_allclose(sample, clean, atol=16 * 2**-24 / amplified)

    def test_steps_keep_the_marginal(self, rng):
        """Starting at x_t of a known x_0, one step with the true x_0 gives samples of q(x_prev | x_0)."""
        scheduler = DDPMScheduler()
        noise, fresh = rng.standard_normal((2, 200_000)).astype(np.float32)
        sample = scheduler.add_noise(np.full_like(noise, 2.0), noise, 700)
        stepped = scheduler.previous_sample(np.full_like(noise, 2.0), 700, 300, sample, fresh)
        signal, level = scheduler.levels(300)
        assert stepped.mean() == pytest.approx(2 * signal, abs=0.01)
        assert stepped.std() == pytest.approx(level, rel=0.01)

    def test_bad_values(self):
        with pytest.raises(ValueError, match="num_steps: expected at most 1000, got 1001"):
            DDPMScheduler().inference_timesteps(1001)
        with pytest.raises(ValueError, match="previous_timestep: expected less than timestep = 5, got 5"):
            DDPMScheduler().previous_sample(np.zeros(1), 5, 5, np.zeros(1), np.zeros(1))
        with pytest.raises(ValueError, match="schedule: expected one of linear, cosine"):
            DDPMScheduler(schedule="square")


class TestVae:
    def test_is_a_vae(self):
        assert isinstance(SyntheticVAE(), VAE)

    def test_codec_is_linear_and_lossy(self, rng):
        vae = SyntheticVAE()
        a, b = (0.4 + 0.1 * rng.random((2, 1, 16, 24, 3))).astype(np.float32)
        half = vae.encode((a + b) / 2)
        np.testing.assert_allclose(half, (vae.encode(a) + vae.encode(b)) / 2, atol=1e-5)
        assert vae.encode(a).shape == (16, 1, 2, 3)
        again = vae.encode(vae.decode(vae.encode(a), 1))
        np.testing.assert_allclose(again, vae.encode(a), atol=1e-4)  # a projection
        assert psnr(vae.decode(vae.encode(a), 1), a) < 40

    def test_all_channels_lose_nothing(self, rng):
        vae = SyntheticVAE(stride=4, channels=48)
        image = rng.random((8, 12, 3)).astype(np.float32)
        np.testing.assert_allclose(vae.decode_image(vae.encode_image(image)), image, atol=1e-5)

    def test_rendered_images(self, world, small_camera):
        vae = SyntheticVAE()
        image = world.render(small_camera.scaled(320, 192), world.leave_and_return(small_camera, 2)[0]).image
        assert psnr(vae.decode_image(vae.encode_image(image)), image) > 26
        assert 0.3 < vae.encode_image(image)[..., 0].std() < 3

    def test_real_images(self, rgbd_scene):
        from PIL import Image

        vae = SyntheticVAE(8, 16)
        for path in sorted(rgbd_scene.glob("*.color.jpg"))[::20]:
            image = np.asarray(Image.open(path), dtype=np.float32) / 255
            assert psnr(vae.decode_image(vae.encode_image(image)), image) > 26

    @pytest.mark.parametrize("layout", [TemporalLayout("causal", 4), TemporalLayout("uniform", 2)])
    @pytest.mark.parametrize("frames", [1, 6, 9])
    def test_time(self, rng, layout, frames):
        vae = SyntheticVAE(temporal=layout)
        still = np.repeat(rng.random((1, 16, 16, 3)).astype(np.float32), frames, axis=0)
        latents = vae.encode(still)
        assert latents.shape[1] == layout.num_latents(frames)
        decoded = vae.decode(latents, frames)
        assert decoded.shape == still.shape
        np.testing.assert_allclose(decoded, np.repeat(decoded[:1], frames, axis=0), atol=1e-6)

    def test_bad_values(self):
        with pytest.raises(ValueError, match="multiples of 8, got 12x16"):
            SyntheticVAE().encode_image(np.zeros((12, 16, 3)))
        with pytest.raises(ValueError, match="divide by 255"):
            SyntheticVAE().encode_image(np.full((16, 16, 3), 255.0))
        np.testing.assert_allclose(
            SyntheticVAE().encode_image(np.full((16, 16, 3), 51, np.uint8)),
            SyntheticVAE().encode_image(np.full((16, 16, 3), 0.2)),
            atol=1e-6,
        )
        with pytest.raises(ValueError, match="expected 3 latent frames for 9 frames, got 2"):
            SyntheticVAE(temporal=TemporalLayout()).decode(np.zeros((16, 2, 1, 1)), 9)
        with pytest.raises(ValueError, match="channels: expected at most 48, got 49"):
            SyntheticVAE(stride=4, channels=49)


class TestFlowMatching:
    def test_lines_from_noise_to_data(self):
        scheduler = FlowMatchingScheduler()
        assert isinstance(scheduler, NoiseScheduler)
        assert scheduler.levels(1000) == (0.0, 1.0)
        assert scheduler.levels(500) == (0.5, 0.5)
        assert scheduler.levels(0) == (1.0, 0.0)
        assert scheduler.levels(None) == (1.0, 0.0)

    def test_shift(self):
        """At s = 1/2, a shift of 3 gives 3/4. A timestep is 1000 sigma, whatever the shift."""
        np.testing.assert_allclose(FlowMatchingScheduler(shift=3.0).inference_timesteps(2), [1000, 750])
        np.testing.assert_allclose(
            FlowMatchingScheduler(shift=5.0).inference_timesteps(4), [1000, 937.5, 2500 / 3, 625]
        )
        assert FlowMatchingScheduler(shift=3.0).levels(750)[1] == 0.75

    @pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
    @pytest.mark.parametrize("prediction_type", ["velocity", "sample"])
    def test_a_perfect_prediction_brings_back_the_sample(self, rng, steps, prediction_type):
        scheduler = FlowMatchingScheduler(shift=5.0, prediction_type=prediction_type)
        clean, noise = rng.standard_normal((2, 3, 4)).astype(np.float32)
        timesteps = [*scheduler.inference_timesteps(steps), None]
        assert len(timesteps) == steps + 1
        assert timesteps[0] == 1000
        sample = scheduler.add_noise(clean, noise, timesteps[0])
        np.testing.assert_array_equal(sample, noise)
        for t, previous in itertools.pairwise(timesteps):
            prediction = noise - clean if prediction_type == "velocity" else clean
            sample = scheduler.previous_sample(prediction, t, previous, sample, noise)
            np.testing.assert_allclose(sample, scheduler.add_noise(clean, noise, previous), atol=1e-5)
        np.testing.assert_allclose(sample, clean, atol=steps**0.5 * 4 * 2**-24 + 2**-20)

    def test_bad_values(self):
        with pytest.raises(ValueError, match=r"shift: expected more than 0\.0, got 0"):
            FlowMatchingScheduler(shift=0)
        with pytest.raises(ValueError, match="num_steps: expected at most 1000, got 1001"):
            FlowMatchingScheduler().inference_timesteps(1001)
        with pytest.raises(ValueError, match="previous_timestep: expected less than timestep = 5, got 5"):
            FlowMatchingScheduler().previous_sample(np.zeros(1), 5, 5, np.zeros(1), np.zeros(1))


class TestText:
    def test_words_are_vectors(self):
        encoder = HashedTextEncoder(32)
        assert isinstance(encoder, TextEncoder)
        vectors = encoder.encode("A red door, a RED sky")
        assert vectors.shape == (6, 32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(vectors[0], vectors[3])
        np.testing.assert_array_equal(vectors[1], vectors[4])
        assert abs(vectors[1] @ vectors[2]) < 0.7
        np.testing.assert_array_equal(encoder.encode("a red door a red sky"), vectors)

    def test_known_value(self):
        """The same on every machine and in every process, unlike hash() of a string."""
        np.testing.assert_allclose(
            HashedTextEncoder(3).encode("door")[0], [0.16126344, 0.00544985, 0.98689634], atol=1e-6
        )

    def test_no_words(self):
        assert HashedTextEncoder(5).encode(" ,. ").shape == (0, 5)
        with pytest.raises(TypeError, match="prompt: expected a string, got int"):
            HashedTextEncoder().encode(3)


class TestPlaceAttention:
    """Against the formula, token by token."""

    def read(self, world, camera, **changes):
        path = world.leave_and_return(camera, 60)
        pipeline = AutoregressivePipeline(PipelineConfig(use_warped_latent=False, top_k=12, **changes))
        for i in (0, 2):
            view = world.render(camera, path[i])
            pipeline.observe(view.image, view.depth, camera, path[i])
        context = pipeline.align(path[1:4])
        return context, *PlaceAttention(place=5.0, view=3.0).read(context)

    @pytest.mark.parametrize("use_prope", [True, False])
    def test_is_a_softmax_over_relative_places_and_cameras(self, world, small_camera, use_prope):
        context, latents, mass = self.read(world, small_camera, use_prope=use_prope)
        mosaic = context.mosaic.packed()
        frequencies = 10000.0 ** (-np.arange(0, 24, 2) / 24)
        sources = mosaic.source_camera_from_world[mosaic.patch_sources[mosaic.token_patches]]
        for frame, row, column in ((0, 0, 0), (1, 3, 4), (2, 5, 9)):
            mine = mosaic.tokens_of(frame)
            away = mosaic.positions[mine, 1:] - [row, column]
            logits = 5.0 * np.cos(away[:, :, None] * frequencies).sum(axis=(1, 2))
            best = 5.0 * 24
            if use_prope:
                relative = context.cameras[frame].camera_from_world @ np.linalg.inv(sources[mine])
                logits += 3.0 * np.trace(relative, axis1=1, axis2=2)
                best += 3.0 * 4
            weights = np.exp(logits - logits.max())
            expected = weights @ mosaic.tokens[mine] / weights.sum()
            np.testing.assert_allclose(latents[frame, row, column], expected, atol=2e-3)
            np.testing.assert_allclose(mass[frame, row, column], np.exp(logits - best).sum(), rtol=2e-3, atol=1e-30)

    def test_nothing_in_memory(self, small_camera):
        context = AutoregressivePipeline().align(CameraTrajectory([CameraPose()], small_camera))
        latents, mass = PlaceAttention().read(context)
        assert latents.shape == (1, 6, 10, 16)
        assert not latents.any()
        assert not mass.any()

    def test_mirrored_and_scaled_sources_are_taken(self, world, small_camera):
        path = world.leave_and_return(small_camera, 4)
        pipeline = AutoregressivePipeline()
        view = world.render(small_camera, path[0])
        pipeline.observe(view.image, view.depth, small_camera, path[0])
        edit = SpatialManipulation(pipeline.store)
        edit.flip([1, 0, 0])
        edit.scale(1.5)
        around = CameraTrajectory([path[0].at(0.0)], small_camera)
        back = CameraTrajectory.look_around(around[0], 8, small_camera)
        _, mass = PlaceAttention().read(pipeline.align(back))
        assert np.isfinite(mass).all()


class TestBackbone:
    def context(self, camera, rng, *, covered=0.5, prompt="", seed=0, shift=0.0):
        cameras = CameraTrajectory(
            [CameraPose.look_at([0, 0, 0], [shift, 0, 1], timestamp=float(i)) for i in (0, 1)], camera
        )
        coverage = rng.random((2, 6, 10)) < covered
        canvas = np.where(coverage[..., None], rng.standard_normal((2, 6, 10, 4)), 0).astype(np.float32)
        text = HashedTextEncoder().encode(prompt)
        return MemoryContext(cameras, 8, None, canvas, coverage, coverage.astype(np.float32), prompt, seed, 0, text)

    def sample(self, backbone, scheduler, context, seed=0, steps=10):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1, 4, 2, 6, 10)).astype(np.float32)
        timesteps = [*scheduler.inference_timesteps(steps), None]
        for t, previous in itertools.pairwise(timesteps):
            prediction = backbone.predict(x, t, context)
            x = scheduler.previous_sample(prediction, t, previous, x, rng.standard_normal(x.shape).astype(np.float32))
        return x[0].transpose(1, 2, 3, 0)

    def test_goes_to_memory_where_covered(self, small_camera, rng):
        scheduler = DDPMScheduler()
        backbone = SyntheticBackbone(scheduler)
        assert isinstance(backbone, DiffusionBackbone)
        context = self.context(small_camera, rng)
        x = self.sample(backbone, scheduler, context)
        error = x - context.canvas
        assert np.sqrt((error[context.coverage] ** 2).mean()) < 0.05
        assert np.sqrt((error[~context.coverage] ** 2).mean()) > 0.2

    def test_samples_follow_the_world_it_believes_in(self, small_camera, rng):
        scheduler = DDPMScheduler()
        backbone = SyntheticBackbone(scheduler, memory_deviation=0.3)
        context = self.context(small_camera, rng, covered=1.1)
        errors = [self.sample(backbone, scheduler, context, seed, steps=200) - context.canvas for seed in range(6)]
        assert np.std(errors) == pytest.approx(0.3, rel=0.1)
        assert np.mean(errors) == pytest.approx(0, abs=0.03)

    def test_the_prior_depends_on_prompt_seed_and_direction(self, small_camera, rng):
        scheduler = DDPMScheduler()
        backbone = SyntheticBackbone(scheduler, prior_deviation=0.0)

        def empty(**changes):
            return self.sample(backbone, scheduler, self.context(small_camera, rng, covered=-1, **changes))

        plain = empty()
        np.testing.assert_array_equal(plain, empty())
        for changes in ({"prompt": "a cave"}, {"seed": 1}, {"shift": 1.0}):
            assert np.abs(empty(**changes) - plain)[..., 0].mean() > 0.1

    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
    def test_all_predictions_say_the_same(self, small_camera, rng, prediction_type):
        context = self.context(small_camera, rng)
        expected = self.sample(SyntheticBackbone(DDPMScheduler()), DDPMScheduler(), context)
        scheduler = DDPMScheduler(prediction_type=prediction_type)
        backbone = SyntheticBackbone(scheduler)
        assert backbone.prediction_type == prediction_type
        np.testing.assert_allclose(self.sample(backbone, scheduler, context), expected, atol=2e-3)

    def test_flow_matching_comes_to_the_same_means(self, small_camera, rng):
        context = self.context(small_camera, rng)
        for prediction_type in ("velocity", "sample"):
            scheduler = FlowMatchingScheduler(prediction_type=prediction_type)
            x = self.sample(SyntheticBackbone(scheduler), scheduler, context, steps=20)
            assert np.sqrt(((x - context.canvas)[context.coverage] ** 2).mean()) < 0.05

    def test_prompts_that_share_words_look_alike(self, small_camera, rng):
        scheduler = DDPMScheduler()
        backbone = SyntheticBackbone(scheduler, prior_deviation=0.0)

        def look(prompt):
            return self.sample(backbone, scheduler, self.context(small_camera, rng, covered=-1, prompt=prompt))

        near = np.abs(look("a red brick wall at night") - look("a red brick wall at noon")).mean()
        far = np.abs(look("a red brick wall at night") - look("green hills")).mean()
        assert near < far

    def test_clean_input_is_a_fixed_point_of_zero_noise(self, small_camera, rng):
        scheduler = DDPMScheduler()
        context = self.context(small_camera, rng)
        x = rng.standard_normal((1, 4, 2, 6, 10)).astype(np.float32)
        np.testing.assert_allclose(SyntheticBackbone(scheduler).predict(x, None, context), x, atol=1e-6)
