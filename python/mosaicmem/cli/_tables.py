"""Tables that stay readable in a narrow terminal: no figure is ever cut or wrapped."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table

from mosaicmem.cli._terminal import console

_UNITS = ("dB", "%", "s", "ms", "m", "MB", "metres", "degrees", "frames", "patches", "points", "pixels")


def print_figures(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    last: Sequence[str] | None = None,
    left: int = 0,
) -> None:
    """Print a line per row or, if the terminal is too narrow for that, a block per row.

    Parameters
    ----------
    title : str
        May wrap, and span several lines.
    headings : sequence of str
        One per column; may span several lines.
    rows : sequence of sequence of str
        One cell per column.
    last : sequence of str, optional
        A row of means, set apart from the others.
    left : int
        Number of columns at the left that hold words; the others hold figures.
    """
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if last is not None:
        table.add_section()
        table.add_row(*last)
    say(title)
    wide = console.options.update(max_width=10_000)
    width = Measurement.get(console, wide, table).maximum
    if width <= console.width:
        console.print(table, width=width, crop=False)
        return
    if not console.is_terminal:  # a file has no width
        before, console.width = console.width, width
        console.print(table, crop=False)
        console.width = before
        return
    names = [" ".join(heading.split()).replace("- ", "") for heading in headings]
    for row in [*rows, *([last] if last is not None else [])]:
        say(row[0] if left else f"{names[0]} {row[0]}")
        _print_pairs(list(zip(names[1:], row[1:], strict=True)), indent=2)


def print_pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print a name and a value per line; a value that does not fit beside its name goes below it."""
    say(title)
    _print_pairs(pairs, indent=0)


def _print_pairs(pairs: Sequence[tuple[str, str]], *, indent: int) -> None:
    widest = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        if indent + widest + 2 + len(value) <= console.width:
            say(f"{' ' * indent}{name:<{widest}}  {value}")
        else:
            say(f"{' ' * indent}{name}")
            say(f"{' ' * (indent + 2)}{value}")


def say(text: str) -> None:
    """Print lines, wrapped between words in a terminal; a figure stays with its unit, and a path whole."""
    for line in text.split("\n"):
        for piece in _wrapped(line, console.width) if console.is_terminal else [line]:
            console.print(piece, highlight=False, markup=False, soft_wrap=True)


def _wrapped(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    lines: list[str] = []
    for word in _words(line):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return lines or [""]


def _words(line: str) -> list[str]:
    """The words of a line, with a figure and its unit as one; spaces that align columns are kept."""
    if "  " in line.strip():
        return [line.strip()]
    words: list[str] = []
    for word in line.split():
        if words and words[-1][-1].isdigit() and word.strip(".,;:()") in _UNITS:
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words
