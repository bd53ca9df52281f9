"""Memory in diffusers' Wan transformers, without a change to their code or weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mosaicmem._arrays import check_choice, check_instance, check_number
from mosaicmem._files import read_json_object, write_json
from mosaicmem.attention import WarpedRoPE
from mosaicmem.attention._weights import read_weights, write_weights
from mosaicmem.camera import CameraTrajectory
from mosaicmem.errors import FormatError
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.prope_cameras import prope_options
from mosaicmem.models.wan_attention import (
    ConcatRotary,
    Layout,
    MemoryBlock,
    MemoryRotary,
    VideoRotary,
    WanMemoryProcessor,
)
from mosaicmem.models.wan_transformer import (
    check_prope,
    check_wan,
    embedding_of,
    mismatch,
    plain_options,
    state_of,
    version_of,
)

MODES = ("kv", "concat", "canvas")
_WEIGHTS, _SETTINGS = "memory.safetensors", "memory.json"
_TEXT = "encoder_hidden_states"
_MOST_TEXTS = 4  # prompts whose memory keys and values are kept: two guidance branches, with room


def wan_rope(dit: Any) -> WarpedRoPE:
    """Warped RoPE that equals a Wan transformer's own RoPE at integer positions."""
    return WarpedRoPE(check_wan(dit).config.attention_head_dim)


def add_memory(
    dit: Any,
    *,
    mode: str = "kv",
    frame_local: bool = True,
    prope: str | Mapping[str, Any] | None = None,
    gate: float = 0.0,
) -> MemoryHandle:
    """Give a Wan transformer a memory. Its forward, its pipeline and its weights stay as they are.

    Parameters
    ----------
    dit : diffusers.WanTransformer3DModel
        It may take more channels than it returns, behind the noisy latents: those of an image, or of rays.
    mode : {"kv", "concat", "canvas"}
        ``kv``: memory's tokens pass through the blocks by themselves, at timestep 0, once per window and prompt; the
        video's self-attention sees their keys and values at all steps. ``concat``: they pass through the blocks
        together with the video, at every step, and see it too, as more tokens of the sequence at timestep 0 would.
        ``canvas``: the batch's canvas and its coverage enter beside the noisy latents. A model can have ``canvas``
        and one of the others.
    frame_local : bool
        ``kv`` and ``concat``: the video's tokens see only the memory tokens that were retrieved for their latent
        frame, and the other way round.
    prope : str or mapping, optional
        As for `MemoryBatch.build`: the cameras of video and memory in the attention of video to memory, on top of RoPE.
    gate : float
        Initial value of all gates, which are trainable: one per head of each block, or one for the canvas. At 0, the
        output is that of the model without memory, bit for bit; at 1, video and memory share one softmax.

    Returns
    -------
    MemoryHandle
    """
    check_wan(dit)
    if not isinstance(mode, str):
        raise TypeError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}; call add_memory once for each mode")
    check_choice("mode", mode, MODES)
    if type(embedding_of(dit).weight).__name__ == "DTensor":
        raise ValueError("dit: add memory before fully_shard, so that its parameters are sharded too")
    kinds = {"canvas"} if mode == "canvas" else {"kv", "concat"}
    for other in getattr(dit, "_mosaicmem", []):
        if other.mode in kinds:
            raise ValueError(f'dit: already has memory of mode "{other.mode}"; remove() that handle first')
    if prope is not None and mode == "canvas":
        raise ValueError('prope: mode "canvas" has no attention that it could enter')
    options = prope_options(prope)
    if options is not None:
        check_prope(options, dit.config.attention_head_dim)
    return MemoryHandle(dit, mode, bool(frame_local), options, check_number("gate", gate))


