"""Edits of a memory: patches are moved, copied, joined or forgotten, and every operator stays exact."""

from __future__ import annotations

from collections import deque

import numpy as np

from mosaicmem._arrays import F64, U64, ArrayLike, as_array, check_choice, check_instance, check_integer, check_number
from mosaicmem._copies import Uncopied
from mosaicmem.memory.regions import Region, choose
from mosaicmem.memory.results import StoreSnapshot
from mosaicmem.memory.store import MosaicMemoryStore

_MOST = 1e12  # metres


class SpatialManipulation(Uncopied):
    """Edits a store in place, with undo.

    An edit changes where observations are and which of their patches are live; no tensor is copied or changed. Patches
    keep their ids. ``where`` selects patches: a `Sphere`, `Box` or `Frustum` (by the centres of patches), an array of
    ids, a bool mask over ``store.patch_ids``, or None for all.

    An edit that fails leaves the store unchanged; one that selects nothing adds nothing to undo.

    Parameters
    ----------
    store : MosaicMemoryStore
    undo_levels : int
        How many edits can be undone. Erased patches stay in memory as long as their erasure can be undone.
    """

    _instead = "it edits its store in place; make another one of store.fork()"

    def __init__(self, store: MosaicMemoryStore, *, undo_levels: int = 16) -> None:
        self.store = check_instance("store", store, MosaicMemoryStore)
        self._history: deque[StoreSnapshot] = deque(maxlen=check_integer("undo_levels", undo_levels, minimum=0))

    def translate(self, offset: ArrayLike, where: Region | ArrayLike | None = None) -> int:
        """Move patches by ``offset`` (3,) metres. Returns how many were moved."""
        return self.transform(_about(np.eye(3), as_array("offset", offset, np.float64, (3,), finite=True)), where)

    def rotate(
        self,
        axis: ArrayLike,
        angle: float,
        about: ArrayLike = (0.0, 0.0, 0.0),
        where: Region | ArrayLike | None = None,
    ) -> int:
        """Rotate patches by ``angle`` radians around the line through ``about`` along ``axis`` (3,), right-handed."""
        x, y, z = _unit("axis", axis)
        angle = check_number("angle", angle)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        return self.transform(_fixing(about, rotation), where)

    def scale(self, factor: float, about: ArrayLike = (0.0, 0.0, 0.0), where: Region | ArrayLike | None = None) -> int:
        """Scale patches by ``factor`` about the point ``about`` (3,)."""
        return self.transform(_fixing(about, check_number("factor", factor, above=0.0) * np.eye(3)), where)

    def flip(self, axis: ArrayLike, about: ArrayLike = (0.0, 0.0, 0.0), where: Region | ArrayLike | None = None) -> int:
        """Mirror patches in the plane through ``about`` (3,) with the normal ``axis`` (3,)."""
        normal = _unit("axis", axis)
        return self.transform(_fixing(about, np.eye(3) - 2 * np.outer(normal, normal)), where)

    def transform(self, matrix: ArrayLike, where: Region | ArrayLike | None = None) -> int:
        """Move patches by any invertible affine map (4, 4) of the world. Returns how many were moved."""
        affine = as_affine("matrix", matrix)
        ids = None if where is None else choose(self.store, where)
        before = self.store.snapshot()
        moved = self.store._transform(affine, ids)
        if moved:
            self._history.append(before)
        return moved

    def erase(self, where: Region | ArrayLike) -> int:
        """Forget patches. Returns how many."""
        ids = choose(self.store, where)
        before = self.store.snapshot()
        erased = self.store.delete_patches(ids)
        if erased:
            self._history.append(before)
        return erased

    def crop(self, where: Region | ArrayLike) -> int:
        """Forget all other patches. Returns how many."""
        return self.erase(np.setdiff1d(self.store.patch_ids, choose(self.store, where)))

    def duplicate(self, matrix: ArrayLike, where: Region | ArrayLike | None = None) -> U64:
        """Copy patches, moved by an invertible affine map (4, 4). Returns the new ids, ascending.

        The limits of the store apply: the copies may evict other patches.
        """
        affine = as_affine("matrix", matrix)
        ids = None if where is None else choose(self.store, where)
        before = self.store.snapshot()
        copies = self.store._duplicate(affine, ids)
        if len(copies):
            self._history.append(before)
        return copies

    def splice(
        self,
        other: MosaicMemoryStore,
        matrix: ArrayLike | None = None,
        *,
        layout: str | None = None,
        offset: float = 0.0,
    ) -> int:
        """Join another store to this one; the other is unchanged, and tensors are shared.

        Parameters
        ----------
        other : MosaicMemoryStore
            With the same patch size and channels. Latents may be of another dtype.
        matrix : (4, 4) array, optional
            Invertible affine map from the other's world to this one's.
        layout : {"horizontal", "vertical"}, optional
            Instead of ``matrix``: places the other beside this one, so that its bounds begin at +x where this one's
            end, or above it (towards -y).
        offset : float
            Metres between the two in a layout; negative to overlap them.

        Returns
        -------
        int
            The shift of ids: patch i of the other has id i plus this in this store.
        """
        check_instance("other", other, MosaicMemoryStore)
        if (matrix is None) == (layout is None):
            raise ValueError("matrix, layout: expected one of the two")
        if other.latent_patch_size != self.store.latent_patch_size:
            raise ValueError(
                f"other: expected latent_patch_size {self.store.latent_patch_size}, got {other.latent_patch_size}"
            )
        if None not in (self.store.channels, other.channels) and other.channels != self.store.channels:
            raise ValueError(f"other: expected latents of {self.store.channels} channels, got {other.channels}")
        if layout is not None:
            check_choice("layout", layout, ("horizontal", "vertical"))
            affine = _beside(self.store, other, layout, check_number("offset", offset))
        else:
            affine = as_affine("matrix", matrix)
        before = self.store.snapshot()
        first = self.store._splice(other, affine)
        self._history.append(before)
        return first

    @property
    def undo_count(self) -> int:
        """How many edits can be undone now."""
        return len(self._history)

    def undo(self) -> bool:
        """Restore the store to before the last edit, without anything inserted since. False if there is no edit.

        Ids that were assigned in the meantime are not reused.
        """
        if not self._history:
            return False
        self.store.restore(self._history.pop())
        return True


