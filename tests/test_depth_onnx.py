"""OnnxDepthEstimator with a model of a few operators, made here."""

import copy
import pickle
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
    SuspiciousInput,
)
from onnx_models import PLAIN, mean_model, red_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


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
        known[:6] *= np.where(known[:6] > 0, 0.3, 1)  # outliers: something else stood there
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
        image[:5, :, 0] = 0.0  # the sky: an inverse depth of 0 or less
        known = np.where(rng.random(depth.shape) < 0.3, depth, 0).astype(np.float32)
        known[:5] = 0
        answer = estimate(OnnxDepthEstimator(red_model(), output="inverse", **PLAIN), image, known, small_camera)
        assert (answer[:5] == 0).all() or answer[:5].min() > 100
        np.testing.assert_allclose(answer[6:], depth[6:], rtol=1e-3)


class TestInput:
    def test_normalisation_and_size(self, small_camera):
        """The model gets (pixel - mean) / std at the requested size; its answer is resized to that of the image."""
        image = np.full((48, 80, 3), 0.6, np.float32)
        estimator = OnnxDepthEstimator(
            red_model(), output="metric", input_size=(28, 42), mean=(0.1, 0, 0), std=(0.25, 1, 1), align=False
        )
        assert estimator._model.size_for(48, 80) == (28, 42)
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
        assert estimator._model.size_for(48, 3) == (42, 14)


class TestWhatModelsTake:
    """Models return the mean of an image that is 0.25 everywhere, normalised to (0.25 - 0) / 0.125 = 2."""

    def answer(self, model, camera, *, pixels=None, **options):
        given = {"output": "metric", "align": False, **PLAIN, "std": (0.125,) * 3, **options}
        image = np.full((48, 80, 3), np.float32(0.25) if pixels is None else pixels)
        return estimate(OnnxDepthEstimator(model, **given), image, np.zeros((48, 80), np.float32), camera)

    @pytest.mark.parametrize(
        ("shape", "options"),
        [
            ([1, 3, "h", "w"], {}),
            (["b", 3, "h", "w"], {}),
            (["b", "c", "h", "w"], {}),
            ([1, 3, 56, "w"], {}),
            ([1, 3, "h", 56], {}),
            ([1, 3, 28, 42], {}),
            ([1, 3, "h", "w"], {"dtype": "FLOAT16"}),
            ([1, 3, "h", "w"], {"dtype": "DOUBLE"}),
            ([1, "h", "w", 3], {"axis": 3}),
            (["b", "h", 64, 3], {"axis": 3, "dtype": "FLOAT16"}),
            ([1, 3, "h", "w"], {"answer": "FLOAT16"}),
            ([1, 3, "h", "w"], {"answer": "DOUBLE"}),
        ],
    )
    def test_layouts_dtypes_and_sizes(self, small_camera, shape, options):
        answer = self.answer(mean_model(shape, **options), small_camera)
        assert answer.shape == (48, 80)
        np.testing.assert_allclose(answer, 2, rtol=1e-3)

    def test_models_of_uint8_get_pixels_as_they_are(self, small_camera):
        model = mean_model([1, 3, "h", "w"], "UINT8")
        np.testing.assert_allclose(self.answer(model, small_camera, std=(1, 1, 1)), np.rint(0.25 * 255))
        with pytest.raises(FormatError, match="takes uint8, so the model normalises by itself; mean and std"):
            OnnxDepthEstimator(model, std=(0.5, 0.5, 0.5))

    def test_images_of_uint8_are_right(self, small_camera):
        model = mean_model([1, 3, "h", "w"])
        np.testing.assert_allclose(self.answer(model, small_camera, pixels=np.uint8(51)), 0.2 / 0.125, rtol=1e-6)

    @pytest.mark.parametrize("pixels", [np.float32(51), np.float32(-0.5), np.int64(51), np.nan])
    def test_other_images_are_refused(self, small_camera, pixels):
        with pytest.raises(ValueError, match=r"image: expected (values in \[0, 1\]|finite values)"):
            self.answer(mean_model([1, 3, "h", "w"]), small_camera, pixels=pixels)

    def test_images_and_known_depth_of_another_size_are_refused(self, small_camera):
        estimator = OnnxDepthEstimator(mean_model([1, 3, "h", "w"]))
        with pytest.raises(ValueError, match=r"image: expected shape \(48, 80, 3\), got \(24, 40, 3\)"):
            estimate(estimator, np.zeros((24, 40, 3), np.float32), np.zeros((48, 80), np.float32), small_camera)
        with pytest.raises(TypeError, match=r"known_depth: expected metres .* millimetres"):
            estimate(estimator, np.zeros((48, 80, 3), np.float32), np.zeros((48, 80), np.uint16), small_camera)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ({"shape": [2, 3, "h", "w"]}, r"expected a batch of 1, got input image \(2, 3, h, w\)"),
            ({"shape": [1, 4, "h", "w"]}, r"expected 3 channels, got input image \(1, 4, h, w\)"),
            ({"shape": [3, "h", "w"]}, r"expected an image \(1, 3, h, w\) or .* got input image \(3, h, w\)"),
            ({"shape": [1, 1, 3, "h", "w"], "axis": 2}, r"got input image \(1, 1, 3, h, w\)"),
            ({"shape": [1, 3, "h", "w"], "dtype": "INT32"}, r"got input image .* of tensor\(int32\)"),
            ({"shape": [1, 3, "h", "w"], "inputs": 2}, r"got 2: image \(1, 3, h, w\), more0 \(1, 3, 3\)"),
            ({"shape": [1, 3, "h", "w"], "answer": "INT64"}, r"expected an output answer .* got int64"),
            ({"shape": [1, 3, 14, 14], "axis": 0}, r"expected an output answer .* of shape \(1, 3, 14, 14\)"),
            ({"shape": [1, "h", "w", 3]}, r"of the image's form, got float32 of shape \(1, 1, \d+, 3\)"),
        ],
    )
    def test_what_does_not_fit_is_refused_when_it_is_opened(self, model, message):
        with pytest.raises(FormatError, match=message):
            OnnxDepthEstimator(mean_model(**model))

    def test_a_size_that_the_model_does_not_take(self):
        with pytest.raises(ValueError, match=r"input_size: expected \(56, any\) as <model> names it, got \(28, 28\)"):
            OnnxDepthEstimator(mean_model([1, 3, 56, "w"]), input_size=(28, 28))

    def test_copies_open_the_file_again(self, small_camera, tmp_path):
        file = tmp_path / "model.onnx"
        file.write_bytes(mean_model([1, 3, "h", "w"]))
        estimator = OnnxDepthEstimator(file, output="metric", **PLAIN)
        image, known = np.full((48, 80, 3), 0.5, np.float32), np.zeros((48, 80), np.float32)
        for other in (copy.copy(estimator), pickle.loads(pickle.dumps(estimator))):
            np.testing.assert_array_equal(estimate(other, image, known, small_camera), 0.5)
        for make in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match=r"cannot copy or pickle an OnnxDepthEstimator .* as bytes"):
                make(OnnxDepthEstimator(mean_model([1, 3, "h", "w"])))

    def test_several_outputs(self, small_camera):
        model = mean_model([1, 3, "h", "w"], outputs=("confidence", "depth_variance", "depth"))
        assert OnnxDepthEstimator(model)._model._output == "depth"
        assert OnnxDepthEstimator(model, output_name="confidence")._model._output == "confidence"
        with pytest.raises(ValueError, match="output_name: expected one of confidence, depth_variance, depth, as"):
            OnnxDepthEstimator(model, output_name="Depth")
        with pytest.warns(SuspiciousInput, match="gives a, b; the first is taken for depth"):
            OnnxDepthEstimator(mean_model([1, 3, "h", "w"], outputs=("a", "b")))


