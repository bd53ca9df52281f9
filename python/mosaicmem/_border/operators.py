"""Operators that are linear in their features, with gradients for torch.

An operator is declared beside its formula. NumPy and CuPy arrays go straight to its kernel. torch tensors go through a
custom torch operator, ``torch.ops.mosaicmem.NAME``, so that gradients flow and ``torch.compile`` sees one operator.
Gradients flow to features only, never to positions, depths or cameras.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import Shape, check_shape, to_numpy
from mosaicmem._border.frameworks import is_on_device
from mosaicmem._foreign import is_torch, refuse_bfloat16


@dataclass(frozen=True)
class Operator:
    """One kernel, and what torch must know about it.

    Attributes
    ----------
    name : str
    schema : str
        Of the custom operator; the features come first.
    kernel : function
        Takes the arguments of the schema and returns arrays of the features' framework.
    fake : function
        Results of the right shape and dtype, for compilers.
    keep : function of (ctx, inputs, output)
        Saves what the backward needs.
    backward : function of (ctx, *gradients)
    """

    name: str
    schema: str
    kernel: Callable[..., Any]
    fake: Callable[..., Any]
    keep: Callable[..., None]
    backward: Callable[..., Any]

    def __call__(
        self,
        features: tuple[str, Any],
        constants: Mapping[str, Any],
        *options: Any,
        half: bool = True,
        values: Sequence[str] = (),
    ) -> Any:
        """The result for features, constants (arrays without gradient) and options, in the order of the schema.

        Constants named in ``values`` may be bfloat16, which is too coarse for positions and depths.
        """
        name, x = features
        if not is_torch(x):
            return self.kernel(x, *constants.values(), *options)
        tensors = [_constant(each, value, each in values) for each, value in constants.items()]
        x = _computable(name, x, half)
        if _is_eager(x):
            return self.kernel(x.detach(), *tensors, *options)
        return on_tensors(self.name)(x, *tensors, *options)


DECLARED: list[Operator] = []


def declare(*parts: Any, **named: Any) -> Operator:
    """Declare an `Operator`, which is registered with torch at the first tensor."""
    operator = Operator(*parts, **named)
    DECLARED.append(operator)
    return operator


def on_tensors(name: str) -> Any:
    """The custom torch operator of this name."""
    from mosaicmem._border import torch_operators  # registers all declared operators

    return torch_operators.find(name)


def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save all inputs but the features, which the backward of a linear operator does not need."""
    ctx.save_for_backward(*[x if is_torch(x) else None for x in inputs[1:]])
    ctx.others = [None if is_torch(x) else x for x in inputs[1:]]
    ctx.features = inputs[0].shape


def kept(ctx: Any) -> list[Any]:
    """What `keep_inputs` saved, in its order."""
    return [t if t is not None else x for t, x in zip(ctx.saved_tensors, ctx.others, strict=True)]


def wants_gradient(*values: Any) -> bool:
    """Whether any of these needs a gradient."""
    return any(is_torch(x) and x.requires_grad for x in values) and sys.modules["torch"].is_grad_enabled()


def _is_eager(x: Any) -> bool:
    """Whether nobody but the kernel must see a tensor: no gradient, compiler, transform, mode or subclass of torch. The
    way through torch's dispatcher costs 50 microseconds."""
    torch = sys.modules["torch"]
    if type(x) is not torch.Tensor or wants_gradient(x) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    try:
        stacked = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
        return stacked == 0 and torch._C._functorch.peek_interpreter_stack() is None
    except AttributeError:  # these are internals, which a version may rename
        return False


def constant_beside(x: Any, name: str, value: Any, shape: Shape, *, values: bool = False) -> Any:
    """``value`` as a tensor of ``shape`` without gradient, on the device of the tensor ``x``."""
    tensor = _constant(name, value, values)
    check_shape(name, tuple(tensor.shape), shape)
    return tensor.to(x.device)


def _constant(name: str, value: Any, values: bool) -> Any:
    """``value`` as a tensor without gradient. bfloat16 is rejected unless these are ``values``."""
    if value is None:
        return None
    torch = sys.modules["torch"]
    # torch.compile traces NumPy arrays by itself, and cannot trace the reader.
    if not is_torch(value) and not torch.compiler.is_compiling() and not is_on_device(value):
        array = to_numpy(name, value, values=values)
        value = torch.from_numpy(np.require(array, requirements=("C", "A", "W")))
    tensor = torch.as_tensor(value)
    if tensor.requires_grad:
        raise ValueError(f"{name}: expected a tensor without gradient, since this has no backward; use .detach()")
    if tensor.dtype == torch.bfloat16:
        return tensor.float() if values else refuse_bfloat16(name)
    return tensor


def _computable(name: str, x: Any, half: bool) -> Any:
    """The tensor in a dtype that the kernel supports."""
    torch, on_device = sys.modules["torch"], is_on_device(x)
    if x.device.type != "cpu" and not on_device:
        raise ValueError(f"{name}: expected a CPU or CUDA tensor, got one on {x.device}; move it with .cpu()")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    halves = (torch.bfloat16, *([torch.float16] if on_device else [])) if half else ()
    return x if x.dtype in (torch.float32, torch.float64, *halves) else x.float()
