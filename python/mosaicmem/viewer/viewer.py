"""A live view of a memory in the browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, check_instance, check_integer
from mosaicmem._copies import Uncopied
from mosaicmem.camera import CameraTrajectory
from mosaicmem.datasets import RgbdSequence
from mosaicmem.memory import Box, MosaicMemoryStore, Sphere
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.viewer.cloud import MOST_POINTS, KeyframePoints, MemoryCloud
from mosaicmem.viewer.edit_panel import EditPanel
from mosaicmem.viewer.panel import ClientPanel, PathPanel, ViewPanel
from mosaicmem.viewer.preview import Previewer
from mosaicmem.viewer.scene import MemoryScene
from mosaicmem.viewer.server import GuardedServer
from mosaicmem.viewer.sources import LiveStore, SavedStore, StoreSource
from mosaicmem.viewer.versions import MemoryVersions

_INTERVAL = 0.25  # seconds between looks at the store
_WAIT = 2.0  # seconds for a large store to be read, before the viewer is there all the same
_REST = 0.4  # seconds after which a camera counts as resting
_SAME_CLICK = 0.3  # seconds between two reports of one click
_CLICK = 0.012  # radians around a click
_BEHIND, _ABOVE = 0.12, 0.06  # of the scene's size: where browsers begin, from the first camera


class MemoryViewer(Uncopied):
    """Shows a memory in the browser, and what it shows to the browser's own camera, composed as that moves.

    The viewer runs in threads of its own until `close`; it may be used in ``with``. A store of this process is read as
    it grows; a folder is read again whenever it is saved to. In a notebook, the last expression of a cell shows it.

    Parameters
    ----------
    store : MosaicMemoryStore, path, or callable that returns a store
        A path is the folder of a saved store, which another process may be filling.
    trajectory : CameraTrajectory, optional
        A camera path to scrub.
    sequence : RgbdSequence, optional
        The true frames: shown beside what memory shows, along the sequence's own cameras unless there is a trajectory.
    host, port
        Where browsers find it; port 0 takes any free one.
    token : str, optional
        That browsers must know; random for a host that other machines can reach.
    may_write : bool
        Whether the panel may change the store itself. Edits go to forks in any case.
    num_threads : int
        Of the store that is read from a folder.
    retrieval : mapping, optional
        Fields of `KeyframeOptions`, to compose views as a model is given them: ``pipeline.config.keyframe_options()``.

    Attributes
    ----------
    url : str
        For the browser.

    Raises
    ------
    ModuleNotFoundError
        viser is not installed (mosaicmem's extra [view]).
    ValueError
        The token is shorter than 8 characters, or has others than A-Z, a-z, 0-9, - and _.
    OSError
        The port is taken.
    FileNotFoundError, FormatError
        No store is in the folder.
    """

    _instead = "make another one of the same store"

    def __init__(
        self,
        store: MosaicMemoryStore | str | Path | Callable[[], MosaicMemoryStore],
        *,
        trajectory: CameraTrajectory | None = None,
        sequence: RgbdSequence | None = None,
        host: str = "127.0.0.1",
        port: int = 8060,
        token: str | None = None,
        may_write: bool = False,
        num_threads: int = 0,
        retrieval: Mapping[str, Any] | None = None,
    ) -> None:
        check_integer("port", port, minimum=0, maximum=65535)
        source: StoreSource
        if isinstance(store, (str, Path)):
            source = SavedStore(Path(store), num_threads)
        else:
            source = LiveStore(store if callable(store) else check_instance("store", store, MosaicMemoryStore))
        self.versions = MemoryVersions(source, may_write=may_write)
        self.sequence = sequence
        self.path_is_of_sequence = trajectory is None and sequence is not None
        self.path = trajectory
        if sequence is not None and trajectory is None:
            self.path = sequence.trajectory(range(len(sequence)))
        self.cloud = MemoryCloud()
        self.coloring, self.seen, self.made_up = "scene", True, True
        self.trouble: str | None = None
        self.log: Callable[[str], None] | None = None  # told about edits
        self.keyframes: list[ObservedKeyframe] = []
        self.selected: tuple[int, F64 | None] | None = None  # observation, and the point of it that was clicked
        self._previewer = Previewer(**(retrieval or {}))
        self._has_settled = False  # whether sizes and the first view are those of the content
        self._camera_clicked = 0.0  # when
        self._shown: Any = None  # the state of the store that is drawn
        self._server = GuardedServer(host, port, token, "mosaicmem")
        self.url = self._server.url
        self._closing, self._wake = threading.Event(), threading.Event()
        self._has_read = threading.Event()  # the whole store, once
        self._drawing = threading.RLock()
        self._clients: dict[int, ClientPanel] = {}
        try:
            self.scene = MemoryScene(self._server.viser, self._camera_was_clicked)
            self.gui = gui = self._server.viser.gui
            self.view_panel = ViewPanel(gui, self)
            self.path_panel = None if self.path is None else PathPanel(gui, self, self.path)
            self.edit_panel = EditPanel(gui, self)
            self._server.viser.scene.on_click()(self._clicked)
            self._server.viser.on_client_connect(self._entered)
            self._server.viser.on_client_disconnect(self._left)
        except BaseException:
            self._server.close()
            raise
        self._threads = [
            threading.Thread(target=run, name=f"mosaicmem viewer: {name}", daemon=True)
            for name, run in (("watch", self._watch), ("compose", self._compose))
        ]
        for thread in self._threads:
            thread.start()
        self._has_read.wait(_WAIT)

    def close(self) -> None:
        """Stop, and disconnect all browsers."""
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._server.close()

    def __enter__(self) -> MemoryViewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Wait until `close` is called from another thread, or the program is interrupted."""
        while not self._closing.wait(1.0):
            pass

    def _repr_html_(self) -> str:
        frame = f'<iframe src="{self.url}" width="100%" height="600" style="border: 0"></iframe>'
        return f'{frame}<p><a href="{self.url}" target="_blank">In a tab of its own</a></p>'

    # What the panels call.

    @property
    def store(self) -> MosaicMemoryStore:
        """The version of the store that is shown."""
        return self.versions.store

    def redraw(self) -> None:
        """Draw points and cameras again, and compose all views."""
        with self._drawing:
            points, colors = self.cloud.drawn(self.coloring, observed=self.seen, generated=self.made_up)
            self.scene.draw_points(points, colors)
            kept = [k for k in self.keyframes if (self.made_up if k.provenance == "generated" else self.seen)]
            self.scene.draw_cameras(kept)
        for client in list(self._clients.values()):
            client.is_stale = True
            client.drop_detail()
        self._wake.set()

    def select(self, observation: int, point: F64 | None = None) -> None:
        """Select a keyframe, and the point of it that was clicked, if one was."""
        keyframe = next((k for k in self.keyframes if k.observation == observation), None)
        if keyframe is None:
            return
        self.selected = observation, point
        self.scene.mark(point)
        patch = None if point is None else self._patch_at(point, observation)
        self.view_panel.show_selected(keyframe, patch)
        self.edit_panel.offer(point)

    def _patch_at(self, point: F64, observation: int) -> int | None:
        """The patch of a keyframe nearest to a point."""
        store = self.store
        _, near = store.query_nearest(point[None], k=32)
        with suppress(KeyError):  # some have gone meanwhile
            of = store.describe_patches(near[0])["observation"]
            mine = near[0][of == observation]
            return int(mine[0]) if len(mine) else None
        return None

    def _camera_was_clicked(self, observation: int) -> None:
        self._camera_clicked = time.perf_counter()
        self.select(observation)

    def look_from(self, matrix: F64, client: Any, fov: float) -> None:
        """Move the cameras of all browsers, or of one, to where a camera of this vertical field of view stands."""
        wxyz, position = self.scene.place(matrix)
        for each in [client] if client is not None else list(self._server.viser.get_clients().values()):
            with each.atomic():
                each.camera.wxyz = wxyz
                each.camera.position = position
                each.camera.fov = fov

    def in_front_of(self, client: Any) -> F64:
        """The point that is in the middle of a browser's view, or some way ahead if nothing is."""
        panel = self._clients.get(client.client_id)
        camera = None if panel is None else panel.camera
        if camera is None:
            return np.zeros(3)
        pose = camera[2]
        for angle in (_CLICK, 4 * _CLICK, 12 * _CLICK):
            hit = self.cloud.nearest_to_ray(
                pose.position, pose.forward, angle, observed=self.seen, generated=self.made_up
            )
            if hit is not None:
                return hit[1]
        return np.asarray(pose.position + 0.3 * self.scene.size * pose.forward)

    def tell(self, client: Any, title: str, text: str, *, bad: bool = False) -> None:
        """Notify one browser, or all."""
        for each in [client] if client is not None else list(self._server.viser.get_clients().values()):
            each.add_notification(title, text, auto_close_seconds=8.0, color="red" if bad else "green")

    def guarded(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callback of the panel that reports its failures in the browser."""

        def run(event: Any) -> None:
            try:
                action(event)
            except (ValueError, TypeError, KeyError, OSError, MemoryError, RuntimeError) as error:
                self.tell(event.client, "This did not work", str(error), bad=True)

        return run

    def show_region(self, region: Sphere | Box | None) -> None:
        """Draw the region to edit."""
        self.scene.show_region(region, self.edit_panel.dragged)

    # Threads.

    def _watch(self) -> None:
        """Follow the store."""
        interval = 0.0
        while not self._closing.wait(interval):
            interval = _INTERVAL
            try:
                trouble = self.versions.source.poll()
                if self._state() != self._shown:
                    begun = time.perf_counter()
                    self._refresh()
                    self._has_read.set()
                    interval += 2 * (time.perf_counter() - begun)  # leaves most of the time to who fills it
            except Exception as error:  # shown, and tried again: the page must not stop following the store
                trouble, self._shown = f"this cannot be shown: {type(error).__name__}: {error}", None
            try:
                if trouble != self.trouble:
                    self.trouble = trouble
                    self.view_panel.show_status()
                for client in list(self._clients.values()):
                    self._draw_detail(client)
            except Exception as error:  # the store may have gone in between
                self.view_panel.show_trouble(f"{type(error).__name__}: {error}")

    def _state(self) -> Any:
        store = self.store
        return id(store._core), store._revision

    def _refresh(self) -> None:
        """Read what has changed in the store, and draw it."""
        self._shown = self._state()
        store = self.store.fork()  # one state, whatever is written meanwhile
        self.keyframes = sorted(observed_keyframes(store), key=lambda k: k.timestamp)
        last, pause = time.perf_counter(), 1.0
        for _ in self.cloud.update(store):
            if self._closing.is_set():
                return
            if not self._has_settled and self.cloud.parts:
                self._settle_in()
                self._has_settled = True
            if time.perf_counter() - last > pause:
                self.redraw()
                last, pause = time.perf_counter(), 2 * pause
        self.redraw()
        self.view_panel.show_status()
        self.edit_panel.refresh()

    def _settle_in(self) -> None:
        """Adapt sizes, and the place that browsers begin at, to the first content."""
        centres = np.array([part.centre for part in self.cloud.parts])
        reach = np.median([part.radius for part in self.cloud.parts])
        self.scene.size = float(max(np.linalg.norm(np.ptp(centres, axis=0)), 2 * reach, 1e-6))
        self.scene.orient(self.keyframes)
        first = self.path.world_from_camera[0] if self.path is not None else self.keyframes[0].world_from_camera
        start = self._server.viser.initial_camera
        forward, up = (axis / np.linalg.norm(axis) for axis in (first[:3, 2], -first[:3, 1]))
        start.position = tuple(first[:3, 3] + self.scene.size * (_ABOVE * up - _BEHIND * forward))
        start.look_at = tuple(first[:3, 3] + float(reach) * forward)
        start.up = tuple(up)
        if self.path is not None:
            self.scene.draw_path(self.path, 0)
        self.edit_panel.settle_in(self.scene.size)

    def _compose(self) -> None:
        """Compose what memory shows to each browser's camera, the latest position of each."""
        while not self._closing.is_set():
            self._wake.wait(0.5)
            self._wake.clear()
            for client in list(self._clients.values()):
                if client.is_stale and not self._closing.is_set():
                    client.is_stale = False
                    self._compose_for(client)

    def _compose_for(self, client: ClientPanel) -> None:
        camera = client.camera
        if camera is None:
            return
        fov, aspect, pose = camera
        try:
            store = self.store
            if not len(store):
                client.show_empty()
                return
            intrinsics, stride = self._previewer.camera(store, fov, aspect)
            wanted = {"observed": self.seen, "generated": self.made_up}
            client.show(self._previewer.compose(store, intrinsics, stride, pose, **wanted))
        except Exception as error:  # said in the browser; the next move of its camera tries again
            client.show_trouble(f"{type(error).__name__}: {error}")

    def _draw_detail(self, client: ClientPanel) -> None:
        """More points where a resting camera looks, if not all are drawn."""
        camera = client.camera
        if camera is None or client.has_detail or len(self.cloud) <= MOST_POINTS:
            return
        if time.perf_counter() - client.moved < _REST:
            return
        client.has_detail = True
        pose = camera[2]
        direction = pose.world_from_camera[:3, 2]
        wanted = {"observed": self.seen, "generated": self.made_up}
        points, colors = self.cloud.seen_from(pose.position, direction, self.coloring, **wanted, most=MOST_POINTS // 2)
        client.draw_detail(self.scene, points, colors)

    # Browsers.

    def _entered(self, client: Any) -> None:
        panel = ClientPanel(client)
        self._clients[client.client_id] = panel
        if client.client_id not in self._server.viser.get_clients():
            self._clients.pop(client.client_id, None)  # it has left already
            return

        def moved(_camera: Any) -> None:
            panel.has_moved()
            self._wake.set()

        client.camera.on_update(moved)
        moved(client.camera)

    def _left(self, client: Any) -> None:
        self._clients.pop(client.client_id, None)

    def _clicked(self, event: Any) -> None:
        if time.perf_counter() - self._camera_clicked < _SAME_CLICK:
            return  # the scene reports a click on a camera too
        hit = self._hit(np.asarray(event.ray_origin), np.asarray(event.ray_direction))
        if hit is not None:
            self.select(hit[0].observation, hit[1])

    def _hit(self, origin: F64, direction: F64) -> tuple[KeyframePoints, F64] | None:
        along = direction / np.linalg.norm(direction)
        return self.cloud.nearest_to_ray(origin, along, _CLICK, observed=self.seen, generated=self.made_up)