class MemoryHandle:
    """The memory of a Wan transformer; made by `add_memory`.

    Its parameters are part of the transformer: ``blocks.*.attn1.memory_gate``, or ``memory_embedding`` and
    ``memory_gate``.
    """

    def __init__(self, dit: Any, mode: str, frame_local: bool, prope: dict[str, Any] | None, gate: float) -> None:
        self.dit, self.mode, self.frame_local, self.prope = dit, mode, frame_local, prope
        self._given: tuple[MemoryBatch, float | None, bool] | None = None
        self._batch: MemoryBatch | None = None
        self._gate: float | None = None
        self._use_prope = True
        self._canvas: Tensor | None = None
        self._known_state: list[Any] = []
        self._known: list[tuple[Tensor, int | None, Tensor, list[tuple[Tensor, Tensor]]]] = []
        self._next: Callable[[Tensor, Tensor], Any] | None = None  # what (cos, sin) becomes in this forward
        self._hooks: list[Any] = []
        self._wrappers: list[MemoryBlock] = []
        if mode == "canvas":
            self._add_canvas(gate)
        else:
            self._add_attention(gate)
        dit._mosaicmem = [*getattr(dit, "_mosaicmem", []), self]

    # --- Its memory.

    def set(self, batch: MemoryBatch, *, gate: float | None = None, use_prope: bool = True) -> None:
        """Use this memory from the next forward on.

        ``gate`` overrides all gates, if not None, and ``use_prope=False`` leaves PRoPE out: for ablations. Setting what
        is set already keeps what was computed from it.
        """
        self._check_there()
        if (batch, gate, use_prope) == self._given:
            return
        check_instance("batch", batch, MemoryBatch)
        gate = None if gate is None else check_number("gate", gate)
        weight = embedding_of(self.dit).weight
        config = self.dit.config
        expected = {
            "channels": (batch.channels or config.out_channels, config.out_channels),
            "patch": ((1, *batch.latents.shape[3:]), tuple(config.patch_size)),
            "head_dim": (batch.cos.shape[-1], config.attention_head_dim),
            "dtype": (batch.latents.dtype, weight.dtype),
        }
        hints = {
            "channels": "were its keyframes encoded by another VAE?",
            "patch": "pass patch=dit.config.patch_size to build",
            "head_dim": "pass rope=wan_rope(dit) to build",
            "dtype": "call batch.to(dtype=dit.dtype)",
        }
        for name, (got, wanted) in expected.items():
            if got != wanted:
                raise ValueError(f"batch: expected {name} {wanted} as the transformer's, got {got}; {hints[name]}")
        if self.mode != "canvas" and self.frame_local and not batch.per_frame:
            raise ValueError(
                "batch: expected tokens for each latent frame, since frame_local is True, got distinct ones; build it "
                "with distinct=False, or pass frame_local=False to add_memory"
            )
        if self.mode == "canvas" and batch._canvases is None:
            raise ValueError(
                "batch: expected one with a canvas, got one that was built with canvas=False; build it by this handle, "
                "or with canvas=True"
            )
        built = None if batch.prope is None else batch.prope.options
        if self.mode != "canvas" and plain_options(built) != plain_options(self.prope):
            raise ValueError(f"batch: expected prope {self.prope} as the handle's, got {built}")
        self._given = (batch, gate, use_prope)
        self._batch, self._known = batch._with_channels(config.out_channels), []
        self._gate, self._use_prope = gate, use_prope
        if batch.prope is not None:
            batch.prope.prepare(config.attention_head_dim)  # not while a compiler traces
        self._canvas = self._batch.canvas() if self.mode == "canvas" else None

    def batch(
        self,
        stores: MosaicMemoryStore | Sequence[MosaicMemoryStore],
        targets: CameraTrajectory | Sequence[CameraTrajectory],
        *,
        vae_stride: int,
        **options: Any,
    ) -> MemoryBatch:
        """`MemoryBatch.build` for this transformer: with its patch, RoPE, PRoPE, device and dtype."""
        weight = embedding_of(self.dit).weight
        device = getattr(getattr(self.dit, "_hf_hook", None), "execution_device", None)  # of weights that are offloaded
        given: dict[str, Any] = {"patch": tuple(self.dit.config.patch_size), "rope": wan_rope(self.dit)}
        given |= {
            "prope": self.prope,
            "device": device or weight.device,
            "dtype": weight.dtype,
            "canvas": self.mode == "canvas",
        }
        return MemoryBatch.build(stores, targets, vae_stride=vae_stride, **(given | options))

    def clear(self) -> None:
        """Forget the batch: the transformer computes what it did without memory."""
        self._given, self._batch, self._canvas, self._known = None, None, None, []

    # --- Its parameters.

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of memory, which are also the transformer's.

        What freezes all of a transformer's parameters (``requires_grad_(False)``, ``add_adapter``) freezes these too,
        if it comes after `add_memory`.
        """
        return list(self._state().values())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the parameters, as float32, and the settings of memory: ``memory.safetensors`` and ``memory.json``."""
        path = Path(folder)
        whole = {name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in self._state().items()}
        path.mkdir(parents=True, exist_ok=True)
        write_weights(path / _WEIGHTS, {name: x.detach().float().cpu().numpy() for name, x in whole.items()})
        settings = {"mode": self.mode, "frame_local": self.frame_local, "prope": self.prope}
        write_json(path / _SETTINGS, settings)

    @staticmethod
    def load(dit: Any, folder: str | Path) -> MemoryHandle:
        """Add the memory that `save_pretrained` wrote to a transformer.

        Raises
        ------
        FileNotFoundError
            The folder is not that of a memory.
        FormatError
            A file is damaged, or of a memory for another transformer.
        """
        check_wan(dit)
        path = Path(folder)
        if not (path / _SETTINGS).is_file():
            raise FileNotFoundError(f"folder: expected one that save_pretrained wrote, got {path}, without {_SETTINGS}")
        settings = read_json_object(path / _SETTINGS, 1 << 20)
        if set(settings) != {"mode", "frame_local", "prope"}:
            raise FormatError(path / _SETTINGS, f"expected mode, frame_local and prope, got {sorted(settings)!s:.200}")
        kinds: dict[str, Any] = {"mode": str, "frame_local": bool, "prope": (dict, type(None))}
        for name, kind in kinds.items():
            if not isinstance(settings[name], kind):
                raise FormatError(path / _SETTINGS, f"{name}: not what save_pretrained writes: {settings[name]!r:.80}")
        handle = add_memory(dit, **settings)
        try:
            handle._load(path / _WEIGHTS)
        except BaseException:
            handle.remove()
            raise
        return handle

    def _load(self, path: Path) -> None:
        own = self._state()
        weights = read_weights(path, {name: tuple(x.shape) for name, x in own.items()}, "", whole=True)
        with torch.no_grad():
            for name, x in own.items():
                x.copy_(torch.from_numpy(weights[name]))

    def __repr__(self) -> str:
        holds = "nothing" if self._batch is None else repr(self._batch)
        return f"MemoryHandle(mode={self.mode!r}, frame_local={self.frame_local}, prope={self.prope}, set={holds})"

    def _check_there(self) -> None:
        if self not in getattr(self.dit, "_mosaicmem", []):
            raise RuntimeError("this handle was removed from its transformer: call add_memory again")

    def _state(self) -> dict[str, nn.Parameter]:
        self._check_there()
        if self.mode == "canvas":
            embedding = self.dit.memory_embedding
            return {"memory_gate": self.dit.memory_gate, "memory_embedding.weight": embedding.weight}
        return {f"blocks.{i}.attn1.memory_gate": b.attn1.memory_gate for i, b in enumerate(self.dit.blocks)}

    def remove(self) -> None:
        """Take memory out: the transformer is again what it was, its state dict included."""
        if self not in getattr(self.dit, "_mosaicmem", []):
            return
        for hook in self._hooks:
            hook.remove()
        if self.mode == "canvas":
            del self.dit.memory_embedding, self.dit.memory_gate
        else:
            for block in self.dit.blocks:
                del block.attn1.memory_gate
                if isinstance(block.attn1.processor, WanMemoryProcessor):  # nobody has set another since
                    block.attn1.set_processor(block.attn1.processor.stock)
        for wrapper in self._wrappers:
            wrapper.remove()
        left = [handle for handle in self.dit._mosaicmem if handle is not self]
        if left:
            self.dit._mosaicmem = left
        else:
            del self.dit._mosaicmem
        self.clear()

    # --- What it adds to the transformer.

    def _add_canvas(self, gate: float) -> None:
        stock, channels = embedding_of(self.dit), self.dit.config.out_channels
        # It begins as the transformer's own embedding, which understands latents; coverage has no weight yet.
        made = nn.Conv3d(channels + 1, stock.out_channels, stock.kernel_size, stock.stride, bias=False)
        made = made.to(stock.weight.device, stock.weight.dtype)
        with torch.no_grad():
            made.weight.zero_()
            made.weight[:, :channels] = stock.weight[:, :channels]
        self.dit.memory_embedding = made
        self.dit.memory_gate = nn.Parameter(torch.full((1,), gate, device=made.weight.device, dtype=made.weight.dtype))
        self._hooks = [self.dit.patch_embedding.register_forward_hook(self._after_embedding)]

    def _after_embedding(self, _module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor | None:
        canvas, latents = self._canvas, inputs[0]
        if canvas is None:
            return None
        if canvas.shape[0] != latents.shape[0] or canvas.shape[2:] != latents.shape[2:]:
            raise ValueError(mismatch(tuple(latents.shape), (len(canvas), *canvas.shape[2:])))
        gate = self.dit.memory_gate if self._gate is None else self._gate
        return embedded + gate * self.dit.memory_embedding(canvas)

    def _add_attention(self, gate: float) -> None:
        for i, block in enumerate(self.dit.blocks):
            attn, weight = block.attn1, block.attn1.norm_k.weight
            heads = torch.full((attn.heads,), gate, device=weight.device, dtype=weight.dtype)
            attn.register_parameter("memory_gate", nn.Parameter(heads))
            attn.set_processor(WanMemoryProcessor(attn.processor, i))
            block.forward = MemoryBlock(block, i, last=i + 1 == len(self.dit.blocks))
            self._wrappers.append(block.forward)
        self._hooks = [
            self.dit.register_forward_pre_hook(self._before, with_kwargs=True),
            self.dit.rope.register_forward_hook(self._after_rope),
        ]

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward: memory's tokens, or their keys and values, for the prompt of this forward."""
        self._next = None
        batch = self._batch
        if batch is None:
            return
        latents, text = (_argument(name, i, args, kwargs) for i, name in ((0, "hidden_states"), (2, _TEXT)))
        shape = (
            len(batch),
            batch.frames,
            *(n * p for n, p in zip((batch.rows, batch.columns), batch.latents.shape[3:], strict=True)),
        )
        if (latents.shape[0], *latents.shape[2:]) != shape:
            raise ValueError(mismatch(tuple(latents.shape), shape))
        if batch.latents.dtype != (dtype := embedding_of(self.dit).weight.dtype):
            raise ValueError(
                f"batch: expected dtype {dtype}, got {batch.latents.dtype}; was the transformer cast since?"
            )
        if batch.device != latents.device:
            raise ValueError(f"batch: expected device {latents.device}, got {batch.device}; call batch.to(device)")
        self._next = partial(self._rotary, batch, text, _argument("encoder_hidden_states_image", 3, args, kwargs))

    def _rotary(self, batch: MemoryBatch, text: Tensor, image: Tensor | None, cos: Tensor, sin: Tensor) -> Any:
        """What the blocks take in place of (cos, sin). Made within the forward, where weights are on its device."""
        per_frame, cameras = batch.per_frame if self.frame_local else 0, batch.prope if self._use_prope else None
        layout = Layout(batch.mask, batch.frames, per_frame, cameras, self._gate)
        if self.mode == "concat":
            modulation = self._clean(batch, text, image)[0]
            return ConcatRotary(cos, sin, layout, batch.cos, batch.sin, self._embedded(batch), modulation)
        return VideoRotary(cos, sin, layout, self._keys_values(batch, layout, text, image))

    def _after_rope(self, _module: nn.Module, _inputs: Any, rotary: tuple[Tensor, Tensor]) -> Any:
        """What the blocks take in place of (cos, sin), so that recomputed blocks take it too."""
        extended, self._next = self._next, None
        return None if extended is None else extended(*rotary)

    def _embedded(self, batch: MemoryBatch) -> Tensor:
        """Memory's tokens as the transformer embeds its own patches, (B, M, dim)."""
        # Each token is a latent frame of one patch. Without hooks, of which the canvas is one.
        latents = batch.latents.transpose(1, 2)
        others = self.dit.config.in_channels - latents.shape[1]  # of an image or of rays, behind the noisy latents
        x = self.dit.patch_embedding.forward(pad(latents, (0, 0) * 3 + (0, others)) if others else latents)
        return x.flatten(2).transpose(1, 2).contiguous()

    def _clean(self, batch: MemoryBatch, text: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The modulation of timestep 0, (B, 6, dim), and the embedded prompt."""
        start = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
        _, modulation, embedded, seen = self.dit.condition_embedder(start, text, image)
        if seen is not None:
            embedded = torch.cat([seen, embedded], dim=1)
        return modulation.unflatten(1, (6, -1)), embedded

    def _keys_values(
        self, batch: MemoryBatch, layout: Layout, text: Tensor, image: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each block. Kept for the prompts of a window; computed anew where gradients need it."""
        may_keep = not (torch.is_grad_enabled() or torch.compiler.is_compiling()) and image is None
        if may_keep:
            state = state_of(self.dit, batch)
            if state != self._known_state:
                self._known, self._known_state = [], state
            for known, version, copy, layers in self._known:
                if (known is text and version is not None and version_of(text) == version) or _equal(copy, text):
                    return layers
        modulation, embedded = self._clean(batch, text, image)
        hidden, layers = self._embedded(batch), []
        for block in self.dit.blocks:
            given = MemoryRotary(batch.cos, batch.sin, layout)
            hidden, *own = block(hidden, embedded, modulation, given)
            layers.append((own[0], own[1]))
        if may_keep:
            self._known = [*self._known, (text, version_of(text), text.clone(), layers)][-_MOST_TEXTS:]
        return layers


def _argument(name: str, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _equal(known: Tensor, text: Tensor) -> bool:
    return bool(known.shape == text.shape and known.dtype == text.dtype and torch.equal(known, text))
