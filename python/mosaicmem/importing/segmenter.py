"""A network in ONNX format that says which pixels show something that moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, Bool, as_pixels, check_integer, check_number, check_threads
from mosaicmem.datasets.lens import nearest
from mosaicmem.errors import FormatError
from mosaicmem.geometry.image_model import IMAGENET_MEAN, IMAGENET_STD, ImageModel, resize


class OnnxSegmenter:
    """Masks of what moves (people, hands, vehicles) by a segmentation network; a callable image -> mask.

    Parameters
    ----------
    model : path or bytes
        Takes one image as `OnnxDepthEstimator` does. Returns the scores of classes, (1, classes, h, w), of which the
        largest counts, or one map (1, 1, h, w) or (1, h, w): labels if it holds integers, else the probability or the
        logit of something moving.
    classes : sequence of int
        The classes that move; none for one map of probabilities, and for labels of which all but 0 move.
    threshold : float
        Of that map.
    input_size : (int, int), optional
        (height, width) that images are resized to. Default: the image size, rounded to multiples of ``multiple``.
    multiple, mean, std, num_threads
        As `OnnxDepthEstimator` takes them.

    Raises
    ------
    ModuleNotFoundError
        onnxruntime is not installed.
    FormatError
        onnxruntime cannot read the model, or it does not map one image to such maps.
    ValueError
        ``classes`` do not go with what the model gives.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        classes: Sequence[int] = (),
        threshold: float = 0.5,
        input_size: tuple[int, int] | None = None,
        multiple: int = 32,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        num_threads: int = 0,
    ) -> None:
        self.classes = [check_integer(f"classes[{i}]", c, minimum=0) for i, c in enumerate(classes)]
        self.threshold = check_number("threshold", threshold)
        self._model = _SegmentationModel(
            model,
            input_size=input_size,
            multiple=check_integer("multiple", multiple, minimum=1),
            mean=mean,
            std=std,
            output_name=None,
            threads=check_threads(num_threads),
        )

        count = self._model.classes
        if count > 1 and not self.classes:
            raise ValueError(f"classes: expected the numbers of those that move, as {self._model.name} gives {count}")
        if count > 1 and max(self.classes) >= count:
            raise ValueError(
                f"classes: expected numbers below {count}, the classes of {self._model.name}, got {self.classes}"
            )
        if not self._model.gives_labels and count == 1 and self.classes:
            raise ValueError(f"classes: expected none, as {self._model.name} gives one map: what moves")

    def __call__(self, image: ArrayLike) -> Bool:
        """The pixels (H, W) bool of an image (H, W, 3), uint8 or float in [0, 1], that show something moving."""
        pixels = as_pixels("image", image, ("H", "W", 3))
        scores = self._model.scores(pixels)
        if len(scores) > 1:
            return np.asarray(np.isin(scores.argmax(axis=0), self.classes), np.bool_)
        if self._model.gives_labels:
            labels = np.rint(scores[0])
            return np.asarray(np.isin(labels, self.classes) if self.classes else labels > 0, np.bool_)
        return np.asarray(scores[0] > self.threshold, np.bool_)


class _SegmentationModel(ImageModel):
    """A model that maps one image to scores of classes, or to one map."""

    gives_labels = False
    classes = 1

    def scores(self, image: F32) -> F32:
        """(classes, H, W), or (1, H, W), at the size of the image (H, W, 3) float32 in [0, 1]."""
        answer, aspect = self._run(image)
        shape = answer.shape[1:] if answer.ndim == 4 else (1, *answer.shape[-2:])
        if answer.ndim not in (2, 3, 4) or 0 in answer.shape or (answer.ndim > 2 and answer.shape[0] != 1):
            raise FormatError(self.name, f"expected (1, classes, h, w) or (1, h, w), got shape {answer.shape}")
        if not 0.5 < shape[1] / shape[2] / aspect < 2:
            raise FormatError(
                self.name,
                f"expected maps of the image's form, (1, classes, h, w) or (1, h, w), got shape {answer.shape}",
            )
        self.gives_labels, self.classes = answer.dtype.kind in "iu", int(shape[0])
        maps = answer.reshape(shape)
        if self.gives_labels:  # labels must not mix
            return np.asarray([nearest(each, image.shape[1::-1]) for each in maps], np.float32)
        return np.stack([resize(np.asarray(each, np.float32), *image.shape[:2]) for each in maps])

    def predict(self, image: F32) -> F32:
        """The first of the `scores`: what a trial run asks for."""
        return np.asarray(self.scores(image)[0], np.float32)

    def _choose_output(self, outputs: Sequence[Any], name: str | None) -> str:
        if not outputs:
            raise FormatError(self.name, "expected an output, the classes of pixels, got a model without any")
        return str(outputs[0].name)
