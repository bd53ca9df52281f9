"""OnnxDepthEstimator with a model of a few operators, made here."""

import sys

import numpy as np
import pytest

from mosaicmem import (
    AutoregressivePipeline,
    CameraPose,
    CameraTrajectory,
    DepthEstimator,
    FormatError,
    OnnxDepthEstimator,
    PipelineConfig,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def red_model(*, gain=1.0, offset=0.0, size=("h", "w"), squeeze=False, channels=3):
    """Answers gain * red + offset, of the image as it comes in after normalisation."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Slice", ["image", "zero", "one", "one"], ["red"]),
        helper.make_node("Mul", ["red", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["answer" if not squeeze else "full"]),
    ]
    if squeeze:
        nodes.append(helper.make_node("Squeeze", ["full", "one"], ["answer"]))
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "gain": np.array(gain, np.float32),
        "offset": np.array(offset, np.float32),
    }
    # Slice along axis 1: starts, ends, axes.
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, channels, *size])],
        [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "multiple": 1}


def scene(rng, shape=(48, 80)):
    """An image whose red is depth / 10, and that depth."""
    rows = np.linspace(1, 4, shape[0])[:, None] + np.linspace(0, 2, shape[1])
    depth = rows.astype(np.float32)
    image = np.zeros((*shape, 3), np.float32)
    image[..., 0] = depth / 10
    return image, depth


def estimate(estimator, image, known, camera):
    return estimator.estimate(image, camera, CameraPose(), known)


class TestScales:
    def test_metric_as_it_is_where_nothing_is_known(self, rng, small_camera):
        image, depth = scene(rng)
        estimator = OnnxDepthEstimator(red_model(gain=10.0), output="metric", **PLAIN)
        assert isinstance(estimator, DepthEstimator)
        answer = estimate(estimator, image, np.zeros_like(depth), small_camera)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, depth, rtol=1e-5)

    def test_metric_that_drifts_is_brought_back(self, rng, small_camera):
        image, depth = scene(rng)
        known = np.where(rng.random(depth.shape) < 0.2, depth, 0).astype(np.float32)
        known[:6] *= np.where(known[:6] > 0, 0.3, 1)  # something else stood there
        model = red_model(gain=10 * 1.3)
        answer = estimate(OnnxDepthEstimator(model, output="metric", **PLAIN), image, known, small_camera)
        np.testing.assert_allclose(answer, depth, rtol=1e-3)
        left = OnnxDepthEstimator(model, output="metric", align=False, **PLAIN)
        np.testing.assert_allclose(estimate(left, image, known, small_camera), 1.3 * depth, rtol=1e-5)

    @pytest.mark.parametrize("squeeze", [True, False])
    def test_affine_depth(self, rng, small_camera, squeeze):
        image, depth = scene(rng)
        known = np.where(rng.random(depth.shape) < 0.3, depth, 0).astype(np.float32)
        model = red_model(gain=3.0, offset=-0.7, squeeze=squeeze)
        answer = estimate(OnnxDepthEstimator(model, output="depth", **PLAIN), image, known, small_camera)
        np.testing.assert_allclose(answer, depth, rtol=1e-4)

    def test_affine_inverse_depth(self, rng, small_camera):
        image, depth = scene(rng)
        image[..., 0] = 0.5 / depth
        known = np.where(rng.random(depth.shape) < 0.3, depth, 0).astype(np.float32)
        model = red_model(gain=7.0, offset=0.2)
        answer = estimate(OnnxDepthEstimator(model, output="inverse", **PLAIN), image, known, small_camera)
        np.testing.assert_allclose(answer, depth, rtol=1e-4)

    @pytest.mark.parametrize("output", ["depth", "inverse"])
    def test_affine_without_anything_known_has_the_default_median(self, rng, small_camera, output):
        image, _ = scene(rng)
        estimator = OnnxDepthEstimator(red_model(), output=output, default_depth=2.0, **PLAIN)
        answer = estimate(estimator, image, np.zeros((48, 80), np.float32), small_camera)
        assert np.median(answer) == pytest.approx(2.0, rel=1e-3)
        assert (answer > 0).all()

    def test_beyond_the_horizon_is_no_depth(self, rng, small_camera):
        image, depth = scene(rng)
        image[..., 0] = 0.5 / depth
        image[:5, :, 0] = 0.0  # the sky: 1 / depth of nothing, or less
        known = np.where(rng.random(depth.shape) < 0.3, depth, 0).astype(np.float32)
        known[:5] = 0
        answer = estimate(OnnxDepthEstimator(red_model(), output="inverse", **PLAIN), image, known, small_camera)
        assert (answer[:5] == 0).all() or answer[:5].min() > 100
        np.testing.assert_allclose(answer[6:], depth[6:], rtol=1e-3)


class TestInput:
    def test_normalisation_and_size(self, small_camera):
        """(pixel - mean) / std at the size asked for, and back at the size of the image."""
        image = np.full((48, 80, 3), 0.6, np.float32)
        estimator = OnnxDepthEstimator(
            red_model(), output="metric", input_size=(28, 42), mean=(0.1, 0, 0), std=(0.25, 1, 1), align=False
        )
        assert estimator._size == (28, 42)
        answer = estimate(estimator, image, np.zeros((48, 80), np.float32), small_camera)
        np.testing.assert_allclose(answer, (0.6 - 0.1) / 0.25, rtol=1e-5)
        assert answer.shape == (48, 80)

    def test_a_model_of_one_size(self, rng, small_camera):
        image, depth = scene(rng)
        estimator = OnnxDepthEstimator(red_model(gain=10.0, size=(24, 40)), output="metric", align=False, **PLAIN)
        answer = estimate(estimator, image, np.zeros_like(depth), small_camera)
        np.testing.assert_allclose(answer[2:-2, 2:-2], depth[2:-2, 2:-2], rtol=0.02)

    def test_multiples(self):
        estimator = OnnxDepthEstimator(red_model(), multiple=14)
        assert estimator._whole(48) == 42
        assert estimator._whole(3) == 14


class TestErrors:
    def test_bad_models(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"model: .*none\.onnx: no such file"):
            OnnxDepthEstimator(tmp_path / "none.onnx")
        (tmp_path / "bad.onnx").write_bytes(b"not a model")
        with pytest.raises(FormatError, match=r"bad\.onnx: not a model that onnxruntime reads"):
            OnnxDepthEstimator(tmp_path / "bad.onnx")

    def test_bad_values(self):
        with pytest.raises(ValueError, match="output: expected one of metric, depth, inverse, got 'disparity'"):
            OnnxDepthEstimator(red_model(), output="disparity")
        with pytest.raises(ValueError, match="std: expected three numbers, one a channel, got 1"):
            OnnxDepthEstimator(red_model(), std=(1,))
        with pytest.raises(TypeError, match=r"input_size: expected \(height, width\), got 3"):
            OnnxDepthEstimator(red_model(), input_size=3)

    def test_without_onnxruntime(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime"):
            OnnxDepthEstimator(red_model())


def test_in_a_run(world, small_camera, tmp_path):
    """The pipeline's memory brings drifting depth to its own scale: what was remembered fits together."""
    path = world.leave_and_return(small_camera, 60)[:10]
    (tmp_path / "model.onnx").write_bytes(red_model(gain=0.0, offset=1.7))  # a wall at 1.7 m wherever one looks
    estimator = OnnxDepthEstimator(tmp_path / "model.onnx", output="metric", **PLAIN)
    pipeline = AutoregressivePipeline(PipelineConfig(num_inference_steps=2), depth_estimator=estimator)
    view = world.render(small_camera, path[0])
    wall = np.full_like(view.depth, 2.6)
    pipeline.observe(view.image, wall, small_camera, path[0])
    near = CameraTrajectory([path[0], path[1]], small_camera)
    pipeline.generate(near)
    heights = pipeline.align(near).depth
    seen = heights[heights > 0]
    assert np.median(seen) == pytest.approx(2.6, rel=0.02)
