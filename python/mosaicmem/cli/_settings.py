"""The configuration of a run from a file, from --set, and from options of their own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaicmem.pipeline import PipelineConfig


def read_settings(
    config: Path | None,
    changes: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> PipelineConfig:
    """A configuration: its defaults, then ``defaults``, then the file, then --set, then options that were given.

    ``defaults`` are a command's own, where there is no file; in ``given``, None stands for an option that was not.
    """
    from mosaicmem.pipeline import PipelineConfig

    fields = dict(defaults or {}) if config is None else PipelineConfig.load(config).model_dump()
    for change in changes or ():
        name, value = _parse(change, tuple(PipelineConfig.model_fields))
        if PipelineConfig.model_fields[name].annotation is str:
            value = change.partition("=")[2]  # 123 is a prompt too
        fields[name] = value
    fields.update({name: value for name, value in (given or {}).items() if value is not None})
    return PipelineConfig(**fields)


def _parse(change: str, names: Sequence[str]) -> tuple[str, Any]:
    """``window_size=8`` as ("window_size", 8); what is no JSON is text."""
    name, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"--set: expected NAME=VALUE, got {change!r}")
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]}?" if near else "; show-config lists all"
        raise ValueError(f"--set: {name}: no such setting{hint}")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text
