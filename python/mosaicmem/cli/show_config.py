"""``mosaicmem show-config``: all settings with their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import Debug, reports_errors


@reports_errors
def show_config(
    config: Annotated[Path | None, typer.Option(help="JSON file to check and complete; defaults without one.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema: types, ranges, meaning.")] = False,
    debug: Debug = False,
) -> None:
    """Print the configuration as JSON, ready to be edited and given to --config.

    Example: mosaicmem show-config > config.json
    """
    from mosaicmem.pipeline import PipelineConfig

    if schema and config is not None:
        raise ValueError("--schema, --config: expected at most one of the two")
    if schema:
        typer.echo(json.dumps(PipelineConfig.model_json_schema(), indent=2))
        return
    settings = PipelineConfig() if config is None else PipelineConfig.load(config)
    typer.echo(settings.model_dump_json(indent=2))
