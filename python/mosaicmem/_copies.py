"""Objects that cannot be copied safely raise an error that says what to do instead."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class Uncopied:
    """Base of classes whose objects cannot be pickled, nor copied unless the class defines ``__copy__`` or
    ``__deepcopy__``.

    The default ``copy.copy`` would share mutable state: changes to one object would partly show in the other.
    """

    _instead: ClassVar[str]
    """Why not, and what to do instead: the end of the error message."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle a {type(self).__name__}: {self._instead}")
