"""The confidence of depth, from a data set's pixels to what memory shows."""

import numpy as np
import pytest

from mosaicmem import AutoregressivePipeline, CameraIntrinsics, CameraPose, CameraTrajectory, PipelineConfig
from mosaicmem.datasets import RgbdImage
from mosaicmem.evaluation import Composer, grid_frames
from mosaicmem.geometry.depth import pooled_confidence

CAMERA = CameraIntrinsics(60.0, 60.0, 32.0, 24.0, 64, 48)
PATH = CameraTrajectory([CameraPose(), CameraPose(timestamp=0.1)], CAMERA)


def views():
    """The same wall twice: dark, and bright."""
    depth = np.full((48, 64), 2.0, np.float32)
    return [(np.full((48, 64, 3), value, np.float32), depth) for value in (0.1, 0.9)]


def test_cells_have_the_mean_of_the_pixels_with_depth():
    confidence = np.array([[0.2, 0.4, 1, 1], [0.6, 0.8, 1, 1]], np.float32)
    depth = np.array([[1, 0, 0, np.nan], [1, 1, -1, 0]], np.float32)
    np.testing.assert_allclose(pooled_confidence(confidence, depth, 2), [[(0.2 + 0.6 + 0.8) / 3, 0]], rtol=1e-6)


def shown(confidences):
    pipeline = AutoregressivePipeline(PipelineConfig(window_size=2, window_overlap=0, num_inference_steps=1))
    for (image, depth), pose, sure in zip(views(), PATH, confidences, strict=True):
        map_of = None if sure is None else np.full(depth.shape, sure, np.float32)
        pipeline.observe(image, depth, CAMERA, pose, confidence=map_of)
    context = pipeline.align(PATH[:1])
    return np.asarray(context.canvas)[np.asarray(context.coverage)]


@pytest.mark.parametrize("sure", [0, 1])
def test_memory_shows_what_is_certain(sure):
    confidences = [1e-4, 1e-4]
    confidences[sure] = 1.0
    alone = AutoregressivePipeline(PipelineConfig(window_size=2, window_overlap=0, num_inference_steps=1))
    image, depth = views()[sure]
    alone.observe(image, depth, CAMERA, PATH[sure])
    context = alone.align(PATH[:1])
    expected = np.asarray(context.canvas)[np.asarray(context.coverage)]
    np.testing.assert_allclose(shown(confidences), expected, atol=2e-3)
    if sure:
        assert np.abs(shown([None, None]) - expected).max() > 0.05, "of two that are as good, the first is shown"


def test_confidence_is_a_fraction():
    with pytest.raises(ValueError, match=r"confidence: expected values in \[0, 1\], got 2 to 2"):
        shown([2.0, 1.0])


class Walls:
    """A sequence of the two views."""

    intrinsics = CAMERA

    def __init__(self, confidences):
        self._confidences = confidences

    def __len__(self):
        return 2

    def __getitem__(self, i):
        image, depth = views()[i]
        sure = np.full(depth.shape, self._confidences[i], np.float32)
        return RgbdImage((image * 255).astype(np.uint8), depth, PATH[i], i, None, sure)


@pytest.mark.parametrize(("confidences", "expected"), [((1.0, 1e-4), 0.1), ((1e-4, 1.0), 0.9)])
def test_evaluation_counts_it_too(confidences, expected):
    frames = grid_frames(Walls(confidences), range(2), 8)
    seen = Composer(frames, CAMERA, 8)(PATH[:1])
    colors = np.asarray(seen.colors)[np.asarray(seen.coverage)]
    np.testing.assert_allclose(colors, expected, atol=0.01)
