"""The loop's own arithmetic works on torch tensors as on NumPy arrays."""

from dataclasses import replace

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, DDPMScheduler, FlowMatchingScheduler, PipelineConfig
from mosaicmem.pipeline.denoising import denoise

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    "scheduler",
    [
        *(DDPMScheduler(prediction_type=kind) for kind in ("sample", "epsilon", "v_prediction")),
        *(FlowMatchingScheduler(shift=3.0, prediction_type=kind) for kind in ("velocity", "sample")),
    ],
    ids=lambda each: f"{type(each).__name__}-{each.prediction_type}",
)
def test_schedulers(rng, scheduler):
    sample, prediction, noise = rng.standard_normal((3, 1, 4, 2, 3, 5), dtype=np.float32)
    tensors = [torch.from_numpy(array) for array in (sample, prediction, noise)]
    first, second, *_ = scheduler.inference_timesteps(7).tolist()
    for following in (second, None):
        expected = scheduler.previous_sample(prediction, first, following, sample, noise)
        got = scheduler.previous_sample(tensors[1], first, following, tensors[0], tensors[2])
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-6)
    got = scheduler.add_noise(tensors[0], tensors[2], first)
    np.testing.assert_allclose(got.numpy(), scheduler.add_noise(sample, noise, first), rtol=1e-6, atol=1e-6)


class Model(torch.nn.Module):
    """A torch backbone that records the types of its inputs."""

    prediction_type = "sample"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(16, 16, 1)
        self.kinds = set()

    @torch.no_grad()
    def predict(self, sample, timestep, context):
        self.kinds.add(type(sample))
        canvas = torch.as_tensor(context.canvas).permute(3, 0, 1, 2)[None]
        return self.layer(torch.as_tensor(sample)) * 0.1 + canvas


@pytest.mark.parametrize("scheduler", ["ddpm", "flow_matching"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_denoising(world, small_camera, scheduler, guidance_scale):
    """If the canvas is a tensor, so are the sample and all intermediates; the numbers are those of NumPy."""
    config = PipelineConfig(num_inference_steps=4, scheduler=scheduler, guidance_scale=guidance_scale)
    path = world.leave_and_return(small_camera, 12)
    model = Model()
    pipeline = AutoregressivePipeline(config, backbone=model)
    view = world.render(small_camera, path[0])
    pipeline.observe(view.image, view.depth, small_camera, path[0])
    context = pipeline.align(path[1:4])
    assert context.coverage.any()
    expected = denoise(model, pipeline.scheduler, config, 16, context)
    assert model.kinds == {np.ndarray}
    model.kinds.clear()
    got = denoise(model, pipeline.scheduler, config, 16, replace(context, canvas=torch.from_numpy(context.canvas)))
    assert model.kinds == {torch.Tensor}
    assert isinstance(got, torch.Tensor)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