class TestWhereNothingFits:
    """Nothing is invented: the answer is the depth that memory knows, and no depth elsewhere."""

    def left_half(self, depth):
        known = depth.copy()
        known[:, depth.shape[1] // 2 :] = 0
        return known

    @pytest.mark.parametrize("output", ["depth", "inverse"])
    def test_a_model_that_sees_nothing(self, rng, small_camera, output):
        image, depth = scene(rng)
        image[..., 0] = rng.random(depth.shape)
        estimator = OnnxDepthEstimator(red_model(), output=output, **PLAIN)
        known = self.left_half(depth)
        with pytest.warns(SuspiciousInput, match="does not fit to what memory knows of the view"):
            answer = estimate(estimator, image, known, small_camera)
        np.testing.assert_array_equal(estimate(estimator, image, known, small_camera), answer)  # warns once
        np.testing.assert_allclose(answer, self.left_half(depth), rtol=1e-6)

    @pytest.mark.parametrize(("output", "hint"), [("depth", "inverse"), ("inverse", "depth"), ("metric", "inverse")])
    def test_the_wrong_kind_of_output_is_named(self, rng, small_camera, output, hint):
        image, depth = scene(rng)
        image[..., 0] = depth / 10 if output == "inverse" else 0.5 / depth
        estimator = OnnxDepthEstimator(red_model(), output=output, **PLAIN)
        with pytest.warns(SuspiciousInput, match=f"output='{hint}'"):
            estimate(estimator, image, self.left_half(depth), small_camera)

    @pytest.mark.parametrize("output", ["depth", "inverse"])
    def test_a_few_known_pixels_give_a_scale(self, rng, small_camera, output):
        image, depth = scene(rng)
        image[..., 0] = depth / 10 if output == "depth" else 0.5 / depth
        known = np.zeros_like(depth)
        known[20, 10:30] = 7 * depth[20, 10:30]
        answer = estimate(OnnxDepthEstimator(red_model(), output=output, **PLAIN), image, known, small_camera)
        np.testing.assert_allclose(answer, 7 * depth, rtol=1e-3)


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
    """Drifting depth is brought to the scale of the memory, so that remembered frames fit together."""
    path = world.leave_and_return(small_camera, 60)[:10]
    (tmp_path / "model.onnx").write_bytes(red_model(gain=0.0, offset=1.7))  # a wall at 1.7 m in every direction
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
