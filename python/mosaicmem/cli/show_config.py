"""``mosaicmem show-config``: all settings with their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import Debug, Set, print_json, reports_errors
from mosaicmem.cli._settings import read_settings


@reports_errors
def show_config(
    config: Annotated[Path | None, typer.Option(help="JSON file to check and complete; defaults without one.")] = None,
    changes: Set = None,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema: types, ranges, meaning.")] = False,
    debug: Debug = False,
) -> None:
    """Print the configuration as JSON, ready to be edited and given to --config.

    Example: mosaicmem show-config --set window_size=8 > config.json
    """
    from mosaicmem.pipeline import PipelineConfig

    if schema and (config is not None or changes):
        raise ValueError("--schema: expected neither --config nor --set with it")
    print_json(PipelineConfig.model_json_schema() if schema else read_settings(config, changes).model_dump(mode="json"))
