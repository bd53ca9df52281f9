"""Depth from a network in ONNX format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, check_choice, check_integer, check_number, check_threads
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import FormatError
from mosaicmem.geometry.depth_alignment import fit_scale, inverse_or_zero

OUTPUTS = ("metric", "depth", "inverse")

_FARTHEST = 1e4  # metres; beyond is sky


class OnnxDepthEstimator:
    """Monocular depth from an ONNX model, brought to the scale of memory.

    Monocular depth drifts from frame to frame, also where it claims to be metric. So what memory knows of a view fits
    a scale (and, for affine outputs, a shift) by robust least squares on the pixels that it covers. Where it covers
    too few, metric depth is taken as it is, and affine depth is scaled to a median of ``default_depth``.

    Parameters
    ----------
    model : path or bytes
        With one input (1, 3, h, w) float32 and, first among its outputs, (1, h, w) or (1, 1, h, w) of any size.
    output : {"metric", "depth", "inverse"}
        What the model gives: ``metric``: metres; ``depth``: depth up to scale and shift; ``inverse``: 1 / depth up to
        scale and shift, as most relative models do.
    input_size : (int, int), optional
        (height, width) that images are resized to. Without it, that of the image in multiples of ``multiple``; a model
        with fixed sizes needs none.
    multiple : int
        Sizes must be multiples of this: 14 for models on DINOv2.
    mean, std : three floats
        Pixels in [0, 1] become (pixel - mean) / std, by channel. The defaults are ImageNet's.
    default_depth : float
        Metres; see above.
    align : bool
        False: never look at what memory knows.
    num_threads : int
        Of the runtime; 0 lets it choose.

    Raises
    ------
    ModuleNotFoundError
        onnxruntime is not installed: ``pip install onnxruntime``.
    FormatError
        Not a model that onnxruntime reads, or none from one image to one depth.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        output: str = "inverse",
        input_size: tuple[int, int] | None = None,
        multiple: int = 14,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        default_depth: float = 3.0,
        align: bool = True,
        num_threads: int = 0,
    ) -> None:
        self.output = check_choice("output", output, OUTPUTS)
        self.multiple = check_integer("multiple", multiple, minimum=1, maximum=4096)
        self._mean = np.array([check_number(f"mean[{i}]", x) for i, x in enumerate(_three("mean", mean))], np.float32)
        self._std = np.array(
            [check_number(f"std[{i}]", x, above=0.0) for i, x in enumerate(_three("std", std))], np.float32
        )
        self.default_depth = check_number("default_depth", default_depth, above=0.0)
        self.align = bool(align)
        self._name = Path(model) if isinstance(model, (str, Path)) else Path("<model>")
        self._model = None if isinstance(model, bytes) else self._name.resolve()  # copies open it again
        self._num_threads = check_threads(num_threads)
        self._session = _session(model, self._name, self._num_threads)
        self._input = self._session.get_inputs()[0].name
        self._size = self._fixed_size() if input_size is None else _size(input_size)

    def __getstate__(self) -> dict[str, Any]:
        if self._model is None:
            raise TypeError(
                "cannot copy or pickle an OnnxDepthEstimator whose model was given as bytes: give the path of a file"
            )
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        model: Path = state["_model"]
        self._session = _session(model, model, self._num_threads)

    def estimate(self, image: F32, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: F32) -> F32:
        """Depth (H, W) float32, metres; 0 where the model sees none, or sees more than 10 km.

        Parameters and errors are those of `DepthEstimator`.
        """
        predicted = self._predict(image)
        known = np.where(np.isfinite(known_depth) & (known_depth > 0), known_depth, 0).astype(np.float32)
        if self.output == "metric":
            depth = self._metric(predicted, known)
        else:
            target = inverse_or_zero(known) if self.output == "inverse" else known
            aligned = self._affine(predicted, target)
            depth = inverse_or_zero(aligned) if self.output == "inverse" else aligned
        return np.where(np.isfinite(depth) & (depth > 0) & (depth < _FARTHEST), depth, 0).astype(np.float32)

    def _metric(self, predicted: F32, known: F32) -> F32:
        fit = fit_scale(predicted, known, with_shift=False) if self.align else None
        if fit is not None:
            predicted = predicted * np.float32(fit.scale)
        return predicted

    def _affine(self, predicted: F32, target: F32) -> F32:
        """Values in metres, or in 1 / metres for inverse depth."""
        fit = fit_scale(predicted, target) if self.align else None
        if fit is not None:
            return np.asarray(fit.scale * predicted + fit.shift, dtype=np.float32)
        middle = 1 / self.default_depth if self.output == "inverse" else self.default_depth
        median = float(np.median(predicted[np.isfinite(predicted)])) if np.isfinite(predicted).any() else 0.0
        if median <= 0:
            return np.full_like(predicted, middle)
        return np.asarray(predicted * np.float32(middle / median))

    def _predict(self, image: F32) -> F32:
        """The model's answer, (H, W) float32, at the size of the image."""
        height, width = image.shape[:2]
        rows, columns = self._size or (self._whole(height), self._whole(width))
        resized = np.stack([_resize(image[..., i], rows, columns) for i in range(3)], axis=0)
        pixels = (resized - self._mean[:, None, None]) / self._std[:, None, None]
        answer = np.asarray(self._session.run(None, {self._input: pixels[None].astype(np.float32)})[0])
        shape = answer.shape
        if len(shape) not in (3, 4) or any(n != 1 for n in shape[:-2]) or not np.issubdtype(answer.dtype, np.floating):
            raise ValueError(
                f"{self._name}: expected an output (1, h, w) or (1, 1, h, w) of floating-point numbers, "
                f"got {answer.dtype} of shape {shape}"
            )
        return _resize(answer.reshape(shape[-2:]).astype(np.float32), height, width)

    def _whole(self, size: int) -> int:
        return max(1, round(size / self.multiple)) * self.multiple

    def _fixed_size(self) -> tuple[int, int] | None:
        """The size that the model names, if it takes one only."""
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4:
            raise FormatError(self._name, f"expected an input (1, 3, h, w), got {shape}")
        rows, columns = shape[2:]
        return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _session(model: str | Path | bytes, name: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ModuleNotFoundError(
            "OnnxDepthEstimator needs onnxruntime: pip install onnxruntime (mosaicmem's extra [depth])"
        ) from None
    if not isinstance(model, bytes) and not name.is_file():
        raise FileNotFoundError(f"model: {name}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(name), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises classes of its own that have no common base
        raise FormatError(name, f"not a model that onnxruntime reads: {str(error)[:200]}") from None
    if len(session.get_inputs()) != 1:
        raise FormatError(name, f"expected a model of one input, an image, got {len(session.get_inputs())}")
    return session


def _size(value: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"input_size: expected (height, width), got {value!r}")
    return check_integer("input_size[0]", value[0], minimum=1), check_integer("input_size[1]", value[1], minimum=1)


def _three(name: str, values: Sequence[float]) -> Sequence[float]:
    if len(values) != 3:
        raise ValueError(f"{name}: expected three numbers, one a channel, got {len(values)}")
    return values


def _resize(plane: F32, rows: int, columns: int) -> F32:
    """Bilinear, by areas where it gets smaller."""
    if plane.shape == (rows, columns):
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)
