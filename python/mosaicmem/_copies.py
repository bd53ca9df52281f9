"""Objects that cannot be copied, or only in ways that would surprise: they say so, and what to do instead."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class Uncopied:
    """A class whose objects are neither pickled nor copied deeply, nor, without a ``__copy__`` of their own, at all.

    ``copy.copy`` would share what changes: what is done to one would half show in the other.
    """

    _instead: ClassVar[str]
    """Why not, and what to do instead: the end of a sentence."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle a {type(self).__name__}: {self._instead}")
