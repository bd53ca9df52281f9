"""``mosaicmem compact``: makes saved stores as small as their content."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import AsJson, Debug, print_json
from mosaicmem.cli._errors import reports_errors
from mosaicmem.cli._tables import say


@reports_errors
def compact(
    stores: Annotated[list[Path], typer.Argument(help="Folders of saved stores.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rewrite the files of saved stores that hold erased keyframes or are many and small, and remove leftovers.

    The content stays the same. Other processes may read meanwhile; where one writes, this is refused.

    Example: mosaicmem compact memory
    """
    from mosaicmem.memory.storage import compact as compact_store

    made = {str(path): compact_store(path) for path in stores}
    if as_json:
        print_json({path: asdict(each) for path, each in made.items()})
        return
    for path, each in made.items():
        say(
            f"{path}: {each.files_before} files of {each.nbytes_before / 1e6:.1f} MB, now {each.files_after} of "
            f"{each.nbytes_after / 1e6:.1f} MB"
        )
