"""What is known of a Wan transformer of diffusers: its class, its embedding, whether it changed, and what fits it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicmem.attention import PRoPE
from mosaicmem.models.memory_batch import MemoryBatch


def check_wan(dit: Any) -> Any:
    """``dit``, if it is a Wan transformer of diffusers."""
    from diffusers import WanTransformer3DModel

    if isinstance(dit, WanTransformer3DModel):
        return dit
    inner = getattr(dit, "_orig_mod", None)
    hint = ""
    if isinstance(inner, WanTransformer3DModel):
        hint = ": add memory to it before torch.compile"
    elif isinstance(getattr(dit, "transformer", None), WanTransformer3DModel):
        hint = ": did you mean pipe.transformer?"
    raise TypeError(f"dit: expected a WanTransformer3DModel of diffusers, got {type(dit).__name__}{hint}")


def check_prope(options: dict[str, Any], head_dim: int) -> None:
    """Reject options that `PRoPE` does not take, or not for this head."""
    subframes = 4 if options.get("layout") == "full" or options.get("subframes") is not None else 1
    views = np.broadcast_to(np.eye(4), (1, subframes, 4, 4))
    try:
        PRoPE(head_dim, views, camera=np.zeros(1, np.int64), positions=np.zeros((1, 2)), **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"prope: {error}") from None


def mismatch(latents: tuple[int, ...], memory: tuple[int, ...]) -> str:
    """What to say if memory was made for other latents (B, C, T, h, w) than those of a forward."""
    got = (latents[0], *latents[2:])
    hint = "were its targets other cameras than this window's?"
    if got[1:] == memory[1:]:
        hint = "pass a store for each sample"
        if got[0] % memory[0] == 0:
            hint = f"for several videos or guidance in one call, set(batch.repeat({got[0] // memory[0]}))"
    elif got[2:] != memory[2:]:
        hint = "was it built with another vae_stride, or for images of another size?"
    elif memory[1] > got[1]:
        hint = "if targets has a camera for each frame, build it with temporal=vae.temporal"
    return f"batch: expected memory for latents of (B, T, h, w) = {got}, got it for {memory}; {hint}"


def embedding_of(dit: Any) -> Any:
    """The patch embedding, within an adapter if there is one."""
    return getattr(dit.patch_embedding, "base_layer", dit.patch_embedding)


def plain_options(options: Any) -> str:
    """Options as they are written and read again: tuples and lists are the same."""
    return str(json.dumps(options, sort_keys=True, default=list))


def version_of(x: Tensor) -> int | None:
    """Counts changes in place; None for tensors of inference mode, which do not count them."""
    return None if x.is_inference() else int(x._version)


def state_of(dit: Any, batch: MemoryBatch) -> list[Any]:
    """Changes whenever weights, adapters or latents do, except by ``.data`` behind autograd's back."""
    tensors = [*dit.parameters(), batch.latents]
    adapters = [
        (module.disable_adapters, list(module.active_adapters), dict(module.scaling))
        for module in dit.modules()
        if hasattr(module, "active_adapters") and hasattr(module, "scaling")
    ]
    kind = batch.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return [autocast, *((x.data_ptr(), version_of(x)) for x in tensors), *adapters]
