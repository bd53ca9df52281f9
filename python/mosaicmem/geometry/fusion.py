"""Streaming fusion of posed RGB-D frames into a voxel map of bounded density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import (
    F64,
    I64,
    ArrayLike,
    as_array,
    check_instance,
    check_integer,
    check_number,
    check_shape,
    check_threads,
)
from mosaicmem._border.frameworks import is_on_device
from mosaicmem._copies import Uncopied
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.device.fusion import DeviceVoxelMap
from mosaicmem.geometry.point_cloud import PointCloud
from mosaicmem.geometry.unproject import check_depth


@dataclass(frozen=True)
class FusionCounts:
    """What became of one frame.

    Attributes
    ----------
    points : int
        Pixels that were fused.
    out_of_range : int
        Pixels dropped because they lie further than 2^20 voxels from the origin along an axis.
    new_voxels : int
        Voxels that had been empty.

    For a frame on a GPU they are integer arrays of shape () there, which nothing has waited for.
    """

    points: int
    out_of_range: int
    new_voxels: int


class StreamingFusion(Uncopied):
    """A hash of voxels that each keep the mean position, colour and normal of the points that fell into them.

    Adding a frame costs its own points, never the size of the map. The result does not depend on the number of threads.
    Where the first frame is on a GPU, the map is there, and takes frames from there only; `point_cloud` and
    `voxel_history` are on the host. ``copy.copy`` and ``copy.deepcopy`` give a map of its own with the same voxels; a
    map on a GPU cannot be copied, and none can be pickled.

    Parameters
    ----------
    voxel_size : float
        Edge of a voxel, metres.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS).
    """

    _instead = "the compiled core keeps its voxels; keep point_cloud() and voxel_history(), or fuse the frames again"

    def __init__(self, voxel_size: float = 0.05, *, num_threads: int = 0) -> None:
        self.voxel_size = check_number("voxel_size", voxel_size, above=0.0)
        self._map: _core.VoxelMap | DeviceVoxelMap = _core.VoxelMap(self.voxel_size)
        self._num_threads = check_threads(num_threads)

    def __copy__(self) -> StreamingFusion:
        if isinstance(self._map, DeviceVoxelMap):
            raise TypeError(f"cannot copy a StreamingFusion on a GPU: {self._instead}")
        other = StreamingFusion(self.voxel_size, num_threads=self._num_threads)
        other._map = self._map.fork()
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamingFusion:
        return self.__copy__()

    def add_frame(
        self,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose | ArrayLike,
        color: ArrayLike | None = None,
    ) -> FusionCounts:
        """Fuse one frame.

        Parameters
        ----------
        depth : (H, W) array
            Metres along z; invalid where not finite or <= 0.
        intrinsics : CameraIntrinsics
            Of an image of H x W pixels.
        pose : CameraPose or (4, 4) array
            Where and when the frame was taken; or world_from_camera as any affine map, at time 0, for what was edited.
        color : (H, W, 3) uint8 array, optional
            RGB; black where not given.

        Returns
        -------
        FusionCounts
        """
        if is_on_device(depth):
            check_instance("intrinsics", intrinsics, CameraIntrinsics)
            check_shape("depth", tuple(depth.shape), (intrinsics.height, intrinsics.width))
        elif isinstance(self._map, DeviceVoxelMap):
            raise ValueError("depth: expected an array on the device, where the map is, got one on the CPU")
        z = depth if is_on_device(depth) else check_depth(depth, intrinsics)
        if isinstance(pose, CameraPose):
            matrix, time = pose.world_from_camera, pose.timestamp
        else:
            matrix, time = as_array("pose", pose, np.float64, (4, 4), finite=True), 0.0
        if is_on_device(z):
            return self._add_on_device(z, intrinsics, matrix, time, color)
        rgb = None if color is None else as_array("color", color, np.uint8, (*z.shape, 3))
        assert isinstance(self._map, _core.VoxelMap)
        counts = self._map.add(z, rgb, intrinsics.params, matrix, time, self._num_threads)
        return FusionCounts(**counts)

    def _add_on_device(
        self, depth: Any, intrinsics: CameraIntrinsics, world_from_camera: F64, time: float, color: Any
    ) -> FusionCounts:
        on_device = self._map
        if not isinstance(on_device, DeviceVoxelMap):
            if len(on_device):
                raise ValueError("depth: expected an array on the CPU, where the map is, got one on a device")
            on_device = DeviceVoxelMap(self.voxel_size)
        counts = on_device.add(depth, color, intrinsics.params, world_from_camera, time)
        self._map = on_device
        return FusionCounts(*counts)

    def point_cloud(self, min_count: int = 1) -> PointCloud:
        """The means of all voxels that hold at least ``min_count`` points, ordered by voxel."""
        exported = self._map.export(check_integer("min_count", min_count, minimum=1))
        return PointCloud(exported["points"], exported["colors"], exported["normals"])

    def voxel_history(self, min_count: int = 1) -> tuple[I64, F64]:
        """How often and when each voxel of `point_cloud` was seen, in its order.

        Returns
        -------
        counts : (N,) int64
            Points that fell into the voxel.
        times : (N, 2) float64
            Timestamp of the first and of the last of them, seconds.
        """
        exported = self._map.export(check_integer("min_count", min_count, minimum=1))
        return exported["counts"], exported["times"]

    def __len__(self) -> int:
        """The number of occupied voxels."""
        return len(self._map)

    @property
    def nbytes(self) -> int:
        """Bytes that the map holds."""
        return self._map.nbytes
