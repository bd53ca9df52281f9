"""The synthetic world as a sequence of RGB-D frames with exact depth."""

from __future__ import annotations

from mosaicmem._arrays import check_instance, check_integer
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.sequence import RgbdImage, RgbdSequence
from mosaicmem.synthetic import SyntheticWorld


class SyntheticWalk(RgbdSequence):
    """`SyntheticWorld.leave_and_return`, rendered on access.

    Parameters
    ----------
    num_frames : int
        Length of the loop; its first half leaves, its second half returns by another route.
    seed : int
        Determines colours and textures.
    intrinsics : CameraIntrinsics, optional
        Of 640x480 pixels if not given.
    """

    def __init__(self, num_frames: int = 120, *, seed: int = 0, intrinsics: CameraIntrinsics | None = None) -> None:
        camera = CameraIntrinsics.from_fov(640, 480, fov_x=1.0) if intrinsics is None else intrinsics
        check_instance("intrinsics", camera, CameraIntrinsics)
        self._world = SyntheticWorld(seed)
        self._path = self._world.leave_and_return(camera, check_integer("num_frames", num_frames, minimum=2))

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames."""
        return self._path.intrinsics

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame is taken; metres, seconds."""
        return self._path[index]

    def __len__(self) -> int:
        return len(self._path)

    def _frame(self, index: int) -> RgbdImage:
        number = range(len(self))[index]
        view = self._world.render(self.intrinsics, self.pose(number))
        return RgbdImage(view.image_uint8, view.depth, self.pose(number), number)
