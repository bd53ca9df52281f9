"""The autoregressive loop: retrieve, align, denoise, decode, remember; window after window."""

from mosaicmem.pipeline.autoregressive import (
    AutoregressivePipeline,
    GenerationResult,
    Window,
    WindowError,
    WindowStatistics,
)
from mosaicmem.pipeline.config import PipelineConfig

__all__ = [
    "AutoregressivePipeline",
    "GenerationResult",
    "PipelineConfig",
    "Window",
    "WindowError",
    "WindowStatistics",
]
