"""The registry of strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mosaicmem._arrays import check_choice
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.selection import KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore


class Strategy(Protocol):
    """Chooses the parts of memory that a window of target views needs."""

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> KeyframeSelection | Mosaic:
        """A `KeyframeSelection`, the best keyframes of each target first; or a `Mosaic`, the patches of each.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels per cell of the target grid.
        """
        ...


_FACTORIES: dict[str, Callable[[KeyframeOptions], Strategy]] = {}


def register_strategy(name: str, factory: Callable[[KeyframeOptions], Strategy], *, replace: bool = False) -> None:
    """Register a strategy under a name, for `PipelineConfig`, ``evaluate`` and the command line.

    Parameters
    ----------
    name : str
        An identifier that no other strategy has.
    factory : function
        Makes the strategy from the `KeyframeOptions` of a retrieval; for example, a class that takes them.
    replace : bool
        Whether it may replace a strategy of the same name.

    Raises
    ------
    ValueError
        The name is not an identifier, or is taken.
    """
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"name: expected an identifier, got {name!r}")
    if name in _FACTORIES and not replace:
        raise ValueError(
            f"name: expected one that is free, got {name!r}, which is registered already; replace=True replaces it"
        )
    _FACTORIES[name] = factory


def strategy_names() -> tuple[str, ...]:
    """The names of all strategies, the default first."""
    return tuple(_FACTORIES)


def make_strategy(name: str, options: KeyframeOptions) -> Strategy:
    """A new strategy of the given name."""
    return _FACTORIES[check_choice("strategy", name, strategy_names())](options)
