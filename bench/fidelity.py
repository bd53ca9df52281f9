"""What memory shows to cameras whose frames it has not seen, beside what moves frames in other ways.

python bench/fidelity.py

writes bench/measured/fidelity.json, which report.py makes a table of. Four windows of 21 frames each are held out in
turn, and memory holds the others; cells of 16 pixels. Sequences are those at hand: the synthetic walk; rgbd_scene in
MOSAICMEM_TEST_DATA, once as its files have it and once with the focal length that `RegistrationCheck` finds for its
colour camera; and rooms rendered by MuJoCo, if that is installed. The surface (tsdf) needs Open3D.
"""

import datetime
import gc
import importlib.util
import json
import os
import platform
import warnings
from pathlib import Path

import numpy as np

from mosaicmem.datasets import SyntheticWalk, open_sequence
from mosaicmem.errors import SuspiciousInput
from mosaicmem.evaluation import BASELINES, Baseline, Composer, evaluate_composition, grid_frames
from mosaicmem.evaluation.frames import cropped
from mosaicmem.geometry import RegistrationCheck

STRIDE, WINDOW, STEP = 16, 21, 3
WINDOWS = 4
TO_THE_BORDER = 40  # cells: as far as there are holes
OUT = Path(__file__).parent / "measured" / "fidelity.json"
ROWS = [
    *((name, name, {}) for name in ("copy", "warp", "tsdf", "plain")),
    ("published near", "near", {"strategy": "pose_nearest"}),
    ("mosaicmem blend", "blend", {}),
    ("mosaicmem pixels", "pixels", {}),
    ("mosaicmem pixels, depth extended", "pixels", {"extend_depth": TO_THE_BORDER}),
]


def sequences():
    yield "synthetic walk", lambda: SyntheticWalk(100)
    root = Path(os.environ.get("MOSAICMEM_TEST_DATA", "")) / "rgbd_scene"
    if root.is_dir():
        yield "7-Scenes as it is", lambda: open_sequence(root)
        yield "7-Scenes registered", lambda: open_sequence(root, color_focal="estimate")
    if importlib.util.find_spec("mujoco"):
        from rooms import Room

        yield "matte room", lambda: Room(shiny=False)
        yield "shiny room", lambda: Room(shiny=True)


def measured(sequence):
    """A dict of figures by row."""
    camera = cropped(sequence.intrinsics, STRIDE)
    count = len(sequence)
    frames = grid_frames(sequence, range(count), STRIDE)
    apart = (count - WINDOWS * WINDOW) // WINDOWS
    check = RegistrationCheck(warns=False)
    for frame in frames:
        check.add(frame.image, frame.pixel_depth, camera, frame.pose)
    chosen = {"field_angle": check.result().field_angle}
    results = {label: [] for label, *_ in ROWS}
    for w in range(WINDOWS):
        first = apart // 2 + w * (WINDOW + apart)
        memory = [frame for i, frame in enumerate(frames) if not first <= i < first + WINDOW]
        targets = frames[first : first + WINDOW : STEP]
        for label, kind, options in ROWS:
            if kind == "tsdf" and not importlib.util.find_spec("open3d"):
                continue
            if kind in BASELINES:
                compose = Baseline(kind, memory, camera, STRIDE)
            else:
                compose = Composer(memory, camera, STRIDE, composition=kind, options=chosen, **options)
            results[label].append(evaluate_composition(compose, targets, camera, fill=compose.mean_color))
            del compose
            gc.collect()
    return {label: summary(each) for label, each in results.items() if each}


def summary(results):
    scores = [score for result in results for score in result.scores]
    covered = np.array([result.coverage.sum() for result in results])
    own = np.array([10 ** (-result.psnr / 10) for result in results])
    return {
        "all": decibels(np.mean([10 ** (-score.psnr_all / 10) for score in scores])),
        "covered": decibels((own * covered).sum() / covered.sum()),
        "coverage": 100 * float(np.mean([score.coverage for score in scores])),
        "edges": 100 * float(np.nanmean([score.edges for score in scores])),
        "keyframes": float(np.mean([result.keyframes for result in results])),
    }


def decibels(error):
    return float(-10 * np.log10(error))


def main():
    found = {}
    for name, open_it in sequences():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SuspiciousInput)
            found[name] = measured(open_it())
        for label, row in found[name].items():
            print(f"{name:20} {label:34} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    document = {"date": datetime.date.today().isoformat(), "machine": platform.machine(), "sequences": found}
    OUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
