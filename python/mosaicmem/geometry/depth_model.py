"""ONNX models of one map for an image: depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem.errors import FormatError, suspect
from mosaicmem.geometry.image_model import DTYPES, ImageModel, resize


class DepthModel(ImageModel):
    """A model that maps one image to one depth map, and has passed a trial run.

    Parameters are those of `ImageModel`; the default output is the map that is named after depth or disparity, or else
    the first one.

    Raises
    ------
    FormatError
        The model does not take one image or does not return one map; the message names the input or output and its
        shape.
    """

    def predict(self, image: F32) -> F32:
        """The map (H, W) float32 for an image (H, W, 3) float32 in [0, 1], at the size of the image."""
        answer, aspect = self._run(image)
        return resize(self._as_map(answer, aspect), *image.shape[:2])

    def _as_map(self, answer: Any, aspect: float) -> F32:
        """The last two axes of a model output, or those before a channel axis of length 1; ``aspect`` is height over
        width.
        """
        shape = answer.shape
        if shape[-1:] == (1,) and len(shape) > 2:
            shape = shape[:-1]  # channels last
        is_map = len(shape) >= 2 and all(size == 1 for size in shape[:-2]) and 0 not in shape
        # The axes of an output with a very different aspect ratio are not height and width.
        if answer.dtype.kind != "f" or not is_map or not 0.5 < shape[-2] / shape[-1] / aspect < 2:
            raise FormatError(
                self.name,
                f"expected an output {self._output} (1, h, w) or (1, 1, h, w) of floating-point numbers and of the "
                f"image's form, got {answer.dtype} of shape {answer.shape}; another output? give output_name",
            )
        return np.asarray(answer.reshape(shape[-2:]), dtype=np.float32)

    def _choose_output(self, outputs: Sequence[Any], name: str | None) -> str:
        names = [each.name for each in outputs]
        if not names:
            raise FormatError(self.name, "expected an output, the depth, got a model without any")
        if name is not None:
            if name not in names:
                raise ValueError(
                    f"output_name: expected one of {', '.join(names)}, as {self.name} has them, got {name!r}"
                )
            return name
        maps = [str(each.name) for each in outputs if _may_be_map(each)]
        named = [each for each in maps if "depth" in each.lower() or "disp" in each.lower()]
        if named:
            return min(named, key=len)  # "depth" before "depth_confidence"
        if len(maps) > 1:
            suspect(
                f"model: {self.name} gives {', '.join(maps)}; the first is taken for depth. Another one? give "
                "output_name"
            )
        return str((maps or names)[0])


def _may_be_map(output: Any) -> bool:
    """Whether the declared type and shape allow a map; undeclared sizes do."""
    shape = list(output.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    leading = all(not isinstance(size, int) or size == 1 for size in shape[:-2])
    return output.type in DTYPES and output.type != "tensor(uint8)" and len(shape) in (0, 2, 3, 4) and leading
