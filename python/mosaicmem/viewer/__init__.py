"""Live views of memory and of runs in the browser, and recordings for rerun. Needs mosaicmem's extra [view]."""

from mosaicmem.viewer.rerun_log import RerunLog
from mosaicmem.viewer.run_view import RunView
from mosaicmem.viewer.viewer import MemoryViewer

__all__ = ["MemoryViewer", "RerunLog", "RunView"]
