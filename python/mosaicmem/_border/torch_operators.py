"""Registers the declared operators with torch on import: at the first tensor, even under torch.compile."""

from __future__ import annotations

from typing import Any

import torch

from mosaicmem._border.operators import DECLARED, Operator


def find(name: str) -> Any:
    """The operator as torch calls it."""
    return getattr(torch.ops.mosaicmem, name)


def _register(operator: Operator) -> None:
    def kernel(*arguments: Any) -> Any:
        return operator.kernel(*[x.detach() if isinstance(x, torch.Tensor) else x for x in arguments])

    custom = torch.library.custom_op(f"mosaicmem::{operator.name}", kernel, mutates_args=(), schema=operator.schema)
    custom.register_fake(operator.fake)
    custom.register_autograd(operator.backward, setup_context=operator.keep)


for _each in DECLARED:
    _register(_each)
