"""The file that lists the tiles of a tiled store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mosaicmem._files import read_json_object, write_json
from mosaicmem.errors import FormatError, describe_validation

TILES = "tiles.json"
FORMAT = "mosaicmem tiles"
MOST_TILES = 1 << 22
_MOST_BYTES = 1 << 30

_Coordinate = Annotated[float, Field(ge=-1e15, le=1e15)]
_Point = tuple[_Coordinate, _Coordinate, _Coordinate]
_Cell = Annotated[int, Field(gt=-(2**40), lt=2**40)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TileEntry(_Strict):
    """A tile: the keyframes whose cameras stand in one cell of the world's grid.

    Attributes
    ----------
    cell : three ints
        Of the grid.
    centres : two points, optional
        Bounds of its patches' centres, world metres; None before the first patch.
    surface : two points, optional
        Bounds of all that its cells show.
    newest : float, optional
        Time of its newest keyframe, seconds.
    patches : int
        Roughly: what its store holds counts.
    """

    cell: tuple[_Cell, _Cell, _Cell]
    centres: tuple[_Point, _Point] | None
    surface: tuple[_Point, _Point] | None
    newest: float | None
    patches: Annotated[int, Field(ge=0, lt=2**40)]


class TileFile(_Strict):
    """All tiles, and what they share.

    Attributes
    ----------
    tile_size : float
        Edge of a cell, metres.
    origin : three floats
        Where the spatial index counts from: the position of the first camera.
    channels : int
        Of the latents.
    next_frame_id : int
    revision : int
        Increases with each write.
    tiles : list of TileEntry
        Their positions in this list are their numbers, which never change.
    """

    format: Literal["mosaicmem tiles"] = "mosaicmem tiles"
    version: Literal[1] = 1
    latent_patch_size: Annotated[int, Field(ge=1, le=1024)]
    latent_dtype: Literal["float32", "float16", "bfloat16"]
    tile_size: Annotated[float, Field(gt=0, le=1e12)]
    origin: _Point
    channels: Annotated[int, Field(ge=1, lt=2**31)]
    next_frame_id: Annotated[int, Field(ge=-(2**62), le=2**62 + 1)]
    revision: Annotated[int, Field(ge=0, lt=2**62)]
    tiles: Annotated[list[TileEntry], Field(max_length=MOST_TILES)]

    @model_validator(mode="after")
    def _check(self) -> TileFile:
        if len({tile.cell for tile in self.tiles}) < len(self.tiles):
            raise ValueError("tiles: expected one of each cell")
        boxes = [box for tile in self.tiles for box in (tile.centres, tile.surface) if box is not None]
        if any(low > high for box in boxes for low, high in zip(*box, strict=True)):
            raise ValueError("tiles: expected low below high")
        if any((tile.centres is None) != (tile.surface is None) for tile in self.tiles):
            raise ValueError("tiles: expected both bounds or none")
        return self

    def write(self, folder: Path) -> None:
        """Replace the file of a folder, durably."""
        write_json(folder / TILES, self.model_dump(mode="json"))


def read_tiles(folder: Path) -> TileFile:
    """The file of a folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It is damaged, or of a newer version.
    """
    path = folder / TILES
    try:
        content = read_json_object(path, _MOST_BYTES, follow=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no tiled store: it has no {TILES}") from None
    if content.get("format") != FORMAT or content.get("version") != 1:
        got = f"format {content.get('format')!r:.80}, version {content.get('version')!r:.20}"
        raise FormatError(path, f"expected a tiled store of version 1, got {got}; update mosaicmem?")
    try:
        return TileFile(**content)
    except ValidationError as error:
        raise FormatError(path, f"damaged: {describe_validation(error)[:500]}") from None
