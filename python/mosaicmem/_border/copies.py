"""Small arrays of the host that kernels on a GPU need again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaicmem._border.device import DeviceCall


class DeviceCopies:
    """Copies of small NumPy arrays on devices, made when first asked for.

    Making one waits until it is there, so that any stream may use it afterwards, and fails while a stream is being
    captured, since the graph would keep what others need.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[type[DeviceCopies], tuple[()]]:
        return DeviceCopies, ()  # they are made again where they are asked for

    def of(self, call: DeviceCall, key: str, array: Any, dtype: str | None = None) -> Any:
        """The copy of ``array``, which is always the same for a ``key``, where the call runs; perhaps in a dtype."""
        place = (key, dtype, *call.place)
        if place not in self._made:
            made = call.constant(array)[0]
            self._made[place] = made if dtype is None else call.converted(made, dtype)
            call.wait()
        return self._made[place]
