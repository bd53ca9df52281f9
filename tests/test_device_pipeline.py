"""The pipeline runs where its store is: between retrieval and decoding, nothing passes through the host."""

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, MosaicMemoryStore, PipelineConfig
from mosaicmem._border.device import DeviceCall
from mosaicmem.metrics import psnr
from mosaicmem.pipeline import loop
from mosaicmem.pipeline.conditioning import Conditioner

pytestmark = pytest.mark.kernel

CONFIG = {"window_size": 8, "window_overlap": 2, "num_inference_steps": 3, "keyframe_interval": 4, "top_k": 64}


class TowardsTheCanvas:
    """A backbone that computes with the arrays it is given, on the host or on the GPU."""

    prediction_type = "sample"

    def __init__(self):
        self.samples = []

    def predict(self, sample, timestep, context):
        self.samples.append(sample)
        canvas = context.canvas.swapaxes(2, 3).swapaxes(1, 2).swapaxes(0, 1)[None]  # (1, C, T, h, w)
        return sample * 0.25 + canvas * 0.75


class FromAnImage(TowardsTheCanvas):
    """Begins each window with the latents of an image, and continues from those of the window before."""

    uses_anchor = uses_previous = True

    def predict(self, sample, timestep, context):
        prediction = super().predict(sample, timestep, context)
        return prediction if context.previous is None else prediction + 0.01 * context.previous[None, :, -1:]


def pipeline(world, camera, path, store, **parts):
    made = AutoregressivePipeline(PipelineConfig(**CONFIG), store=store, **parts)
    for i in (0, 5, 10):
        view = world.render(camera, path[i])
        made.observe(view.image, view.depth, camera, path[i])
    return made


@pytest.fixture
def path(world, small_camera):
    return world.leave_and_return(small_camera, 20)


@pytest.mark.parametrize("backbone", [None, TowardsTheCanvas, FromAnImage], ids=["synthetic", "there", "from an image"])
def test_a_run_is_that_of_the_host(world, small_camera, path, device, backbone):
    parts = {} if backbone is None else {"backbone": backbone()}
    host = pipeline(world, small_camera, path, MosaicMemoryStore(), **parts)
    there = pipeline(world, small_camera, path, MosaicMemoryStore(device=device.for_store), **parts)
    expected = host.generate(path)
    contexts = []
    got = there.generate(path, on_window=lambda window: contexts.append(window.context))
    for context in contexts:
        for name in ("canvas", "coverage", "depth", "observed"):
            device.get(getattr(context, name))
        device.get(context.mosaic.tokens)
        here = context.on_host()
        assert here.on_host() is here
        assert isinstance(here.canvas, np.ndarray)
    assert psnr(got.frames, expected.frames) > 40  # rounding may choose another cell on the canvas
    for a, b in zip(got.windows, expected.windows, strict=True):
        assert (a.patches, a.keyframes) == (b.patches, b.keyframes)
        assert a.coverage == pytest.approx(b.coverage, abs=5e-3)
    assert len(there.store) == pytest.approx(len(host.store), rel=0.02)


def test_nothing_passes_through_the_host(world, small_camera, path, device, monkeypatch):
    backbone = TowardsTheCanvas()
    made = pipeline(world, small_camera, path, MosaicMemoryStore(device=device.for_store), backbone=backbone)
    stage, waits = ["else"], []
    to_host = DeviceCall.to_host

    def noted(call, array):
        waits.append(stage[-1])
        return to_host(call, array)

    def within(name, function):
        def called(*arguments, **options):
            stage.append(name)
            try:
                return function(*arguments, **options)
            finally:
                stage.pop()

        return called

    monkeypatch.setattr(DeviceCall, "to_host", noted)
    monkeypatch.setattr(loop, "denoise", within("denoise", loop.denoise))
    monkeypatch.setattr(Conditioner, "context", within("retrieve", Conditioner.context))
    made.generate(path)
    assert len(backbone.samples) >= 6
    for sample in backbone.samples:
        device.get(sample)
    assert "else" in waits  # decoding, and the known cells and depth of frames to remember
    assert not {"denoise", "retrieve"} & set(waits)


def test_guidance(world, small_camera, path, device):
    """Guided predictions stay on the GPU, too."""
    config = PipelineConfig(**CONFIG, guidance_scale=2.0, prompt="a red room")
    frames = []
    for store in (MosaicMemoryStore(), MosaicMemoryStore(device=device.for_store)):
        made = AutoregressivePipeline(config, store=store)
        frames.append(made.generate(path[:8]).frames)
    np.testing.assert_allclose(frames[1], frames[0], atol=1e-5)


def test_a_checkpoint_goes_on_there(world, small_camera, path, device, tmp_path):
    def run(frames, folder):
        made = pipeline(world, small_camera, path, MosaicMemoryStore(device=device.for_store))
        stream = made.stream(path, checkpoint=folder)
        windows = [next(stream) for _ in range(frames)]
        stream.close()
        return made, windows

    _, whole = run(2, tmp_path / "whole")
    run(1, tmp_path / "stopped")
    resumed, again = run(2, tmp_path / "stopped")
    assert resumed.store.device is device.for_store
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a.video, b.video)
        np.testing.assert_array_equal(device.get(a.context.canvas), device.get(b.context.canvas))
