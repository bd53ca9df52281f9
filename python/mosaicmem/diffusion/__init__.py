"""Diffusion: the protocols of backbone, VAE and scheduler, and deterministic implementations without weights."""

from mosaicmem.diffusion.backbone import SyntheticBackbone
from mosaicmem.diffusion.flow_matching import FlowMatchingScheduler
from mosaicmem.diffusion.memory_attention import PlaceAttention
from mosaicmem.diffusion.protocols import VAE, DiffusionBackbone, MemoryContext, NoiseScheduler
from mosaicmem.diffusion.scheduler import DDPMScheduler
from mosaicmem.diffusion.temporal import TemporalLayout
from mosaicmem.diffusion.text import HashedTextEncoder, TextEncoder
from mosaicmem.diffusion.vae import SyntheticVAE

__all__ = [
    "VAE",
    "DDPMScheduler",
    "DiffusionBackbone",
    "FlowMatchingScheduler",
    "HashedTextEncoder",
    "MemoryContext",
    "NoiseScheduler",
    "PlaceAttention",
    "SyntheticBackbone",
    "SyntheticVAE",
    "TemporalLayout",
    "TextEncoder",
]
