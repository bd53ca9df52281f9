"""From any footage to a data set: videos, photos, and what other tools leave.

`import_footage` makes a folder that `mosaicmem.datasets.open_sequence`, and so every command, reads. Structure from
motion is pycolmap's, resampling and tracking are OpenCV's: ``pip install 'mosaicmem[import]'``.
"""

from mosaicmem.importing.importer import ImportReport, import_footage
from mosaicmem.importing.moving import moving_pixels
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.segmenter import OnnxSegmenter

__all__ = ["ImportOptions", "ImportReport", "OnnxSegmenter", "import_footage", "moving_pixels"]
