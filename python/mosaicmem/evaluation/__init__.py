"""How well memory preserves what was seen: in generated video (`generation`), and in the canvases that memory composes
(`composition`)."""

from mosaicmem.evaluation.ablation import ABLATIONS, AblationScore, ablate
from mosaicmem.evaluation.composition import Evaluation, TargetScore, evaluate_composition
from mosaicmem.evaluation.forgetting import ForgettingBin, forgetting_curve, seconds_since_seen
from mosaicmem.evaluation.frames import GridFrame, Noise, grid_frames
from mosaicmem.evaluation.generation import Comparison, FrameScore, MosaicRecorder, compare_memory, mean_score
from mosaicmem.evaluation.strategies import COMPOSITIONS, Canvases, Composer

__all__ = [
    "ABLATIONS",
    "COMPOSITIONS",
    "AblationScore",
    "Canvases",
    "Comparison",
    "Composer",
    "Evaluation",
    "ForgettingBin",
    "FrameScore",
    "GridFrame",
    "MosaicRecorder",
    "Noise",
    "TargetScore",
    "ablate",
    "compare_memory",
    "evaluate_composition",
    "forgetting_curve",
    "grid_frames",
    "mean_score",
    "seconds_since_seen",
]
