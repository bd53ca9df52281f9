"""Cross-attention from the tokens of a video grid to the tokens of a mosaic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, ArrayLike, as_array, check_integer, check_threads, like
from mosaicmem.attention.kernel import attention
from mosaicmem.attention.prope import PRoPE
from mosaicmem.attention.warped_rope import WarpedRoPE


class MemoryCrossAttention:
    """hidden + sum over heads of tanh(gate) * softmax(q k^T / sqrt(d)) v, projected back.

    Queries come from the hidden states and carry grid RoPE; keys come from memory tokens and carry Warped RoPE, the
    positions where they land in the target view. With PRoPE, queries, keys, values and outputs carry their cameras too.

    Parameters
    ----------
    dim : int
        Width of the hidden states.
    memory_dim : int
        Width of the memory tokens (latent channels, or features of them).
    num_heads, head_dim : int
    rope : WarpedRoPE, optional
        Default: ``WarpedRoPE(head_dim)``.
    gate : float
        What each head's gate starts at; 0 makes the layer the identity, as one starts in a pretrained model.
    seed : int
        Weights are drawn from a normal distribution of variance 1 / fan-in.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Attributes
    ----------
    weights : mapping of str to float32 array
        ``query`` (heads * head_dim, dim), ``key`` and ``value`` (heads * head_dim, memory_dim),
        ``output`` (dim, heads * head_dim), ``gate`` (heads,). Replace them with :meth:`load_weights`.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        rope: WarpedRoPE | None = None,
        gate: float = 1.0,
        seed: int = 0,
        num_threads: int = 0,
    ) -> None:
        self.dim = check_integer("dim", dim, minimum=1)
        self.memory_dim = check_integer("memory_dim", memory_dim, minimum=1)
        self.num_heads = check_integer("num_heads", num_heads, minimum=1)
        self.head_dim = check_integer("head_dim", head_dim, minimum=2)
        self.rope = rope or WarpedRoPE(head_dim)
        if self.rope.head_dim != head_dim:
            raise ValueError(f"rope: expected head_dim {head_dim}, got {self.rope.head_dim}")
        self.num_threads = check_threads(num_threads)
        inner = num_heads * head_dim
        rng = np.random.default_rng(check_integer("seed", seed, minimum=0))

        def draw(rows: int, columns: int) -> F32:
            return np.asarray(rng.standard_normal((rows, columns)) / np.sqrt(columns), dtype=np.float32)

        weights = {
            "query": draw(inner, dim),
            "key": draw(inner, memory_dim),
            "value": draw(inner, memory_dim),
            "output": draw(dim, inner),
            "gate": np.full(num_heads, gate, dtype=np.float32),
        }
        self._weights = MappingProxyType(weights)

    @property
    def weights(self) -> Mapping[str, F32]:
        """The weights by name; read-only, see :meth:`load_weights`."""
        return self._weights

    def load_weights(self, weights: Mapping[str, ArrayLike]) -> None:
        """Replace all weights; names and shapes must be those of :attr:`weights`. Nothing changes on an error."""
        if set(weights) != set(self.weights):
            raise ValueError(f"weights: expected the names {sorted(self.weights)}, got {sorted(weights)}")
        self._weights = MappingProxyType(
            {
                name: as_array(f"weights[{name!r}]", weights[name], np.float32, old.shape, finite=True).copy()
                for name, old in self._weights.items()
            }
        )

    def __call__(
        self,
        hidden: ArrayLike,
        memory: ArrayLike,
        query_positions: ArrayLike,
        memory_positions: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        prope: tuple[PRoPE, PRoPE] | None = None,
    ) -> Any:
        """Attend from hidden states to memory.

        Parameters
        ----------
        hidden : (B, N, dim) array
        memory : (B, M, memory_dim) array
            M may be 0: the result is then a copy of ``hidden``, bit for bit.
        query_positions : (N, 3) array
            Grid positions (t, y, x) of the queries.
        memory_positions : (M, 3) array
            Warped positions (t, y, x) of the memory tokens.
        mask : (B, M) bool array, optional
            Memory tokens that are False take no part.
        prope : (PRoPE, PRoPE), optional
            Cameras of the queries and of the memory tokens.

        Returns
        -------
        (B, N, dim) float32
        """
        x = as_array("hidden", hidden, np.float32, ("B", "N", self.dim))
        m = as_array("memory", memory, np.float32, (x.shape[0], "M", self.memory_dim))
        if m.shape[1] == 0:
            return like(hidden, x.copy())
        q = self.rope.apply(self._heads(x, "query"), query_positions, num_threads=self.num_threads)
        k = self.rope.apply(self._heads(m, "key"), memory_positions, num_threads=self.num_threads)
        v = self._heads(m, "value")
        options: dict[str, Any] = {"mask": mask, "num_threads": self.num_threads}
        if prope is not None and not (isinstance(prope, tuple) and len(prope) == 2):
            raise TypeError("prope: expected a pair, the PRoPE of the queries and that of the memory tokens")
        queries, keys = prope or (None, None)
        heads = attention(q, k, v, **options) if queries is None else queries.attend(q, k, v, memory=keys, **options)
        heads = heads * np.tanh(self.weights["gate"])[:, None, None]
        merged = np.ascontiguousarray(heads.transpose(0, 2, 1, 3)).reshape(-1, self.num_heads * self.head_dim)
        out = _core.linear(merged, self.weights["output"], self.num_threads)
        return like(hidden, x + out.reshape(x.shape))

    def _heads(self, x: F32, name: str) -> F32:
        """Projection of (B, N, C) to (B, heads, N, head_dim)."""
        batch, count, width = x.shape
        projected = _core.linear(x.reshape(-1, width), self.weights[name], self.num_threads)
        split = projected.reshape(batch, count, self.num_heads, self.head_dim)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3))
