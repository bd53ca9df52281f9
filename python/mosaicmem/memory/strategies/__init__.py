"""Strategies: which parts of memory a window of views needs.

Each strategy has its own file here and a line below; `PipelineConfig`, ``mosaicmem.evaluation`` and the command line
then accept its name. Strategies defined elsewhere are added with `register_strategy`.
"""

from mosaicmem.memory.strategies.registry import Strategy, make_strategy, register_strategy, strategy_names
from mosaicmem.memory.strategies.top_k import TopK
from mosaicmem.memory.strategies.visible_coverage import VisibleCoverage

register_strategy("visible_coverage", VisibleCoverage)
register_strategy("top_k", TopK)

__all__ = [
    "Strategy",
    "TopK",
    "VisibleCoverage",
    "make_strategy",
    "register_strategy",
    "strategy_names",
]
