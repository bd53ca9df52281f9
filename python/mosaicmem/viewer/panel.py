"""The panel: figures and settings of the view, the selected keyframe, the path, and each browser's own preview."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32, F64, U8
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory.contents import ObservedKeyframe
from mosaicmem.viewer.cloud import COLORINGS, MOST_POINTS
from mosaicmem.viewer.preview import Preview
from mosaicmem.viewer.scene import MOST_CAMERAS

if TYPE_CHECKING:
    from mosaicmem.viewer.scene import MemoryScene
    from mosaicmem.viewer.viewer import MemoryViewer

_EMPTY = np.full((24, 40, 3), 24, np.uint8)
_PLAY = 15.0  # frames a second
_THUMBNAIL = 320  # pixels, of enlarged pictures


class ViewPanel:
    """Counts of the store, what is drawn and how, and the selected keyframe."""

    def __init__(self, gui: Any, viewer: MemoryViewer) -> None:
        self._viewer = viewer
        self._status = gui.add_markdown("Reading the store")
        with gui.add_folder("Points and cameras"):
            self._coloring = gui.add_dropdown("Colours", COLORINGS, hint="What the colours of points mean")
            self._seen = gui.add_checkbox("Seen", True, hint="Show what cameras observed")
            self._made_up = gui.add_checkbox("Generated", True, hint="Show what a model generated")
            self._cameras = gui.add_checkbox("Cameras", True, hint="Show the keyframes' cameras")
            self._size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
        self._folder = gui.add_folder("Selected keyframe")
        with self._folder:
            self._selected = gui.add_markdown("Click a point or a camera.")
            self._picture = gui.add_image(_EMPTY, visible=False)
            self._go = gui.add_button("Look from its camera", visible=False)
        self._matrix: F64 | None = None
        self._fov = 1.0
        for control in (self._coloring, self._seen, self._made_up, self._cameras, self._size):
            control.on_update(viewer.guarded(self._changed))
        self._go.on_click(viewer.guarded(self._went))

    def _changed(self, _event: Any) -> None:
        viewer, scene = self._viewer, self._viewer.scene
        before = viewer.coloring, viewer.seen, viewer.made_up, scene.show_cameras
        viewer.coloring, viewer.seen, viewer.made_up = self._coloring.value, self._seen.value, self._made_up.value
        scene.show_cameras = self._cameras.value
        scene.resize_points(float(self._size.value))
        if (viewer.coloring, viewer.seen, viewer.made_up, scene.show_cameras) != before:
            viewer.redraw()

    def _went(self, event: Any) -> None:
        if self._matrix is not None:
            self._viewer.look_from(self._matrix, event.client, self._fov)

    def show_status(self) -> None:
        """Bring counts up to date."""
        viewer = self._viewer
        statistics, points = viewer.store.statistics(), len(viewer.cloud)
        generated = statistics.generated_keyframes
        plural = "" if statistics.keyframes == 1 else "s"
        lines = [
            f"**{statistics.keyframes:,}** keyframe{plural} ({generated:,} generated), "
            f"**{statistics.patches:,}** patches, {statistics.nbytes / 1e6:,.1f} MB"
        ]
        if not statistics.patches:
            lines.append("The store is empty.")
        elif not statistics.image_bytes:
            lines.append("No keyframe has a thumbnail: colours are main components of the latents.")
        if points > MOST_POINTS:
            lines.append(f"{MOST_POINTS:,} of {points:,} points are drawn, and more where you look.")
        if statistics.keyframes > MOST_CAMERAS:
            lines.append(f"{MOST_CAMERAS} of the cameras are drawn.")
        if viewer.trouble is not None:
            lines.append(f"**{viewer.trouble}**")
        self._status.content = "\n\n".join(lines)

    def show_trouble(self, why: str) -> None:
        """Say what is wrong, without asking the store."""
        self._status.content = f"**{why}**"

    def show_selected(self, keyframe: ObservedKeyframe, patch: int | None) -> None:
        """Describe a keyframe, and the patch of it that was clicked."""
        rows, columns = keyframe.depth.shape
        when = f"at {keyframe.timestamp:.2f} s"
        what = f"Frame **{keyframe.frame_id}** {when}, {keyframe.provenance}, {columns}x{rows} cells"
        self._selected.content = what if patch is None else f"{what}; patch {patch}"
        if keyframe.image is not None:
            self._picture.image = enlarged(keyframe.image)
        self._picture.visible = keyframe.image is not None
        self._go.visible = True
        self._matrix, self._fov = keyframe.world_from_camera, vertical_fov(keyframe.intrinsics)


class PathPanel:
    """Scrubs a camera path, with the true frame beside if there is a sequence."""

    def __init__(self, gui: Any, viewer: MemoryViewer, path: CameraTrajectory) -> None:
        self._viewer, self._path = viewer, path
        self._playing = threading.Event()
        with gui.add_folder("Path"):
            self.frame = gui.add_slider("Frame", 0, max(1, len(path) - 1), 1, 0, disabled=len(path) < 2)
            self._follow = gui.add_checkbox("Look along", True, hint="Move the view with the path's camera")
            self._button = gui.add_button("Play")
            self._truth = gui.add_image(_EMPTY, label="The true frame", visible=viewer.sequence is not None)
        self._show_truth(0)
        self.frame.on_update(viewer.guarded(self._scrubbed))
        self._button.on_click(viewer.guarded(self._pressed))

    def _scrubbed(self, event: Any) -> None:
        self._show(min(int(self.frame.value), len(self._path) - 1), event.client)

    def _pressed(self, _event: Any) -> None:
        if self._playing.is_set():
            self._playing.clear()
            return
        self._playing.set()
        self._button.label = "Stop"
        try:
            self._play()
        finally:
            self._button.label = "Play"
            self._playing.clear()

    def _play(self) -> None:
        start = 0 if self.frame.value >= len(self._path) - 1 else int(self.frame.value)
        for i in range(start, len(self._path)):
            if not self._playing.is_set() or self._viewer._closing.is_set():
                return
            self.frame.value = i  # which shows it
            time.sleep(1 / _PLAY)

    def _show(self, frame: int, client: Any) -> None:
        self._viewer.scene.draw_path(self._path, frame)
        if self._follow.value:
            fov = vertical_fov(self._path.cameras[frame])
            self._viewer.look_from(self._path[frame].world_from_camera, client, fov)
        self._show_truth(frame)

    def _show_truth(self, frame: int) -> None:
        sequence = self._viewer.sequence
        if sequence is None:
            return
        if self._viewer.path_is_of_sequence:
            number = frame
        else:
            number = _closest(
                [sequence.pose(i) for i in range(len(sequence))], self._path[frame], self._viewer.scene.size
            )
        seen = sequence[number]
        self._truth.image = enlarged(seen.image)
        closest = "" if self._viewer.path_is_of_sequence else ", the closest to this camera"
        self._truth.label = f"True frame {seen.number}{closest}"


def vertical_fov(camera: CameraIntrinsics) -> float:
    """Radians."""
    return 2 * math.atan(0.5 * camera.height / camera.fy)


def _closest(poses: list[CameraPose], target: CameraPose, size: float) -> int:
    """The pose whose position and direction differ least from the target's; a scene's size counts as a radian."""
    positions = np.array([pose.position for pose in poses])
    directions = np.array([pose.world_from_camera[:3, 2] for pose in poses])
    angles = np.arccos(np.clip(directions @ target.world_from_camera[:3, 2], -1, 1))
    return int((np.linalg.norm(positions - target.position, axis=1) / size + angles).argmin())


class ClientPanel:
    """One browser: its camera, and what memory shows to it.

    Attributes
    ----------
    is_stale : bool
        Whether the view must be composed again.
    has_detail : bool
        Whether more points are drawn where it looks.
    moved : float
        When its camera moved last, by `time.perf_counter`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.is_stale, self.has_detail, self.moved = True, False, time.perf_counter()
        self._draws_detail = False
        with client.gui.add_folder("What memory shows here", order=-2):
            self._picture = client.gui.add_image(_EMPTY, jpeg_quality=85)
            self._maps = client.gui.add_image(_EMPTY, jpeg_quality=85, label="coverage | depth | source keyframes")
            self._figures = client.gui.add_markdown("")

    @property
    def camera(self) -> tuple[float, float, CameraPose] | None:
        """Vertical field of view (radians), aspect, and pose; None before the browser has sent them."""
        camera = self._client.camera
        try:
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = _rotation(camera.wxyz), camera.position
            return float(camera.fov), min(max(float(camera.aspect), 0.25), 4.0), CameraPose(matrix)
        except (AssertionError, ValueError):  # half-sent, or a window without height
            return None

    def has_moved(self) -> None:
        """The camera is elsewhere: what was made for it is stale."""
        self.is_stale, self.has_detail, self.moved = True, False, time.perf_counter()

    def show(self, preview: Preview) -> None:
        """Show a composed view."""
        with self._client.atomic():
            self._picture.image = preview.color
            self._maps.image = preview.maps
            self._figures.content = (
                f"Covered **{100 * preview.covered:.0f} %**, {100 * preview.observed:.0f} % with what was seen, "
                f"from {preview.keyframes} keyframes, in {1000 * preview.seconds:.0f} ms"
            )

    def show_empty(self) -> None:
        """There is nothing to show."""
        self._figures.content = "The store is empty."

    def show_trouble(self, why: str) -> None:
        """It could not be composed."""
        self._figures.content = f"**{why}**"

    def draw_detail(self, scene: MemoryScene, points: F32, colors: U8) -> None:
        """More points where it looks."""
        scene.draw_detail(self._client, points, colors)
        self._draws_detail = True

    def drop_detail(self) -> None:
        """What was drawn in addition is stale."""
        self.has_detail = False
        if self._draws_detail:
            self._client.scene.remove_by_name("/detail")
            self._draws_detail = False


def _rotation(wxyz: F64) -> F64:
    """The rotation matrix of a quaternion."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def enlarged(image: U8) -> U8:
    """A picture of about the panel's width."""
    height, width = image.shape[:2]
    size = (_THUMBNAIL, max(1, round(_THUMBNAIL * height / width)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC))
