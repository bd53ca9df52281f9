"""A Wan pipeline of diffusers as the parts of an `AutoregressivePipeline`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicmem._arrays import check_instance
from mosaicmem.diffusion import MemoryContext
from mosaicmem.diffusion.protocols import Array
from mosaicmem.models.diffusers_scheduler import DiffusersScheduler
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.wan_memory import MemoryHandle, add_memory, wan_rope
from mosaicmem.models.wan_transformer import check_wan, embedding_of
from mosaicmem.models.wan_vae import WanMemoryVAE

_TEXT_LENGTH = 512  # tokens, padded: what the pipelines give the transformers, whose attention sees the padding


class WanMemoryModel:
    """The transformer, VAE, scheduler and text encoder of a Wan pipeline, with memory; a `DiffusionBackbone`.

    ``AutoregressivePipeline(config, **model.parts())`` generates with them, window after window.

    Parameters
    ----------
    pipe : diffusers.WanPipeline or WanImageToVideoPipeline
        T2V, with one transformer or two; or TI2V (``expand_timesteps``), whose windows then begin with the latents of
        an image: the first image of the run, or the last frames of the window before.
    mode : str or tuple of str, optional
        As for `add_memory`; for example ``("kv", "canvas")``. If not given: that of the transformers' memory, or
        ``kv``.
    negative_prompt : str
        What guidance steers away from.
    frame_local, prope, gate
        As for `add_memory`; not used for transformers that have memory already.
    batch_options : mapping, optional
        Of `MemoryBatch.of_contexts`: ``distinct``, ``incomplete``, ``pad_to``.
    """

    prediction_type = "velocity"

    def __init__(
        self,
        pipe: Any,
        *,
        mode: str | tuple[str, ...] | None = None,
        negative_prompt: str = "",
        frame_local: bool = True,
        prope: str | Mapping[str, Any] | None = None,
        gate: float = 0.0,
        batch_options: Mapping[str, Any] | None = None,
    ) -> None:
        for name in ("transformer", "vae", "scheduler", "encode_prompt"):
            if not hasattr(pipe, name):
                kind = type(pipe).__name__
                hint = "; pass the pipeline, not its transformer" if kind == "WanTransformer3DModel" else ""
                raise TypeError(f"pipe: expected a Wan pipeline of diffusers, got {kind} without {name}{hint}")
        self.pipe, self.negative_prompt = pipe, check_instance("negative_prompt", negative_prompt, str)
        self.vae, self.scheduler = WanMemoryVAE(pipe.vae), DiffusersScheduler(pipe.scheduler)
        self._options = dict(batch_options or {})
        self._transformers = [
            check_wan(x) for x in (pipe.transformer, getattr(pipe, "transformer_2", None)) if x is not None
        ]
        for dit in self._transformers:
            if dit.config.in_channels != self.vae.channels:
                raise ValueError(
                    f"pipe: expected a transformer of the {self.vae.channels} channels of its VAE, got "
                    f"{dit.config.in_channels}: models that take image channels beside the latents are not supported"
                )
        modes = None if mode is None else (mode,) if isinstance(mode, str) else tuple(mode)
        if modes is not None and len({one == "canvas" for one in modes}) < len(modes):
            raise ValueError(f'mode: expected one of "kv" and "concat", and "canvas" or not, got {modes}')
        for dit in self._transformers:
            had = tuple(handle.mode for handle in getattr(dit, "_mosaicmem", []))
            if had and modes is not None and set(had) != set(modes):
                raise ValueError(
                    f"mode: expected {had}, which the transformer has already, got {modes}; remove() it first"
                )
            for one in () if had else modes or ("kv",):
                of_cameras = None if one == "canvas" else prope
                add_memory(dit, mode=one, frame_local=frame_local, prope=of_cameras, gate=gate)
        self._texts: dict[str, Tensor] = {}

    @property
    def uses_anchor(self) -> bool:
        """Whether windows begin with the latents of an image."""
        return bool(self.pipe.config.get("expand_timesteps", False))

    def handles(self) -> list[MemoryHandle]:
        """The memory of each transformer: to load trained gates, or to remove it."""
        return [handle for dit in self._transformers for handle in getattr(dit, "_mosaicmem", [])]

    def clear(self) -> None:
        """Forget the last window: the pipeline's own loop then runs without memory."""
        for handle in self.handles():
            handle.clear()

    @property
    def patch(self) -> int:
        """Latent cells along a token: images are padded to whole tokens."""
        return int(max(self._transformers[0].config.patch_size[1:]))

    def parts(self) -> dict[str, Any]:
        """Arguments of `AutoregressivePipeline`."""
        return {"backbone": self, "vae": self.vae, "scheduler": self.scheduler}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def predict(self, sample: Array, timestep: float, context: MemoryContext) -> Array:
        """The velocity, (B, C, T, h, w) float32."""
        dit = self._transformer_at(timestep)
        weight = embedding_of(dit).weight
        x = torch.as_tensor(sample)
        times = torch.full((len(x),), timestep, device=weight.device)
        if self.uses_anchor:
            first = torch.ones(
                x.shape[2], *(n // p for n, p in zip(x.shape[3:], dit.config.patch_size[1:], strict=True))
            )
            if context.anchor is not None:
                x = torch.cat([torch.as_tensor(context.anchor)[None].to(x), x[:, :, 1:]], dim=2)
                first[0] = 0
            times = times[:, None] * first.flatten().to(times)
        self._remember(dit, context)
        velocity = dit(x.to(weight), times, self._text(context.prompt or self.negative_prompt), return_dict=False)[0]
        velocity = velocity.float()
        return velocity.to(sample.device) if isinstance(sample, Tensor) else np.asarray(velocity.cpu().numpy())

    def _transformer_at(self, timestep: float) -> Any:
        ratio = self.pipe.config.get("boundary_ratio")
        if ratio is None or len(self._transformers) == 1:
            return self._transformers[0]
        return self._transformers[timestep < ratio * self.scheduler.num_train_timesteps]

    def _remember(self, dit: Any, context: MemoryContext) -> None:
        """Give a transformer's handles the memory of a window, made once for all steps and guidance branches."""
        for handle in dit._mosaicmem:
            weight = embedding_of(dit).weight
            options = {"patch": tuple(dit.config.patch_size), "rope": wan_rope(dit), "prope": handle.prope}
            options |= {"device": weight.device, "dtype": weight.dtype, **self._options}

            def build(given: dict[str, Any] = options) -> MemoryBatch:
                return MemoryBatch.of_contexts(context, **given)

            batch = context.once(f"wan {handle.prope} {weight.device} {weight.dtype}", build)
            gate = None if handle.mode == "canvas" else context.gate  # that of attention to memory alone
            handle.set(batch, gate=gate, use_prope=context.use_prope)

    def _text(self, prompt: str) -> Tensor:
        """The encoded prompt (1, L, d); the same tensor each time, by which memory knows it."""
        if prompt not in self._texts:
            options = {"do_classifier_free_guidance": False, "max_sequence_length": _TEXT_LENGTH}
            encoded, _ = self.pipe.encode_prompt(prompt, **options)
            self._texts[prompt] = encoded.to(self._transformers[0].dtype)
        return self._texts[prompt]
