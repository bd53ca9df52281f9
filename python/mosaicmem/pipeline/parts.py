"""The parts of a pipeline: which scheduler a configuration names, and whether parts fit each other."""

from __future__ import annotations

from mosaicmem._arrays import check_integer, check_methods
from mosaicmem.diffusion import (
    VAE,
    DDPMScheduler,
    DiffusionBackbone,
    FlowMatchingScheduler,
    NoiseScheduler,
    TemporalLayout,
    TextEncoder,
)
from mosaicmem.geometry import DepthEstimator
from mosaicmem.pipeline.config import PipelineConfig


def scheduler_of(config: PipelineConfig, backbone: DiffusionBackbone | None) -> NoiseScheduler:
    """The scheduler that a configuration names, for the backbone's prediction type."""
    predicts = "sample" if backbone is None else getattr(backbone, "prediction_type", "sample")
    if config.scheduler == "flow_matching":
        return FlowMatchingScheduler(shift=config.flow_shift, prediction_type=predicts)
    if predicts == "velocity":
        raise ValueError(
            "prediction_type: expected one of epsilon, sample, v_prediction for the scheduler ddpm, the default, "
            'got velocity; pass scheduler="flow_matching" in the configuration, or the scheduler of your model'
        )
    return DDPMScheduler(schedule=config.noise_schedule, prediction_type=predicts)


def check_parts(
    config: PipelineConfig,
    backbone: DiffusionBackbone,
    vae: VAE,
    scheduler: NoiseScheduler,
    depth_estimator: DepthEstimator,
    text_encoder: TextEncoder,
) -> None:
    """Reject parts that lack methods, or that do not fit each other or the configuration."""
    for name, part, protocol in (
        ("vae", vae, VAE),
        ("scheduler", scheduler, NoiseScheduler),
        ("backbone", backbone, DiffusionBackbone),
        ("depth_estimator", depth_estimator, DepthEstimator),
        ("text_encoder", text_encoder, TextEncoder),
    ):
        check_methods(name, part, protocol)
    if config.canvas == "pixels" and vae.stride % config.image_pixels:
        raise ValueError(
            f"image_pixels: expected a divisor of the VAE's stride = {vae.stride} for a canvas of pixels, got "
            f"{config.image_pixels}"
        )
    check_integer("backbone.patch", getattr(backbone, "patch", 1), minimum=1)
    expected = getattr(scheduler, "prediction_type", backbone.prediction_type)
    if backbone.prediction_type != expected:
        raise ValueError(
            f"backbone: expected prediction_type {expected!r} as the scheduler's, got {backbone.prediction_type!r}"
        )
    if config.chunks and vae.temporal != TemporalLayout("uniform", 1) and not hasattr(vae, "decode_chunk"):
        raise ValueError(
            "vae: expected a method decode_chunk, since chunks continue each other and a latent frame covers more than "
            f"one frame, got {type(vae).__name__} without"
        )
    if getattr(backbone, "uses_anchor", False) and not config.window_overlap:
        raise ValueError(
            "window_overlap: expected at least 1, got 0: the backbone begins each window with a frame of the last"
        )
