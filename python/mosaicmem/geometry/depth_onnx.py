"""Depth from a network in ONNX format."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mosaicmem._arrays import (
    F32,
    ArrayLike,
    Bool,
    as_depth,
    as_pixels,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_threads,
)
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import suspect
from mosaicmem.geometry.depth_alignment import fit_scale, inverse_or_zero
from mosaicmem.geometry.depth_model import DepthModel
from mosaicmem.geometry.image_model import IMAGENET_MEAN, IMAGENET_STD

OUTPUTS = ("metric", "depth", "inverse")

_FARTHEST = 1e4  # metres; anything beyond is sky
_LEAST_PIXELS = 64  # known pixels that a fit needs


class OnnxDepthEstimator:
    """Monocular depth from an ONNX model, aligned to the scale of memory.

    Monocular depth drifts from frame to frame, even if it claims to be metric. So `fit_scale` fits a scale (and, for
    affine outputs, a shift) to the depth known from memory, on the pixels that memory covers. If that fails:

    - Memory covers none of the view: metric depth is used as is, affine depth is scaled to a median of
      ``default_depth``.
    - It covers fewer than 64 pixels: metric depth is used as is, affine depth is scaled to match their median.
    - It covers enough, but the model's output is unrelated to it: metric depth is used as is. Affine depth cannot be
      aligned: the result is the depth from memory, and 0 (no depth) elsewhere. A `SuspiciousInput` warning says so
      once.

    A model is a program. Its declarations are checked before it runs, but nothing limits the memory and time of its
    operations: open only models from people whom you trust.

    Parameters
    ----------
    model : path or bytes
        Takes one image: (1, 3, h, w) or (1, h, w, 3) in float32, float16 or float64, normalised by ``mean`` and
        ``std``, or in uint8, 0 to 255. Returns (h, w), (1, h, w), (1, 1, h, w) or (1, h, w, 1) of any size. The input
        may fix its height, its width or both. The model runs once when it is opened, so that mismatches are found then.
    output : {"metric", "depth", "inverse"}
        What the model returns: ``metric``: metres; ``depth``: depth up to scale and shift; ``inverse``: 1 / depth up to
        scale and shift, as most relative models do.
    input_size : (int, int), optional
        (height, width) that images are resized to. Default: the image size, rounded to multiples of ``multiple``. Sides
        that the model fixes stay as they are.
    multiple : int
        Sizes must be multiples of this: 14 for models built on DINOv2.
    mean, std : three floats
        Pixels in [0, 1] become (pixel - mean) / std, per channel. The defaults are ImageNet's.
    default_depth : float
        Metres; see above.
    align : bool
        False ignores the depth known from memory.
    num_threads : int
        Of the runtime; 0 lets it choose.
    output_name : str, optional
        Name of the depth output. Default: the map that is named after depth or disparity, or else the first one.

    Raises
    ------
    ModuleNotFoundError
        onnxruntime is not installed: ``pip install onnxruntime``.
    FormatError
        onnxruntime cannot read the model, or it does not map one image to one depth map; the message names the mismatch
        and its shape. Or it declares an image or a map that is too large for a file of its size.

    Warns
    -----
    SuspiciousInput
        Several outputs may be the depth; or the model's output does not fit the depth known from memory.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        output: str = "inverse",
        input_size: tuple[int, int] | None = None,
        multiple: int = 14,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        default_depth: float = 3.0,
        align: bool = True,
        num_threads: int = 0,
        output_name: str | None = None,
    ) -> None:
        self.output = check_choice("output", output, OUTPUTS)
        self.multiple = check_integer("multiple", multiple, minimum=1, maximum=4096)
        self.default_depth = check_number("default_depth", default_depth, above=0.0)
        self.align = bool(align)
        self._said = False
        self._model = DepthModel(
            model,
            input_size=None if input_size is None else _size(input_size),
            multiple=self.multiple,
            mean=[check_number(f"mean[{i}]", x) for i, x in enumerate(_three("mean", mean))],
            std=[check_number(f"std[{i}]", x, above=0.0) for i, x in enumerate(_three("std", std))],
            output_name=output_name,
            threads=check_threads(num_threads),
        )

    def estimate(self, image: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: ArrayLike) -> F32:
        """Depth (H, W) float32, metres; 0 where the model gives none, or more than 10 km.

        Parameters and errors are those of `DepthEstimator`.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        size = (intrinsics.height, intrinsics.width)
        predicted = self._model.predict(as_pixels("image", image, (*size, 3)))
        known = as_depth("known_depth", known_depth, size)
        known = np.where(np.isfinite(known) & (known > 0), known, 0).astype(np.float32)
        if self.output == "metric":
            depth = self._metric(predicted, known)
        elif self.output == "inverse":
            depth = inverse_or_zero(self._affine(predicted, inverse_or_zero(known)))
        else:
            depth = self._affine(predicted, known)
        return np.where(np.isfinite(depth) & (depth > 0) & (depth < _FARTHEST), depth, 0).astype(np.float32)

    def __copy__(self) -> OnnxDepthEstimator:
        return copy.deepcopy(self)

    def _metric(self, predicted: F32, known: F32) -> F32:
        if not self.align:
            return predicted
        fit = fit_scale(predicted, known, with_shift=False, least_pixels=_LEAST_PIXELS)
        if (fit is None or fit.inliers < 0.5) and np.count_nonzero(known) >= _LEAST_PIXELS:
            self._suspect_kind(predicted, known)
        return predicted if fit is None else predicted * np.float32(fit.scale)

    def _affine(self, predicted: F32, target: F32) -> F32:
        """Aligned values in metres, or in 1 / metres for inverse depth; 0 where unknown."""
        known = target > 0
        if not self.align or not known.any():
            middle = 1 / self.default_depth if self.output == "inverse" else self.default_depth
            return _with_median(predicted, np.isfinite(predicted), middle)
        if np.count_nonzero(known) < _LEAST_PIXELS:
            return _with_median(predicted, known & np.isfinite(predicted), float(np.median(target[known])))
        fit = fit_scale(predicted, target, least_pixels=_LEAST_PIXELS)
        if fit is None:
            self._suspect_kind(predicted, target)
            return target
        return np.asarray(fit.scale * predicted + fit.shift, dtype=np.float32)

    def _suspect_kind(self, predicted: F32, target: F32) -> None:
        """Warn once that a model output does not fit memory, and whether it would under another ``output`` setting."""
        if self._said:
            return
        other = fit_scale(predicted, inverse_or_zero(target), least_pixels=_LEAST_PIXELS)
        right = fit_scale(predicted, target, least_pixels=_LEAST_PIXELS)
        if other is not None and right is None:
            kind, hint = ("inverse depth", "inverse") if self.output != "inverse" else ("depth", "depth")
            cause = f"it decreases where that increases; a model that gives {kind}? output={hint!r}"
        elif self.output == "metric" and right is not None:
            cause = "it would with a shift; depth up to scale and shift? output='depth'"
        elif self.output == "metric":
            cause = "it is taken as it is"
        else:
            cause = "such frames get only the depth that memory knows; poses of another scene, or another mean and std?"
        self._said = True
        suspect(f"model: the depth of {self._model.name} does not fit to what memory knows of the view; {cause}")


def _with_median(values: F32, where: Bool, middle: float) -> F32:
    """``values`` scaled to a median of ``middle`` over ``where``; a plane at ``middle`` if their median is <= 0."""
    median = float(np.median(values[where])) if where.any() else 0.0
    if median <= 0:
        return np.full_like(values, middle)
    return np.asarray(values * np.float32(middle / median))


def _size(value: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"input_size: expected (height, width), got {value!r}")
    return check_integer("input_size[0]", value[0], minimum=1), check_integer("input_size[1]", value[1], minimum=1)


def _three(name: str, values: Sequence[float]) -> Sequence[float]:
    if len(values) != 3:
        raise ValueError(f"{name}: expected three numbers, one a channel, got {len(values)}")
    return values
