"""``python -m mosaicmem``."""

from mosaicmem.cli import main

main()
