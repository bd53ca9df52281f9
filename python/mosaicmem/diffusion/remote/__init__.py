"""A model in another process, with dependencies of its own: the pipeline's protocols over a local socket.

The model's process serves its parts (`serve`); the pipeline's process drives them through a `RemoteModel`. Requests and
answers are JSON messages over a Unix socket; arrays pass through shared memory.
"""

from mosaicmem.diffusion.remote.client import RemoteModel, RemoteModelError
from mosaicmem.diffusion.remote.server import serve

__all__ = ["RemoteModel", "RemoteModelError", "serve"]
