"""Streaming fusion of posed RGB-D frames into a voxel map of bounded density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, I64, ArrayLike, as_array, check_instance, check_integer, check_number, check_threads
from mosaicmem._border import Call, check_place
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.geometry.point_cloud import PointCloud

_COLUMNS = (  # of an empty map
    *(("points", 3, np.float32), ("colors", 3, np.uint8)),
    *(("normals", 3, np.float32), ("times", 2, np.float64)),
)
_NO_COUNTS: I64 = np.empty(0, np.int64)


@dataclass(frozen=True)
class FusionCounts:
    """Counts of one fused frame.

    Attributes
    ----------
    points : int
        Pixels that were fused.
    out_of_range : int
        Pixels dropped because they lie further than 2^20 voxels from the origin along an axis.
    new_voxels : int
        Voxels that were empty before.

    For a frame on the GPU, these are integer arrays of shape () on the GPU, computed without synchronizing.
    """

    points: int
    out_of_range: int
    new_voxels: int


class StreamingFusion(Uncopied):
    """A voxel hash map; each voxel keeps the mean position, colour and normal of the points that fell into it.

    The cost of adding a frame depends on its points, not on the size of the map. The result does not depend on the
    number of threads. If the first frame is on the GPU, the map stays there and accepts only frames on that GPU;
    `point_cloud` and `voxel_history` return host arrays. ``copy.copy`` and ``copy.deepcopy`` return an independent map
    with the same voxels; a map on the GPU cannot be copied, and no map can be pickled.

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
        self._num_threads = check_threads(num_threads)
        self._lock = ForkSafeLock()  # guards the next two
        self._map: Any = None  # of the core (host or CUDA) that the first frame chose
        self._place: Any = None  # an array on its device

    def __copy__(self) -> StreamingFusion:
        other = StreamingFusion(self.voxel_size, num_threads=self._num_threads)
        with self._lock:
            if self._map is not None:
                if not hasattr(self._map, "fork"):
                    raise TypeError(f"cannot copy a StreamingFusion on a GPU: {self._instead}")
                other._map, other._place = self._map.fork(), self._place
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
            Pose and time of the frame; or world_from_camera as any affine matrix, at time 0, for edited keyframes.
        color : (H, W, 3) uint8 array, optional
            RGB; black if not given.

        Returns
        -------
        FusionCounts
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        call = Call("depth", depth, self._num_threads)
        z = call.depth("depth", depth, (intrinsics.height, intrinsics.width))
        rgb = None if color is None else call.array("color", color, "uint8", (intrinsics.height, intrinsics.width, 3))
        if isinstance(pose, CameraPose):
            matrix, time = pose.world_from_camera, pose.timestamp
        else:
            matrix, time = as_array("pose", pose, np.float64, (4, 4), finite=True), 0.0
        counts, to_counts = call.own((3,), "int64")
        with self._lock:
            if self._map is None:
                self._map, self._place = call.core.VoxelMap(self.voxel_size), call.own((1,), "uint8")[0]
            else:
                check_place("depth", call, "the map", self._call())
            self._map.add(z, rgb, intrinsics.params, matrix, time, to_counts, call.handle)
        return FusionCounts(*call.numbers(counts))

    def add_cloud(self, cloud: PointCloud, *, timestamp: float = 0.0) -> FusionCounts:
        """Fuse the points of a cloud, each as one observation of its voxel.

        Parameters
        ----------
        cloud : PointCloud
            Points without colours are black.
        timestamp : float
            When they were seen, seconds.

        Raises
        ------
        TypeError
            The map is on a GPU.
        """
        check_instance("cloud", cloud, PointCloud)
        seen = check_number("timestamp", timestamp)
        counts = np.zeros(3, np.int64)
        call = Call("cloud", cloud.points, self._num_threads)
        with self._lock:
            if self._map is None:
                self._map, self._place = call.core.VoxelMap(self.voxel_size), call.own((1,), "uint8")[0]
            elif not hasattr(self._map, "add_points"):
                raise TypeError("cloud: expected a map on the host; this one is on a GPU, and takes frames only")
            self._map.add_points(cloud.points, cloud.colors, cloud.normals, seen, counts, self._num_threads)
        return FusionCounts(*counts.tolist())

    def point_cloud(self, min_count: int = 1) -> PointCloud:
        """The means of all voxels that hold at least ``min_count`` points, ordered by voxel."""
        exported = self._export(min_count)
        return PointCloud(exported["points"], exported["colors"], exported["normals"])

    def voxel_history(self, min_count: int = 1) -> tuple[I64, F64]:
        """How often and when each voxel was seen, in the order of `point_cloud`.

        Returns
        -------
        counts : (N,) int64
            Points that fell into the voxel.
        times : (N, 2) float64
            Timestamps of the first and the last of these points, seconds.
        """
        exported = self._export(min_count)
        return exported["counts"], exported["times"]

    def _export(self, min_count: int) -> dict[str, Any]:
        least = check_integer("min_count", min_count, minimum=1)
        with self._lock:
            if self._map is None:
                return {**{name: np.empty((0, width), dtype) for name, width, dtype in _COLUMNS}, "counts": _NO_COUNTS}
            exported: dict[str, Any] = self._map.export(least, self._call().handle)
            return exported

    def _call(self) -> Any:
        return Call("StreamingFusion", self._place, self._num_threads)

    def __len__(self) -> int:
        """The number of occupied voxels."""
        with self._lock:
            return 0 if self._map is None else int(self._map.size(self._call().handle))

    @property
    def nbytes(self) -> int:
        """Bytes that the map holds."""
        with self._lock:
            return 0 if self._map is None else int(self._map.nbytes)
