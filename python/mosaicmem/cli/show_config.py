"""``mosaicmem show-config``: all settings with their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import Debug, Set, print_json
from mosaicmem.cli._errors import UsageError, check_choice, reports_errors
from mosaicmem.cli._settings import COMMANDS, read_settings, unset_settings


@reports_errors
def show_config(
    config: Annotated[Path | None, typer.Option(help="JSON file to check and complete; defaults without one.")] = None,
    changes: Set = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="COMMAND",
            help="Show the defaults of one command, generate say, that are null otherwise.",
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON schema: types, ranges, meaning.")] = False,
    debug: Debug = False,
) -> None:
    """Print the configuration as JSON, to be edited and passed to --config.

    A null setting is left to the command that reads the file, so without --set or an edit the file changes nothing in
    any command.

    Example: mosaicmem show-config --set window_size=8 > config.json
    """
    from mosaicmem.pipeline import PipelineConfig

    if schema and (config is not None or changes or command):
        raise UsageError("--schema: expected neither --config nor --set nor --for with it")
    if schema:
        print_json(PipelineConfig.model_json_schema())
        return
    if command is not None:
        check_choice("--for", command, list(COMMANDS))
    shown = read_settings(config, changes, command=command).model_dump(mode="json")
    if command is None:
        shown.update(dict.fromkeys(unset_settings(config, changes)))
    print_json(shown)
