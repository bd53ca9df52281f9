"""Whole Wan pipelines with memory: diffusers' own loop, and this library's."""

import copy

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    MosaicMemoryStore,
    PipelineConfig,
    TemporalLayout,
    depth_to_grid,
)
from wan_helpers import CAMERA, open_gates, path, tiny_pipe, world

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

from mosaicmem.models import DiffusersScheduler, WanMemoryModel, WanMemoryVAE, add_memory  # noqa: E402

KINDS = ("t2v", "ti2v")
SCHEDULERS = ("unipc", "euler")
SETTINGS = {"window_size": 9, "window_overlap": 1, "num_inference_steps": 3, "top_k": 16, "prompt": "a room"}


def views(count):
    return [world().render(CAMERA, pose) for pose in list(path())[:count]]


def store_of(vae, count=3):
    store = MosaicMemoryStore(2)
    for view, pose in zip(views(count), path(), strict=False):
        store.insert_keyframe(vae.encode_image(view.image), depth_to_grid(view.depth, vae.stride), CAMERA, pose)
    return store


class TestVAE:
    @pytest.mark.parametrize("kind", KINDS)
    def test_latents_are_those_of_the_pipeline(self, kind):
        pipe = tiny_pipe(kind)
        vae, video = WanMemoryVAE(pipe.vae), np.stack([view.image for view in views(5)])
        assert (vae.stride, vae.channels) == ((16, 48) if kind == "ti2v" else (8, 16))
        assert vae.temporal == TemporalLayout("causal", 4)
        with torch.no_grad():
            x = 2 * torch.from_numpy(video).permute(3, 0, 1, 2)[None] - 1
            latents = (pipe.vae.encode(x).latent_dist.mode() - 0.1) / 0.5
            frames = pipe.vae.decode(latents * 0.5 + 0.1).sample
        np.testing.assert_allclose(vae.encode(video), latents[0], atol=1e-5)
        decoded = pipe.video_processor.postprocess_video(frames, output_type="np")[0]
        np.testing.assert_allclose(vae.decode(latents[0].numpy(), 5), decoded, atol=1e-5)

    def test_kinds_of_arrays(self):
        vae = WanMemoryVAE(tiny_pipe().vae)
        image = views(1)[0].image
        grid = vae.encode_image(image)
        assert grid.shape == (8, 16, 16)
        as_bytes = np.rint(image * 255).astype(np.uint8)
        np.testing.assert_allclose(vae.encode_image(as_bytes), vae.encode_image(as_bytes / np.float32(255)), atol=1e-5)
        tensor = vae.encode_image(torch.from_numpy(image))
        assert torch.is_tensor(tensor)
        np.testing.assert_allclose(tensor, grid, atol=1e-6)
        assert vae.encode(np.stack([image] * 3)).shape == (16, 2, 8, 16)  # padded to a whole latent frame
        half = WanMemoryVAE(copy.deepcopy(vae.vae).to(torch.bfloat16))
        assert half.encode_image(image).dtype == np.float32
        np.testing.assert_allclose(half.encode_image(image), grid, atol=0.1)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda vae: vae.encode(np.zeros((64, 128, 3), np.float32)), r"video: expected shape \(F, H, W, 3\)"),
            (lambda vae: vae.encode(np.zeros((3, 1, 64, 128), np.float32)), r"video: expected shape"),
            (lambda vae: vae.encode(np.zeros((1, 60, 128, 3), np.float32)), r"in multiples of 8, got \(60, 128\)"),
            (
                lambda vae: vae.encode_image(np.zeros((3, 64, 128), np.float32)),
                r"image: expected .* channels come last",
            ),
            (lambda vae: vae.decode(np.zeros((8, 1, 4, 4), np.float32)), r"latents: expected shape \(16, T, h, w\)"),
            (lambda vae: vae.decode(torch.zeros(8, 1, 4, 4)), r"latents: expected shape \(16, T, h, w\)"),
        ],
    )
    def test_mistakes(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(WanMemoryVAE(tiny_pipe().vae))

    def test_values_of_tensors(self):
        vae = WanMemoryVAE(tiny_pipe().vae)
        with pytest.raises(ValueError, match=r"video: expected values in \[0, 1\], got 0 to 255"):
            vae.encode(255 * torch.stack([torch.zeros(64, 128, 3), torch.ones(64, 128, 3)]))
        with pytest.raises(TypeError, match=r"video: expected uint8, or float in \[0, 1\], got torch.int64"):
            vae.encode(torch.zeros(1, 64, 128, 3, dtype=torch.int64))

    def test_another_model(self):
        with pytest.raises(TypeError, match=r"vae: expected an AutoencoderKLWan.* did you mean pipe.vae"):
            WanMemoryVAE(tiny_pipe())


class TestScheduler:
    @pytest.mark.parametrize("kind", SCHEDULERS)
    def test_steps_are_those_of_diffusers(self, kind):
        scheduler = tiny_pipe(scheduler=kind).scheduler
        wrapped, alone = DiffusersScheduler(scheduler), copy.deepcopy(scheduler)
        rng = np.random.default_rng(0)
        for _ in range(2):  # a window begins anew
            alone.set_timesteps(4)
            steps = wrapped.inference_timesteps(4).tolist()
            assert steps == alone.timesteps.tolist()
            x = rng.standard_normal((1, 4, 2, 3, 5), dtype=np.float32)
            y = torch.from_numpy(x)
            for timestep, previous in zip(steps, [*steps[1:], None], strict=True):
                velocity = rng.standard_normal(x.shape, dtype=np.float32)
                signal, sigma = wrapped.levels(timestep)
                assert signal == 1 - sigma
                assert sigma == pytest.approx(timestep / 1000, abs=1e-3)
                x = wrapped.previous_sample(velocity, timestep, previous, x, x)
                y = alone.step(torch.from_numpy(velocity), torch.tensor(timestep), y, return_dict=False)[0]
                np.testing.assert_array_equal(x, y)

    def test_fractions_are_kept(self):
        steps = DiffusersScheduler(tiny_pipe(scheduler="euler").scheduler).inference_timesteps(4)
        assert (steps % 1 > 0).any()

    def test_mistakes(self):
        from diffusers import DDIMScheduler

        with pytest.raises(ValueError, match=r"scheduler: expected a flow-matching one.* got DDIMScheduler"):
            DiffusersScheduler(DDIMScheduler())
        wrapped = DiffusersScheduler(tiny_pipe().scheduler)
        first, second, *_ = wrapped.inference_timesteps(4).tolist()
        x = np.zeros((1, 1, 1, 2, 2), np.float32)
        with pytest.raises(ValueError, match=rf"timestep: expected {first}, the scheduler's next, got {second}"):
            wrapped.previous_sample(x, second, None, x, x)


def generate(pipe, **options):
    options = {"height": 64, "width": 128, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 5.0, **options}
    generator = torch.Generator().manual_seed(0)
    return pipe("a room", output_type="latent", generator=generator, **options).frames


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_loop_of_diffusers(kind, scheduler, dtype):
    pipe = tiny_pipe(kind, scheduler, dtype=dtype)
    vae = WanMemoryVAE(pipe.vae)
    expected = generate(pipe)
    handle = add_memory(pipe.transformer)
    handle.set(handle.batch(store_of(vae), path()[:9], vae_stride=vae.stride, temporal=vae.temporal, top_k=16))
    assert torch.equal(generate(pipe), expected)
    open_gates(handle)
    assert not torch.allclose(generate(pipe), expected, atol=1e-3)
    handle.remove()
    assert torch.equal(generate(pipe), expected)


class TestLoop:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("scheduler", SCHEDULERS)
    def test_windows(self, kind, scheduler):
        model = WanMemoryModel(tiny_pipe(kind, scheduler), mode=("kv", "canvas"), gate=0.5)
        config = PipelineConfig(**{**SETTINGS, "top_k": 7}, guidance_scale=3.0)
        pipeline = AutoregressivePipeline(config, **model.parts())
        view, passed = views(1)[0], []
        layer = model.pipe.transformer.blocks[1].attn1.to_k
        layer.register_forward_hook(lambda _m, given, _o: passed.append(given[0].shape[1]))
        result = pipeline.generate(path()[:17], image=view.image, depth=view.depth)
        assert result.frames.shape == (17, 64, 128, 3)
        assert all(window.tokens > 0 for window in result.windows)
        video = 3 * (64 * 128) // (4 * model.vae.stride**2)
        memory = [tokens for tokens in passed if tokens != video]
        assert len(memory) == 2 * 2  # windows, guidance branches
        assert passed.count(video) == 2 * 2 * 3

    def test_without_memory_it_is_the_loop_of_diffusers(self):
        """The same velocities from the same noise, and the same guidance."""
        pipe = tiny_pipe("t2v", "euler")
        model = WanMemoryModel(pipe)
        config = PipelineConfig(**{**SETTINGS, "guidance_scale": 4.0, "num_inference_steps": 3, "use_memory": False})
        windows = list(AutoregressivePipeline(config, **model.parts()).stream(path()[:9]))
        from mosaicmem.pipeline.noise import window_noise

        noise = window_noise(0, 0).standard_normal((1, 16, 3, 8, 16), dtype=np.float32)
        options = {"latents": torch.from_numpy(noise), "num_inference_steps": 3, "guidance_scale": 4.0}
        latents = generate(pipe, **options)
        np.testing.assert_allclose(windows[0].video, model.vae.decode(latents[0].numpy(), 9), atol=2e-4)

    def test_ti2v_windows_begin_with_the_image_before(self):
        model = WanMemoryModel(tiny_pipe("ti2v"))
        pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS), **model.parts())
        view = views(1)[0]
        seen = [w.context for w in pipeline.stream(path()[:17], image=view.image, depth=view.depth)]
        np.testing.assert_array_equal(seen[0].anchor, model.vae.encode(view.image[None]))
        assert seen[1].anchor.shape == seen[0].anchor.shape
        assert seen[1].shared == 1
        assert not np.array_equal(seen[1].anchor, seen[0].anchor)
        with pytest.raises(ValueError, match=r"window_overlap: expected at least 1, got 0"):
            AutoregressivePipeline(PipelineConfig(**{**SETTINGS, "window_overlap": 0}), **model.parts())

    def test_the_anchor_is_kept_and_is_clean(self):
        model = WanMemoryModel(tiny_pipe("ti2v"))
        given = []
        model.pipe.transformer.register_forward_pre_hook(lambda _m, args: given.append((args[0][:, :, 0], args[1])))
        pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS), **model.parts())
        view = views(1)[0]
        [window] = pipeline.stream(path()[:9], image=view.image, depth=view.depth)
        tokens = 4 * 8 // 4
        for latents, times in given:
            np.testing.assert_allclose(latents[0], window.context.anchor[:, 0], atol=1e-6)
            assert not times[0, :tokens].any()
            assert (times[0, tokens:] > 0).all()

    @pytest.mark.parametrize("cut", [1, 2])
    def test_resumes_bit_for_bit(self, tmp_path, cut):
        view = views(1)[0]
        given = {"image": view.image, "depth": view.depth}

        def run(folder, windows):
            model = WanMemoryModel(tiny_pipe("ti2v"), gate=0.5)
            pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS), **model.parts())
            stream = pipeline.stream(path()[:24], checkpoint=folder, **given)
            return [window.video for _, window in zip(range(windows), stream, strict=False)]

        run(tmp_path / "cut", cut)
        for one, other in zip(run(tmp_path / "cut", 3), run(tmp_path / "whole", 3), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_ablations(self):
        model = WanMemoryModel(
            tiny_pipe(), prope={"layout": "contiguous", "subframes": (1, 3), "dims_per_camera": 8}, gate=1.0
        )
        videos = {}
        for name, change in {"all": {}, "shut": {"memory_gate": 0.0}, "no PRoPE": {"use_prope": False}}.items():
            pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS, **change), **model.parts())
            for view, pose in zip(views(3), path(), strict=False):
                pipeline.observe(view.image, view.depth, CAMERA, pose)
            videos[name] = pipeline.generate(path()[4:9]).frames
        assert not np.array_equal(videos["all"], videos["shut"])
        assert not np.array_equal(videos["all"], videos["no PRoPE"])

    def test_the_gate_of_attention_is_not_that_of_the_canvas(self):
        model, videos = WanMemoryModel(tiny_pipe(), mode="canvas", gate=0.5), []
        for change in ({}, {"memory_gate": 0.0}, {"use_memory": False}):
            pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS, **change), **model.parts())
            for view, pose in zip(views(3), path(), strict=False):
                pipeline.observe(view.image, view.depth, CAMERA, pose)
            videos.append(pipeline.generate(path()[4:9]).frames)
        np.testing.assert_array_equal(videos[0], videos[1])
        assert not np.array_equal(videos[0], videos[2])

    def test_two_transformers_share_the_steps(self):
        pipe = tiny_pipe()
        pipe.register_modules(transformer_2=tiny_pipe(seed=1).transformer)
        pipe.register_to_config(boundary_ratio=0.875)
        model = WanMemoryModel(pipe)
        used = []
        for name in ("transformer", "transformer_2"):
            hook = lambda _m, args, name=name: used.append((name, float(args[1][0])))  # noqa: E731
            getattr(pipe, name).register_forward_pre_hook(hook)
        pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS), **model.parts())
        pipeline.generate(path()[:5])
        assert {name for name, _ in used} == {"transformer", "transformer_2"}
        assert all((time >= 875) == (name == "transformer") for name, time in used)
        assert len(model.handles()) == 2

    def test_images_are_padded_to_whole_tokens(self):
        """Of 32 pixels: 16 of the VAE, 2 x 2 latent cells per token."""
        camera = CameraIntrinsics.from_fov(120, 48, fov_x=1.3)
        model = WanMemoryModel(tiny_pipe("ti2v"), gate=0.5)
        pipeline = AutoregressivePipeline(PipelineConfig(**SETTINGS), **model.parts())
        route = world().leave_and_return(camera, 9)
        view = world().render(camera, route[0])
        assert pipeline.generate(route, image=view.image, depth=view.depth).frames.shape == (9, 48, 120, 3)
        model.clear()
        assert all(handle._batch is None for handle in model.handles())

    def test_mistakes(self):
        with pytest.raises(TypeError, match=r"pipe: expected a Wan pipeline of diffusers, got Linear without"):
            WanMemoryModel(torch.nn.Linear(1, 1))
        pipe = tiny_pipe()
        with pytest.raises(TypeError, match=r"without transformer; pass the pipeline, not its transformer"):
            WanMemoryModel(pipe.transformer)
        with pytest.raises(ValueError, match=r'mode: expected one of "kv" and "concat", and "canvas" or not'):
            WanMemoryModel(pipe, mode=("kv", "concat"))
        add_memory(pipe.transformer, mode="concat")
        with pytest.raises(ValueError, match=r"mode: expected \('concat',\), which the transformer has already"):
            WanMemoryModel(pipe, mode="kv")
        assert [handle.mode for handle in WanMemoryModel(pipe).handles()] == ["concat"]
        with pytest.raises(ValueError, match=r"for the scheduler ddpm, the default, got velocity; pass scheduler="):
            AutoregressivePipeline(backbone=WanMemoryModel(pipe))
        with pytest.raises(ValueError, match=r"image channels beside the latents are not supported"):
            WanMemoryModel(tiny_pipe(in_channels=36))
