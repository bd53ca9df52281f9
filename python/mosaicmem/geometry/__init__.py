"""From depth images to points, clouds and fused maps."""

from mosaicmem.geometry.depth import (
    DepthCompletion,
    DepthEstimator,
    SyntheticDepthEstimator,
    depth_to_grid,
    extend_depth,
)
from mosaicmem.geometry.depth_alignment import Alignment, fit_scale
from mosaicmem.geometry.depth_files import DepthFromFiles
from mosaicmem.geometry.depth_onnx import OnnxDepthEstimator
from mosaicmem.geometry.fusion import FusionCounts, StreamingFusion
from mosaicmem.geometry.point_cloud import PointCloud
from mosaicmem.geometry.pose_check import PoseCheck
from mosaicmem.geometry.registration import Registration, RegistrationCheck, estimate_registration, registered_depth
from mosaicmem.geometry.unproject import unproject_depth, unproject_to_image

__all__ = [
    "Alignment",
    "DepthCompletion",
    "DepthEstimator",
    "DepthFromFiles",
    "FusionCounts",
    "OnnxDepthEstimator",
    "PointCloud",
    "PoseCheck",
    "Registration",
    "RegistrationCheck",
    "StreamingFusion",
    "SyntheticDepthEstimator",
    "depth_to_grid",
    "estimate_registration",
    "extend_depth",
    "fit_scale",
    "registered_depth",
    "unproject_depth",
    "unproject_to_image",
]
