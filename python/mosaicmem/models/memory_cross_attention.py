"""Cross-attention to memory as a torch module, for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mosaicmem import attention
from mosaicmem._arrays import ArrayLike, check_instance
from mosaicmem.attention import PRoPE, RotaryTable, WarpedRoPE


class MemoryCrossAttention(nn.Module):
    """`mosaicmem.MemoryCrossAttention` with trainable parameters.

    Its ``state_dict`` uses the names of the layer's weights: ``query``, ``key``, ``value``, ``output``, ``gate``. A
    safetensors file of either loads into the other.

    Parameters
    ----------
    dim, memory_dim, num_heads, head_dim, rope, half_life, gate, seed, num_threads
        As for `mosaicmem.MemoryCrossAttention`; the same seed draws the same weights. With ``gate`` 0 the module
        starts as the identity.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    gate: Tensor

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        rope: WarpedRoPE | None = None,
        half_life: float | None = None,
        gate: float = 1.0,
        seed: int = 0,
        num_threads: int = 0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"rope": rope, "half_life": half_life, "num_threads": num_threads}
        drawn = attention.MemoryCrossAttention(dim, memory_dim, num_heads, head_dim, gate=gate, seed=seed, **options)
        for name, weight in drawn.weights.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(weight)))
        self.num_heads, self.rope, self.half_life, self.num_threads = num_heads, drawn.rope, half_life, num_threads

    @classmethod
    def from_layer(cls, layer: attention.MemoryCrossAttention) -> MemoryCrossAttention:
        """The module with the weights and options of a layer."""
        check_instance("layer", layer, attention.MemoryCrossAttention)
        module = cls(
            layer.dim,
            layer.memory_dim,
            layer.num_heads,
            layer.head_dim,
            rope=layer.rope,
            half_life=layer.half_life,
            num_threads=layer.num_threads,
        )
        module.load_state_dict({name: torch.tensor(weight) for name, weight in layer.weights.items()})
        return module

    def to_layer(self) -> attention.MemoryCrossAttention:
        """The layer with these weights, for inference without torch."""
        inner = self.query.shape[0]
        layer = attention.MemoryCrossAttention(
            self.query.shape[1],
            self.key.shape[1],
            self.num_heads,
            inner // self.num_heads,
            rope=self.rope,
            half_life=self.half_life,
            num_threads=self.num_threads,
        )
        layer.load_weights({name: weight.detach().cpu() for name, weight in self.state_dict().items()})
        return layer

    def forward(
        self,
        hidden: Tensor,
        memory: Tensor,
        query_positions: ArrayLike | RotaryTable,
        memory_positions: ArrayLike | RotaryTable,
        *,
        mask: ArrayLike | None = None,
        prope: tuple[PRoPE, PRoPE] | None = None,
        query_time: ArrayLike | None = None,
        memory_time: ArrayLike | None = None,
    ) -> Tensor:
        """hidden (B, N, dim) and memory (B, M, memory_dim) -> (B, N, dim).

        The arguments are those of `mosaicmem.MemoryCrossAttention`. Gradients flow to hidden, memory and parameters.
        """
        q = self.rope.apply(self._heads(hidden, self.query), query_positions, num_threads=self.num_threads)
        k = self.rope.apply(self._heads(memory, self.key), memory_positions, num_threads=self.num_threads)
        v = self._heads(memory, self.value)
        options: dict[str, Any] = {"mask": mask, "num_threads": self.num_threads}
        if self.half_life is not None:
            options |= {"query_time": query_time, "key_time": memory_time, "half_life": self.half_life}
        if prope is None:
            heads = attention.attention(q, k, v, **options)
        else:
            of_queries, of_memory = prope
            heads = of_queries.attend(q, k, v, memory=of_memory, **options)
        merged = (heads * self.gate.tanh()[:, None, None]).transpose(1, 2).flatten(2)
        return hidden + linear(merged, self.output)

    def _heads(self, x: Tensor, weight: Tensor) -> Tensor:
        """The projection of (B, N, C) as (B, heads, N, head_dim)."""
        return linear(x, weight).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
