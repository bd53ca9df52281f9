"""What is drawn in three dimensions: points, cameras, a path, the region to edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, U8
from mosaicmem._extras import viser
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory import Box, Sphere
from mosaicmem.memory.contents import ObservedKeyframe
from mosaicmem.viewer.cloud import identity
from mosaicmem.viewer.palettes import GENERATED, OBSERVED

MOST_CAMERAS = 100  # more would hide each other
_FRUSTUM = 0.025  # of the scene's size
_PATH, _REGION = (214, 39, 40), (255, 160, 0)


class MemoryScene:
    """Nodes of a viser scene, by what they mean.

    Parameters
    ----------
    server : viser.ViserServer
    on_keyframe : callable
        Called with the observation of a camera that is clicked.
    """

    def __init__(self, server: Any, on_keyframe: Callable[[int], None]) -> None:
        self._scene = server.scene
        self._rotation = viser("a viewer").transforms.SO3
        self._on_keyframe = on_keyframe
        self.size = 1.0  # metres
        self._points: Any = None
        self._cameras: dict[int, tuple[Any, Any]] = {}
        self.show_cameras = True
        self.point_size = 1.0
        self._controls: Any = None

    def orient(self, keyframes: Sequence[ObservedKeyframe]) -> None:
        """Turn the world so that up is up for the cameras."""
        up = -np.mean([k.world_from_camera[:3, 1] for k in keyframes], axis=0)
        if np.linalg.norm(up) > 1e-6:
            self._scene.set_up_direction(tuple(up / np.linalg.norm(up)))

    def draw_points(self, points: F32, colors: U8) -> None:
        """Replace the points of the memory."""
        size = self.point_size * 0.004 * self.size
        self._points = self._scene.add_point_cloud(
            "/memory", points, colors, point_size=size, point_shape="rounded", precision="float32"
        )

    def resize_points(self, size: float) -> None:
        """Draw points larger or smaller; they are not sent again."""
        self.point_size = size
        if self._points is not None:
            self._points.point_size = size * 0.004 * self.size

    def draw_detail(self, client: Any, points: F32, colors: U8) -> None:
        """Replace the points that one browser draws in addition, where its camera looks."""
        size = self.point_size * 0.002 * self.size
        client.scene.add_point_cloud(
            "/detail", points, colors, point_size=size, point_shape="rounded", precision="float32"
        )

    def draw_cameras(self, keyframes: Sequence[ObservedKeyframe]) -> None:
        """A frustum with its thumbnail for each keyframe, or for some if there are many; only changes are sent."""
        some = keyframes[:: -(-len(keyframes) // MOST_CAMERAS) or 1]
        wanted = {k.observation: k for k in some} if self.show_cameras else {}
        for gone in self._cameras.keys() - wanted.keys():
            self._cameras.pop(gone)[1].remove()
        for number, keyframe in wanted.items():
            place = identity(keyframe)
            known = self._cameras.get(number)
            if known is not None and known[0] == place:
                continue
            self._cameras[number] = place, self._frustum(keyframe)

    def _frustum(self, keyframe: ObservedKeyframe) -> Any:
        camera = keyframe.intrinsics
        color = GENERATED if keyframe.provenance == "generated" else OBSERVED
        handle = self._camera(
            f"/cameras/{keyframe.observation}",
            keyframe.world_from_camera,
            2 * np.arctan(0.5 * camera.height / camera.fy),
            camera.width / camera.height * camera.fy / camera.fx,
            color,
            image=keyframe.image,
        )
        number = keyframe.observation
        handle.on_click(lambda _event: self._on_keyframe(number))
        return handle

    def _camera(
        self, name: str, matrix: F64, fov: float, aspect: float, color: tuple[int, int, int], **more: Any
    ) -> Any:
        wxyz, position = self.place(matrix)
        return self._scene.add_camera_frustum(
            name,
            float(fov),
            float(aspect),
            scale=_FRUSTUM * self.size,
            thickness=1.5,
            thickness_units="screen",
            color=color,
            wxyz=wxyz,
            position=position,
            cast_shadow=False,
            receive_shadow=False,
            **more,
        )

    def place(self, matrix: F64) -> tuple[Any, Any]:
        """Orientation (w, x, y, z) and position of a camera, whose matrix edits may have scaled or mirrored."""
        u, _, vt = np.linalg.svd(matrix[:3, :3])
        u[:, -1] *= np.linalg.det(u @ vt)
        return self._rotation.from_matrix(u @ vt).wxyz, matrix[:3, 3]

    def draw_path(self, path: CameraTrajectory, frame: int) -> None:
        """A camera path, and its camera at one frame."""
        places = path.world_from_camera
        points = np.stack([places[:-1, :3, 3], places[1:, :3, 3]], axis=1)
        if len(points):
            self._scene.add_line_segments(
                "/path/line", points.astype(np.float32), colors=_PATH, thickness=2.0, thickness_units="screen"
            )
        camera = path.cameras[frame]
        fov, aspect = 2 * np.arctan(0.5 * camera.height / camera.fy), camera.width / camera.height
        self._camera("/path/camera", places[frame], fov, aspect, _PATH)

    def draw_window(self, path: CameraTrajectory, frames: range) -> None:
        """The part of a path that a window covers."""
        points = path.world_from_camera[frames.start : frames.stop, :3, 3].astype(np.float32)
        if len(points) > 1:
            lines = np.stack([points[:-1], points[1:]], axis=1)
            self._scene.add_line_segments(
                "/path/window", lines, colors=_REGION, thickness=6.0, thickness_units="screen"
            )

    def mark(self, point: F64 | None) -> None:
        """A marker at the selected patch; None removes it."""
        if point is None:
            self._scene.remove_by_name("/selected")
            return
        self._scene.add_icosphere("/selected", 0.006 * self.size, _REGION, position=tuple(point), cast_shadow=False)

    def show_region(self, region: Sphere | Box | None, on_drag: Callable[[F64, str], None]) -> None:
        """The region to edit, with a handle to drag; ``on_drag`` gets its centre and the phase of the drag."""
        if self._controls is not None:
            self._controls.remove()
            self._controls = None
        if region is None:
            return
        if isinstance(region, Sphere):
            centre = np.asarray(region.centre)
        else:
            centre = 0.5 * (np.asarray(region.low) + np.asarray(region.high))
        self._controls = controls = self._scene.add_transform_controls(
            "/region", scale=0.12 * self.size, disable_rotations=True, position=tuple(centre), depth_test=False
        )
        look = {"wireframe": True, "cast_shadow": False, "receive_shadow": False}
        if isinstance(region, Sphere):
            self._scene.add_icosphere("/region/shape", max(region.radius, 1e-6), _REGION, subdivisions=2, **look)
        else:
            self._scene.add_box(
                "/region/shape", _REGION, tuple(np.asarray(region.high) - np.asarray(region.low)), **look
            )
        controls.on_update(lambda event: on_drag(np.asarray(event.target.position, np.float64), str(event.phase)))
