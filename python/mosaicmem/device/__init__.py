"""The operators on arrays in the memory of a GPU, one file for each that has kernels in cuda/.

The public functions and classes come here when their arrays are on a device; nobody else imports these modules.
"""

from __future__ import annotations

from mosaicmem import _core
from mosaicmem._border.frameworks import has_kernels


def describe_cuda() -> str:
    """A sentence about what is built in and what is found."""
    if not has_kernels():
        return "not built in"
    built = f"kernels for {_core.cuda.architectures}, by nvcc {_core.cuda.compiler}"
    if _core.cuda.is_emulated:
        return "emulated on the host, for tests"
    driver = _core.cuda.driver_version()
    if driver == 0:
        return f"{built}; no driver found"
    count = _core.cuda.device_count()
    gpus = "no GPU" if count == 0 else "1 GPU" if count == 1 else f"{count} GPUs"
    return f"{built}; driver for CUDA {driver // 1000}.{driver % 1000 // 10}, {gpus}"
