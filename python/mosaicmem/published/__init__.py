"""Published memories under their original names, on this core, for models that were trained with them.

`PatchMemory` is the one published with Matrix-Game 3.5. Its rules also choose keyframes of a store, as the strategies
``pose_nearest`` and ``coverage``. `SpatialMemoryState` is a memory in vllm-omni's sessions. Modules that need torch
hold those of FastVideo, GEN3C, HY-WorldPlay, Lyra-2, Matrix-Game 3.5 and VMem.
"""

from mosaicmem.memory import register_strategy
from mosaicmem.published.patch_memory import PatchMemory, PatchMemoryResult
from mosaicmem.published.strategies import Coverage, PoseNearest
from mosaicmem.published.vllm_omni import SpatialMemoryState

register_strategy("pose_nearest", PoseNearest)
register_strategy("coverage", Coverage)

__all__ = ["Coverage", "PatchMemory", "PatchMemoryResult", "PoseNearest", "SpatialMemoryState"]
