"""The configuration of a run from a file, from --set, and from dedicated options."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicmem.cli._errors import UsageError

if TYPE_CHECKING:
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.pipeline import PipelineConfig
    from mosaicmem.scale import BuildConfig

COMMANDS: Mapping[str, Mapping[str, Any]] = {
    "demo": {"prompt": "a flat with pictures on the walls"},
    "generate": {"half_life": 2.0},  # handheld sequences drift in pose and exposure
    "evaluate": {},
    "inspect": {},
    "visualize": {},
    "bench": {"num_threads": 1},
}
"""The commands that take --config, each with its own defaults for settings that a file leaves null."""

_OPTIONS = {"prompt": "--prompt", "seed": "--seed", "num_threads": "--threads", "half_life": "--half-life"}
_OPTIONS |= {"vae": "--vae"}
_OPTIONS |= {"num_inference_steps": "--steps", "window_size": "--window-size", "window_overlap": "--window-overlap"}


def read_settings(
    config: Path | None,
    changes: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    command: str | None = None,
    used: Collection[str] | None = None,
) -> PipelineConfig:
    """A configuration from, in increasing priority: a command's defaults, the file, --set, and dedicated options.

    Parameters
    ----------
    config : path, optional
        JSON object. A null setting keeps the default of the command, as if it were absent.
    changes : sequence of str, optional
        NAME=VALUE of each --set.
    given : mapping of str to Any, optional
        Values of dedicated options, by setting; None for an option that was not given.
    command : str, optional
        The command whose defaults apply. Default: those of the library.
    used : collection of str, optional
        Settings that have an effect here; --set of any other is rejected. Default: all.

    Raises
    ------
    UsageError
        --set or a dedicated option is wrong; the message names it.
    FormatError
        The file is wrong.
    """
    from pydantic import ValidationError

    from mosaicmem.pipeline import PipelineConfig

    fields = dict(COMMANDS.get(command or "", {}))
    fields.update(_read_file(config))
    told = read_changes(changes)
    idle = sorted(set(told) - set(used)) if used is not None else []
    if idle:
        raise UsageError(
            f"--set: {idle[0]} has no effect here; the settings that count are {', '.join(sorted(used or ()))}"
        )
    own = COMMANDS.get(command or "", {})
    fields.update({name: own.get(name) if value is None else value for name, value in told.items()})
    options = {name: value for name, value in (given or {}).items() if value is not None}
    fields.update(options)
    try:
        return PipelineConfig(**fields)
    except ValidationError as error:
        raise UsageError(_name_options(error, told, options)) from None


def follow_registration(settings: PipelineConfig, sequence: RgbdSequence, frames: Sequence[int]) -> PipelineConfig:
    """The settings with the field_angle that suits how well colour and depth of some frames fit, unless it is given."""
    from mosaicmem.geometry import estimate_registration

    if "field_angle" in settings.model_fields_set or not frames:
        return settings
    seen = (sequence[i] for i in frames)
    found = estimate_registration(((each.image, each.depth, each.pose) for each in seen), sequence.intrinsics)
    return settings.model_copy(update={"field_angle": found.field_angle})


def unset_settings(config: Path | None, changes: Sequence[str] | None = None) -> list[str]:
    """The settings with command-specific defaults to which neither the file nor --set gives a value."""
    names = sorted({name for own in COMMANDS.values() for name in own})
    given = {**_read_file(config), **read_changes(changes)}
    return [name for name in names if given.get(name) is None]


def read_changes(changes: Sequence[str] | None) -> dict[str, Any]:
    """Settings by name, from each ``NAME=VALUE``; the last one wins."""
    from mosaicmem.pipeline import PipelineConfig

    fields = PipelineConfig.model_fields
    told = {}
    for change in changes or ():
        name, value = parse_change(change, tuple(fields))
        if fields[name].annotation is str:
            value = change.partition("=")[2]  # 123 is a prompt too
        told[name] = value
    return told


def _read_file(config: Path | None) -> dict[str, Any]:
    """The settings that a file gives, validated on their own so that an error names the file."""
    from mosaicmem.pipeline import PipelineConfig

    if config is None:
        return {}
    _, fields = PipelineConfig.load_fields(config)
    return {name: value for name, value in fields.items() if value is not None}


def _name_options(error: Any, told: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """What is wrong, in terms of the options that the user typed."""
    from mosaicmem.errors import describe_validation

    text = describe_validation(error)
    name = text.partition(":")[0]
    if name in options:
        return f"{_OPTIONS.get(name, name)}{text[len(name) :]}"
    return f"--set: {text}" if told else text


def read_build_settings(
    config: Path | None, changes: Sequence[str] | None, given: Mapping[str, Any] | None = None
) -> BuildConfig:
    """The settings of a build from, in increasing priority, a file, --set, and options of the settings' names."""
    from pydantic import ValidationError

    from mosaicmem.scale.config import BuildConfig

    fields = {} if config is None else BuildConfig.load(config).model_dump(exclude_unset=True)
    told = dict(
        parse_change(change, tuple(BuildConfig.model_fields), "show-config --for build") for change in changes or ()
    )
    options = {name: value for name, value in (given or {}).items() if value is not None}
    try:
        settings = BuildConfig(**fields | told | options)
        settings.rope(), settings.policy()
    except ValidationError as error:
        raise UsageError(_name_options(error, told, options)) from None
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    return settings


def parse_change(change: str, names: Sequence[str], lists: str = "show-config") -> tuple[str, Any]:
    """``window_size=8`` as ("window_size", 8); a value that is not JSON is text."""
    name, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"--set: expected NAME=VALUE, got {change!r}")
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; {lists} lists all"
        raise UsageError(f"--set: {name}: no such setting{hint}")
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):  # not JSON, numbers with thousands of digits, excessive nesting
        return name, text
