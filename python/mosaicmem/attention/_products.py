"""What PRoPE multiplies features by: camera matrices in a head's layout, relative to any frame."""

from __future__ import annotations

from dataclasses import dataclass

from mosaicmem._arrays import F64
from mosaicmem.attention._cameras import ProjectedCameras, SharedFrame
from mosaicmem.attention._head_layout import HeadLayout, MatrixTable

_MOST_FRAMES = 4  # cached, besides the given one


@dataclass(frozen=True, eq=False)
class Products:
    """P^T of queries, P^-1 of keys and values, and P of outputs."""

    q: MatrixTable
    kv: MatrixTable
    o: MatrixTable


class CameraProducts:
    """The products of a set of cameras, cached per frame.

    Attributes
    ----------
    as_given : Products
        In the frame that the cameras were given in.
    """

    def __init__(self, cameras: ProjectedCameras, head: HeadLayout) -> None:
        self._cameras, self._head = cameras, head
        self.as_given = self._make(None)
        self._moved: dict[bytes, Products] = {}

    @property
    def shared_frame(self) -> SharedFrame:
        """The frame that suits these cameras best; all others in the same attention use it too."""
        return self._cameras.shared

    @property
    def distance(self) -> float:
        """`ProjectedCameras.distance`."""
        return self._cameras.distance

    def seen_from(self, frame: SharedFrame | None, name: str) -> Products:
        """The products in a frame shared with other cameras, or as given for None; errors call these cameras ``name``.

        Raises
        ------
        ValueError
            The other cameras have a different ``translation`` or ``world_from_reference``, so the two are incompatible.
        """
        if frame is None:
            return self.as_given
        different = self._cameras.shared.differs_from(frame)
        if different is not None:
            raise ValueError(
                f"{name}: expected the {different} of the cameras that these meet in attention, got another; pass the "
                "same to the PRoPE of queries and of memory"
            )
        if frame.world_from_frame is None:
            return self.as_given
        key = frame.world_from_frame.tobytes()
        if key not in self._moved:
            kept = list(self._moved.items())[1 - _MOST_FRAMES :]
            self._moved = {**dict(kept), key: self._make(frame.world_from_frame)}
        return self._moved[key]

    def _make(self, world_from_frame: F64 | None) -> Products:
        project, unproject = self._cameras.matrices(world_from_frame)
        transpose = (0, 1, 3, 2)
        return Products(
            self._head.table(project.transpose(transpose), project),
            self._head.table(unproject, unproject.transpose(transpose)),
            self._head.table(project, project.transpose(transpose)),
        )
