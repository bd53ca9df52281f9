"""GPU copies of small host arrays that kernels need repeatedly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaicmem._border.device import DeviceCall


class DeviceCopies:
    """GPU copies of small NumPy arrays, made on first use.

    Making one synchronizes, so that any stream may use it afterwards. It fails while a stream is being captured, since
    the copy would belong to the graph, and others need it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[type[DeviceCopies], tuple[()]]:
        return DeviceCopies, ()  # copies are made again on first use

    def of(self, call: DeviceCall, key: str, array: Any, dtype: str | None = None) -> Any:
        """The copy of ``array`` where the call runs, optionally in ``dtype``. A ``key`` always means the same array."""
        place = (key, dtype, *call.place)
        if place not in self._made:
            made = call.constant(array)[0]
            self._made[place] = made if dtype is None else call.converted(made, dtype)
            call.wait()
        return self._made[place]
