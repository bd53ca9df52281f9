"""How options select frames, and how tables, pictures and JSON name them.

One rule holds in every command: a frame is named by its position, counted from 0 in the order of the sequence or of
the camera path. Files of a sequence may have other numbers (as in a 7-Scenes folder with every fourth frame); if they
differ from the positions, they are shown beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mosaicmem.cli._errors import UsageError
from mosaicmem.cli._terminal import warn


def parse_size(name: str, text: str) -> tuple[int, int]:
    """``640x480`` as (width, height)."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) < 2**20 for part in parts):
        raise UsageError(f"{name}: expected WIDTHxHEIGHT in pixels, 640x480 say, got {text!r}")
    return int(parts[0]), int(parts[1])


def parse_range(name: str, text: str, count: int, number: Callable[[int], int] | None = None) -> range:
    """``A:B`` or ``A:B:STEP`` as positions within [0, count); A, B and STEP may be left out.

    ``number`` maps a position to its file number, for the error message.
    """
    parts = text.split(":")
    try:
        if not 2 <= len(parts) <= 3:
            raise ValueError
        start, stop, step = (
            int(part) if part else default for part, default in zip([*parts, ""][:3], (0, count, 1), strict=True)
        )
    except ValueError:
        raise UsageError(f"{name}: expected A:B or A:B:STEP, got {text!r}") from None
    if not (0 <= start < stop <= count and step >= 1):
        raise UsageError(
            f"{name}: expected 0 <= A < B <= {count} (the number of frames) and STEP >= 1, got {text!r}"
            f"{_of_files(count, number)}"
        )
    return range(start, stop, step)


def _of_files(count: int, number: Callable[[int], int] | None) -> str:
    """A hint for the error message if the files are numbered differently."""
    if number is None or not count or (number(0), number(count - 1)) == (0, count - 1):
        return ""
    return (
        f"; frames are named by position, 0 to {count - 1}, not by the numbers of their files, "
        f"{number(0)} to {number(count - 1)}"
    )


def parse_list(name: str, text: str, count: int) -> list[int]:
    """Comma-separated positions, ``0,5,9``, or a range as in `parse_range`; ascending, without duplicates."""
    if ":" in text:
        return list(parse_range(name, text, count))
    try:
        frames = [int(part) for part in text.split(",")]
        if not all(0 <= frame < count for frame in frames):
            raise ValueError
    except ValueError:
        raise UsageError(f"{name}: expected numbers from 0 to {count - 1} with commas, got {text!r}") from None
    return sorted(set(frames))


def own_numbers(source: object, frames: Sequence[int]) -> list[int] | None:
    """The file numbers of some positions of a sequence; None if they equal the positions."""
    number = getattr(source, "number", None)
    if number is None:
        return None
    numbers = [int(number(i)) for i in frames]
    return None if numbers == list(frames) else numbers


def caption_of(frame: int, number: int | None) -> str:
    """``frame 60 (file 240)``, or ``frame 60`` if the file has the same number."""
    return f"frame {frame}" if number is None or number == frame else f"frame {frame} (file {number})"


def selected(frames: Sequence[int], numbers: Sequence[int] | None) -> str:
    """``10 frames, 60 to 96``, with their file numbers if these differ."""
    if not frames:
        return "no frames"
    if len(frames) == 1:
        return caption_of(frames[0], numbers[0] if numbers else None)
    of_files = "" if numbers is None else f" (files {numbers[0]} to {numbers[-1]})"
    return f"{len(frames)} frames, {frames[0]} to {frames[-1]}{of_files}"


def warn_of_overlap(targets: Sequence[int], remembered: Sequence[int]) -> None:
    """Warn if frames are compared with themselves."""
    both = len(set(targets) & set(remembered))
    if both:
        warn(f"{both} of {len(targets)} target frames are remembered too, which flatters their figures")
