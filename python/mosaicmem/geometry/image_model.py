"""An ONNX model that takes one image; its input is checked when it is opened."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mosaicmem._arrays import F32
from mosaicmem._opening import check_growth, foreign_parser, open_regular
from mosaicmem.errors import FormatError

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PIXEL_BYTES = 32  # per pixel, for all copies of an image
_TRIAL = 224  # side of the trial image for models that take any size, pixels


@dataclass(frozen=True)
class _Input:
    """The image input of a model. Sizes are None where the model takes any."""

    name: str
    dtype: Any
    channels_last: bool
    rows: int | None
    columns: int | None


class ImageModel(ABC):
    """A model that onnxruntime has opened, which maps one image to arrays.

    Parameters
    ----------
    model : path or bytes
    input_size : (int, int), optional
        (height, width) that images are resized to, if the model takes any size.
    multiple : int
        Sizes that the model leaves open are rounded to multiples of this.
    mean, std : three floats
        Pixels in [0, 1] become (pixel - mean) / std. A uint8 model normalises by itself and gets 0 to 255.
    output_name : str, optional
        Name of the output. Default: the one that `_choose_output` prefers.
    threads : int

    Raises
    ------
    FormatError
        The model does not take one image; the message names the input and its shape.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        input_size: tuple[int, int] | None,
        multiple: int,
        mean: Sequence[float],
        std: Sequence[float],
        output_name: str | None,
        threads: int,
    ) -> None:
        self.name = Path(model) if isinstance(model, (str, Path)) else Path("<model>")
        self._file = None if isinstance(model, bytes) else self.name.resolve()  # copies reopen it
        self._threads = threads
        self._session = _session(model, self.name, threads)
        self._input = _read_input(self.name, self._session.get_inputs())
        self._output = self._choose_output(self._session.get_outputs(), output_name)
        self._multiple = multiple
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)
        self._size = self._check_size(input_size)
        if self._input.dtype == np.uint8 and not self._is_plain():
            raise FormatError(
                self.name,
                f"input {self._input.name} takes uint8, so the model normalises by itself; mean and std would have no "
                "effect: leave them out",
            )
        rows, columns = self.size_for(_TRIAL, _TRIAL)
        size = len(model) if isinstance(model, bytes) else self._file_size()
        _check_declared(self.name, size, rows, columns, self._session.get_outputs())
        self.predict(np.broadcast_to(np.float32(0.5), (rows, columns, 3)))

    @abstractmethod
    def _choose_output(self, outputs: Sequence[Any], name: str | None) -> str:
        """The name of the output to use."""

    @abstractmethod
    def predict(self, image: F32) -> F32:
        """What the model says of an image (H, W, 3) float32 in [0, 1], at the size of the image."""

    def _file_size(self) -> int:
        """Size of the model plus the files beside it whose names start with its stem: they may hold weights."""
        beside = (path for path in self.name.parent.iterdir() if path.name.startswith(self.name.stem))
        return sum(path.stat().st_size for path in beside if path.is_file())

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            raise TypeError(
                "cannot copy or pickle an OnnxDepthEstimator whose model was given as bytes: give the path of a file"
            )
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        file: Path = state["_file"]
        self._session = _session(file, file, self._threads)

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of the given size is resized to."""
        if self._size is not None:
            return self._size
        rows, columns = (max(1, round(size / self._multiple)) * self._multiple for size in (height, width))
        return self._input.rows or rows, self._input.columns or columns

    def _run(self, image: F32) -> tuple[NDArray[Any], float]:
        """The model's answer for an image, and the height over the width of its input."""
        height, width = image.shape[:2]
        rows, columns = self.size_for(height, width)
        batch = self._batch(image, rows, columns)
        what = (
            f"fails on an input {self._input.name} of shape {batch.shape}; has it a size that it does not name? "
            "give input_size, or multiple"
        )
        with foreign_parser(self.name, what):
            answer = np.asarray(self._session.run([self._output], {self._input.name: batch})[0])
        return answer, rows / columns

    def _batch(self, image: F32, rows: int, columns: int) -> NDArray[Any]:
        """The model's input for an image, made channel by channel."""
        sides = (rows, columns, 3) if self._input.channels_last else (3, rows, columns)
        batch = np.empty((1, *sides), self._input.dtype)
        for channel in range(3):
            plane = resize(image[..., channel], rows, columns)
            if self._input.dtype == np.uint8:
                plane = np.rint(255 * np.clip(plane, 0, 1))
            else:
                plane = (plane - self._mean[channel]) / self._std[channel]
            batch[(0, ..., channel) if self._input.channels_last else (0, channel)] = plane
        return batch

    def _check_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        fixed = (self._input.rows, self._input.columns)
        if size is not None and any(own is not None and own != given for own, given in zip(fixed, size, strict=True)):
            raise ValueError(f"input_size: expected {_text(fixed)} as {self.name} names it, got {_text(size)}")
        return size

    def _is_plain(self) -> bool:
        """Whether mean and std are the defaults or the identity."""
        given = (*self._mean, *self._std)
        return any(np.allclose(given, plain) for plain in ((*IMAGENET_MEAN, *IMAGENET_STD), (0, 0, 0, 1, 1, 1)))