def as_affine(name: str, matrix: ArrayLike) -> F64:
    """A 4x4 affine map as float64.

    Raises
    ------
    ValueError
        It is not finite, exceeds 1e12, has a last row other than [0, 0, 0, 1], or cannot be inverted.
    """
    m = as_array(name, matrix, np.float64, (4, 4), finite=True)
    if not np.array_equal(m[3], [0, 0, 0, 1]):
        hint = "; transposed?" if np.allclose(m[:3, 3], 0) else ""
        raise ValueError(f"{name}: expected a last row of [0, 0, 0, 1], got {m[3].tolist()}{hint}")
    if np.abs(m).max() > _MOST:
        raise ValueError(f"{name}: expected values within {_MOST:g}, got {np.abs(m).max():g}")
    sizes = np.linalg.svd(m[:3, :3], compute_uv=False)
    if not sizes[2] > 1e-9 * sizes[0]:
        raise ValueError(f"{name}: expected a map that can be inverted, got singular values {sizes.tolist()}")
    return m


def _unit(name: str, axis: ArrayLike) -> F64:
    direction = as_array(name, axis, np.float64, (3,), finite=True)
    length = float(np.linalg.norm(direction))
    if not length > 0:
        raise ValueError(f"{name}: expected a direction, got {direction.tolist()}")
    return direction / length


def _about(linear: F64, translation: F64) -> F64:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, translation
    return affine


def _fixing(about: ArrayLike, linear: F64) -> F64:
    """The affine map with this linear part that leaves the point ``about`` where it is."""
    point = as_array("about", about, np.float64, (3,), finite=True)
    return _about(linear, point - linear @ point)


def _beside(store: MosaicMemoryStore, other: MosaicMemoryStore, layout: str, offset: float) -> F64:
    own, theirs = store.bounds, other.bounds
    shift = np.zeros(3)
    if own is not None and theirs is not None:
        if layout == "horizontal":
            shift[0] = own[1, 0] + offset - theirs[0, 0]
        else:
            shift[1] = own[0, 1] - offset - theirs[1, 1]
    return _about(np.eye(3), shift)
