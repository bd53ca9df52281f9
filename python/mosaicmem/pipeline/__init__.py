"""The autoregressive loop: retrieve, align, denoise, decode, remember; window after window."""

from mosaicmem.pipeline.autoregressive import AutoregressivePipeline
from mosaicmem.pipeline.checkpoint import Checkpoint
from mosaicmem.pipeline.config import PipelineConfig, PromptEvent
from mosaicmem.pipeline.results import GenerationResult, Window, WindowError, WindowStatistics

__all__ = [
    "AutoregressivePipeline",
    "Checkpoint",
    "GenerationResult",
    "PipelineConfig",
    "PromptEvent",
    "Window",
    "WindowError",
    "WindowStatistics",
]
