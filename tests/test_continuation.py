"""What a run begins with, what its windows continue from, and what it keeps of them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    PipelineConfig,
    SyntheticBackbone,
    SyntheticDepthEstimator,
    SyntheticWorld,
    TemporalLayout,
)

CAMERA = CameraIntrinsics.from_fov(64, 48, fov_x=1.3)
SMALL = {"window_size": 5, "window_overlap": 1, "num_inference_steps": 2, "top_k": 32}


@pytest.fixture(scope="module")
def world():
    return SyntheticWorld()


@pytest.fixture(scope="module")
def path(world):
    return world.leave_and_return(CAMERA, 16)


class Recorder:
    """The synthetic backbone, with the wishes of another."""

    def __init__(self, **wishes):
        self.contexts = []
        self.__dict__.update(wishes)

    def attach(self, pipeline):
        self.inner = SyntheticBackbone(pipeline.scheduler)

    prediction_type = "sample"

    def predict(self, sample, timestep, context):
        if not self.contexts or self.contexts[-1] is not context:
            self.contexts.append(context)
        return self.inner.predict(sample, timestep, context)


def recording(config=None, **wishes):
    backbone = Recorder(**wishes)
    pipeline = AutoregressivePipeline(PipelineConfig(**{**SMALL, **(config or {})}), backbone=backbone)
    backbone.attach(pipeline)
    return pipeline, backbone


class TestBeginsWithAnImage:
    def test_is_to_observe_it_first(self, world, path):
        view = world.render(CAMERA, path[0])
        one = AutoregressivePipeline(PipelineConfig(**SMALL))
        other = AutoregressivePipeline(PipelineConfig(**SMALL))
        other.observe(view.image, view.depth, CAMERA, path[0])
        got = one.generate(path, image=view.image, depth=view.depth)
        np.testing.assert_array_equal(got.frames, other.generate(path).frames)
        assert one.store.patch_ids.size == other.store.patch_ids.size

    def test_with_the_depth_of_an_estimator(self, world, path):
        view = world.render(CAMERA, path[0])
        estimator = SyntheticDepthEstimator(world)
        one = AutoregressivePipeline(PipelineConfig(**SMALL), depth_estimator=estimator)
        [first, *_] = one.stream(path, image=view.image_uint8)
        assert first.statistics.coverage_observed > 0.5

    def test_survives_a_stop_at_any_window(self, world, path, tmp_path):
        view = world.render(CAMERA, path[0])
        given = {"image": view.image, "depth": view.depth}
        whole = AutoregressivePipeline(PipelineConfig(**SMALL)).generate(path, **given, checkpoint=tmp_path / "whole")
        for stop in (0, 1, 2):
            stream = AutoregressivePipeline(PipelineConfig(**SMALL)).stream(
                path, **given, checkpoint=tmp_path / f"{stop}"
            )
            for _ in zip(range(stop), stream, strict=False):
                pass
            del stream
            again = AutoregressivePipeline(PipelineConfig(**SMALL))
            np.testing.assert_array_equal(
                again.generate(path, **given, checkpoint=tmp_path / f"{stop}").frames, whole.frames
            )

    def test_after_a_failure_it_is_observed_once(self, world, path):
        view = world.render(CAMERA, path[0])
        given = {"image": view.image, "depth": view.depth}
        expected = AutoregressivePipeline(PipelineConfig(**SMALL)).generate(path, **given).frames
        pipeline = AutoregressivePipeline(PipelineConfig(**SMALL))
        decode = pipeline.vae.decode
        pipeline.vae.decode = lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory"))
        with pytest.raises(RuntimeError, match="out of memory"):
            pipeline.generate(path, **given)
        assert not len(pipeline.store)
        pipeline.vae.decode = decode
        np.testing.assert_array_equal(pipeline.generate(path, **given).frames, expected)

    def test_mistakes(self, world, path):
        view = world.render(CAMERA, path[0])
        pipeline = AutoregressivePipeline(PipelineConfig(**SMALL))
        with pytest.raises(ValueError, match=r"depth: expected the depth of image, or a depth_estimator that sees it"):
            pipeline.generate(path, image=view.image)
        with pytest.raises(ValueError, match=r"depth: expected image, whose depth it is"):
            pipeline.generate(path, depth=view.depth)
        with pytest.raises(ValueError, match=r"image: expected shape \(48, 64, 3\), got \(40, 64, 3\)"):
            pipeline.stream(path, image=view.image[:40], depth=view.depth)
        assert not len(pipeline.store)


class TestContexts:
    def test_know_the_cameras_of_frames_and_the_overlap(self, path):
        pipeline, backbone = recording({"temporal_kind": "causal", "temporal_factor": 4})
        windows = list(pipeline.stream(path))
        assert [context.shared for context in backbone.contexts] == [0, 1, 1, 1]
        for context, window in zip(backbone.contexts, windows, strict=True):
            assert context.temporal == TemporalLayout("causal", 4)
            assert [p.timestamp for p in context.frames] == [path[i].timestamp for i in window.frames]
            assert len(context.cameras) == 2
            assert context.anchor is None
            assert context.previous is None

    def test_anchors_are_the_shared_frames(self, world, path):
        pipeline, backbone = recording({"window_overlap": 2}, uses_anchor=True)
        view = world.render(CAMERA, path[0])
        windows = list(pipeline.stream(path, image=view.image, depth=view.depth))
        np.testing.assert_array_equal(backbone.contexts[0].anchor, pipeline.vae.encode(view.image[None]))
        for window, context in zip(windows, backbone.contexts[1:], strict=False):
            # The first frame that the windows share, as the earlier one showed it.
            shared = window.video[len(window.video) - context.shared]
            np.testing.assert_array_equal(context.anchor, pipeline.vae.encode(shared[None]))

    def test_previous_latents_survive_a_resume(self, path, tmp_path):
        pipeline, backbone = recording(uses_previous=True)
        whole = pipeline.generate(path, checkpoint=tmp_path / "whole")
        assert backbone.contexts[0].previous is None
        assert all(context.previous.shape == (16, 5, 6, 8) for context in backbone.contexts[1:])
        stopped, _ = recording(uses_previous=True)
        stream = stopped.stream(path, checkpoint=tmp_path / "cut")
        next(stream)
        del stream
        resumed, again = recording(uses_previous=True)
        np.testing.assert_array_equal(resumed.generate(path, checkpoint=tmp_path / "cut").frames, whole.frames)
        np.testing.assert_array_equal(again.contexts[0].previous, backbone.contexts[1].previous)

    def test_once_per_window_for_all_steps_and_branches(self, path):
        made = []

        class Backbone(Recorder):
            def predict(self, sample, timestep, context):
                assert context.once("what", lambda: made.append(context.window) or len(made)) == len(made)
                return super().predict(sample, timestep, context)

        backbone = Backbone()
        config = PipelineConfig(**SMALL, guidance_scale=3.0, prompt="a room")
        pipeline = AutoregressivePipeline(config, backbone=backbone)
        backbone.attach(pipeline)
        pipeline.generate(path)
        assert made == [0, 1, 2, 3]

    def test_another_context_makes_its_own(self, path):
        pipeline, _ = recording({"guidance_scale": 2.0})
        context = pipeline.align(path[:2])
        assert context.once("a", object) is context.without_prompt().once("a", object)
        assert context.once("a", object) is not replace(context, mosaic=None).once("a", object)

    @pytest.mark.torch
    def test_the_example_makes_its_memory_once_per_window(self, world):
        pytest.importorskip("torch")
        place = Path(__file__).parents[1] / "examples" / "plug_in_a_model.py"
        spec = importlib.util.spec_from_file_location("plug_in_a_model", place)
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        made, memory = [], example.Memory
        example.Memory = lambda *arguments: made.append(0) or memory(*arguments)
        camera = CameraIntrinsics.from_fov(160, 96, fov_x=1.3)
        config = PipelineConfig(
            scheduler="flow_matching", num_inference_steps=4, window_size=9, window_overlap=1, guidance_scale=4.0
        )
        parts = {
            "vae": example.VAEAdapter(example.YourVAE()),
            "backbone": example.BackboneAdapter(example.YourDenoiser().eval()),
        }
        AutoregressivePipeline(config, **parts).generate(world.leave_and_return(camera, 64)[:17])
        assert len(made) == 2


class TestKeyframes:
    def test_what_moves_is_not_remembered(self, world, path):
        view, dynamic = world.render(CAMERA, path[0]), np.zeros((48, 64), bool)
        dynamic[:, :32] = True
        still, moving = (AutoregressivePipeline(PipelineConfig(**SMALL)) for _ in range(2))
        still.observe(view.image, view.depth, CAMERA, path[0])
        moving.observe(view.image, view.depth, CAMERA, path[0], dynamic=dynamic)
        assert len(moving.store) == len(still.store) / 2
        with pytest.raises(ValueError, match=r"dynamic: expected shape \(48, 64\), got \(6, 8\)"):
            still.observe(view.image, view.depth, CAMERA, path[0], dynamic=dynamic[::8, ::8])

    @pytest.mark.parametrize("layout", [{}, {"temporal_kind": "causal", "temporal_factor": 4}])
    def test_generated_latents_need_no_encoder(self, path, layout):
        config = {**layout, "keyframe_latents": "generated", "keyframe_interval": 2, "remember": "all"}
        pipeline = AutoregressivePipeline(PipelineConfig(**{**SMALL, **config}))
        encoded = []
        pipeline.vae.encode_image = lambda image: encoded.append(image)
        inserted, insert = [], pipeline.store.insert_keyframe
        pipeline.store.insert_keyframe = lambda latents, *a, **o: inserted.append((latents, a[2])) or insert(
            latents, *a, **o
        )
        latents, decode = [], pipeline.vae.decode
        pipeline.vae.decode = lambda x, count: latents.append(x) or decode(x, count)
        pipeline.generate(path[:5])
        assert not encoded
        assert len(inserted) >= 2
        ends = [0, 4] if layout else range(5)
        for grid, pose in inserted:
            frame = next(i for i in range(5) if path[i].timestamp == pose.timestamp)
            assert frame in ends
            np.testing.assert_array_equal(grid, latents[0][:, list(ends).index(frame)].transpose(1, 2, 0))
