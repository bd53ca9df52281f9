"""Cross-attention from the tokens of a video grid to the tokens of a mosaic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mosaicmem._arrays import (
    F32,
    ArrayLike,
    ArrayT,
    as_array,
    check_instance,
    check_integer,
    check_number,
    check_threads,
)
from mosaicmem._border import Call, DeviceCopies
from mosaicmem.attention._keys_values import MemoryKeysValues
from mosaicmem.attention._weights import read_weights, write_weights
from mosaicmem.attention.kernel import attention
from mosaicmem.attention.prope import PRoPE
from mosaicmem.attention.rotary_table import RotaryTable
from mosaicmem.attention.warped_rope import WarpedRoPE


class MemoryCrossAttention:
    """hidden + sum over heads of tanh(gate) * softmax(q k^T / sqrt(d) + decay) v, projected back.

    Queries come from the hidden states and carry grid RoPE; keys come from memory tokens and carry Warped RoPE, by
    where they land in the target view. With PRoPE, queries, keys, values and outputs are encoded by their cameras too.
    For inference only: no gradients flow through it. Hidden states and memory on the GPU stay there, in their dtype
    (float32, bfloat16 or float16), and so does the result.

    Parameters
    ----------
    dim : int
        Width of the hidden states.
    memory_dim : int
        Width of the memory tokens (latent channels, or features of them).
    num_heads, head_dim : int
    rope : WarpedRoPE, optional
        Default: ``WarpedRoPE(head_dim)``.
    half_life : float, optional
        Seconds. Temporal decay adds log(0.5) * abs(t_q - t_k) / half_life to the logits and requires both times.
    gate : float
        Initial gate of each head; 0 makes the layer the identity, the usual start in a pretrained model.
    seed : int
        Weights are drawn from a normal distribution of variance 1 / fan-in.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Attributes
    ----------
    weights : mapping of str to float32 array
        ``query`` (heads * head_dim, dim), ``key`` and ``value`` (heads * head_dim, memory_dim),
        ``output`` (dim, heads * head_dim), ``gate`` (heads,). Replace them with `load_weights`.
    """

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
        self.dim = check_integer("dim", dim, minimum=1)
        self.memory_dim = check_integer("memory_dim", memory_dim, minimum=1)
        self.num_heads = check_integer("num_heads", num_heads, minimum=1)
        self.head_dim = check_integer("head_dim", head_dim, minimum=2)
        self.rope = WarpedRoPE(head_dim) if rope is None else check_instance("rope", rope, WarpedRoPE)
        if self.rope.head_dim != head_dim:
            raise ValueError(f"rope: expected head_dim {head_dim}, got {self.rope.head_dim}")
        self.half_life = None if half_life is None else check_number("half_life", half_life, above=0.0)
        self.num_threads = check_threads(num_threads)
        inner = num_heads * head_dim
        rng = np.random.default_rng(check_integer("seed", seed, minimum=0))

        def draw(rows: int, columns: int) -> F32:
            return np.asarray(rng.standard_normal((rows, columns)) / np.sqrt(columns), dtype=np.float32)

        self._set_weights(
            {
                "query": draw(inner, dim),
                "key": draw(inner, memory_dim),
                "value": draw(inner, memory_dim),
                "output": draw(dim, inner),
                "gate": np.full(num_heads, check_number("gate", gate), dtype=np.float32),
            }
        )

    @property
    def weights(self) -> Mapping[str, F32]:
        """The weights by name; read-only, see `load_weights`."""
        return self._weights

    def load_weights(self, weights: Mapping[str, ArrayLike] | str | Path, *, prefix: str = "") -> None:
        """Replace all weights. Nothing changes on an error.

        Parameters
        ----------
        weights : mapping or path
            Arrays by name, with the names and shapes of `weights`; or a safetensors file that holds them as F32, F64,
            F16 or BF16, perhaps among others.
        prefix : str
            Prefix of the names in the file, such as "blocks.3.memory.".

        Raises
        ------
        ValueError
            A name or a shape is wrong, or values are not finite; for a file, a FormatError with its path.
        """
        if isinstance(weights, (str, Path)):
            self._set_weights(read_weights(weights, {name: old.shape for name, old in self.weights.items()}, prefix))
            return
        if set(weights) != set(self.weights):
            raise ValueError(f"weights: expected the names {sorted(self.weights)}, got {sorted(weights)}")
        self._set_weights(
            {
                name: as_array(
                    f"weights[{name!r}]", weights[name], np.float32, old.shape, finite=True, values=True
                ).copy()
                for name, old in self._weights.items()
            }
        )

    def save_weights(self, path: str | Path) -> None:
        """Atomically write the weights to a safetensors file."""
        write_weights(path, self.weights)

    def project_memory(
        self,
        memory: ArrayLike,
        positions: ArrayLike | RotaryTable,
        *,
        mask: ArrayLike | None = None,
        prope: PRoPE | None = None,
        time: ArrayLike | None = None,
    ) -> MemoryKeysValues:
        """Project memory tokens to keys and values: once per window, for all its denoising steps.

        Parameters
        ----------
        memory : (B, M, memory_dim) array
        positions : (M, 3) array or RotaryTable
            Warped positions (t, y, x) of the memory tokens.
        mask : (B, M) bool array, optional
            Memory tokens marked False are skipped.
        prope : PRoPE, optional
            Cameras of the memory tokens.
        time : (M,) array, optional
            Seconds; needed with ``half_life``.
        """
        call = Call("memory", memory, self.num_threads)
        m = call.checked("memory", memory, ("B", "M", self.memory_dim))
        batch, count, _ = m.shape
        if self.half_life is not None and time is None:
            raise ValueError("memory_time: expected the time of each memory token, since half_life is set")
        keys = self.rope.apply(self._heads(call, m, "key"), positions, num_threads=self.num_threads)
        values = self._heads(call, m, "value")
        frame = None
        if prope is not None:
            frame = check_instance("prope", prope, PRoPE).products.shared_frame
            products = prope.products.seen_from(frame, "prope").kv
            keys = prope.multiply("keys", keys, products, False, self.num_threads)
            values = prope.multiply("values", values, products, False, self.num_threads)
        return MemoryKeysValues(
            keys,
            values,
            None if mask is None else call.placed("mask", mask, "bool", (batch, count)),
            None if time is None else call.placed("memory_time", time, "float64", (count,)),
            prope is not None,
            frame,
        )

    def attend(
        self,
        hidden: ArrayT,
        memory: MemoryKeysValues,
        query_positions: ArrayLike | RotaryTable,
        *,
        prope: PRoPE | None = None,
        query_time: ArrayLike | None = None,
    ) -> ArrayT:
        """Attend from hidden states to memory that `project_memory` has projected.

        Parameters
        ----------
        hidden : (B, N, dim) array
        memory : MemoryKeysValues
            Without tokens, the result is a bit-exact copy of ``hidden``.
        query_positions : (N, 3) array or RotaryTable
            Grid positions (t, y, x) of the queries.
        prope : PRoPE, optional
            Cameras of the queries; given if and only if the memory has its own.
        query_time : (N,) array, optional
            Seconds; needed with ``half_life``.

        Returns
        -------
        (B, N, dim) float32
        """
        check_instance("memory", memory, MemoryKeysValues)
        call = Call("hidden", hidden, self.num_threads)
        x = call.checked("hidden", hidden, ("B", "N", self.dim))
        if memory.keys.shape[0] != x.shape[0]:
            raise ValueError(f"memory: expected a batch of {x.shape[0]} as hidden has, got {memory.keys.shape[0]}")
        if (there := Call("memory", memory.keys).where) != call.where:
            raise ValueError(
                f"memory: expected it where hidden is, on {call.where}, got it on {there}; move one of them"
            )
        if (prope is not None) != memory.with_cameras:
            raise ValueError("prope: expected cameras of both queries and memory tokens, or of neither")
        if len(memory) == 0:
            unchanged: ArrayT = call.result(call.owned(x))
            return unchanged
        decay: dict[str, Any] = {}
        if self.half_life is not None:
            if query_time is None:
                raise ValueError("query_time: expected the time of each query, since half_life is set")
            time = call.placed("query_time", query_time, "float64", (x.shape[1],))
            decay = {"query_time": time, "key_time": memory.time, "half_life": self.half_life}
        q = self.rope.apply(self._heads(call, x, "query"), query_positions, num_threads=self.num_threads)
        if prope is not None:
            products = check_instance("prope", prope, PRoPE).products.seen_from(memory.frame, "prope")
            q = prope.multiply("queries", q, products.q, False, self.num_threads)
        heads = attention(q, memory.keys, memory.values, mask=memory.mask, num_threads=self.num_threads, **decay)
        if prope is not None:
            heads = prope.multiply("outputs", heads, products.o, True, self.num_threads)
        batch, _, count, _ = heads.shape
        merged = heads.swapaxes(1, 2).reshape((batch, count, self.num_heads * self.head_dim))
        out: ArrayT = call.result(x + call.linear(merged, "gated output", self._gated_output, self._copies))
        return out

    def __call__(
        self,
        hidden: ArrayT,
        memory: ArrayLike,
        query_positions: ArrayLike | RotaryTable,
        memory_positions: ArrayLike | RotaryTable,
        *,
        mask: ArrayLike | None = None,
        prope: tuple[PRoPE, PRoPE] | None = None,
        query_time: ArrayLike | None = None,
        memory_time: ArrayLike | None = None,
    ) -> ArrayT:
        """`project_memory` and `attend` in one call; ``prope`` is the pair for queries and memory tokens."""
        if prope is not None and not (isinstance(prope, tuple) and len(prope) == 2):
            raise TypeError("prope: expected a pair, the PRoPE of the queries and that of the memory tokens")
        of_queries, of_memory = prope or (None, None)
        ready = self.project_memory(memory, memory_positions, mask=mask, prope=of_memory, time=memory_time)
        out: ArrayT = self.attend(hidden, ready, query_positions, prope=of_queries, query_time=query_time)
        return out

    def __getstate__(self) -> dict[str, Any]:
        made = ("_weights", "_gated_output", "_copies")
        return {**{k: v for k, v in self.__dict__.items() if k not in made}, "weights": dict(self._weights)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = state["weights"]
        self.__dict__.update({k: v for k, v in state.items() if k != "weights"})
        self._set_weights(weights)

    def _set_weights(self, weights: dict[str, F32]) -> None:
        self._weights = MappingProxyType(weights)
        # Each head's gate is folded into the columns of the output projection that read the head.
        self._gated_output = weights["output"] * np.repeat(np.tanh(weights["gate"]), self.head_dim)
        self._copies = DeviceCopies()

    def _heads(self, call: Any, x: Any, name: str) -> Any:
        """Projection of (B, N, C) to (B, heads, N, head_dim): a view of (B, N, heads, head_dim)."""
        batch, count, _ = x.shape
        projected = call.linear(x, name, self.weights[name], self._copies)
        return projected.reshape((batch, count, self.num_heads, self.head_dim)).swapaxes(1, 2)
