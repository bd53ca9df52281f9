"""The command line. One file per command; heavy imports happen inside the commands."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from mosaicmem.cli._common import end_on_signal
from mosaicmem.cli._terminal import show_warnings
from mosaicmem.cli.bench import bench
from mosaicmem.cli.build import build
from mosaicmem.cli.compact import compact
from mosaicmem.cli.convert import convert
from mosaicmem.cli.demo import demo
from mosaicmem.cli.edit import edit
from mosaicmem.cli.evaluate import evaluate
from mosaicmem.cli.export_ply import export_ply
from mosaicmem.cli.generate import generate
from mosaicmem.cli.import_ import import_
from mosaicmem.cli.inspect import inspect
from mosaicmem.cli.path import path
from mosaicmem.cli.show_config import show_config
from mosaicmem.cli.splice import splice
from mosaicmem.cli.view import view
from mosaicmem.cli.visualize import visualize

app = typer.Typer(
    name="mosaicmem",
    help="Explicit spatial memory for video world models.",
    epilog="Exit codes: 0 done; 1 failed, with one line on standard error that says why; 2 wrong usage; "
    "129, 130 or 143 hung up, interrupted or terminated, with nothing left behind but checkpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from mosaicmem import __version__
        from mosaicmem._border import describe_cuda

        typer.echo(f"mosaicmem {__version__}")
        typer.echo(f"CUDA: {describe_cuda()}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and what CUDA there is, and exit.",
        ),
    ] = False,
) -> None:
    pass


app.command()(demo)
app.command()(generate)
app.command()(evaluate)
app.command()(inspect)
app.command()(view)
app.command()(visualize)
app.command()(edit)
app.command()(splice)
app.command()(compact)
app.command("export-ply")(export_ply)
app.command()(convert)
app.command("import")(import_)
app.command()(build)
app.command()(path)
app.command("show-config")(show_config)
app.command()(bench)


def main() -> None:
    """Entry point of the ``mosaicmem`` command. An interrupted or terminated run leaves no unfinished output."""
    show_warnings()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, end_on_signal)
    app(prog_name="mosaicmem")
