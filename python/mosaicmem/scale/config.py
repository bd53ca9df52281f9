"""What a build makes of each sequence."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mosaicmem._arrays import check_methods
from mosaicmem._files import read_json_object
from mosaicmem.attention import WarpedRoPE
from mosaicmem.diffusion import VAE
from mosaicmem.errors import FormatError, describe_validation
from mosaicmem.models.training import MemoryPolicy

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_NotNegative = Annotated[float, Field(ge=0)]

_MAX_BYTES = 1 << 20  # of a configuration file
_POLICY = tuple(MemoryPolicy.__dataclass_fields__)


class BuildConfig(BaseModel):
    """Settings of a build. Together with the sources they determine every byte of it. Immutable; unknown keys are
    errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    vae: Annotated[
        str, Field(pattern=r"^[\w.]+:\w+$", description="module:name of a callable that makes the VAE of a process.")
    ] = "mosaicmem:SyntheticVAE"
    size: Annotated[
        tuple[_Count, _Count] | None,
        Field(strict=False, description="Width and height, pixels, that images are resized to; null: as they are."),
    ] = None
    window: Annotated[_Count, Field(description="Frames of a sample, whole latent frames of the VAE.")] = 17
    step: Annotated[
        _Count | None, Field(description="Frames from the beginning of a window to that of the next; null: a window.")
    ] = None
    epochs: Annotated[_Count, Field(description="Samples of each window, each with other memories.")] = 1
    min_coverage: Annotated[_Fraction, Field(description="Leave out windows of which memory can show less.")] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Of what memories are drawn and disturbed by.")] = 0

    patch: Annotated[
        tuple[Literal[1], _Count, _Count], Field(strict=False, description="The transformer's patch, latent cells.")
    ] = (1, 2, 2)
    head_dim: Annotated[int, Field(ge=2, le=4096, description="Of the transformer's attention, for Warped RoPE.")] = 128
    rope_axes: Annotated[
        tuple[int, int, int] | None, Field(strict=False, description="Of it, by t, y and x; null: as in Wan.")
    ] = None
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    rope_pairing: Literal["interleaved", "split_half"] = "interleaved"
    top_k: Annotated[_Count, Field(description="Patches of memory for each latent frame.")] = 256
    prope: Annotated[
        Literal["half", "full", "contiguous"] | None, Field(description="Keep cameras for PRoPE of this layout.")
    ] = None
    distinct: Annotated[bool, Field(description="Each patch for the latent frame where it scores best only.")] = False
    canvas: Annotated[bool, Field(description="Samples have a canvas of warped latents.")] = True

    remembered: Annotated[
        Literal["past", "around"], Field(description="Frames that memory may hold: before the window, or after it too.")
    ] = "past"
    gap: Annotated[int, Field(ge=0, description="Frames next to the window that memory never holds.")] = 0
    translation: Annotated[_NotNegative, Field(description="Metres between keyframes.")] = 0.3
    angle: Annotated[_NotNegative, Field(description="Radians between keyframes.")] = 0.3
    interval: Annotated[_Count, Field(description="Frames between keyframes, at most.")] = 8
    max_keyframes: Annotated[_Count, Field(description="Memory of a sample holds at most this many.")] = 16
    composition: Annotated[Literal["random", "latest"], Field(description="Which of them.")] = "random"
    dropout: Annotated[_Fraction, Field(description="Probability of an empty memory.")] = 0.1
    noise: Annotated[_NotNegative, Field(description="Standard deviation on memory's latents, at most.")] = 0.1
    holes: Annotated[_Fraction, Field(description="Of the cells of a keyframe that memory forgets, at most.")] = 0.2

    dtype: Annotated[Literal["float32", "float16"], Field(description="Of latents in samples.")] = "float32"
    stores: Annotated[bool, Field(description="Also save a store of all keyframes of each sequence.")] = True
    latent_dtype: Annotated[Literal["float32", "float16", "bfloat16"], Field(description="Of these stores.")] = (
        "float16"
    )
    sequences_per_shard: Annotated[
        _Count, Field(description="Sequences that share a shard: more if they are short.")
    ] = 1
    shard_bytes: Annotated[
        int, Field(ge=1 << 10, le=1 << 40, description="A shard is continued in another one beyond this.")
    ] = 1 << 30
    imports: Annotated[
        bool, Field(description="Sources that are no data sets are imported first, as `mosaicmem import` does.")
    ] = False

    @classmethod
    def load(cls, path: str | Path) -> BuildConfig:
        """Read a JSON object of settings; those left out have their defaults.

        Raises
        ------
        FormatError
            Not JSON, an unknown key, or an impossible value; the message names it.
        """
        try:
            return cls(**read_json_object(path, _MAX_BYTES))
        except ValidationError as error:
            raise FormatError(path, describe_validation(error)) from None

    def policy(self) -> MemoryPolicy:
        """What samples remember."""
        return MemoryPolicy(**{name: getattr(self, name) for name in _POLICY})

    def rope(self) -> WarpedRoPE:
        """Of the transformer that is to be trained."""
        return WarpedRoPE(self.head_dim, self.rope_axes, theta=self.rope_theta, pairing=self.rope_pairing)

    def batch_options(self) -> dict[str, Any]:
        """Of `MemoryBatch.build`."""
        return {name: getattr(self, name) for name in ("top_k", "prope", "distinct", "canvas")}

    def make_vae(self) -> VAE:
        """Import and call the factory; its module may also lie in the current folder.

        Raises
        ------
        ValueError
            It cannot be imported, raises, or returns something else; the message says what.
        """
        module, _, name = self.vae.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            made = getattr(importlib.import_module(module), name)()
        except Exception as error:
            raise ValueError(f"vae: {self.vae} fails: {type(error).__name__}: {error}") from error
        check_methods(f"vae: what {self.vae} returns", made, VAE)
        vae: VAE = made
        return vae
