"""Objects of the readers of footage and data sets, for tests of copies; ``given`` has a folder, a world and a path."""

import numpy as np
import pytest
from PIL import Image

from memory_helpers import K
from mosaicmem import datasets, importing
from onnx_models import PLAIN, red_model


def segmenter(given):
    pytest.importorskip("onnxruntime")
    (given.folder / "model.onnx").write_bytes(red_model())
    return importing.OnnxSegmenter(given.folder / "model.onnx", threshold=0.25, **PLAIN)


def rectifier(_given):
    pytest.importorskip("cv2")
    return datasets.Rectifier(datasets.Lens.of(K), K)


def posed(given):
    frames = []
    for i, pose in enumerate(given.path[:3]):
        view = given.world.render(K, pose)
        color, depth = given.folder / f"{i}.png", given.folder / f"{i}.npy"
        Image.fromarray(view.image_uint8).save(color)
        np.save(depth, view.depth)
        frames.append(datasets.PosedFrame(i, color, datasets.Lens.of(K), pose, depth))
    return datasets.PosedFrames(given.folder, frames)


def predicted(given):
    views = [given.world.render(K, pose) for pose in given.path[:3]]
    images, depth = (np.stack([getattr(view, name) for view in views]) for name in ("image_uint8", "depth"))
    poses = np.stack([pose.world_from_camera for pose in given.path[:3]])
    np.savez(given.folder / "a.npz", images=images, depths=depth, K=K.matrix, c2w=poses)
    return datasets.PredictedSequence(given.folder / "a.npz")
