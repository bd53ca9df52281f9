"""All settings of a run, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Sized
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mosaicmem._arrays import check_choice
from mosaicmem._files import read_json_object, write_json
from mosaicmem.errors import FormatError, describe_validation
from mosaicmem.memory import strategy_names
from mosaicmem.pipeline.rust_config import is_of_rust, of_rust

_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Bytes = Annotated[int, Field(ge=1, le=2**61)]
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]

MAX_BYTES = 1 << 20  # of a configuration file
_MOST_UNKNOWN = 100  # unknown settings that errors name one by one
_MOST_EVENTS = 10_000

_LEFT_OPEN = ("prompt", "num_threads", "half_life")  # settings for which commands have their own defaults


def _or_null(schema: dict[str, Any]) -> None:
    """Allow null in the JSON schema of a setting that a file may leave open."""
    schema["type"] = [schema["type"], "null"]


class PromptEvent(BaseModel):
    """A prompt that takes over when a window begins."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    window: Annotated[int, Field(ge=0, description="From this window on.")]
    prompt: str


class PipelineConfig(BaseModel):
    """Configuration of an `AutoregressivePipeline`. Immutable; unknown keys are errors.

    ``prompt``, ``num_threads`` and ``half_life`` may be None, or null in a file: they are then left open, and take the
    default of the command that reads them, or the one here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(description="What the unseen parts should be.", json_schema_extra=_or_null)] = ""
    events: Annotated[
        tuple[PromptEvent, ...],
        Field(strict=False, description="Prompts that take over at later windows."),
    ] = ()
    guidance_scale: Annotated[
        _NotNegative, Field(description="Away from the answer without prompt; 1: off, one call per step.")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**64, description="Of all noise.")] = 0
    num_threads: Annotated[int, Field(ge=0, le=1024, description="0: all cores.", json_schema_extra=_or_null)] = 0

    window_size: Annotated[_Count, Field(description="Frames per window.")] = 16
    window_overlap: Annotated[int, Field(ge=0, description="Frames shared with the window before, blended.")] = 4
    chunks: Annotated[
        bool, Field(description="Windows are chunks that continue each other, for causal models; without overlap.")
    ] = False
    num_inference_steps: Annotated[_Count, Field(le=1000, description="Denoising steps.")] = 10
    scheduler: Annotated[Literal["ddpm", "flow_matching"], Field(description="Used where none is given.")] = "ddpm"
    noise_schedule: Annotated[Literal["linear", "cosine"], Field(description="Of DDPM.")] = "cosine"
    flow_shift: Annotated[_Positive, Field(description="Of flow matching; above 1: more steps at high noise.")] = 1.0

    vae_stride: Annotated[int, Field(ge=1, le=64, description="Pixels per latent cell.")] = 8
    latent_channels: Annotated[int, Field(ge=3)] = 16
    temporal_kind: Literal["causal", "uniform"] = "uniform"
    temporal_factor: Annotated[_Count, Field(description="Frames per latent frame.")] = 1

    use_memory: Annotated[bool, Field(description="False: no retrieval, nothing is remembered.")] = True
    use_prope: Annotated[bool, Field(description="False: attention to memory knows no cameras.")] = True
    use_warped_rope: Annotated[
        bool, Field(description="False: memory tokens keep the positions of the frame that they come from.")
    ] = True
    use_warped_latent: Annotated[bool, Field(description="False: no canvas, attention alone.")] = True
    memory_gate: Annotated[
        _Fraction | None, Field(description="In place of the gates of attention to memory; 0: no attention.")
    ] = None
    latent_patch_size: Annotated[_Count, Field(le=1024, description="Latent cells along a patch.")] = 2
    latent_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_patches: Annotated[_Count | None, Field(description="Patches go when there are more.")] = None
    max_bytes: Annotated[
        _Bytes | None,
        Field(description="Keyframes go when the memory holds more, or their images, where these are more than half."),
    ] = None
    eviction: Annotated[
        Literal["oldest", "redundant"], Field(description="What goes first: the old, or what other views hold.")
    ] = "oldest"

    top_k: Annotated[_Count, Field(description="Patches retrieved for attention, for each latent frame.")] = 1024
    near: Annotated[_Positive, Field(description="Metres.")] = 0.05
    far: Annotated[_Positive | None, Field(description="Metres; null: no limit.")] = None
    half_life: Annotated[
        _NotNegative,
        Field(description="Seconds; 0: age does not count. Of generate: 2 if null.", json_schema_extra=_or_null),
    ] = 0.0
    min_visibility: _NotNegative = 0.01
    diversity_radius: Annotated[_NotNegative, Field(description="Pixels; 0: off.")] = 8.0
    diversity_penalty: _Fraction = 0.5
    generated_weight: Annotated[
        _Fraction, Field(description="Of generated keyframes in retrieval; 0: memory shows observed ones only.")
    ] = 1.0

    strategy: Annotated[
        str, Field(description=f"Which parts of memory compose the canvas: {', '.join(strategy_names())}.")
    ] = "visible_coverage"
    max_keyframes: Annotated[_Count, Field(description="That compose the canvas of a latent frame.")] = 16
    max_window_keyframes: Annotated[_Count, Field(description="That all latent frames of a window share.")] = 32
    composition: Literal["blend", "backward"] = "blend"
    canvas: Annotated[
        Literal["latents", "pixels"],
        Field(
            description="What is warped: the latents of keyframes, or their images (image_pixels along the edge of a "
            "cell), which the VAE encodes anew; latents then show what images leave open."
        ),
    ] = "latents"
    field_angle: Annotated[
        float,
        Field(
            ge=1e-6,
            le=1e6,
            description="Radians: how fast a view's worth falls with the distance between a surface's places in two "
            "images, where errors of registration grow. If it is not given, generate and evaluate find it out.",
        ),
    ] = 0.055
    depth_tolerance: Annotated[_Fraction, Field(description="Relative thickness of a surface.")] = 0.15

    keyframe_translation: Annotated[_NotNegative, Field(description="Metres between keyframes.")] = 0.3
    keyframe_angle: Annotated[_NotNegative, Field(description="Radians between keyframes.")] = 0.3
    keyframe_interval: Annotated[_Count, Field(description="Frames between keyframes, at most.")] = 8
    thumbnails: Annotated[
        bool, Field(description="Keep a small image of each keyframe, so that viewers show the scene.")
    ] = True
    image_pixels: Annotated[
        int, Field(ge=1, le=64, description="Of that image, along the edge of a latent cell.", strict=True)
    ] = 2
    depth_subcells: Annotated[
        Literal[1, 2, 4, 8],
        Field(description="Depths of a keyframe along the edge of a latent cell: finer ones make sharper canvases."),
    ] = 2
    extend_depth: Annotated[
        int,
        Field(
            ge=0,
            le=2**20,
            strict=True,
            description="Latent cells by which observed depth is continued into places where none was measured, which "
            "then show where nothing else does. For scenes that stand still.",
        ),
    ] = 0
    adaptive_keyframes: Annotated[
        bool, Field(description="Choose keyframes by motion; false: one in every keyframe_interval frames.")
    ] = True
    fusion_voxel_size: Annotated[
        _Positive | None,
        Field(
            description="Edge of the voxels, metres, of a map that all remembered frames are fused into; null: none."
        ),
    ] = None
    remember: Annotated[
        Literal["novel", "all"],
        Field(description="What of a generated keyframe is kept: what memory does not show yet, or everything."),
    ] = "novel"
    keyframe_latents: Annotated[
        Literal["encoded", "generated"],
        Field(description="Of generated keyframes: the decoded frame, encoded again, or the latents as generated."),
    ] = "encoded"
    generated_confidence: Annotated[_Fraction, Field(description="Of generated tokens; observed ones have 1.")] = 0.5

    @field_validator("strategy")
    @classmethod
    def _check_strategy(cls, name: str) -> str:
        return check_choice("strategy", name, strategy_names())

    @model_validator(mode="before")
    @classmethod
    def _leave_open(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        events = fields.get("events")
        if isinstance(events, Sized) and len(events) > _MOST_EVENTS:  # each invalid event would be a separate error
            raise ValueError(f"events: expected at most {_MOST_EVENTS}, got {len(events)}")
        fields = {name: None if name == "far" and value == math.inf else value for name, value in fields.items()}
        return {name: value for name, value in fields.items() if value is not None or name not in _LEFT_OPEN}

    @model_validator(mode="after")
    def _check_together(self) -> PipelineConfig:
        if self.window_overlap >= self.window_size:
            raise ValueError(
                f"window_overlap: expected less than window_size = {self.window_size}, got {self.window_overlap}"
            )
        if self.canvas == "pixels" and not self.thumbnails:
            raise ValueError("canvas: expected thumbnails with pixels, which are warped, got thumbnails=False")
        if self.chunks and self.window_overlap:
            raise ValueError(f"window_overlap: expected 0, since chunks continue each other, got {self.window_overlap}")
        if self.far is not None and self.far <= self.near:
            raise ValueError(f"far: expected more than near = {self.near}, got {self.far}")
        if self.max_window_keyframes < self.max_keyframes:
            raise ValueError(
                f"max_window_keyframes: expected at least max_keyframes = {self.max_keyframes}, "
                f"got {self.max_window_keyframes}"
            )
        if self.latent_channels > 3 * self.vae_stride**2:
            raise ValueError(
                f"latent_channels: expected at most 3 * vae_stride^2 = {3 * self.vae_stride**2}, "
                f"got {self.latent_channels}"
            )
        return self

    def patch_options(self) -> dict[str, Any]:
        """The fields that `MemoryRetrieval` takes."""
        return self._options(
            *("top_k", "near", "far", "half_life", "min_visibility"),
            *("diversity_radius", "diversity_penalty", "generated_weight"),
        )

    def keyframe_options(self) -> dict[str, Any]:
        """The fields that `KeyframeRetrieval` takes."""
        return self._options(
            *("strategy", "max_keyframes", "max_window_keyframes", "composition", "depth_tolerance"),
            *("near", "far", "half_life", "generated_weight", "field_angle"),
        )

    def _options(self, *names: str) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in names}
        return {**fields, "far": math.inf if self.far is None else self.far}

    def prompt_of(self, window: int) -> str:
        """The prompt of a window: that of the last event up to it, else ``prompt``."""
        begun = [event for event in self.events if event.window <= window]
        return max(begun, key=lambda event: event.window).prompt if begun else self.prompt

    def save(self, path: str | Path) -> None:
        """Write all fields as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> PipelineConfig:
        """Read a JSON object of fields; those left out have their defaults.

        The files of the Rust implementation are read too.

        Raises
        ------
        FormatError
            Not JSON, an unknown key, or an impossible value; the message names the field.
        """
        return cls.load_fields(path)[0]

    @classmethod
    def load_fields(cls, path: str | Path) -> tuple[PipelineConfig, dict[str, Any]]:
        """`load`, and the fields that the file gives."""
        fields = read_json_object(path, MAX_BYTES)
        if is_of_rust(fields):
            fields = of_rust(path, fields)
        unknown = [name for name in fields if name not in cls.model_fields]
        if len(unknown) > _MOST_UNKNOWN:
            raise FormatError(path, f"{unknown[0]!r:.80} and {len(unknown) - 1} more: no such settings")
        try:
            return cls(**fields), fields
        except ValidationError as error:
            raise FormatError(path, describe_validation(error)) from None
