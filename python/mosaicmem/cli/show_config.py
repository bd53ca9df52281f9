"""``mosaicmem show-config``: all settings with their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import Debug, Set, print_json
from mosaicmem.cli._errors import UsageError, check_choice, reports_errors
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._settings import COMMANDS, read_build_settings, read_settings, unset_settings

if TYPE_CHECKING:
    from mosaicmem.pipeline import PipelineConfig


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
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            metavar="WxH[,FRAMES]",
            help="Show what follows for images of this size instead: grids, patches, bytes, windows of a path.",
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

    if command == "build":
        if sizes:
            raise UsageError("--sizes: expected none for build")
        print_json(_of_build(config, changes, schema))
        return
    if schema and (config is not None or changes or command or sizes):
        raise UsageError("--schema: expected none of --config, --set, --for and --sizes with it")
    if schema:
        print_json(PipelineConfig.model_json_schema())
        return
    if command is not None:
        check_choice("--for", command, [*COMMANDS, "build"])
    shown = read_settings(config, changes, command=command).model_dump(mode="json")
    if sizes is not None:
        print_json(_derived(read_settings(config, changes, command=command), sizes))
        return
    if command is None:
        shown.update(dict.fromkeys(unset_settings(config, changes)))
    print_json(shown)


def _of_build(config: Path | None, changes: list[str] | None, schema: bool) -> dict[str, Any]:
    """The settings of a build, or their schema."""
    if not schema:
        return read_build_settings(config, changes).model_dump(mode="json")
    from mosaicmem.scale import BuildConfig

    return BuildConfig.model_json_schema()


def _derived(settings: PipelineConfig, text: str) -> dict[str, Any]:
    """What follows from a configuration for images of one size, and for a path of some frames."""
    from mosaicmem.pipeline.sizes import derived_sizes

    size, _, frames = text.partition(",")
    if frames and not (frames.isascii() and frames.isdigit() and int(frames) > 0):
        raise UsageError(f"--sizes: expected WxH or WxH,FRAMES, 1280x704,81 say, got {text!r}")
    return derived_sizes(settings, parse_size("--sizes", size), int(frames) if frames else None)
