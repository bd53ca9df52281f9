"""From depth images to points, clouds and fused maps."""

from mosaicmem.geometry.depth import (
    DepthCompletion,
    DepthEstimator,
    SyntheticDepthEstimator,
    depth_to_grid,
)
from mosaicmem.geometry.fusion import FusionCounts, StreamingFusion
from mosaicmem.geometry.point_cloud import PointCloud
from mosaicmem.geometry.unproject import unproject_depth, unproject_to_image

__all__ = [
    "DepthCompletion",
    "DepthEstimator",
    "FusionCounts",
    "PointCloud",
    "StreamingFusion",
    "SyntheticDepthEstimator",
    "depth_to_grid",
    "unproject_depth",
    "unproject_to_image",
]
