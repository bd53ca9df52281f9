"""Captioned sheets of pictures: a heading for each row and column, and notes below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mosaicmem._arrays import F32

_SIZE = 15  # font size, pixels
_GAP = 6
_MARGIN = 10
_INK = (34, 34, 34)
_FRAME = (170, 170, 170)  # outline of each picture, so that white ones have an edge


def captioned_sheet(
    title: str,
    columns: Sequence[str],
    rows: Sequence[str],
    pictures: Sequence[Sequence[F32]],
    notes: Sequence[str] = (),
) -> F32:
    """Pictures of one size in rows and columns on white, with captions.

    Parameters
    ----------
    title : str
    columns, rows : sequence of str
        What each column and each row shows.
    pictures : sequence of sequence of (H, W, 3) float32 in [0, 1]
        Row by row.
    notes : sequence of str
        Lines below that explain the colours.
    """
    from PIL import Image, ImageDraw

    font = _font()
    height, width, _ = pictures[0][0].shape
    names = [_wrapped(row, 160, font) for row in rows]
    heads = [_wrapped(column, width, font) for column in columns]
    left = _MARGIN + max((_width(line, font) for name in names for line in name), default=0) + _MARGIN
    total = left + len(columns) * (width + _GAP) + _MARGIN
    above = _wrapped(title, total - 2 * _MARGIN, font)
    below = [line for note in notes for line in _wrapped(note, total - 2 * _MARGIN, font)]
    line_height = _SIZE + 5
    top = _MARGIN + len(above) * line_height + _GAP + max(map(len, heads)) * line_height + 2
    bottom = top + len(pictures) * (height + _GAP)
    sheet = Image.new("RGB", (total, bottom + len(below) * line_height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)

    def write(lines: Sequence[str], x: int, y: int) -> None:
        for i, line in enumerate(lines):
            draw.text((x, y + i * line_height), line, fill=_INK, font=font)

    write(above, _MARGIN, _MARGIN)
    for j, head in enumerate(heads):
        write(head, left + j * (width + _GAP), top - 2 - len(head) * line_height)
    for i, row in enumerate(pictures):
        y = top + i * (height + _GAP)
        write(names[i], _MARGIN, y)
        for j, picture in enumerate(row):
            pixels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
            x = left + j * (width + _GAP)
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)
            sheet.paste(Image.fromarray(pixels), (x, y))
    write(below, _MARGIN, bottom + 2)
    result: F32 = np.asarray(sheet, np.float32) / np.float32(255)
    return result


def _font() -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(_SIZE)
    except TypeError:  # Pillow before 10.1 has only one size
        return ImageFont.load_default()


def _width(text: str, font: Any) -> int:
    return int(np.ceil(font.getlength(text)))


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """Lines of at most ``width`` pixels, unless a single word is wider."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
