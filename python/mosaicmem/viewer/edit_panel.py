"""The panel's editing half: a region to drag, edits of the patches in it, undo, forks, saving."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem.memory import Box, SpatialManipulation, Sphere
from mosaicmem.memory.regions import choose
from mosaicmem.viewer.versions import ORIGINAL

if TYPE_CHECKING:
    from mosaicmem.viewer.viewer import MemoryViewer

_SHAPES = ("none", "sphere", "box")
_AXES = ("x", "y", "z")


class EditPanel:
    """Edits the patches in a sphere or a box."""

    def __init__(self, gui: Any, viewer: MemoryViewer) -> None:
        self._viewer = viewer
        self._centre = np.zeros(3)
        self._grabbed = np.zeros(3)  # centre when a drag began
        self._point: F64 | None = None  # that was clicked
        self._is_shown = False  # whether there is a region
        self._lock = threading.RLock()
        with gui.add_folder("Edit", expand_by_default=False):
            self._version = gui.add_dropdown("Version", viewer.versions.names, hint="The store, and its edited forks")
            self._fork = gui.add_button("Fork", hint="A copy to edit; the store stays as it is")
            self._shape = gui.add_dropdown("Region", _SHAPES)
            self._radius = gui.add_number("Radius, m", 0.3, min=1e-3, step=0.01, visible=False)
            self._box = gui.add_vector3("Size, m", (0.5, 0.5, 0.5), step=0.01, visible=False)
            self._here = gui.add_button("Region to the clicked point", disabled=True)
            self._drags = gui.add_checkbox("Dragging moves the patches", False)
            self._count = gui.add_markdown("Choose a region; edits go to a fork.")
            self._actions = {
                name: gui.add_button(name, disabled=True) for name in ("Erase", "Keep only these", "Duplicate", "Move")
            }
            self._offset = gui.add_vector3("By, m", (0.0, 0.0, 0.0), step=0.01)
            self._angle = gui.add_number("Degrees", 90.0, step=1.0)
            self._axis = gui.add_dropdown("Axis", _AXES, initial_value="y")
            self._actions |= {name: gui.add_button(name, disabled=True) for name in ("Rotate", "Flip")}
            self._undo = gui.add_button("Undo")
            self._folder = gui.add_text("Folder", "", hint="A new folder for the version that is shown")
            self._save = gui.add_button("Save")
            self._write = gui.add_button("Change the store to this", visible=viewer.versions.may_write)
        self._connect(viewer)

    def _connect(self, viewer: MemoryViewer) -> None:
        guarded = viewer.guarded
        self._version.on_update(guarded(self._switched))
        self._fork.on_click(guarded(self._forked))
        self._shape.on_update(guarded(self._chosen))
        self._radius.on_update(guarded(lambda _: self._reshaped()))
        self._box.on_update(guarded(lambda _: self._reshaped()))
        self._here.on_click(guarded(lambda _: self._moved_here()))
        self._undo.on_click(guarded(self._undone))
        self._save.on_click(guarded(self._saved))
        self._write.on_click(guarded(self._written))
        for name, button in self._actions.items():
            button.on_click(guarded(partial(self._edit, name)))

    def settle_in(self, size: float) -> None:
        """Adapt the region to the size of the scene, metres."""
        self._radius.value = round(0.06 * size, 3)
        self._box.value = (round(0.12 * size, 3),) * 3

    def offer(self, point: F64 | None) -> None:
        """A point was clicked: the region can be moved there."""
        self._point = point
        self._here.disabled = point is None

    @property
    def region(self) -> Sphere | Box | None:
        """The region as it is set now."""
        return self._region_at(self._centre)

    def _region_at(self, centre: F64) -> Sphere | Box | None:
        if self._shape.value == "sphere":
            return Sphere(centre, float(self._radius.value))
        if self._shape.value == "box":
            half = 0.5 * np.abs(np.asarray(self._box.value, np.float64))
            return Box(centre - half, centre + half)
        return None

    def dragged(self, centre: F64, phase: str) -> None:
        """The region's handle was dragged."""
        if phase == "start":
            self._grabbed = self._centre.copy()
        if phase != "end":
            self._centre = centre
            return
        self._centre = centre
        if self._drags.value and not np.array_equal(centre, self._grabbed):
            region = self._region_at(self._grabbed)
            self._apply(lambda edit: edit.translate(centre - self._grabbed, where=region), "moved", None)
        self.refresh()

    def refresh(self) -> None:
        """Bring the count and the versions up to date."""
        viewer, region = self._viewer, self.region
        names = viewer.versions.names
        if tuple(self._version.options) != tuple(names):
            self._version.options = names
        if self._version.value != viewer.versions.current:
            self._version.value = viewer.versions.current
        count = 0 if region is None else len(choose(viewer.store, region))
        self._count.content = (
            "Choose a region; edits go to a fork."
            if region is None
            else f"**{count:,}** patches in the {self._shape.value}"
        )
        for button in self._actions.values():
            button.disabled = count == 0

    def _reshaped(self) -> None:
        self._radius.visible, self._box.visible = self._shape.value == "sphere", self._shape.value == "box"
        self._viewer.show_region(self.region)
        self.refresh()

    def _chosen(self, event: Any) -> None:
        """A new region appears in front of the camera of who asked for it."""
        if not self._is_shown and event.client is not None:
            self._centre = self._viewer.in_front_of(event.client)
        self._is_shown = self._shape.value != "none"
        self._reshaped()

    def _moved_here(self) -> None:
        if self._point is None:
            return
        self._centre, self._is_shown = self._point, True
        if self._shape.value == "none":
            self._shape.value = "sphere"
        self._reshaped()

    def _edit(self, name: str, event: Any) -> None:
        region = self.region
        if region is None:
            raise ValueError("choose a region first")
        centre, offset = self._centre, np.asarray(self._offset.value, np.float64)
        axis = np.eye(3)[_AXES.index(self._axis.value)]
        angle = float(np.radians(self._angle.value))
        shift = np.eye(4)
        shift[:3, 3] = offset
        if name in ("Move", "Duplicate") and not offset.any():
            raise ValueError(f"{name} by how much? Set the three metres of “By” first")
        changes: dict[str, Any] = {
            "Erase": (lambda edit: edit.erase(region), "erased"),
            "Keep only these": (lambda edit: edit.crop(region), "erased"),
            "Duplicate": (lambda edit: len(edit.duplicate(shift, where=region)), "copied"),
            "Move": (lambda edit: edit.translate(offset, where=region), "moved"),
            "Rotate": (lambda edit: edit.rotate(axis, angle, about=centre, where=region), "rotated"),
            "Flip": (lambda edit: edit.flip(axis, about=centre, where=region), "flipped"),
        }
        change, word = changes[name]
        self._apply(change, word, event.client)
        if name == "Move":
            self._centre = centre + offset
            self._viewer.show_region(self.region)

    def _apply(self, change: Any, word: str, client: Any) -> None:
        with self._lock:
            versions = self._viewer.versions
            before = versions.current

            def edit(manipulation: SpatialManipulation) -> int:
                return int(change(manipulation))

            count = versions.edit(edit)
            if not count:
                self._viewer.tell(client, "Nothing changed", "No patch is in the region.")
                return
            note = f"{count:,} patches {word}"
            if before == ORIGINAL:
                note += f" in {versions.current}; the store is unchanged"
        self._viewer.tell(client, "Edited", note)
        if self._viewer.log is not None:
            self._viewer.log(note)
        self.refresh()

    def _switched(self, _event: Any) -> None:
        if self._version.value != self._viewer.versions.current:
            self._viewer.versions.switch(self._version.value)
            self.refresh()

    def _forked(self, event: Any) -> None:
        name = self._viewer.versions.fork()
        self._viewer.tell(event.client, "Forked", f"{name} is shown, and takes the edits")
        self.refresh()

    def _undone(self, event: Any) -> None:
        with self._lock:
            done = self._viewer.versions.undo()
        self._viewer.tell(event.client, "Undone" if done else "Nothing to undo", "")
        self.refresh()

    def _saved(self, event: Any) -> None:
        text = self._folder.value.strip()
        if not text:
            raise ValueError("save where? Name a new folder first")
        path = Path(text).expanduser().resolve()
        self._viewer.versions.save(path)
        self._viewer.tell(event.client, "Saved", f"{self._viewer.versions.current} is in {path}")

    def _written(self, event: Any) -> None:
        with self._lock:
            self._viewer.versions.write_back()
        self._viewer.tell(event.client, "Changed", "The store itself is now what was shown")
        self.refresh()