def _session(model: str | Path | bytes, name: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ModuleNotFoundError(
            "OnnxDepthEstimator needs onnxruntime: pip install onnxruntime (mosaicmem's extra [depth])"
        ) from None
    if not isinstance(model, bytes):
        if not name.exists():
            raise FileNotFoundError(f"model: {name}: no such file")
        with open_regular(name):  # onnxruntime would block on a pipe, and read a device forever
            pass
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised anyway
    with foreign_parser(name, "not a model that onnxruntime reads"):
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(name),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # the fallback would print the failure and retry the same
        )


def _check_declared(path: Path, size: int, rows: int, columns: int, outputs: Sequence[Any]) -> None:
    """Reject a model whose declared image or maps are too large for a file of its ``size``, before the trial run."""
    pixels = max([rows * columns, *(_least_elements(each.shape) for each in outputs)])
    check_growth(
        path, size, pixels * _PIXEL_BYTES, f"an input of {rows}x{columns} and outputs of up to {pixels} values"
    )


def _least_elements(shape: Sequence[Any]) -> int:
    return math.prod(side for side in shape if isinstance(side, int) and side > 0)


def _read_input(path: Path, inputs: Sequence[Any]) -> _Input:
    """The only input, which must be an image."""
    listed = ", ".join(f"{each.name} {_text(each.shape)}" for each in inputs)
    if len(inputs) != 1:
        raise FormatError(path, f"expected a model of one input, an image, got {len(inputs)}: {listed}")
    only = inputs[0]
    shape = [size if isinstance(size, int) and size > 0 else None for size in only.shape]
    found = f"input {listed} of {only.type}"
    if only.type not in DTYPES:
        raise FormatError(path, f"expected an image of float, float16, double or uint8, got {found}")
    if len(shape) != 4:
        raise FormatError(path, f"expected an image (1, 3, h, w) or (1, h, w, 3), got {found}")
    channels_last = shape[3] == 3 and shape[1] != 3
    channels, rows, columns = (shape[3], shape[1], shape[2]) if channels_last else (shape[1], shape[2], shape[3])
    if shape[0] not in (1, None):
        raise FormatError(
            path, f"expected a batch of 1, got {found}; export the model with a batch of 1, or a free one"
        )
    if channels not in (3, None):
        raise FormatError(path, f"expected 3 channels, got {found}")
    return _Input(only.name, DTYPES[only.type], channels_last, rows, columns)


def _text(shape: Sequence[Any]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def resize(plane: F32, rows: int, columns: int) -> F32:
    """Resize bilinearly, averaging areas when shrinking."""
    if plane.shape == (rows, columns):
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)
