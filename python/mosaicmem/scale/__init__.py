"""Builds of data sets that outgrow one process: sequences to stores and training samples. Needs torch."""

try:
    import torch  # noqa: F401
except ImportError:
    raise ModuleNotFoundError("mosaicmem.scale: needs torch: pip install torch (mosaicmem's extra [torch])") from None

from mosaicmem.scale.building import BuildReport, build
from mosaicmem.scale.config import BuildConfig
from mosaicmem.scale.planning import Estimate, estimate
from mosaicmem.scale.shard_dataset import ShardDataset, ShardLoader

__all__ = ["BuildConfig", "BuildReport", "Estimate", "ShardDataset", "ShardLoader", "build", "estimate"]
