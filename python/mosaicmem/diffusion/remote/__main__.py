"""``python -m mosaicmem.diffusion.remote MODULE:FACTORY``: see `mosaicmem.diffusion.remote.server`."""

import sys

from mosaicmem.diffusion.remote.server import main

if __name__ == "__main__":
    main(sys.argv[1])
