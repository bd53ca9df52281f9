"""Device arrays for tests: torch tensors on a GPU, or disguised NumPy arrays where the kernels are emulated."""

import dataclasses
import functools
import operator

import ml_dtypes
import numpy as np

from mosaicmem import LatentCanvas, _core


class EmulatedArray:
    """A NumPy array that claims to be on device 0, as GPU arrays do; like them, it refuses `__array__`."""

    def __init__(self, array):
        self.array = np.asarray(array)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, False),
            "strides": self.array.strides,
            "version": 3,
            "stream": 1,
        }

    def __dlpack_device__(self):
        return 2, 0

    def __array_namespace__(self):
        return EmulatedModule

    def __array__(self, *_, **__):
        raise TypeError("this array is on a device")

    def __getitem__(self, key):
        return EmulatedArray(self.array[key.array if isinstance(key, EmulatedArray) else key])

    def __setitem__(self, key, value):
        self.array[key] = value.array if isinstance(value, EmulatedArray) else value

    def __ge__(self, other):
        return self._with(operator.ge, other)

    def get(self):
        return self.array.copy()

    def reshape(self, *shape):
        return EmulatedArray(self.array.reshape(*shape))

    def swapaxes(self, a, b):
        return EmulatedArray(self.array.swapaxes(a, b))

    def astype(self, dtype):
        return EmulatedArray(self.array.astype(dtype))

    def __matmul__(self, other):
        return EmulatedArray((self.array.astype(np.float32) @ other.array.astype(np.float32)).astype(self.dtype))

    def _with(self, operation, other):
        return EmulatedArray(operation(self.array, other.array if isinstance(other, EmulatedArray) else other))

    def __add__(self, other):
        return self._with(operator.add, other)

    def __sub__(self, other):
        return self._with(operator.sub, other)

    def __mul__(self, other):
        return self._with(operator.mul, other)

    def __truediv__(self, other):
        return self._with(operator.truediv, other)

    __radd__, __rmul__ = __add__, __mul__

    def nonzero(self):
        return tuple(EmulatedArray(index) for index in self.array.nonzero())


class EmulatedModule:
    """The functions that the border needs of an array module. Uninitialised bytes are 0xFF: NaN in floats."""

    @staticmethod
    def empty(shape, dtype):
        array = np.empty(shape, dtype)
        array.view(np.uint8).reshape(-1)[:] = 0xFF
        return EmulatedArray(array)

    @staticmethod
    def asarray(array):
        return EmulatedArray(np.array(array))

    @staticmethod
    def array(array, copy, order):
        assert copy
        return EmulatedArray(np.array(array.array, order=order))

    @staticmethod
    def ascontiguousarray(array):
        return EmulatedArray(np.ascontiguousarray(array.array))


class EmulatedDevice:
    """The host, where the kernels are emulated."""

    name = "emulated"

    for_store = EmulatedModule

    @staticmethod
    def missing():
        """Why tests cannot run here, if so."""
        cuda = getattr(_core, "cuda", None)
        return None if cuda is not None and cuda.is_emulated else "not built with MOSAICMEM_EMULATE_CUDA"

    @staticmethod
    def put(array):
        """The array there, with its strides."""
        return EmulatedArray(array)

    @staticmethod
    def get(array):
        assert isinstance(array, EmulatedArray), f"expected a result of the same kind, got {type(array).__name__}"
        return array.array


class TorchDevice:
    """A GPU, through torch."""

    name = "torch"
    for_store = "cuda"

    @staticmethod
    def missing():
        """Why tests cannot run here, if so."""
        cuda = getattr(_core, "cuda", None)
        if cuda is None or cuda.is_emulated:
            return "built without CUDA"
        try:
            import torch
        except ImportError:
            return "needs torch"
        return None if torch.cuda.is_available() else "no GPU here"

    @staticmethod
    def put(array):
        """The array there, with its strides."""
        import torch

        array = np.asarray(array)
        bits = array.dtype == ml_dtypes.bfloat16
        tensor = torch.from_numpy(array.view(np.int16) if bits else array)
        on_device = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
        on_device.copy_(tensor)
        return on_device.view(torch.bfloat16) if bits else on_device

    @staticmethod
    def get(array):
        import torch

        assert isinstance(array, torch.Tensor), f"expected a tensor, got {type(array).__name__}"
        assert array.is_cuda
        if array.dtype == torch.bfloat16:
            return array.cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array.cpu().numpy()


def on_device(device, function):
    """Wrap ``function``: array arguments are put on the device, and array results are brought back."""

    def put(value):
        if isinstance(value, list) and np.asarray(value).dtype.kind in "fiub":
            value = np.asarray(value)
        return device.put(value) if isinstance(value, np.ndarray) else value

    def get(value):
        if isinstance(value, tuple):
            return tuple(get(part) for part in value)
        if isinstance(value, LatentCanvas):
            return LatentCanvas(*(get(getattr(value, field.name)) for field in dataclasses.fields(value)))
        return device.get(value)

    def called(*arguments, **options):
        return get(function(*map(put, arguments), **{name: put(value) for name, value in options.items()}))

    return called


def method_on_device(device, method):
    """Like `on_device` for a method."""
    return lambda self, *arguments, **options: on_device(device, functools.partial(method, self))(*arguments, **options)
