"""How well memory preserves what was seen: in generated video (`generation`, `revisits`, `camera_errors`), and in the
canvases that memory composes (`composition`)."""

from mosaicmem.evaluation.ablation import ABLATIONS, AblationScore, ablate
from mosaicmem.evaluation.baselines import BASELINES, Baseline
from mosaicmem.evaluation.camera_errors import CameraErrors, camera_errors
from mosaicmem.evaluation.composition import Evaluation, TargetScore, common_cells, evaluate_composition
from mosaicmem.evaluation.consistency import (
    MirrorScore,
    WarpConsistency,
    is_mirrored,
    least_in_view,
    mirror_consistency,
    warp_consistency,
)
from mosaicmem.evaluation.forgetting import ForgettingBin, forgetting_curve, seconds_since_seen
from mosaicmem.evaluation.frames import GridFrame, Noise, grid_frames
from mosaicmem.evaluation.generation import Comparison, FrameScore, MosaicRecorder, compare_memory, mean_score
from mosaicmem.evaluation.pose_recovery import locate_frames, recover_path
from mosaicmem.evaluation.revisits import (
    Revisit,
    RevisitBin,
    find_revisits,
    gain_per_gigabyte,
    revisits_by,
    score_revisits,
)
from mosaicmem.evaluation.strategies import COMPOSITIONS, Canvases, Composer
from mosaicmem.evaluation.video_metrics import dynamic_degree, fid, frechet_distance, fvd

__all__ = [
    "ABLATIONS",
    "BASELINES",
    "COMPOSITIONS",
    "AblationScore",
    "Baseline",
    "CameraErrors",
    "Canvases",
    "Comparison",
    "Composer",
    "Evaluation",
    "ForgettingBin",
    "FrameScore",
    "GridFrame",
    "MirrorScore",
    "MosaicRecorder",
    "Noise",
    "Revisit",
    "RevisitBin",
    "TargetScore",
    "WarpConsistency",
    "ablate",
    "camera_errors",
    "common_cells",
    "compare_memory",
    "dynamic_degree",
    "evaluate_composition",
    "fid",
    "find_revisits",
    "forgetting_curve",
    "frechet_distance",
    "fvd",
    "gain_per_gigabyte",
    "grid_frames",
    "is_mirrored",
    "least_in_view",
    "locate_frames",
    "mean_score",
    "mirror_consistency",
    "recover_path",
    "revisits_by",
    "score_revisits",
    "seconds_since_seen",
    "warp_consistency",
]
