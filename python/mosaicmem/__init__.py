"""Explicit spatial memory for video world models.

Frames that were seen or generated are lifted into 3D as patches of latent tokens; for a new camera the right patches
are found, aligned to that view, and handed to the diffusion model, so that a place looks the same when the camera comes
back.

>>> from mosaicmem import AutoregressivePipeline, PipelineConfig
>>> pipeline = AutoregressivePipeline(PipelineConfig(seed=1))
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from mosaicmem._border import has_cuda
from mosaicmem._simd import limit_by_environment as _limit_simd
from mosaicmem.attention import (
    LatentCanvas,
    MemoryCrossAttention,
    PRoPE,
    RotaryTable,
    WarpedLatent,
    WarpedRoPE,
    bilinear_sample,
    grid_positions,
    merge_attention,
    prope_attention,
    reproject_depth_grid,
    warped_positions,
)
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import (
    VAE,
    DDPMScheduler,
    DiffusionBackbone,
    FlowMatchingScheduler,
    HashedTextEncoder,
    MemoryContext,
    NoiseScheduler,
    SyntheticBackbone,
    SyntheticVAE,
    TemporalLayout,
    TextEncoder,
)
from mosaicmem.errors import FormatError, StoreLockedError, SuspiciousInput
from mosaicmem.geometry import (
    DepthCompletion,
    DepthEstimator,
    DepthFromFiles,
    OnnxDepthEstimator,
    PointCloud,
    PoseCheck,
    StreamingFusion,
    SyntheticDepthEstimator,
    depth_to_grid,
    extend_depth,
    unproject_depth,
    unproject_to_image,
)
from mosaicmem.memory import (
    ComposedMosaic,
    Frustum,
    KeyframeRetrieval,
    MemoryRetrieval,
    Mosaic,
    MosaicMemoryStore,
    PackedMosaic,
    RetrievedWindow,
    SpatialManipulation,
    Sphere,
)
from mosaicmem.pipeline import AutoregressivePipeline, GenerationResult, PipelineConfig, WindowError
from mosaicmem.published import PatchMemory
from mosaicmem.synthetic import SyntheticWorld

try:
    __version__ = _version("mosaicmem")
except _PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"

_limit_simd()

__all__ = [
    "VAE",
    "AutoregressivePipeline",
    "CameraIntrinsics",
    "CameraPose",
    "CameraTrajectory",
    "ComposedMosaic",
    "DDPMScheduler",
    "DepthCompletion",
    "DepthEstimator",
    "DepthFromFiles",
    "DiffusionBackbone",
    "FlowMatchingScheduler",
    "FormatError",
    "Frustum",
    "GenerationResult",
    "HashedTextEncoder",
    "KeyframeRetrieval",
    "LatentCanvas",
    "MemoryContext",
    "MemoryCrossAttention",
    "MemoryRetrieval",
    "Mosaic",
    "MosaicMemoryStore",
    "NoiseScheduler",
    "OnnxDepthEstimator",
    "PRoPE",
    "PackedMosaic",
    "PatchMemory",
    "PipelineConfig",
    "PointCloud",
    "PoseCheck",
    "RetrievedWindow",
    "RotaryTable",
    "SpatialManipulation",
    "Sphere",
    "StoreLockedError",
    "StreamingFusion",
    "SuspiciousInput",
    "SyntheticBackbone",
    "SyntheticDepthEstimator",
    "SyntheticVAE",
    "SyntheticWorld",
    "TemporalLayout",
    "TextEncoder",
    "WarpedLatent",
    "WarpedRoPE",
    "WindowError",
    "__version__",
    "bilinear_sample",
    "depth_to_grid",
    "extend_depth",
    "grid_positions",
    "has_cuda",
    "merge_attention",
    "prope_attention",
    "reproject_depth_grid",
    "unproject_depth",
    "unproject_to_image",
    "warped_positions",
]
